"""What one token's arithmetic costs on one thread, beside the same in numpy: ``python -m benchmarks.combine``."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import with_numpy
from benchmarks.common import Bar, Report, Spread, alternate, busy_percent, ratio, spread
from eftlite.composite import Composite, Recipe, Roles
from eftlite.family import bundled_family
from eftlite.llama import Model
from eftlite.noise import Noise
from eftlite.sampling import Sampler
from eftlite.settings import Knobs, Sampling
from eftlite.verify import draw

TOP_P = 0.9
ROLES = Roles(3, 0, ((1, 2),))
COMBINE_LIMIT_US, CONSERVATIVE_LIMIT_US = 120.0, 600.0
ABOUT = (
    "Microseconds on one thread, medians (quartiles), for rows of logits with a standard deviation of 4, in the cache. "
    "numpy: the same as one writes it with numpy (benchmarks/with_numpy.py), float32 as well."
)
Work = Callable[[], object]


def works(n_vocab: int, model: Model) -> dict[str, tuple[Work, Work]]:
    """(ours, numpy's) of each part of a step."""
    rng = np.random.default_rng(n_vocab)
    rows = list(rng.normal(0, 4, (3, n_vocab)).astype(np.float32))  # (n_vocab,) each
    base, tuned, reference = rows
    composite = Composite(n_vocab, np.array([n_vocab - 2, n_vocab - 1], np.int32), np.empty(0, np.int32))
    plain, careful = (Recipe.of(Knobs(conservative_p=p), ROLES) for p in (None, TOP_P))
    out, scores = np.empty((2, n_vocab), np.float32)  # (n_vocab,) each
    scores[:] = composite.combine(rows, plain, out)
    normaliser, noise = composite.log_normaliser(scores), Noise(1)
    default, greedy = (Sampler(Sampling(temperature=t), model, n_vocab) for t in (0.8, 0.0))

    def step() -> int:
        ours = composite.combine(rows, plain, out)
        composite.shift(ours, composite.log_normaliser(ours), tuned)
        return draw(default.law(ours), noise, 0)

    def numpy_step() -> int:
        theirs = with_numpy.combine(base, tuned, reference)
        with_numpy.total_variation(theirs, tuned)
        return with_numpy.sample(theirs, rng, 0.8)

    return {
        "combine": (
            lambda: composite.combine(rows, plain, out),
            lambda: with_numpy.combine(base, tuned, reference),
        ),
        "combine, conservative": (
            lambda: composite.combine(rows, careful, out),
            lambda: with_numpy.conservative(base, tuned, reference, TOP_P),
        ),
        "log-normaliser": (lambda: composite.log_normaliser(scores), lambda: with_numpy.log_normaliser(scores)),
        "shift": (
            lambda: composite.shift(scores, normaliser, tuned),
            lambda: with_numpy.total_variation(scores, tuned),
        ),
        "law, default sampling": (lambda: default.law(scores), lambda: with_numpy.sample(scores, rng, 0.8)),
        "law, greedy": (lambda: greedy.law(scores), lambda: with_numpy.sample(scores, rng, 0.0)),
        "all of a step": (step, numpy_step),
    }


def per_call_us(work: Work, n_calls: int) -> float:
    """Median microseconds of a call."""
    times = []
    for _ in range(n_calls):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def timed(work: Work, n_calls: int) -> Callable[[], float]:
    """A phase for ``alternate``."""
    return lambda: per_call_us(work, n_calls)


def measure(n_vocab: int, model: Model, n_rounds: int) -> list[dict[str, Any]]:
    """The table's rows for one vocabulary."""
    rows = []
    for name, (ours, theirs) in works(n_vocab, model).items():
        figures = alternate({"ours": timed(ours, 40), "numpy": timed(theirs, 10)}, n_rounds, warm_up=2)
        rows.append(
            {
                "tokens": n_vocab,
                "part": name,
                "µs": spread(figures["ours"]),
                "numpy µs": spread(figures["numpy"]),
                "numpy / ours": ratio(figures["numpy"], figures["ours"]),
            }
        )
    return rows


def bars(rows: Sequence[dict[str, Any]], n_vocab: int) -> list[Bar]:
    """What must hold at the largest vocabulary."""
    found: dict[str, Spread] = {row["part"]: row["µs"] for row in rows if row["tokens"] == n_vocab}
    return [
        Bar(f"combine at {n_vocab} tokens, µs", found["combine"].median, COMBINE_LIMIT_US),
        Bar(f"conservative at {n_vocab} tokens, µs", found["combine, conservative"].median, CONSERVATIVE_LIMIT_US),
    ]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.combine", description=__doc__)
    parser.add_argument("--vocab", type=int, nargs="+", default=[32_000, 152_064], help="vocabulary sizes")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/combine.{json,md}")
    options = parser.parse_args()
    busy = busy_percent()
    model = Model(bundled_family().base)  # samplers want some vocabulary; these do not read it
    rows = [row for n_vocab in options.vocab for row in measure(n_vocab, model, options.rounds)]
    settings = {"rounds": options.rounds, "top-p of conservative mode": TOP_P}
    report = Report("combine", ABOUT, settings, rows, bars(rows, max(options.vocab)), busy)
    return report.finish(options.keep)


if __name__ == "__main__":
    sys.exit(main())
