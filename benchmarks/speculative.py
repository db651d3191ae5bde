"""EFT with drafts beside plain EFT and the base alone, in one run: ``python -m benchmarks.speculative``.

With ``--pair`` a family of random weights and synthetic acceptance rates, an adversarial drafter among them; without,
the bundled family with every drafter and rule, whose acceptance is real.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import Bar, Report, busy_percent, cache_folder
from eftlite.bench import run
from eftlite.contest import ADVERSARIAL, Plan
from eftlite.family import bundled_family
from eftlite.settings import ModelSettings
from eftlite.shapes import shape_family

N_VOCAB = 32_000
ACCEPTANCES = (0.8, 0.9, 0.2, ADVERSARIAL)
# Of issue-sized shapes, 3 B Q8_0 with 135 M Q8_0: (acceptance, figure, at least).
BARS: tuple[tuple[float | str, str, float], ...] = (
    (0.8, "ratio_to_base", 1.25),
    (0.8, "ratio_to_eft", 1.40),
    (0.9, "ratio_to_base", 1.47),
    (0.2, "ratio_to_eft", 0.97),
    (ADVERSARIAL, "ratio_to_eft", 0.97),
    (0.8, "efficiency", 0.95),
    (0.9, "efficiency", 0.95),
)
SHAPES_ABOUT = (
    "Tokens per second of {pair}, random weights and random prompts; drafts are accepted by a coin of the given "
    "probability (synthetic), all of a real round's work is done. x base, x eft: ratios within this run. efficiency: "
    "the speed over what the measured cost curves and the acceptance allow with no overhead at all."
)
FAMILY_ABOUT = "Tokens per second of the bundled family on its own questions; acceptance is real."
COLUMNS = (
    "avg_ts",
    "stddev_ts",
    "ratio_to_base",
    "ratio_to_eft",
    "acceptance",
    "tokens_per_verification",
    "efficiency",
)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the table from one of ``eftlite bench``'s."""
    synthetic = row["synthetic"] or {}
    named = {"mode": row["mode"], "drafts": row["speculation"] or "", "given": synthetic.get("acceptance", "")}
    lengths = row["draft_lengths"] or {}
    usual = " ".join(f"{n}×{count}" for n, count in sorted(lengths.items(), key=lambda item: -item[1])[:3])
    figures = {name: "" if row[name] is None else round(row[name], 3) for name in COLUMNS}
    return {**named, **figures, "draft lengths": usual}


def _bars(rows: list[dict[str, Any]]) -> list[Bar]:
    """The bars that these rows can be held against."""
    given = {(row["synthetic"] or {}).get("acceptance"): row for row in rows if row["mode"] == "eft-spec"}
    return [
        Bar(f"{name} at acceptance {rate}", given[rate][name], limit, at_least=True)
        for rate, name, limit in BARS
        if rate in given and given[rate][name] is not None
    ]


def main() -> int:
    """Measure, print, and write with --keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", nargs=2, metavar=("BASE", "SMALL"), help="shapes, e.g. 3b-q8_0 135m-q8_0")
    parser.add_argument("--folder", type=Path, default=None, help="where shape files are kept")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/speculative-….{json,md}")
    options = parser.parse_args()
    busy = busy_percent()
    common: dict[str, Any] = {"n_prompt": (0,), "n_gen": (options.tokens,), "repetitions": options.rounds}
    if options.pair:
        base, small = options.pair
        family = shape_family(options.folder or cache_folder(), base, small, n_vocab=N_VOCAB)
        plan = Plan(modes=("base", "eft", "eft-spec"), acceptances=ACCEPTANCES, **common)
        rows = run(family, plan, random_weights=True)
        name, about = f"speculative-{base}-{small}", SHAPES_ABOUT.format(pair=f"a {base} base and {small} small models")
        bars = _bars(rows) if (base, small) == ("3b-q8_0", "135m-q8_0") else []
    else:
        drafters, rules = ("auto", "lookup", "lookup+auto"), ("gumbel", "block", "token")
        plan = Plan(modes=("base", "eft", "eft-spec"), drafters=drafters, rules=rules, **common)
        rows = run(bundled_family(), plan, ModelSettings(n_threads=1))
        name, about, bars = "speculative-bundled", FAMILY_ABOUT, []
    settings = {
        "tokens": options.tokens,
        "repetitions": options.rounds,
        "vocabulary": N_VOCAB if options.pair else 1024,
    }
    return Report(name, about, settings, [_row(row) for row in rows], bars, busy).finish(options.keep)


if __name__ == "__main__":
    sys.exit(main())
