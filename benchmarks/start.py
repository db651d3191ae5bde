"""How long a newcomer waits: for ``--help``, the demo's first answer, imports: ``python -m benchmarks.start``."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import Bar, Report, alternate, busy_percent, spread

HELP_LIMIT_S, ANSWER_LIMIT_S = 0.3, 3.0
ROOT = Path(__file__).resolve().parents[1]
HELP = "eftlite --help"
FIRST_RUN = "eftlite demo, first answer, kernels not yet compiled"
LATER_RUN = "eftlite demo, first answer"
IMPORTS = ("numpy", "llama_cpp", "numba", "eftlite", "eftlite.cli", "eftlite.eft")
ANSWER = re.compile(r"\s+base alone: \S")
ABOUT = "Seconds from the start of the process, medians (quartiles). Imports: less what a bare interpreter takes."


def run(*arguments: str) -> float:
    """Seconds of a Python process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def first_answer(is_first_run: bool) -> float:
    """Seconds until the demo has printed its first answer in full; is_first_run: with an empty cache of kernels."""
    with tempfile.TemporaryDirectory() as folder:
        own = {"NUMBA_CACHE_DIR": folder} if is_first_run else {}
        command = [sys.executable, "-u", "-m", "eftlite", "demo", "--limit", "1"]
        began = time.perf_counter()
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **own}
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if ANSWER.match(line):
                    took = time.perf_counter() - began
                    process.stdout.read()
                    return took
    raise SystemExit("eftlite demo ended without an answer")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/start.{json,md}")
    options = parser.parse_args()
    busy = busy_percent()
    phases: dict[str, Callable[[], float]] = {
        HELP: partial(run, "-m", "eftlite", "--help"),
        LATER_RUN: partial(first_answer, is_first_run=False),
        "python": partial(run, "-c", "pass"),
        **{f"import {name}": partial(run, "-c", f"import {name}") for name in IMPORTS},
    }
    figures = alternate(phases, options.rounds)
    figures[FIRST_RUN] = alternate({"": partial(first_answer, is_first_run=True)}, 3, warm_up=0)[""]
    bare = spread(figures["python"]).median
    rows: list[dict[str, Any]] = [
        {"what": name, "seconds": spread([max(s - bare, 0.0) if name.startswith("import ") else s for s in seconds])}
        for name, seconds in figures.items()
    ]
    medians = {row["what"]: row["seconds"].median for row in rows}
    bars = [
        Bar(f"{HELP}, s", medians[HELP], HELP_LIMIT_S),
        Bar(f"{LATER_RUN}, s", medians[LATER_RUN], ANSWER_LIMIT_S),
        Bar(f"{FIRST_RUN}, s", medians[FIRST_RUN], ANSWER_LIMIT_S),
    ]
    return Report("start", ABOUT, {"rounds": options.rounds}, rows, bars, busy).finish(options.keep)


if __name__ == "__main__":
    sys.exit(main())
