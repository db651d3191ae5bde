"""EFT as a logits processor inside ``llama_cpp.Llama``, beside the native engine: ``python -m benchmarks.processor``.

The same shapes with random weights, the same prompt, the same filters. The native engine runs with speculation off, and
with log-probability and shift of each token; Llama's own loop runs without text. Phases take turns in every round, and
ratios are taken within rounds.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp import LogitsProcessorList

from benchmarks.common import Bar, Report, alternate, busy_percent, cache_folder, ratio, spread
from benchmarks.step import PAIRS, Ours, Wanted
from eftlite import Family
from eftlite.amx import extra_buffers_work
from eftlite.llama_cpp_plugins import EFTLogitsProcessor
from eftlite.member import physical_cores
from eftlite.shapes import shape_family

LIMIT = 1.10
ABOUT = (
    "Milliseconds per token, medians (quartiles) over rounds. native: plain EFT by `eftlite.EFT`. processor: "
    "`Llama.generate` with `EFTLogitsProcessor`. Llama: the same loop, the base alone. in the processor: its own part, "
    "most of it the small models'."
)


class Host:
    """A Llama of the base, with and without the processor."""

    def __init__(self, family: Family, wanted: Wanted) -> None:
        n = wanted.n_threads
        self.wanted = wanted
        self.llama = llama_cpp.Llama(family.base, n_ctx=wanted.n_ctx, n_threads=n, n_threads_batch=n, verbose=False)
        self.processor = EFTLogitsProcessor(self.llama, family=family, n_threads=n)
        self.inside_s = 0.0  # in the processor, per token, in the last round with it

    def run(self, processors: LogitsProcessorList | None) -> float:
        """Seconds per token, the first one left out."""
        self.llama.set_seed(1)  # type: ignore[no-untyped-call]  # llama_cpp's
        tokens = self.llama.generate(self.wanted.prompt, temp=self.wanted.temperature, logits_processor=processors)
        next(tokens)
        inside, began = self.processor.seconds, time.perf_counter()
        for _ in range(self.wanted.n_tokens):
            next(tokens)
        took = time.perf_counter() - began
        self.inside_s = (self.processor.seconds - inside) / self.wanted.n_tokens
        return took / self.wanted.n_tokens

    def close(self) -> None:
        """Free the models."""
        self.processor.close()
        self.llama.close()


def measure(pair: tuple[str, str], n_vocab: int, wanted: Wanted, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    family = shape_family(options.folder, *pair, n_vocab=n_vocab)
    inside: list[float] = []
    with ExitStack() as undo:
        ours = Ours(family, wanted)
        undo.callback(ours.eft.close)
        host = Host(family, wanted)
        undo.callback(host.close)

        def with_processor() -> float:
            took = host.run(LogitsProcessorList([host.processor]))
            inside.append(host.inside_s)
            return took

        phases = {"native": ours.plain, "processor": with_processor, "llama": lambda: host.run(None)}
        figures = alternate(phases, options.rounds)
    ms = {name: spread([seconds * 1e3 for seconds in values]) for name, values in figures.items()}
    return {
        "base": pair[0],
        "small": pair[1],
        "vocabulary": n_vocab,
        "native ms": ms["native"],
        "processor ms": ms["processor"],
        "Llama ms": ms["llama"],
        "processor / native": ratio(figures["processor"], figures["native"]),
        "in the processor ms": spread([seconds * 1e3 for seconds in inside]),
    }


def bars(rows: list[dict[str, Any]]) -> list[Bar]:
    """What must hold in every row."""
    return [
        Bar(
            f"{row['base']} + {row['small']}, {row['vocabulary']} tokens: processor / native",
            row["processor / native"].median,
            LIMIT,
        )
        for row in rows
    ]


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.processor", description=__doc__.partition("\n")[0])
    found.add_argument("--pair", nargs=2, action="append", metavar=("BASE", "SMALL"), help="such as 1b-q4_0 135m-q4_0")
    found.add_argument("--vocab", type=int, nargs="+", default=[32_000, 152_064], help="vocabulary sizes")
    found.add_argument("--rounds", type=int, default=9)
    found.add_argument("--prompt", type=int, default=64, help="tokens before the first that counts")
    found.add_argument("--tokens", type=int, default=48, help="tokens a phase decodes in a round")
    found.add_argument("--threads", type=int, default=0, help="0: the physical cores")
    found.add_argument("--temperature", type=float, default=0.8, help="0: greedy")
    found.add_argument("--folder", type=Path, default=cache_folder(), help="where model files are kept")
    found.add_argument("--keep", action="store_true", help="write benchmarks/results/processor.{json,md}")
    return found


def main() -> int:
    """Run the benchmark."""
    options = parser().parse_args()
    wanted = Wanted(options.prompt, options.tokens, options.threads or physical_cores(), options.temperature)
    if not extra_buffers_work():  # eftlite goes round it, llama_cpp.Llama cannot
        raise SystemExit(
            "llama.cpp's AMX code crashes in this build; compile llama-cpp-python with GCC 13 or without AMX"
        )
    busy = busy_percent()
    rows = []
    for pair in options.pair or PAIRS[:1]:
        for n_vocab in options.vocab:
            print(f"{pair[0]} + {pair[1]}, {n_vocab} tokens …", file=sys.stderr)
            rows.append(measure(tuple(pair), n_vocab, wanted, options))
    settings = {**asdict(wanted), "rounds": options.rounds}
    return Report("processor", ABOUT, settings, rows, bars(rows), busy).finish(options.keep)


if __name__ == "__main__":
    sys.exit(main())
