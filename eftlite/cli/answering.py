"""One answer on its way to the user: decoded in a thread, so that Ctrl+C reaches llama.cpp inside a batch.

Python runs signal handlers in the main thread only between its own instructions, and one ``llama_decode`` of a long
prompt can take many seconds. So the main thread waits on a queue, where Ctrl+C finds it at once.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from eftlite.cli.output import StatusLine

if TYPE_CHECKING:
    from eftlite.events import Statistics, TokenEvent

TWICE_S = 1.0
PATIENCE_S = 2.0


class Stoppable(Protocol):
    """What can end the answer it is making, from any thread."""

    def stop(self) -> None:
        """End it."""


class Presses:
    """How often Ctrl+C was pressed during an answer, and when last; the second one within a second interrupts.

    Args:
        stop: ends the answer.

    Attributes:
        leaving: when it interrupted, by ``time.monotonic``; before that it is negative.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self.count = 0
        self.last = self.leaving = float("-inf")

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        """The signal's handler: stop the answer; KeyboardInterrupt when pressed twice within a second."""
        now = time.monotonic()
        hurried = now - self.last < TWICE_S
        self.count, self.last = self.count + 1, now
        self._stop()
        if hurried and self.leaving < 0:  # a third one must not leave while llama.cpp is still at work
            self.leaving = now
            raise KeyboardInterrupt

    def give_up(self) -> None:
        """End the process if it was to be left and still waits: only other machines do not stop when they are told."""
        if 0 <= self.leaving < time.monotonic() - PATIENCE_S:
            from eftlite.remote import hang_up

            hang_up()


@contextmanager
def ctrl_c(handler: Presses) -> Iterator[None]:
    """Have Ctrl+C call the handler; outside the main thread, where no signal can be caught, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def stream(engine: Stoppable, begin: Callable[[], Iterable[TokenEvent]]) -> Iterator[TokenEvent]:
    """Events of the answer that ``begin`` makes, as they come; Ctrl+C ends it with a "cancelled" event.

    A long wait for the first of them is shown on a terminal's stderr.

    Raises:
        KeyboardInterrupt: Ctrl+C was pressed twice within a second.
        Exception: whatever ``begin`` or decoding raised.
    """
    arrived: SimpleQueue[TokenEvent | BaseException | None] = SimpleQueue()

    def work() -> None:
        """Hand over events, then None or what was raised."""
        try:
            for event in begin():
                arrived.put(event)
            arrived.put(None)
        except BaseException as error:  # noqa: BLE001  raised again in the main thread, whatever it is
            arrived.put(error)

    presses = Presses(engine.stop)
    waiting: StatusLine | None = StatusLine()
    worker = threading.Thread(target=work, name="answer", daemon=True)
    with ctrl_c(presses):
        worker.start()
        try:
            while (item := _next(arrived, waiting)) is not None:
                if isinstance(item, BaseException):
                    raise item
                if presses.count and item.finish_reason is None:
                    engine.stop()  # the first request may have come before there was anything to stop
                yield item
                waiting = None
        finally:
            while worker.is_alive():
                engine.stop()
                worker.join(0.05)
                presses.give_up()


def _next(arrived: SimpleQueue[Any], waiting: StatusLine | None) -> Any:
    """The next item; waits in short pieces, since on Windows no signal ends a longer wait."""
    while True:
        with suppress(Empty):
            item = arrived.get(timeout=0.2)
            if waiting:
                waiting.clear()
            return item
        if waiting:
            waiting.show("reading …")


def timing(statistics: Statistics) -> str:
    """What an answer took, on one line."""
    n_tokens = statistics.n_tokens
    if not n_tokens:
        return "no tokens"
    parts = [f"{n_tokens} token{'' if n_tokens == 1 else 's'}"]
    if statistics.tokens_per_s:
        parts.append(f"{statistics.tokens_per_s:.1f} tokens/s")
    parts.append(f"first after {statistics.prompt_s:.2f} s")
    if statistics.shift is not None:
        parts.append(f"shift {statistics.shift:.2f}")
    drafts = statistics.drafts
    if drafts is not None and drafts.n_drafted:
        parts.append(f"accepted {drafts.n_accepted / drafts.n_drafted:.0%} of {drafts.n_drafted} drafted")
    return " · ".join(parts)
