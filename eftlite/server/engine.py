"""The engine as the server sees it: requests, the line in which they wait, and what the process says of them.

Knows requests and whose turn it is; the process's life is keeper.py's. Nothing is asked twice: a request that was being
answered when the process died is told so, one that waited goes on waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil

from eftlite.errors import BusyError, UnavailableError, WorkerError
from eftlite.events import TokenEvent
from eftlite.server.asking import Ask
from eftlite.server.child import worker_command
from eftlite.server.keeper import Keeper
from eftlite.server.protocol import (
    Began,
    Call,
    Detokenize,
    Ended,
    Events,
    FromWorker,
    LoadRequest,
    Render,
    Reply,
    Scoring,
    Tokenize,
)
from eftlite.server.running import RunningAnswer
from eftlite.server.waiting import WaitingLine
from eftlite.settings import Knobs

MAX_CALLS = 256  # under way at a time


class WorkerEngine(Keeper):
    """``asking.Engine`` over a child process.

    Args:
        request: what to load.
        max_waiting: answers that may wait for a slot.
        patience_s: requests wait so long for an engine that is being loaded; after that they are refused until it is.
        hang_s: the process has hung when it gives no sign of life for so long …
        step_limit_s: … or when one decode takes longer than this.
        command: starts the process; another one for tests.

    Attributes:
        n_running, n_waiting: answers that hold a slot, and that wait for one.
    """

    def __init__(
        self,
        request: LoadRequest,
        *,
        max_waiting: int = 64,
        patience_s: float = 120.0,
        hang_s: float = 5.0,
        step_limit_s: float = 300.0,
        command: Sequence[str] | None = None,
    ) -> None:
        super().__init__(request, command or worker_command(), hang_s, step_limit_s, patience_s)
        self.n_running = self.n_waiting = 0
        self._ids = itertools.count(1)
        self._line: WaitingLine[RunningAnswer] = WaitingLine(max_waiting, request.n_slots)
        self._running: dict[int, tuple[RunningAnswer, float]] = {}  # with the time when it began
        self._calls: dict[int, asyncio.Future[Any]] = {}

    # ---- requests

    async def answer(self, ask: Ask, client: str = "") -> RunningAnswer:
        """Queue an answer; returns at once.

        Args:
            ask: what.
            client: whose turn it is, for fairness among waiting answers; any text.

        Raises:
            BusyError: too many are waiting.
            UnavailableError: it has failed, is closed, or has been loading for too long.
        """
        return self._queue(ask, client)

    async def score(self, prompt: str | Sequence[int], knobs: Knobs, n_top: int, client: str = "") -> list[TokenEvent]:
        """Each token of a prompt with its log-probability under the composite; waits for a slot, as answers do."""
        async with self._queue(Scoring(prompt, knobs, n_top), client) as running:
            return [event async for event in running]

    async def tokenize(self, text: str, add_bos: bool, special: bool) -> list[int]:
        """Token ids of a text."""
        return list(await self._call(lambda number: Tokenize(number, text, add_bos, special)))

    async def detokenize(self, tokens: Sequence[int], special: bool = False) -> bytes:
        """Bytes of token ids."""
        return bytes(await self._call(lambda number: Detokenize(number, list(tokens), special)))

    async def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> str:
        """The prompt that a conversation becomes."""
        return str(await self._call(lambda number: Render(number, messages, tools)))

    async def memory(self) -> dict[str, int]:
        """Bytes: "resident" of the process; 0 while none is loaded."""
        resident = 0
        if self._child is not None:
            with contextlib.suppress(psutil.Error):
                resident = psutil.Process(self._child.pid).memory_info().rss
        return {"resident": resident}

    def _queue(self, what: Ask | Scoring, client: str) -> RunningAnswer:
        """Begin an answer or put it in line, with no moment in which it is neither."""
        if not self._patient:
            raise self._unavailable()
        running = RunningAnswer(next(self._ids), what, self._withdraw)
        self._line.add(client, running)
        self._begin_waiting()
        return running

    async def _call(self, make: Callable[[int], Call]) -> Any:
        """Ask the process for what needs no slot, and wait for its reply."""
        await self.ready(self._patience_s)
        if len(self._calls) >= MAX_CALLS:
            raise BusyError(f"engine: expected at most {MAX_CALLS} calls at a time, got one more", "Ask again", 1)
        assert self._child is not None  # it is ready
        number = next(self._ids)
        self._child.send(make(number))
        reply = self._calls[number] = asyncio.get_running_loop().create_future()
        return await reply

    # ---- the line

    def _withdraw(self, running: RunningAnswer) -> None:
        self._line.remove(running)
        self._count()

    def _begin_waiting(self) -> None:
        """Begin those whose turn it is, as far as there are slots."""
        while self._child is not None and self._line and len(self._running) < self._request.n_slots:
            running = self._line.pop()
            self._child.send_line(running.message)
            running.begin(self._child.send)
            self._running[running.number] = running, time.monotonic()
        self._count()

    def _count(self) -> None:
        self.n_running, self.n_waiting = len(self._running), len(self._line)

    # ---- what the keeper tells

    def _loaded(self) -> None:
        self._begin_waiting()

    def _heard(self, message: FromWorker) -> None:
        if isinstance(message, Events):
            self._running[message.id][0].put(message.events)
        elif isinstance(message, Began):
            self._running[message.id][0].seed = message.seed
        elif isinstance(message, Ended):
            running, began = self._running.pop(message.id)
            running.end(message.statistics, message.error)
            self._line.served(time.monotonic() - began)
            self._begin_waiting()
        elif isinstance(message, Reply):
            self._reply(self._calls.pop(message.id), message)

    def _reply(self, future: asyncio.Future[Any], message: Reply) -> None:
        if future.done():  # whoever asked has left
            return
        if message.error is None:
            future.set_result(message.value)
        else:
            future.set_exception(message.error)

    def _died(self, cause: str) -> None:
        for running, _ in self._running.values():
            running.end(error=self._lost(cause))
        for number, future in self._calls.items():
            self._reply(future, Reply(number, error=self._lost(cause)))
        self._running.clear()
        self._calls.clear()
        self._count()

    def _refused(self) -> None:
        for running in self._line.clear():
            running.end(error=self._unavailable())
        self._count()

    def _lost(self, cause: str) -> UnavailableError:
        """What a request is told that was under way."""
        if self.state == "closed":
            return self._unavailable()
        return WorkerError(f"engine: its process {cause} in the middle of this request", "Ask again", 1)
