"""Memory estimated before loading, beside what processes then take: ``python -m benchmarks.memory_estimates``.

Each case loads random models of known shapes in a process of its own, fills every slot's context to its end and asks
for as many rows of logits as there may be. Measured is how far the largest resident set rises above what Python and
the libraries take; a mapped file's pages are in it, for they all are read.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import Bar, Report, busy_percent, cache_folder
from benchmarks.memory import peak_bytes
from eftlite.shapes import parse_shape, write_shape

SHAPES = ("135m-q8_0", "135m-q4_0", "360m-q8_0", "360m-q4_k_m", "1b-q4_0", "1b-q4_k_m")
FAMILY = ("360m-q4_0", "135m-q8_0")
KV_TYPES = ("f16", "q8_0", "f32")
CONTEXTS = (256, 1024)
LIMIT = 0.05
ERROR = "estimated / measured - 1"
ABOUT = (
    "Megabytes (10⁶ bytes). estimated: from the files' headers alone, before anything is loaded. measured: the largest "
    "resident set of the process when every context is full, less what it was before. weights: mapped from the file, "
    "or read into memory. Repacked weights are copies beside a mapped file. The last row is a family of three. What "
    "eftlite itself takes to combine members is no part of it: nothing is combined here. Unlike times, these figures "
    "do not depend on how busy the machine is."
)


def child(files: list[str], n_ctx: int, n_slots: int, settings: dict[str, Any]) -> dict[str, float]:
    """Load, fill the contexts; bytes that were estimated and measured."""
    from eftlite.family import bundled_family
    from eftlite.loading import load
    from eftlite.settings import Delta, Family, ModelSettings

    load(bundled_family(), 64, 1, ModelSettings(n_threads=1)).close()  # loads libraries
    _forget_peak()
    before = psutil.Process().memory_info().rss
    deltas = (Delta("d", files[1], files[2]),) if len(files) > 1 else ()
    engine = load(Family("f", files[0], deltas), n_ctx, n_slots, ModelSettings(**settings))
    for member in engine.ensemble.members:
        for slot in range(n_slots):
            member.decode(slot, [token % 500 for token in range(n_ctx - member.max_rows)], 0)
            member.decode(slot, [7] * member.max_rows, member.max_rows)
    needs = engine.placement.needs.values()
    found = {
        "estimated": float(sum(need.resident for need in needs)),
        "measured": float(peak_bytes() - before),
        "weights": float(sum(need.weights for need in needs)),
        "cache": float(sum(need.cache for need in needs)),
        "buffers": float(sum(need.compute for need in needs)),
    }
    engine.close()
    return found


def _forget_peak() -> None:
    """Let the largest resident set begin again where it is now; Linux can."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def measure(shapes: tuple[str, ...], n_ctx: int, n_slots: int, kv: str, use_mmap: bool, folder: Path) -> dict[str, Any]:
    """One row of the table, from a process of its own."""
    settings = {"type_k": kv, "type_v": kv, "use_mmap": use_mmap}
    task = {"files": _files(shapes, folder), "n_ctx": n_ctx, "n_slots": n_slots, "settings": settings}
    command = [sys.executable, "-m", "benchmarks.memory_estimates", "--child", json.dumps(task)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return {
        "models": " + ".join(shapes),
        "context": n_ctx,
        "slots": n_slots,
        "cache type": kv,
        "weights": "mapped" if use_mmap else "read",
        **{f"{name} MB": size / 1e6 for name, size in found.items()},
        ERROR: found["estimated"] / found["measured"] - 1,
    }


def _files(shapes: tuple[str, ...], folder: Path) -> list[str]:
    """Files of the shapes, of one vocabulary when there are several; written unless they are there."""
    n_vocab = parse_shape(shapes[0])[0].n_vocab
    paths = [folder / f"estimates-{name}-{n_vocab}-{seed}.gguf" for seed, name in enumerate(shapes)]
    for seed, (path, name) in enumerate(zip(paths, shapes, strict=True)):
        if not path.exists():
            write_shape(path, *parse_shape(name), n_vocab=n_vocab, seed=seed)
    return [str(path) for path in paths]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory_estimates", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--shape", nargs="+", default=SHAPES, metavar="SHAPE", help="such as 1b-q4_0")
    parser.add_argument("--type", nargs="+", default=KV_TYPES, metavar="TYPE", help="types of the caches")
    parser.add_argument("--context", nargs="+", type=int, default=CONTEXTS, metavar="N", help="tokens of context")
    parser.add_argument("--folder", type=Path, default=cache_folder(), help="where model files are kept")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/memory_estimates.{json,md}")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(**json.loads(options.child))))
        return 0
    busy = busy_percent()
    grid = itertools.product(options.shape, options.context, options.type)
    cases = [((shape,), n_ctx, 1, kv, True) for shape, n_ctx, kv in grid]
    cases += [((shape,), options.context[0], 1, options.type[0], False) for shape in options.shape]
    cases += [((options.shape[0],), 512, 4, "f16", True), ((*FAMILY, FAMILY[1]), 1024, 1, "f16", True)]
    rows = []
    for number, case in enumerate(cases, 1):
        rows.append(measure(*case, options.folder))
        print(f"{number} of {len(cases)}: {rows[-1]['models']} {rows[-1][ERROR]:+.3f}", file=sys.stderr, flush=True)
    worst = max(rows, key=lambda row: abs(row[ERROR]))
    settings = {"contexts": list(options.context), "cases": len(rows)}
    bar = Bar(f"largest error, {worst['models']}", abs(worst[ERROR]), LIMIT)
    return Report("memory_estimates", ABOUT, settings, rows, [bar], busy).finish(options.keep)


if __name__ == "__main__":
    sys.exit(main())
