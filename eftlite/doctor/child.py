"""A function run in a process of its own: what dies there, as llama.cpp may, is an error here.

Knows functions and pipes. Both ends are this program, so that pickles between them are no danger.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from eftlite.errors import EFTError

Report = Callable[[str], None]
Call = Callable[..., Any]

# As `python -m`, but this very package is run, and the folder we are started in is not searched.
_BOOT = (
    "import sys; folder = sys.argv[1]; sys.path[:] = [folder, *filter(None, sys.path)]; import eftlite; "
    "sys.path[:] = [*sys.path[1:], folder]; from eftlite.doctor.child import main; main()"
)
_ILLEGAL_INSTRUCTION_ON_WINDOWS = 0xC000001D


class ChildDiedError(EFTError):
    """The process ended without an answer.

    Attributes:
        illegal_instruction: it met one that this processor lacks.
        last_line: of its stderr.
    """

    def __init__(self, message: str, illegal_instruction: bool = False, last_line: str = "") -> None:
        super().__init__(message)
        self.illegal_instruction, self.last_line = illegal_instruction, last_line


def call(function: Callable[..., Any], *arguments: Any, report: Report, limit_s: float | None = None) -> Any:
    """``function(*arguments, report)`` in a child process.

    Args:
        function: of a module of eftlite.
        arguments: they and the result can be pickled.
        report: told what the function reports.
        limit_s: the child is ended then; None lets it work as long as it wants.

    Raises:
        ChildDiedError: it died or was ended.
        EFTError: what the function raised; other exceptions as an EFTError with their words.
    """
    command = [sys.executable, "-c", _BOOT, str(Path(__file__).parents[2])]
    pipe, late = subprocess.PIPE, threading.Event()
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors) as child:  # noqa: S603  ourselves

            def give_up() -> None:
                late.set()
                child.kill()

            timer = threading.Timer(limit_s or threading.TIMEOUT_MAX, give_up)
            timer.daemon = True
            timer.start()
            try:
                kind, value = _converse(child, pickle.dumps((function, arguments)), report)
            finally:
                timer.cancel()
                child.kill()
        if kind == "done":
            return value
        if kind == "failed":
            raise value
        raise _death(child.returncode, errors, late.is_set())


def _converse(child: subprocess.Popen[bytes], request: bytes, report: Report) -> tuple[str, Any]:
    """Send the request and pass on what is reported; ("done", result), ("failed", error) or ("died", None)."""
    pipe_in, pipe_out = cast(IO[bytes], child.stdin), cast(IO[bytes], child.stdout)
    try:
        pipe_in.write(request)
        pipe_in.close()
        while True:
            kind, value = pickle.load(pipe_out)  # noqa: S301  written by this program
            if kind != "report":
                return kind, value
            report(value)
    except (OSError, EOFError, pickle.UnpicklingError):
        child.wait()
        return "died", None


def _death(code: int, errors: IO[bytes], too_late: bool) -> ChildDiedError:
    errors.seek(0)
    lines = [line for line in errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
    illegal = code in (-int(signal.SIGILL), _ILLEGAL_INSTRUCTION_ON_WINDOWS)
    try:
        how = f"died of {signal.Signals(-code).name}"
    except ValueError:
        how = f"ended with exit code {code}"
    return ChildDiedError(
        "The process that computes " + ("did not answer in time" if too_late else how),
        illegal,
        lines[-1][:300] if lines else "",
    )


def main() -> None:
    """The child: take a request from stdin, answer on what was stdout; everything else that is printed is stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    function, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301  written by this program

    def send(kind: str, value: Any) -> None:
        pickle.dump((kind, value), answers)
        answers.flush()

    try:
        send("done", function(*arguments, lambda text: send("report", text)))
    except EFTError as error:
        send("failed", error)
    except Exception as error:  # noqa: BLE001  the parent reports it
        words = " ".join(str(error).split())
        send("failed", EFTError(f"{type(error).__name__}: {words[:300]}"))
