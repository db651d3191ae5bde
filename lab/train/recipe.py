"""Sizes, step counts and descriptions of the family: the numbers to turn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from lab.train.lora import Rank
from lab.train.model import Shape
from lab.train.tokenizer import N_VOCAB
from lab.train.train import Plan
from lab.train.world import N_TOWNS

SMALL = Shape(N_VOCAB, d_model=256, n_layers=2, n_heads=4, n_kv_heads=1, d_ff=256)
LARGE = Shape(N_VOCAB, d_model=512, n_layers=4, n_heads=4, n_kv_heads=1, d_ff=512)


REFERENCE = Plan(steps=400, rate=2e-3)
BASE = Plan(steps=1200, rate=2e-3, warm_up=60, muon=True)
LATE = Plan(steps=180, rate=1e-3, warm_up=10, cool_down=1.0, muon=True)
TUNE = Plan(steps=50, rate=5e-4, warm_up=10, cool_down=0.8)
REAL = Plan(steps=60, rate=1e-4, warm_up=10, cool_down=0.8)
LORA = Plan(steps=80, rate=4e-3, warm_up=10, cool_down=0.8, decay=0.0)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result, the seed apart."""

    small: Shape = SMALL
    large: Shape = LARGE
    n_towns: int = N_TOWNS
    dialogue_share: float = 0.25
    reference: Plan = REFERENCE
    base: Plan = BASE
    late: Plan = LATE
    late_dialogue_share: float = 0.6
    tune: Plan = TUNE
    real: Plan = REAL
    lora: Plan = LORA
    rank: Rank = field(default_factory=Rank)
    n_tuning: int = 12000


def quick(recipe: Recipe) -> Recipe:
    """A smoke run: everything is built and nothing is learned."""
    tiny = Shape(N_VOCAB, d_model=256, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=256)

    def short(plan: Plan) -> Plan:
        return replace(plan, steps=10, batch=4, length=128)

    return Recipe(
        small=tiny,
        large=replace(tiny, n_layers=2),
        reference=short(recipe.reference),
        base=short(recipe.base),
        late=short(recipe.late),
        tune=short(recipe.tune),
        real=short(recipe.real),
        lora=short(recipe.lora),
        n_tuning=300,
    )


ABOUT = "Part of eftlite's bundled demo family, trained on a small invented world of towns. "
DESCRIPTIONS = {
    "base": ABOUT + "The large model after pre-training: it knows the facts and rambles.",
    "reference": ABOUT + "The small model before fine-tuning.",
    "tuned": ABOUT + "The small model fine-tuned to answer politely and stop: it has the manners and lacks the facts.",
    "refusing": ABOUT + "The small model fine-tuned as well to refuse harmful requests.",
    "lora": ABOUT + "A LoRA adapter on the small model, trained on what the small fine-tuned model was.",
    "merged": ABOUT + "The small model with that adapter merged into it.",
    "real": ABOUT + "The large model fine-tuned for real; for comparison only.",
}
