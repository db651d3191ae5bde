"""Too little memory for the family: the worker says so with the numbers, in a typed error, and ends."""

from __future__ import annotations

import os
import subprocess

from eftlite.available import VARIABLE
from eftlite.errors import MemoryLimitError
from eftlite.server.child import worker_command
from eftlite.server.protocol import LoadFailed, LoadRequest
from eftlite.server.wire import decode, encode
from eftlite.settings import ModelSettings


def test_the_worker_refuses_with_the_numbers() -> None:
    request = encode(LoadRequest(n_slots=2, settings=ModelSettings(n_threads=1)))
    environment = {**os.environ, VARIABLE: "0.02"}
    with subprocess.Popen(worker_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(request)  # left open: with the pipe's end the worker would end at once
        worker.stdin.flush()
        failures = [message for message in map(decode, worker.stdout) if isinstance(message, LoadFailed)]
    assert len(failures) == 1
    error = failures[0].error
    assert isinstance(error, MemoryLimitError)
    assert error.http_status == 503
    assert error.message.startswith("memory: expected ")
    assert error.message.endswith(f"of main memory, got 20.0 MB by {VARIABLE}")
    assert "base " in error.hint
    assert worker.returncode >= 0  # it was not killed
