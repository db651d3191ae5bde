"""``eftlite serve`` as a program of its own, with the bundled models."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

SERVE = (sys.executable, "-m", "eftlite", "serve", "--port", "0", "--no-history", "--threads", "1")
START_S = 120


@contextmanager
def served(*options: str) -> Iterator[str]:
    """A server; gives its URL once it answers."""
    environment = {name: value for name, value in os.environ.items() if name != "EFTLITE_API_KEY"}
    command = [*SERVE, *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as server:
        try:
            url = _url_of(server)
            _wait_until_ready(url)
            yield url
        finally:
            server.terminate()
            server.communicate(timeout=20)


def _url_of(server: subprocess.Popen[str]) -> str:
    """Where it says that it is."""
    lines = []
    for line in server.stdout or ():
        lines.append(line)
        if match := re.search(r"http://127\.0\.0\.1:\d+", line):
            return match[0]
    raise AssertionError(f"the server ended: {''.join(lines)}")


def _wait_until_ready(url: str) -> None:
    end = time.monotonic() + START_S
    while httpx.get(f"{url}/health", trust_env=False).status_code != 200:
        assert time.monotonic() < end, "the engine was not loaded"
        time.sleep(0.05)


def figure(url: str, name: str) -> float:
    """A figure of /metrics."""
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    match = re.search(rf"^{re.escape(name)} (\S+)", text, re.MULTILINE)
    assert match, name
    return float(match[1])
