"""Plain EFT per token, beside its three raw decodes and beside peers, in one run: ``python -m benchmarks.step``.

The same shapes with random weights, the same prompt, the same filters. Phases take turns in every round, and ratios
are taken within rounds, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from benchmarks import with_numpy
from benchmarks.common import Bar, Report, alternate, busy_percent, cache_folder, ratio, spread
from eftlite import EFT, Family, Limits, Sampling
from eftlite.amx import extra_buffers_work
from eftlite.member import Member, physical_cores
from eftlite.shapes import parse_shape, shape_family

PAIRS = [("1b-q4_0", "135m-q4_0"), ("1b-q8_0", "135m-q8_0")]
RAW_LIMIT, NUMPY_LIMIT, TRANSFORMERS_LIMIT = 1.03, 1.10, 5.0
ABOUT = (
    "Milliseconds per token, medians (quartiles) over rounds. raw: the three llama_decode calls alone, on the same "
    "contexts at the same positions. eftlite: plain EFT, speculation off, with log-probability and shift of each "
    "token. Llama: three llama_cpp.Llama objects, combined and sampled with numpy. transformers: three models in "
    "bfloat16 on the CPU. Ratios are medians of those within a round."
)


@dataclass(frozen=True)
class Wanted:
    """What every phase has in common."""

    n_prompt: int
    n_tokens: int
    n_threads: int
    temperature: float

    @property
    def prompt(self) -> list[int]:
        """Token ids; the text does not matter."""
        return list(range(self.n_prompt))

    @property
    def n_ctx(self) -> int:
        """Room for prompt and answer."""
        return self.n_prompt + self.n_tokens + 8


class Ours:
    """eftlite, and the raw decodes on its contexts."""

    def __init__(self, family: Family, wanted: Wanted) -> None:
        self.wanted = wanted
        self.eft = EFT(family=family, n_ctx=wanted.n_ctx, n_threads=wanted.n_threads, speculative=False)
        self.members: list[Member] = self.eft._engine.ensemble.members  # noqa: SLF001  raw decodes need the contexts
        self.decode_s = 0.0  # inside llama_decode, per token, in the last round

    def plain(self) -> float:
        """Seconds per token of plain EFT, the first token left out."""
        sampling = Sampling(temperature=self.wanted.temperature, seed=1)
        limits = Limits(max_tokens=self.wanted.n_tokens + 1)
        events = iter(self.eft.complete(self.wanted.prompt, sampling=sampling, limits=limits))
        next(events)
        before = sum(member.seconds for member in self.members)
        began = time.perf_counter()
        n = sum(1 for _ in events)
        took = time.perf_counter() - began
        assert n == self.wanted.n_tokens, f"expected {self.wanted.n_tokens} tokens, got {n}"
        self.decode_s = (sum(member.seconds for member in self.members) - before) / n
        return took / n

    def raw(self) -> float:
        """Seconds per token of three ``llama_decode`` calls, over the tokens that ``plain`` has just decoded."""
        n_prompt = self.wanted.n_prompt
        ids = self.members[0].slots[0][n_prompt:]
        handles = [member._handle for member in self.members]  # noqa: SLF001  as above
        for handle in handles:
            llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(handle), 0, n_prompt, -1)
        token = (llama_cpp.llama_token * 1)()
        batch = llama_cpp.llama_batch_get_one(token, 1)
        decode, n_failed = llama_cpp.llama_decode, 0
        began = time.perf_counter()
        for token[0] in ids:
            for handle in handles:
                n_failed += decode(handle, batch)
        took = time.perf_counter() - began
        assert n_failed == 0, "llama_decode failed"
        self.eft.validate()
        return took / len(ids)


class ThreeLlamas:
    """What one writes today: three ``llama_cpp.Llama`` objects and numpy."""

    def __init__(self, family: Family, wanted: Wanted) -> None:
        self.wanted, self.rng = wanted, np.random.default_rng(1)
        delta = family.deltas[0]
        n_ctx, n = wanted.n_ctx, wanted.n_threads
        self.models = [
            llama_cpp.Llama(path, n_ctx=n_ctx, n_threads=n, n_threads_batch=n, verbose=False)
            for path in (family.base, delta.tuned, delta.reference)
        ]

    def step(self, ids: list[int]) -> int:
        """Evaluate, combine, draw."""
        rows = []
        for model in self.models:
            model.eval(ids)
            logits = llama_cpp.llama_get_logits(model.ctx)  # Llama.scores is not filled without logits_all
            rows.append(np.ctypeslib.as_array(ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), (model.n_vocab(),)))
        return with_numpy.sample(with_numpy.combine(*rows), self.rng, self.wanted.temperature)

    def run(self) -> float:
        """Seconds per token, the prompt left out."""
        for model in self.models:
            model.reset()  # type: ignore[no-untyped-call]  # llama_cpp's
        token = self.step(self.wanted.prompt)
        began = time.perf_counter()
        for _ in range(self.wanted.n_tokens):
            token = self.step([token])
        return (time.perf_counter() - began) / self.wanted.n_tokens

    def close(self) -> None:
        """Free the models."""
        for model in self.models:
            model.close()


class Transformers:
    """with_transformers.py in another Python; it sleeps while other phases run."""

    def __init__(self, python: str, pair: tuple[str, str], n_vocab: int, wanted: Wanted, n_tokens: int) -> None:
        base, small = (asdict(parse_shape(text)[0]) for text in pair)
        task = {**asdict(wanted), "base": base, "small": small, "n_vocab": n_vocab}
        script = Path(__file__).with_name("with_transformers.py")
        self.n_tokens = n_tokens
        self.process = subprocess.Popen(
            [python, str(script), json.dumps(task)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions: dict[str, str] = json.loads(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("transformers ended before it answered; its own words stand above")
        return line

    def run(self) -> float:
        """Seconds per token."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{self.n_tokens}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


