"""One answer on the server's side: what came of it and was not yet taken, and what may still be asked of it.

Knows events and messages about one answer; never processes, lines of waiting answers or HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from eftlite.errors import EFTError, InputError
from eftlite.events import Statistics, TokenEvent
from eftlite.server.asking import Ask
from eftlite.server.protocol import WINDOW, Begin, Credit, Scoring, SetKnobs, Stop
from eftlite.server.wire import encode

if TYPE_CHECKING:
    from typing_extensions import Self

    from eftlite.settings import Knobs

_CANCELLED = TokenEvent(id=-1, text="", finish_reason="cancelled")


class RunningAnswer:
    """An answer, from the moment it is queued; ``asking.Running`` for whoever asked.

    Args:
        number: its ``id`` in messages.
        what: is asked.
        withdraw: takes it out of the line while it waits.

    Attributes:
        message: what begins it, encoded.
        seed: draws the same answer again; known when the first event has come.
        statistics: known when the events are exhausted, also after a stop.
        knobs: in force now.

    Raises:
        InputError: what is asked cannot be sent.
    """

    def __init__(self, number: int, what: Ask | Scoring, withdraw: Callable[[RunningAnswer], None]) -> None:
        self.number, self._what = number, what
        self.message = encode(Begin(number, what))
        self.knobs = what.knobs
        self.seed = -1
        self.statistics = Statistics()
        self._withdraw = withdraw
        self._send: Callable[[Stop | SetKnobs | Credit], None] | None = None  # once it has begun
        self._events: deque[TokenEvent] = deque()
        self._n_taken = 0  # since the last credit
        self._over = self._left = False
        self._error: EFTError | None = None
        self._changed = asyncio.Event()

    # ---- for the engine

    def begin(self, send: Callable[[Stop | SetKnobs | Credit], None]) -> None:
        """It runs: ``send`` reaches the process."""
        self._send = send

    def put(self, events: Sequence[TokenEvent]) -> None:
        """Events came."""
        if not self._left:
            self._events.extend(events)
            self._changed.set()

    def end(self, statistics: Statistics | None = None, error: EFTError | None = None) -> None:
        """No more will come."""
        self.statistics = statistics or self.statistics
        self._error, self._over = error, True
        self._changed.set()

    # ---- for whoever asked

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenEvent:
        while not self._events:
            if self._over:
                raise self._error or StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        event = self._events.popleft()
        self._n_taken += 1
        if 2 * self._n_taken >= WINDOW and self._send is not None and not self._over:
            self._send(Credit(self.number, self._n_taken))
            self._n_taken = 0
        return event

    async def set_knobs(self, knobs: Knobs) -> None:
        """Change the knobs from the next token on; InputError when they are of another family."""
        if len(knobs.alphas) != len(self.knobs.alphas):
            raise InputError(f"alphas: expected {len(self.knobs.alphas)}, got {len(knobs.alphas)}")
        self.knobs = knobs
        if self._send is None:
            self._what = replace(self._what, knobs=knobs)
            self.message = encode(Begin(self.number, self._what))
        elif not self._over:
            self._send(SetKnobs(self.number, knobs))

    async def stop(self) -> None:
        """End it; the events end with one whose ``finish_reason`` is "cancelled"."""
        self._stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *details: object) -> None:
        self._left = True
        self._events.clear()
        self._stop()

    def _stop(self) -> None:
        """Never waits, so that nothing can come between."""
        if self._over:
            return
        if self._send is not None:
            self._send(Stop(self.number))
        else:
            self._withdraw(self)
            self.put([_CANCELLED])
            self.end(Statistics(finish_reason="cancelled"))
