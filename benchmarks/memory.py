"""Peak memory of a process that answers with EFT, beside what it cannot do without: ``python -m benchmarks.memory``.

Cannot do without: the files, the caches, and the buffers that llama.cpp says it makes (compute, output, repacked
weights). Each case runs in a process of its own, with the weights mapped from the file and with them read into memory.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import Bar, Report, busy_percent, cache_folder
from eftlite.shapes import shape_family

PAIRS = [("1b-q4_0", "135m-q4_0"), ("1b-q8_0", "135m-q8_0")]
LIMIT = 1.05
RATIO = "peak / (files + caches + buffers)"
N_PROMPT = 600  # more than llama.cpp computes at once, so that its buffers are used to their end
ABOUT = (
    "Megabytes (10⁶ bytes). peak: the largest resident set of the process, prompt and answer included. interpreter: "
    "Python with all libraries and kernels loaded, before any model. files, caches, buffers: what cannot be done "
    "without; buffers are those that llama.cpp logs: compute, output, and weights it repacks beside a mapped file. The "
    "last column is the ratio of peak and these three; the one before it leaves the interpreter out of the peak."
)
_BUFFER = re.compile(r"(\S+)\s+(model|KV|compute|output)\s+buffer size\s*=\s*([\d.]+) MiB")


class Buffers(logging.Handler):
    """Reads sizes of buffers from llama.cpp's log."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, float]] = []  # device, kind, bytes

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line of the log."""
        match = _BUFFER.search(record.getMessage())
        if match:
            self.found.append((match[1], match[2], float(match[3]) * (1 << 20)))

    def total(self, *kinds: str) -> float:
        """Bytes of all buffers of these kinds."""
        return sum(size for _, kind, size in self.found if kind in kinds)

    def repacked(self) -> float:
        """Bytes of weights outside a mapping."""
        return sum(size for device, kind, size in self.found if kind == "model" and "Mapped" not in device)


def peak_bytes() -> int:
    """The process's largest resident set so far."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count the parent's pages too
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024  # type: ignore[index]  # Linux has it
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def child(files: list[str], n_ctx: int, n_prompt: int, use_mmap: bool) -> dict[str, float]:
    """Answer once; what it took, in bytes."""
    from eftlite import EFT, Limits

    buffers, log = Buffers(), logging.getLogger("eftlite.llama")
    log.addHandler(buffers)
    log.setLevel(logging.DEBUG)
    limits = Limits(max_tokens=32)
    with EFT(speculative=False, n_ctx=128) as small:  # loads libraries and kernels
        small.complete([1, 2, 3], limits=limits).text()
    buffers.found.clear()
    interpreter = psutil.Process().memory_info().rss
    with EFT(*files, n_ctx=n_ctx, use_mmap=use_mmap, speculative=False) as eft:
        eft.complete([token % eft.n_vocab for token in range(n_prompt)], limits=limits).text()
        peak = peak_bytes()
    return {
        "peak": peak,
        "interpreter": interpreter,
        "files": float(sum(Path(file).stat().st_size for file in files)),
        "caches": buffers.total("KV"),
        "buffers": buffers.total("compute", "output") + (buffers.repacked() if use_mmap else 0.0),
    }


def measure(pair: tuple[str, str], n_vocab: int, use_mmap: bool, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table, from a process of its own."""
    family = shape_family(options.folder, *pair, n_vocab=n_vocab)
    task = {
        "files": [family.base, family.deltas[0].tuned, family.deltas[0].reference],
        "n_ctx": options.context,
        "n_prompt": min(N_PROMPT, options.context // 2),
        "use_mmap": use_mmap,
    }
    command = [sys.executable, "-m", "benchmarks.memory", "--child", json.dumps(task)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    allowed = found["files"] + found["caches"] + found["buffers"]
    return {
        "base": pair[0],
        "small": pair[1],
        "vocabulary": n_vocab,
        "weights": "mapped" if use_mmap else "read",
        **{f"{name} MB": size / 1e6 for name, size in found.items()},
        "less the interpreter": (found["peak"] - found["interpreter"]) / allowed,
        RATIO: found["peak"] / allowed,
    }


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.partition("\n")[0])
    parser.add_argument("--pair", nargs=2, action="append", metavar=("BASE", "SMALL"), help="such as 1b-q4_0 135m-q4_0")
    parser.add_argument("--vocab", type=int, nargs="+", default=[32_000, 152_064], help="vocabulary sizes")
    parser.add_argument("--context", type=int, default=4096, help="tokens of context")
    parser.add_argument("--folder", type=Path, default=cache_folder(), help="where model files are kept")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/memory.{json,md}")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(**json.loads(options.child))))
        return 0
    busy = busy_percent()
    rows = [
        measure(tuple(pair), n_vocab, use_mmap, options)
        for pair in options.pair or PAIRS
        for n_vocab in options.vocab
        for use_mmap in (True, False)
    ]
    bars = [
        Bar(f"{row['base']}, {row['vocabulary']} tokens, weights {row['weights']}", row[RATIO], LIMIT) for row in rows
    ]
    return Report("memory", ABOUT, {"context": options.context}, rows, bars, busy).finish(options.keep)


if __name__ == "__main__":
    sys.exit(main())
