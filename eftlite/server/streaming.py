"""Answers on their way to the page: made at the same time, recorded, and only then sent, as events of one stream.

What was sent is in the history: a text is kept before its event is queued, an end before its "done". A history that
fails is told once and the answer goes on; a client that leaves ends the answers of its stream. Knows the interfaces of
the engine and the history; never requests.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from sse_starlette import EventSourceResponse, JSONServerSentEvent

from eftlite.errors import EFTError, HistoryError, NotFoundError
from eftlite.responses import eft_block
from eftlite.server.conversations import kept
from eftlite.server.replies import PING_S, error_object

if TYPE_CHECKING:
    from eftlite.events import TokenEvent
    from eftlite.history import History, Recorder
    from eftlite.server.asking import Ask, Engine, Running
    from eftlite.server.metrics import Totals

QUEUED = 64  # events; a slow reader then holds the answer back, not the memory

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """One answer of a stream.

    Attributes:
        mode: who answers.
        ask: what of the engine.
        settings: recorded with the answer.
        leads: whether the conversation goes on from it.
    """

    mode: str
    ask: Ask
    settings: dict[str, Any]
    leads: bool


@dataclass(frozen=True)
class End:
    """How an answer ended: its state in the history, the engine's reason, and what it took or why it failed."""

    state: str
    reason: str | None = None
    result: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, running: Running) -> End:
        """The end of an answer whose events are exhausted."""
        reason = running.statistics.finish_reason
        state = "stopped" if reason == "cancelled" else "complete"
        return cls(state, reason, eft_block(running.statistics, running.seed))


class Answers:
    """The answers that are being made, each by an id that cannot be guessed.

    Attributes:
        engine: makes them.
        history: keeps them.
        totals: counts what they take.
    """

    def __init__(self, engine: Engine, history: History, totals: Totals) -> None:
        self.engine, self.history, self.totals = engine, history, totals
        self._running: dict[str, tuple[str, Running]] = {}

    @contextmanager
    def listed(self, mode: str, running: Running) -> Iterator[str]:
        """The id under which an answer is found meanwhile."""
        name = uuid.uuid4().hex
        self._running[name] = mode, running
        try:
            yield name
        finally:
            del self._running[name]

    def find(self, name: str) -> tuple[str, Running]:
        """An answer's mode and the answer; NotFoundError if none is being made by this id."""
        if name not in self._running:
            raise NotFoundError("answer: expected the id of one that is being written", "It may have ended meanwhile")
        return self._running[name]


class Record:
    """An answer's place in the history.

    When the history fails, nothing more is written before the answer's end, where all of it is tried once more.

    Args:
        history: keeps it.
        conversation: its id.
        parent: the question; None when that could not be kept, so that the answer cannot either.

    Attributes:
        message_id: None where there is no message.
        problem: what failed first; ``told``: whether the page knows.
        tokens: what was sent, for later looks at it.
    """

    def __init__(self, history: History, conversation: str, parent: int | None) -> None:
        self.message_id: int | None = None
        self.problem: EFTError | None = None
        self.told = False
        self.tokens: list[dict[str, Any]] = []
        self._history, self._conversation, self._parent = history, conversation, parent
        self._recorder: Recorder | None = None
        self._unsaved: list[str] = []

    async def begin(self, part: Part) -> None:
        """Make the message."""
        if self._parent is None:
            return
        begin = partial(self._history.begin_answer, self._conversation, self._parent, part.mode, part.settings)
        self._recorder = await self._tried(partial(begin, leads=part.leads))
        self.message_id = self._recorder.message_id if self._recorder else None

    async def add(self, token: dict[str, Any]) -> None:
        """Keep a token."""
        self.tokens.append(token)
        if self._recorder and self.problem:
            self._unsaved.append(token["t"])
        elif self._recorder and token["t"]:
            await self._tried(partial(self._recorder.add, token["t"]))

    async def finish(self, end: End) -> None:
        """Keep the end, also when the client has left."""
        if self._recorder:
            with anyio.CancelScope(shield=True):
                await self._tried(partial(self._end, self._recorder, end))

    def _end(self, recorder: Recorder, end: End) -> None:
        with suppress(HistoryError):  # a text that cannot be written is still part of what `finish` writes
            recorder.add("".join(self._unsaved))
        recorder.finish(end.state, end.result, self.tokens)

    async def _tried(self, call: Callable[[], T]) -> T | None:
        try:
            return await kept(call)
        except EFTError as error:
            self.problem = self.problem or error
            return None


