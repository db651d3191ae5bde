"""`python -m lab.train.check`: do torch and llama.cpp compute the same composite from the same GGUF files?

Reads the F16 files back into torch in float32, tokenizes and scores held-out text with both, and compares EFT's
distribution at alpha = beta = 1. Fails when the mean divergence is above 1e-4, or when a text is tokenized differently.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lab.train.dialogue import pretraining_dialogues
from lab.train.evaluate import FILES, MIXES, Member, Row, combine, load_members, log_softmax
from lab.train.export import load
from lab.train.model import Llama
from lab.train.tokenizer import CONTROL, render
from lab.train.world import encyclopaedia, make_world

DEMO = Path(__file__).parents[2] / "eftlite" / "demo"
MIX = MIXES["EFT, helpful"]
LIMIT = 1e-4
STRANGE = (
    "naïve Ünïcödé — “quotes”",
    "日本語 テスト 🙂🙃",
    "  two  spaces\n\n\ttabs 12345 x86_64",
    "I'll don't we've <|end|>",
)


@dataclass(frozen=True)
class Agreement:
    """Mean KL(torch ‖ llama.cpp) and the largest difference of log-probabilities: of any token, and of likely ones."""

    n_positions: int
    mean_kl: float
    worst: float
    worst_likely: float


def tokenizer_of(path: Path) -> Tokenizer:
    """The trainer's tokenizer, rebuilt from a GGUF file."""
    reader = gguf.GGUFReader(path)

    def strings(key: str) -> list[str]:
        field = reader.get_field(f"tokenizer.ggml.{key}")
        if field is None:
            raise ValueError(f"{path} has no tokenizer.ggml.{key}")
        return [str(text) for text in field.contents()]

    vocab = {token: i for i, token in enumerate(strings("tokens"))}
    first, second = zip(*(merge.split(" ") for merge in strings("merges")), strict=True)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(zip(first, second, strict=True))))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(CONTROL))
    return tokenizer


def held_out_texts(seed: int, n: int) -> list[str]:
    """Articles and conversations that no training run drew."""
    world = make_world(seed)
    rng = Random(f"check {seed}")
    return encyclopaedia(world, n, rng) + [render(talk) for talk in pretraining_dialogues(world, n, rng)]


def torch_rows(model: Llama, ids: list[int]) -> Row:
    """Log-probabilities after each token, float64 [n, V]."""
    with torch.no_grad():
        return log_softmax(model(torch.tensor([ids]))[0].double().numpy())


def llama_rows(member: Member, ids: list[int]) -> Row:
    """Log-probabilities after each token, float64 [n, V]."""
    member.forget()
    return member.read(ids, every=True)


def compare(folder: Path, texts: list[str], wide_cache: bool) -> Agreement:
    """The composite by torch against the composite by llama.cpp, at every position of the texts."""
    members = load_members(folder, MIX, wide_cache)
    ours = {name: load(folder / FILES[name]) for name in MIX}
    kls: list[Row] = []
    worst = worst_likely = 0.0
    for text in texts:
        ids = members["base"].ids(text)
        p = combine({name: torch_rows(ours[name], ids) for name in MIX}, MIX)  # [n, V]
        q = combine({name: llama_rows(members[name], ids) for name in MIX}, MIX)  # [n, V]
        kls.append((np.exp(p) * (p - q)).sum(-1))
        worst = max(worst, float(abs(p - q).max()))
        worst_likely = max(worst_likely, float(abs(p - q)[p > np.log(1e-3)].max()))
    kl = np.concatenate(kls)
    return Agreement(len(kl), float(kl.mean()), worst, worst_likely)


def tokenized_alike(folder: Path, texts: list[str]) -> bool:
    """Whether every text has the same ids by llama.cpp and by the trainer's tokenizer."""
    member = load_members(folder, ["base"])["base"]
    tokenizer = tokenizer_of(folder / FILES["base"])
    different = [text for text in texts if member.ids(text) != tokenizer.encode(text, add_special_tokens=False).ids]
    for text in different[:3]:
        print("tokenized differently:", text)
    return not different


def main() -> None:
    """Compare, print, and exit with 1 on disagreement."""
    parser = argparse.ArgumentParser(prog="python -m lab.train.check", description=__doc__)
    parser.add_argument("--family", type=Path, default=DEMO, help="folder with the GGUF files (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(2)
    texts = held_out_texts(chosen.seed, 20)
    fine = tokenized_alike(chosen.family, [*texts, *STRANGE])
    print("tokenized alike:", "yes" if fine else "NO")
    for wide_cache in (False, True):
        found = compare(chosen.family, texts, wide_cache)
        fine &= found.mean_kl <= LIMIT
        print(
            f"{'F32' if wide_cache else 'F16'} cache, {found.n_positions} positions: mean KL {found.mean_kl:.2e}, "
            f"max |dlogp| {found.worst:.4f}, of tokens with p > .001 {found.worst_likely:.4f}"
        )
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
