"""What the server adds to an answer: ``python -m benchmarks.server``.

The same plain EFT answers in this process and through ``eftlite serve`` over HTTP, streamed; then the second turn of a
conversation, whose new tokens alone should need evaluating. Random weights, so texts do not matter.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.common import Bar, Report, alternate, busy_percent, cache_folder, ratio, spread
from eftlite import EFT, Family, Limits, Sampling
from eftlite.shapes import shape_family

ABOUT = (
    "Plain EFT of {pair}, medians (quartiles) over rounds. A token: milliseconds from the first token to the last, "
    "streamed through the server and in this process. Second turn: milliseconds to the first token when {n_new} tokens "
    "follow {n_old} that were evaluated before."
)
OVERHEAD_LIMIT, SECOND_TURN_LIMIT = 1.03, 1.3
SAMPLING: dict[str, Any] = {"temperature": 0.8, "seed": 1}
N_OLD, N_NEW = 256, 48


@contextmanager
def served(family: Family) -> Iterator[httpx.Client]:
    """A client of a server that has loaded the family."""
    (delta,) = family.deltas
    models = ("--base", family.base, "--tuned", delta.tuned, "--reference", delta.reference)
    options = ("--port", "0", "--slots", "1", "--n-ctx", "1024", "--no-speculative", "--no-history")
    command = [sys.executable, "-m", "eftlite", "serve", *models, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            found = re.search(r"http://[0-9.]+:[0-9]+", server.stderr.readline())
            assert found, "the server did not start"
            with httpx.Client(base_url=found[0], timeout=300, trust_env=False) as client:
                while client.get("/health").status_code != 200:
                    time.sleep(0.1)
                yield client
        finally:
            server.terminate()
            server.communicate()


def streamed(client: httpx.Client, prompt: list[int], n_tokens: int) -> tuple[float, float]:
    """Seconds to the first token, and per token after it."""
    body = {"prompt": prompt, "max_tokens": n_tokens, "stream": True, "logprobs": 0, **SAMPLING}
    began = time.perf_counter()
    with client.stream("POST", "/v1/completions", json=body) as reply:
        chunks = (json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: {"))
        times = [time.perf_counter() for chunk in chunks if chunk["choices"][0]["logprobs"]]
    assert len(times) == n_tokens, f"expected {n_tokens} tokens, got {len(times)}"
    return times[0] - began, (times[-1] - times[0]) / max(n_tokens - 1, 1)


def in_process(eft: EFT, prompt: list[int], n_tokens: int) -> tuple[float, float]:
    """The same without a server."""
    began = time.perf_counter()
    events = eft.complete(prompt, sampling=Sampling(**SAMPLING), limits=Limits(max_tokens=n_tokens))
    times = [time.perf_counter() for _ in events]
    return times[0] - began, (times[-1] - times[0]) / max(n_tokens - 1, 1)


def main() -> int:
    """Run the benchmark."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.server", description=__doc__.partition("\n")[0])
    found.add_argument("--pair", nargs=2, metavar=("BASE", "SMALL"), default=["1b-q4_0", "135m-q4_0"])
    found.add_argument("--folder", type=Path, default=cache_folder(), help="where model files are kept")
    found.add_argument("--rounds", type=int, default=7)
    found.add_argument("--tokens", type=int, default=48, help="tokens of an answer")
    found.add_argument("--keep", action="store_true", help="write benchmarks/results/server.{json,md}")
    options = found.parse_args()
    busy = busy_percent()
    family = shape_family(options.folder, *options.pair, n_vocab=32_000)
    old, whole = list(range(N_OLD)), list(range(N_OLD + N_NEW))
    with served(family) as client, EFT(family=family, n_ctx=1024, speculative=False) as eft:

        def second_turn(ask: Any, whom: Any) -> float:
            ask(whom, old, 1)
            return float(ask(whom, whole, 1)[0])

        figures = alternate(
            {
                "server": lambda: streamed(client, old, options.tokens)[1],
                "process": lambda: in_process(eft, old, options.tokens)[1],
                "server, second turn": lambda: second_turn(streamed, client),
                "process, second turn": lambda: second_turn(in_process, eft),
            },
            options.rounds,
        )
    rows = []
    for what, suffix in (("a token", ""), ("second turn", ", second turn")):
        server, process = figures[f"server{suffix}"], figures[f"process{suffix}"]
        rows.append(
            {
                "what": what,
                "server ms": spread([s * 1e3 for s in server]),
                "process ms": spread([s * 1e3 for s in process]),
                "server / process": ratio(server, process),
            }
        )
    bars = [
        Bar(f"{row['what']}: server / process", row["server / process"].median, limit)
        for row, limit in zip(rows, (OVERHEAD_LIMIT, SECOND_TURN_LIMIT), strict=True)
    ]
    about = ABOUT.format(pair=" and ".join(options.pair), n_old=N_OLD, n_new=N_NEW)
    settings = {"rounds": options.rounds, "tokens": options.tokens, "vocabulary": 32_000}
    return Report("server", about, settings, rows, bars, busy).finish(options.keep)


if __name__ == "__main__":
    sys.exit(main())
