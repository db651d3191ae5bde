"""Functions for the doctor's child process: they die, hang, fail, or print where they should not."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from eftlite.errors import VocabularyError

Report = Callable[[str], None]


def answer(first: int, second: int, report: Report) -> int:
    report("adding")
    print("noise on stdout")
    return first + second


def exit_at_once(code: int, report: Report) -> None:
    print("ggml: assertion failed", file=sys.stderr, flush=True)
    os._exit(code)


def signalled(number: int, report: Report) -> None:
    os.kill(os.getpid(), number)


def illegal(report: Report) -> None:
    os.kill(os.getpid(), signal.SIGILL)


def hang(report: Report) -> None:
    time.sleep(60)


def fail(report: Report) -> None:
    raise ValueError("no such\nthing")


def refuse(report: Report) -> None:
    raise VocabularyError("they differ", "choose others", 7, ("a", "b"))
