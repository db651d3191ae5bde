"""Answers in turn: which exist in the engine's process, a step of each, and what is told of them.

Knows jobs, slots and messages; never pipes or how the process began.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

from eftlite.errors import EFTError, EngineError
from eftlite.server.jobs import Job
from eftlite.server.protocol import (
    Began,
    Begin,
    Call,
    Credit,
    Detokenize,
    Ended,
    Events,
    FromWorker,
    Reply,
    SetKnobs,
    Stop,
    Tokenize,
    ToWorker,
)
from eftlite.server.slots import Slots

if TYPE_CHECKING:
    from eftlite.eft import EFT

Send = Callable[[FromWorker], None]


class Turns:
    """Answers in turn, a step of each.

    Args:
        send: tells the server.

    Attributes:
        n_steps: steps that are finished.
        idle: whether there is nothing to do.
    """

    def __init__(self, send: Send) -> None:
        self.n_steps, self.idle = 0, True
        self._send = send
        self._eft: EFT
        self._jobs: dict[int, Job] = {}  # begun and not ended
        self._new: SimpleQueue[Job | None] = SimpleQueue()  # None only wakes the main thread
        self._calls: SimpleQueue[Call] = SimpleQueue()
        self._running: list[Job] = []
        self._slots = Slots(0)

    def use(self, eft: EFT) -> None:
        """Make answers with this family; before any message is taken."""
        self._eft = eft
        self._slots = Slots(eft.n_slots)

    # ---- messages, in the thread that reads them

    def take(self, message: ToWorker) -> None:
        """Obey a message. Those about an answer that has ended meanwhile come too late and are dropped."""
        if isinstance(message, Call):
            self._calls.put(message)
        elif isinstance(message, Begin):
            job = self._jobs[message.id] = Job(message)
            self._new.put(job)
        elif (running := self._jobs.get(message.id)) is not None:
            self._tell(running, message)
            self._new.put(None)

    def _tell(self, job: Job, message: Stop | SetKnobs | Credit) -> None:
        if isinstance(message, Stop):
            job.stop()
        elif isinstance(message, SetKnobs):
            job.set_knobs(message.knobs)
        else:
            job.grant(message.n_events)

    # ---- answers, in the main thread

    def run(self) -> NoReturn:
        """Make answers until the process ends."""
        while True:
            self.turn()

    def turn(self) -> None:
        """A step of every answer that may go on; waits until there is one."""
        self._begin_new()
        for job in [job for job in self._running if job.may_go]:
            self._advance(job, self._step)
            self.n_steps += 1

    def _begin_new(self) -> None:
        """Take in what was begun; wait for it, or for a message, while nothing may go on."""
        while not self._new.empty() or not any(job.may_go for job in self._running):
            self.idle = self._new.empty()
            job = self._new.get()
            self.idle = False
            if job is not None:
                self._running.append(job)
                self._advance(job, self._start)

    def _start(self, job: Job) -> bool:
        seed = job.start(self._eft, self._slots)
        self._send(Began(job.id, seed))
        return True

    def _step(self, job: Job) -> bool:
        events = job.step()
        if events:
            self._send(Events(job.id, tuple(events)))
        return events is not None and not events[-1].finish_reason

    def _advance(self, job: Job, act: Callable[[Job], bool]) -> None:
        """Act on a job; end it if it does not go on, whatever the reason."""
        error: EFTError | None = None
        goes_on = False
        try:
            goes_on = act(job)
        except EFTError as found:
            error = found
        except Exception:  # noqa: BLE001  # a bug ends one answer, not all of them
            error = _internal_error()
        if not goes_on:
            self._running.remove(job)
            del self._jobs[job.id]
            job.leave(self._slots)
            self._send(Ended(job.id, job.statistics, error))

    # ---- calls, in a thread of their own

    def serve_calls(self) -> NoReturn:
        """Answer calls, one after the other."""
        while True:
            call = self._calls.get()
            try:
                reply = Reply(call.id, self._value(call))
            except EFTError as error:
                reply = Reply(call.id, error=error)
            except Exception:  # noqa: BLE001  # as for answers
                reply = Reply(call.id, error=_internal_error())
            self._send(reply)

    def _value(self, call: Call) -> Any:
        if isinstance(call, Tokenize):
            from eftlite.text import visible_text

            return self._eft.tokenize(visible_text(call.text), call.add_bos, call.special)
        if isinstance(call, Detokenize):
            return self._eft.detokenize(call.tokens, special=call.special)
        return self._eft.template.render(call.messages, tools=call.tools)


def _internal_error() -> EngineError:
    """For the client; what happened goes to stderr only."""
    traceback.print_exc()
    return EngineError("engine: internal error", "The request was given up; the engine goes on")
