"""`python -m lab.train.sample`: text of the bundled world that no training run drew, for measuring models on it.

It is in-distribution: the world is the one that the bundled family was trained on, only the draws are new. It needs
neither torch nor a model.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from random import Random

from lab.train.dialogue import pretraining_dialogues
from lab.train.world import World, encyclopaedia, make_world


def articles(world: World, n_chars: int, rng: Random) -> Iterator[str]:
    """Encyclopaedia articles, together at least n_chars long; on one line, because the family was never shown two."""
    found: list[str] = []
    while n_chars > 0:
        found += encyclopaedia(world, 1, rng)
        n_chars -= len(found[-1])
    yield " ".join(found)


def conversations(world: World, n_chars: int, rng: Random) -> Iterator[str]:
    """Conversations in the styles of pre-training, a JSON line each, what is said at least n_chars long."""
    while n_chars > 0:
        turns = pretraining_dialogues(world, 1, rng)[0].turns
        n_chars -= sum(len(said) for _, said in turns)
        yield json.dumps([{"role": role, "content": said} for role, said in turns], ensure_ascii=False)


def main() -> None:
    """Print the text."""
    parser = argparse.ArgumentParser(prog="python -m lab.train.sample", description=__doc__)
    parser.add_argument("--chars", type=int, default=250_000, help="length; a token has 3 to 4 (%(default)s)")
    parser.add_argument("--chat", action="store_true", help="conversations, one a line as JSON")
    parser.add_argument("--seed", type=int, default=1, help="of the draws; the world is the bundled family's")
    chosen = parser.parse_args()
    make = conversations if chosen.chat else articles
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # the same bytes on every system
    for line in make(make_world(1), chosen.chars, Random(f"sample {chosen.seed}")):
        print(line)


if __name__ == "__main__":
    main()