class Stream:
    """The answers to one question.

    Args:
        answers: where they are made, and found meanwhile.
        conversation: its id.
        question: the message that is answered, or why it could not be kept.
        parts: what is asked.
    """

    def __init__(self, answers: Answers, conversation: str, question: int | EFTError, parts: Sequence[Part]) -> None:
        self._answers, self._conversation = answers, conversation
        self._question, self._parts = question, parts
        self._queue: asyncio.Queue[JSONServerSentEvent | None] = asyncio.Queue(QUEUED)

    def response(self) -> EventSourceResponse:
        """The stream as a response; when the client leaves, or the server stops, the answers end."""
        return EventSourceResponse(self._events(), data_sender_callable=self._run, ping=PING_S, sep="\n")

    async def _events(self) -> AsyncIterator[JSONServerSentEvent]:
        while (event := await self._queue.get()) is not None:
            yield event

    async def _emit(self, name: str, **data: Any) -> None:
        await self._queue.put(JSONServerSentEvent(data, event=name, sep="\n"))

    async def _run(self) -> None:
        """Tell of the question, then of all answers as they come."""
        if isinstance(self._question, int):
            await self._emit("user", id=self._question)
        else:
            await self._emit("error", error=error_object(self._question))
        async with anyio.create_task_group() as group:
            for part in self._parts:
                group.start_soon(self._answer, part)
        await self._queue.put(None)

    async def _answer(self, part: Part) -> None:
        """Make one answer; what goes wrong with it is told in the stream."""
        question = self._question if isinstance(self._question, int) else None
        record, error, end = Record(self._answers.history, self._conversation, question), None, End("stopped")
        try:
            async with await self._answers.engine.answer(part.ask, self._conversation) as running:
                await record.begin(part)
                await self._write(part.mode, running, record)
                end = End.of(running)
                self._answers.totals.count(running.statistics)
        except EFTError as found:
            error, end = found, End("failed", result={"error": error_object(found)["message"]})
        finally:
            await record.finish(end)
        await self._tell_problem(part.mode, record)
        if error:
            await self._emit("error", mode=part.mode, error=error_object(error))
        await self._emit("done", mode=part.mode, state=end.state, finish_reason=end.reason, result=end.result)

    async def _write(self, mode: str, running: Running, record: Record) -> None:
        """Keep and send an answer while it is made."""
        with self._answers.listed(mode, running) as name:
            await self._emit("answer", mode=mode, message_id=record.message_id, answer_id=name)
            await self._tell_problem(mode, record)
            async for event in running:
                if event.id >= 0 or event.text:
                    token = token_of(event)
                    await record.add(token)
                    await self._tell_problem(mode, record)
                    await self._emit("tokens", mode=mode, tokens=[token])
                if isinstance(record.problem, NotFoundError):  # deleted: nobody wants it any more
                    await running.stop()

    async def _tell_problem(self, mode: str, record: Record) -> None:
        """Say once, and at once, that what follows may not be kept."""
        if record.problem and not record.told:
            record.told = True
            await self._emit("error", mode=mode, error=error_object(record.problem))


def token_of(event: TokenEvent) -> dict[str, Any]:
    """A token in the page's form: text "t", piece "p", shift "s", origin "o", log-probability "l", candidates "top"."""
    token: dict[str, Any] = {
        "t": event.text,
        "p": event.piece.decode("utf-8", "replace"),
        "s": _rounded(event.shift),
        "o": event.origin,
        "l": _rounded(event.logprob),
    }
    if event.top:
        token["top"] = {name: [[c.text, _rounded(c.logprob)] for c in top] for name, top in event.top.items()}
    return token


def _rounded(value: float | None) -> float | None:
    """Four digits, all that a page shows; None for what JSON cannot say."""
    return round(value, 4) if value is not None and math.isfinite(value) else None
