"""``eftlite serve`` in a process of its own, as people run it: started, asked, killed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

START = (sys.executable, "-m", "eftlite", "serve", "--port", "0", "--threads", "1")


@dataclass(frozen=True)
class Served:
    """A server.

    Attributes:
        url: without a path.
        start_s: from starting the process until it answered.
    """

    process: subprocess.Popen[str]
    url: str
    start_s: float

    def wait_ready(self, timeout_s: float = 120.0) -> float:
        """Wait until models are loaded; returns the seconds it took."""
        began = time.monotonic()
        while (state := httpx.get(f"{self.url}/api/about", timeout=60, trust_env=False).json()["state"]) != "ready":
            assert state in {"loading", "restarting"}, state
            assert time.monotonic() - began < timeout_s, "it was not loaded in time"
            time.sleep(0.02)
        return time.monotonic() - began

    def kill(self) -> None:
        """Kill the server, not the engine: that one must notice by itself."""
        engines = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait(10)
        _, alive = psutil.wait_procs(engines, timeout=10)
        assert not alive, f"{len(alive)} engines outlived their server"


@contextmanager
def served(*options: str) -> Iterator[Served]:
    """A server that answers; at the end it is killed if it still runs."""
    began = time.monotonic()
    process = subprocess.Popen([*START, *options], stderr=subprocess.PIPE, text=True)
    try:
        url = _url_of(process)
        httpx.get(f"{url}/api/conversations?limit=1", timeout=60, trust_env=False).raise_for_status()
        server = Served(process, url, time.monotonic() - began)
        yield server
    finally:
        if process.poll() is None:
            server.kill()
        assert process.stderr is not None
        process.stderr.close()


def _url_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        if found := re.search(r"http://[0-9.]+:[0-9]+", line):
            return found[0]
        said += line
    raise AssertionError(f"it did not start: {said}")


def events_of(reply: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of a stream with their names, as they come."""
    name = ""
    for line in reply.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data" and value != "[DONE]":
            yield name, json.loads(value)
