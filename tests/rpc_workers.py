"""Workers as programs of their own, on this machine; only where llama-cpp-python was built with RPC."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from eftlite import remote
from eftlite.errors import UnavailableError
from eftlite.rpc import greet

needs_rpc = pytest.mark.skipif(
    not remote.is_supported(), reason="llama-cpp-python was built without RPC: CMAKE_ARGS=-DGGML_RPC=on"
)
WORKER = (sys.executable, "-m", "eftlite", "worker", "--threads", "1")
START_S = 60


@contextmanager
def ctrl_c_heard() -> Iterator[None]:
    """A program that is started meanwhile hears Ctrl+C; else one of a test run by nohup, say, would not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def free_port() -> int:
    """A port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Lender:
    """One worker, which can be killed, stopped and started again on the same port."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self.endpoint = f"127.0.0.1:{self.port}"
        self._options = options
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [*WORKER, "--port", str(self.port), *self._options]
        with ctrl_c_heard():
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self.process.poll() is None, f"the worker ended: {self.process.communicate()}"
            assert time.monotonic() < deadline, "the worker never answered"
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            greet(self.endpoint)
        except UnavailableError:
            return False
        return True

    def send(self, number: int) -> None:
        """Send a signal to it."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it at once, whatever it does, even if it was stopped."""
        self.process.kill()
        self.process.communicate()

    def interrupt(self) -> tuple[int, str, str]:
        """End it as Ctrl+C does; its exit code and what it wrote."""
        self.send(signal.SIGINT)
        out, err = self.process.communicate(timeout=10)
        return self.process.returncode, out, err


@contextmanager
def lenders(n: int) -> Iterator[list[Lender]]:
    """So many workers; none is left afterwards."""
    started: list[Lender] = []
    try:
        for _ in range(n):
            started.append(Lender())  # noqa: PERF401  each that was started must be ended
        yield started
    finally:
        for lender in started:
            lender.kill()
