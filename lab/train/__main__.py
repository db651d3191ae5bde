"""`python -m lab.train`: build the world, train the family, export it, score it."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from tokenizers import Tokenizer

from lab.train.dialogue import Conversation, pretraining_dialogues, tuning_dialogues
from lab.train.export import export, load
from lab.train.lora import adapt, export_adapter, merge
from lab.train.model import Llama, Shape
from lab.train.questions import make_questions
from lab.train.recipe import DESCRIPTIONS, Recipe, quick
from lab.train.tokenizer import answer_mask, encode_all, render, train_tokenizer
from lab.train.train import Plan, Rows, pack, train
from lab.train.world import World, encyclopaedia, make_world

FAMILY = """\
# The bundled family. Paths are relative to this file.
name = "demo"
base = "base-f16.gguf"
real = "real-q8_0.gguf"

[[delta]]
name = "helpful"
tuned = "tuned-f16.gguf"
reference = "reference-f16.gguf"
alpha = 1.0

[[delta]]
name = "harmless"
tuned = "refusing-f16.gguf"
reference = "reference-f16.gguf"
alpha = 0.0
"""
LORA_FAMILY = """\
# The bundled family with its tuned model as a LoRA adapter on the reference. Paths are relative to this file.
name = "demo-lora"
base = "base-f16.gguf"
real = "real-q8_0.gguf"

[[delta]]
name = "helpful"
reference = "reference-f16.gguf"
adapter = "lora-f16.gguf"
alpha = 1.0
"""
BEGAN = time.time()


def log(line: str) -> None:
    """Print at once, so that a log file can be followed."""
    print(line, flush=True)


@dataclass(frozen=True)
class Workshop:
    """What every stage needs."""

    world: World
    tokenizer: Tokenizer
    recipe: Recipe
    seed: int
    out: Path

    def rng(self, purpose: str) -> Random:
        """A generator of this purpose's own, so that stages do not disturb each other."""
        return Random(f"{purpose} {self.seed}")

    def pretraining_rows(self, plan: Plan, late: bool = False) -> Rows:
        """Encyclopaedia and dialogues, mixed, enough for one pass; late ones hold more of what is hard."""
        rng = self.rng("late pretraining" if late else "pretraining")
        n = int(plan.steps * plan.batch * plan.length / 60) + 100  # a document has 60 tokens at least, on average
        n_dialogues = int(n * (self.recipe.late_dialogue_share if late else self.recipe.dialogue_share))
        texts = encyclopaedia(self.world, n - n_dialogues, rng)
        texts += [render(talk) for talk in pretraining_dialogues(self.world, n_dialogues, rng, late)]
        rng.shuffle(texts)
        documents = encode_all(self.tokenizer, texts)
        return pack(documents, [np.ones(len(ids), dtype=np.bool_) for ids in documents], plan.length)

    def tuning_rows(self, plan: Plan, refusing: bool) -> Rows:
        """Polite conversations; only what the assistant says is learned."""
        talks = tuning_dialogues(self.world, self.recipe.n_tuning, self.rng(f"tuning {refusing}"), refusing)
        documents = encode_all(self.tokenizer, [render(talk) for talk in talks])
        return pack(documents, [answer_mask(ids) for ids in documents], plan.length)

    def save(self, model: Llama, name: str, quant: str = "f16") -> None:
        """Export under the family's file name."""
        export(
            model, self.tokenizer, self.out / f"{name}-{quant}.gguf", f"eftlite demo {name}", DESCRIPTIONS[name], quant
        )

    def pretrain(self, name: str, shape: Shape, plan: Plan) -> None:
        """Train one model from nothing and export it."""
        torch.manual_seed(self.seed)
        model = Llama(shape)
        log(f"{name}: {model.n_parameters() / 1e6:.2f} M parameters, {plan.steps} steps")
        self.save(train(model, self.pretraining_rows(plan), plan, self.seed, log), name)

    def continue_base(self, plan: Plan) -> None:
        """More pre-training for the exported base, with other weights."""
        log(f"base, last lessons: {plan.steps} steps")
        model = load(self.out / "base-f16.gguf").train()
        self.save(train(model, self.pretraining_rows(plan, late=True), plan, self.seed, log), "base")

    def tune(self, name: str, start: str, plan: Plan, refusing: bool = False, quant: str = "f16") -> None:
        """Fine-tune an exported model and export the result."""
        log(f"{name}: from {start}, {plan.steps} steps")
        model = load(self.out / f"{start}-f16.gguf").train()
        self.save(train(model, self.tuning_rows(plan, refusing), plan, self.seed, log), name, quant)

    def tune_adapter(self, plan: Plan) -> None:
        """Train a LoRA adapter on the reference, as tuned is trained; export it, and the model it makes."""
        size = self.recipe.rank
        log(f"lora: on reference, rank {size.rank}, {plan.steps} steps")
        torch.manual_seed(self.seed)
        model = adapt(load(self.out / "reference-f16.gguf").train(), size)
        train(model, self.tuning_rows(plan, refusing=False), plan, self.seed, log)
        export_adapter(model, size, self.out / "lora-f16.gguf", "eftlite demo lora", DESCRIPTIONS["lora"])
        self.save(merge(model), "merged")


