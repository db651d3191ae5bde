"""EFT with drafts beside what a user would pick instead, in one run: ``python -m benchmarks.peers``.

Plain EFT, the base alone through ``llama_cpp.Llama``, three ``Llama`` objects with numpy, and transformers; the same
shapes with random weights. Drafts are accepted by a coin of the given probability, all of a real round's work is done.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any
from unittest import mock

import llama_cpp

from benchmarks.common import Bar, Report, alternate, busy_percent, cache_folder, ratio, spread
from benchmarks.step import Ours, ThreeLlamas, Transformers, Wanted
from eftlite import EFT, Family, Limits, Sampling, Speculation
from eftlite.contest import judge
from eftlite.member import physical_cores
from eftlite.shapes import shape_family

ABOUT = (
    "Milliseconds per token of {pair}, medians (quartiles) over rounds, and their ratio to eft-spec within a round. "
    "eft-spec: drafts accepted with probability {rate} (synthetic). eft: plain, speculation off. base, Llama: the base "
    "alone through llama_cpp.Llama. Llama x 3: three such objects, combined and sampled with numpy. transformers: "
    "three models in bfloat16 on the CPU, {n} tokens a round."
)


class WithDrafts(Ours):
    """Ours, with drafts of a synthetic acceptance as well."""

    def __init__(self, family: Family, wanted: Wanted) -> None:
        super().__init__(family, wanted)
        self.eft.close()  # that one has measured no batches
        self.eft = EFT(family=family, n_ctx=wanted.n_ctx, n_threads=wanted.n_threads)
        self.eft.speculation = Speculation(enabled=False)
        self.members = self.eft._engine.ensemble.members  # noqa: SLF001  raw decodes need the contexts

    def drafted(self, rate: float) -> float:
        """Seconds per token of eft-spec, the first token left out."""
        planner = self.eft._planner  # noqa: SLF001  a benchmark puts the coin where the rule is
        with mock.patch.object(planner, "rounds", partial(planner.rounds, acceptance=judge(rate, "gumbel"))):
            events = self.eft.complete(
                self.wanted.prompt,
                sampling=Sampling(temperature=self.wanted.temperature, seed=1),
                limits=Limits(max_tokens=self.wanted.n_tokens + 1),
                speculation=Speculation(),
            )
            next(iter(events))
            began = time.perf_counter()
            n = sum(1 for _ in events)
            return (time.perf_counter() - began) / n


class BaseAlone(ThreeLlamas):
    """The base in one ``llama_cpp.Llama``, sampled by llama.cpp."""

    def __init__(self, family: Family, wanted: Wanted) -> None:
        n = wanted.n_threads
        self.wanted = wanted
        self.models = [
            llama_cpp.Llama(family.base, n_ctx=wanted.n_ctx, n_threads=n, n_threads_batch=n, verbose=False, seed=1)
        ]

    def run(self) -> float:
        """Seconds per token, the prompt left out."""
        model = self.models[0]
        model.reset()  # type: ignore[no-untyped-call]  # llama_cpp's
        tokens = model.generate(self.wanted.prompt, temp=self.wanted.temperature, reset=False)
        next(tokens)
        began = time.perf_counter()
        for _ in range(self.wanted.n_tokens):
            next(tokens)
        return (time.perf_counter() - began) / self.wanted.n_tokens


def measure(family: Family, wanted: Wanted, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each way."""
    with ExitStack() as undo:
        ours = WithDrafts(family, wanted)
        undo.callback(ours.eft.close)
        base, llamas = BaseAlone(family, wanted), ThreeLlamas(family, wanted)
        undo.callback(base.close)
        undo.callback(llamas.close)
        phases: dict[str, Callable[[], float]] = {
            "eft-spec": lambda: ours.drafted(options.acceptance),
            "eft": ours.plain,
            "base, Llama": base.run,
            "Llama x 3": llamas.run,
        }
        if options.transformers_python:
            peer = Transformers(
                options.transformers_python, tuple(options.pair), options.vocab, wanted, options.transformers_tokens
            )
            undo.callback(peer.close)
            phases["transformers"] = peer.run
        figures = alternate(phases, options.rounds)
    ours_s = figures["eft-spec"]
    return [
        {"way": name, "ms per token": spread([s * 1e3 for s in seconds]), "x eft-spec": ratio(seconds, ours_s)}
        for name, seconds in figures.items()
    ]


def main() -> int:
    """Run the benchmark."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.partition("\n")[0])
    found.add_argument("--pair", nargs=2, metavar=("BASE", "SMALL"), default=["3b-q8_0", "135m-q8_0"])
    found.add_argument("--vocab", type=int, default=32_000)
    found.add_argument("--acceptance", type=float, default=0.8)
    found.add_argument("--rounds", type=int, default=5)
    found.add_argument("--prompt", type=int, default=64, help="tokens before the first that counts")
    found.add_argument("--tokens", type=int, default=64, help="tokens a phase decodes in a round")
    found.add_argument("--transformers-python", help="a Python that has torch and transformers")
    found.add_argument("--transformers-tokens", type=int, default=8, help="tokens of its rounds, which take long")
    found.add_argument("--keep", action="store_true", help="write benchmarks/results/peers.{json,md}")
    options = found.parse_args()
    wanted = Wanted(options.prompt, options.tokens, physical_cores(), 0.8)
    busy = busy_percent()
    rows = measure(shape_family(cache_folder(), *options.pair, n_vocab=options.vocab), wanted, options)
    pair = f"a {options.pair[0]} base and {options.pair[1]} small models"
    about = ABOUT.format(pair=pair, rate=options.acceptance, n=options.transformers_tokens)
    bars = [
        Bar(f"{row['way']} / eft-spec", row["x eft-spec"].median, 1.0, at_least=True)
        for row in rows
        if row["way"] != "eft-spec"
    ]
    settings = {**asdict(wanted), "rounds": options.rounds, "vocabulary": options.vocab}
    return Report("peers", about, settings, rows, bars, busy).finish(options.keep)


if __name__ == "__main__":
    sys.exit(main())