def measure(pair: tuple[str, str], n_vocab: int, wanted: Wanted, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    family = shape_family(options.folder, *pair, n_vocab=n_vocab)
    ours, llamas = Ours(family, wanted), ThreeLlamas(family, wanted)
    overhead: list[float] = []

    def plain() -> float:
        took = ours.plain()
        overhead.append(took - ours.decode_s)
        return took

    phases: dict[str, Callable[[], float]] = {"raw": ours.raw, "eftlite": plain, "llama": llamas.run}
    plain()  # the first raw round decodes what this one leaves
    with ExitStack() as undo:
        undo.callback(ours.eft.close)
        undo.callback(llamas.close)
        if options.transformers_python:
            peer = Transformers(options.transformers_python, pair, n_vocab, wanted, options.transformers_tokens)
            undo.callback(peer.close)
            phases["transformers"], options.versions = peer.run, peer.versions
        figures = alternate(phases, options.rounds)
    return _row(pair, n_vocab, figures, overhead)


def _row(pair: tuple[str, str], n_vocab: int, figures: dict[str, list[float]], overhead: list[float]) -> dict[str, Any]:
    ms = {name: spread([seconds * 1e3 for seconds in values]) for name, values in figures.items()}
    has_peer = "transformers" in figures
    return {
        "base": pair[0],
        "small": pair[1],
        "vocabulary": n_vocab,
        "raw ms": ms["raw"],
        "eftlite ms": ms["eftlite"],
        "Llama ms": ms["llama"],
        "transformers ms": ms["transformers"] if has_peer else "not run",
        "eftlite / raw": ratio(figures["eftlite"], figures["raw"]),
        "Llama / eftlite": ratio(figures["llama"], figures["eftlite"]),
        "transformers / eftlite": ratio(figures["transformers"], figures["eftlite"]) if has_peer else "not run",
        "outside llama_decode µs": spread([seconds * 1e6 for seconds in overhead]),
    }


def bars(rows: list[dict[str, Any]]) -> list[Bar]:
    """What must hold in every row."""
    found = []
    for row in rows:
        where = f"{row['base']} + {row['small']}, {row['vocabulary']} tokens"
        found.append(Bar(f"{where}: eftlite / raw", row["eftlite / raw"].median, RAW_LIMIT))
        found.append(Bar(f"{where}: Llama / eftlite", row["Llama / eftlite"].median, NUMPY_LIMIT, at_least=True))
        peer = row["transformers / eftlite"]
        if not isinstance(peer, str):
            found.append(Bar(f"{where}: transformers / eftlite", peer.median, TRANSFORMERS_LIMIT, at_least=True))
    return found


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__.partition("\n")[0])
    found.add_argument("--pair", nargs=2, action="append", metavar=("BASE", "SMALL"), help="such as 1b-q4_0 135m-q4_0")
    found.add_argument("--vocab", type=int, nargs="+", default=[32_000, 152_064], help="vocabulary sizes")
    found.add_argument("--rounds", type=int, default=9)
    found.add_argument("--prompt", type=int, default=64, help="tokens before the first that counts")
    found.add_argument("--tokens", type=int, default=48, help="tokens a phase decodes in a round")
    found.add_argument("--threads", type=int, default=0, help="0: the physical cores")
    found.add_argument("--temperature", type=float, default=0.8, help="0: greedy")
    found.add_argument("--folder", type=Path, default=cache_folder(), help="where model files are kept")
    found.add_argument("--transformers-python", help="a Python that has torch and transformers")
    found.add_argument("--transformers-tokens", type=int, default=8, help="tokens of its rounds, which take long")
    found.add_argument("--keep", action="store_true", help="write benchmarks/results/step.{json,md}")
    return found


def main() -> int:
    """Run the benchmark."""
    options = parser().parse_args()
    options.versions = {}
    wanted = Wanted(options.prompt, options.tokens, options.threads or physical_cores(), options.temperature)
    if not options.transformers_python:
        print("transformers: not run; name a Python that has it with --transformers-python", file=sys.stderr)
    if not extra_buffers_work():  # eftlite goes round it, llama_cpp.Llama cannot
        raise SystemExit(
            "llama.cpp's AMX code crashes in this build; compile llama-cpp-python with GCC 13 or without AMX"
        )
    busy = busy_percent()
    rows = []
    for pair in options.pair or PAIRS:
        for n_vocab in options.vocab:
            print(f"{pair[0]} + {pair[1]}, {n_vocab} tokens …", file=sys.stderr)
            rows.append(measure(tuple(pair), n_vocab, wanted, options))
    settings = {**asdict(wanted), "rounds": options.rounds, **options.versions}
    return Report("step", ABOUT, settings, rows, bars(rows), busy).finish(options.keep)


if __name__ == "__main__":
    sys.exit(main())