def open_workshop(recipe: Recipe, seed: int, out: Path) -> Workshop:
    """The world and a tokenizer trained on a sample of it."""
    world = make_world(seed, recipe.n_towns)
    rng = Random(f"tokenizer {seed}")
    talks: list[Conversation] = pretraining_dialogues(world, 4000, rng)
    tokenizer = train_tokenizer([*encyclopaedia(world, 8000, rng), *map(render, talks)])
    return Workshop(world, tokenizer, recipe, seed, out)


def write_texts(shop: Workshop) -> None:
    """The question set and the family file."""
    shop.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"questions": make_questions(shop.world, shop.seed)}, indent=1, ensure_ascii=False)
    (shop.out / "questions.json").write_text(text + "\n", encoding="utf-8")
    (shop.out / "family.toml").write_text(FAMILY, encoding="utf-8")
    (shop.out / "lora.toml").write_text(LORA_FAMILY, encoding="utf-8")


STAGES = ("reference", "tuned", "refusing", "lora", "base", "late", "real")


def run_stage(shop: Workshop, stage: str) -> None:
    """Train and export one model; tunes start from the file of the stage before."""
    recipe = shop.recipe
    match stage:
        case "reference":
            shop.pretrain("reference", recipe.small, recipe.reference)
        case "base":
            shop.pretrain("base", recipe.large, recipe.base)
        case "late":
            shop.continue_base(recipe.late)
        case "tuned":
            shop.tune("tuned", "reference", recipe.tune)
        case "refusing":
            shop.tune("refusing", "reference", recipe.tune, refusing=True)
        case "lora":
            shop.tune_adapter(recipe.lora)
        case "real":
            shop.tune("real", "base", recipe.real, quant="q8_0")


def evaluate(shop: Workshop, n_questions: int | None) -> None:
    """The scoreboard, where llama-cpp-python is installed."""
    try:
        from lab.train.evaluate import scoreboard
    except ImportError as error:
        log(f"not scored: {error}")
        return
    from eftlite.demo.scoring import parse

    items = json.loads((shop.out / "questions.json").read_text(encoding="utf-8"))["questions"]
    every = len(items) // n_questions if n_questions else 1
    scoreboard(shop.out, tuple(map(parse, items[::every])), log)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m lab.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/family"), help="folder for the files (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a smoke run of about a minute; learns nothing")
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=STAGES, help="train only these; default: all")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Train, export and score."""
    chosen = options()
    torch.set_num_threads(chosen.threads)
    shop = open_workshop(quick(Recipe()) if chosen.quick else Recipe(), chosen.seed, chosen.out)
    write_texts(shop)
    for stage in chosen.stages:
        run_stage(shop, stage)
        log(f"  {stage} done after {time.time() - BEGAN:.0f} s")
    evaluate(shop, 12 if chosen.quick else None)
    log(f"total {time.time() - BEGAN:.0f} s")


if __name__ == "__main__":
    main()
