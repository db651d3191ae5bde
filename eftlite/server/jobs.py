"""Answers in the making, in the engine's process: how each begins and ends, and what each step of it gives.

Knows EFT and one answer; never pipes, other answers or whose turn it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from eftlite.events import Statistics, TokenEvent
from eftlite.server.asking import Ask
from eftlite.server.protocol import WINDOW, Begin, Scoring
from eftlite.server.slots import Slots

if TYPE_CHECKING:
    from eftlite.answer import Answer
    from eftlite.eft import EFT
    from eftlite.settings import Knobs

_SCORES_A_STEP = 64  # tokens that EFT.score evaluates in one batch
_CANCELLED = TokenEvent(id=-1, text="", finish_reason="cancelled")


class Job:
    """An answer or a scoring, from the message that begins it to the one that tells its end.

    Attributes:
        slot: where it runs; None before.
        stopped: whether it was asked to end.
        statistics: of an answer; complete when there are no more steps.
    """

    def __init__(self, begin: Begin) -> None:
        self.id, self.what = begin.id, begin.what
        self.slot: int | None = None
        self.statistics = Statistics()
        self._knobs = begin.what.knobs
        self._answer: Answer | None = None
        self._steps: Iterator[list[TokenEvent]] = iter(())
        self.stopped = False
        # Two counters, each written by one thread only: += is no single step.
        self._granted, self._sent = WINDOW, 0

    # ---- for the thread that reads messages

    def stop(self) -> None:
        """End it, inside a decode if need be."""
        self.stopped = True  # first, so that one of the two threads sees what the other did
        if self._answer is not None:
            self._answer.stop()

    def set_knobs(self, knobs: Knobs) -> None:
        """Change the knobs from the next token on."""
        self._knobs = knobs
        if self._answer is not None:
            self._answer.knobs = knobs

    def grant(self, n_events: int) -> None:
        """Let it go on, so many events having been taken."""
        self._granted += n_events

    # ---- for the main thread

    @property
    def may_go(self) -> bool:
        """Whether its events are being taken; a stop needs no taker."""
        return self.stopped or self._sent < self._granted

    def start(self, eft: EFT, slots: Slots) -> int:
        """Take a slot and put the prompt there; returns the seed."""
        if self.stopped:
            self.statistics.finish_reason = "cancelled"
            self._steps = iter([[_CANCELLED]])
            return 0
        self.slot = slot = slots.take(eft, self.what)
        if isinstance(self.what, Scoring):
            events = eft.score(self.what.prompt, knobs=self._knobs, n_top=self.what.n_top, slot=slot)
            self._steps = self._scored(events)
            return 0
        answer = _answer(eft, self.what, slot)
        self.statistics, self._steps = answer.statistics, _rounds(answer)
        self._answer = answer
        answer.knobs = self._knobs  # both may have been asked for while the prompt was rendered
        if self.stopped:
            answer.stop()
        return answer.seed

    def leave(self, slots: Slots) -> None:
        """Give the slot back, if it had one."""
        if self.slot is not None:
            slots.give_back(self.slot, self.statistics.n_prompt + self.statistics.n_tokens)

    def step(self) -> list[TokenEvent] | None:
        """The events of one step; None when there are no more."""
        events = next(self._steps, None)
        self._sent += len(events or ())
        return events

    def _scored(self, events: Iterator[TokenEvent]) -> Iterator[list[TokenEvent]]:
        while not self.stopped and (step := list(islice(events, _SCORES_A_STEP))):
            yield step


def _answer(eft: EFT, ask: Ask, slot: int) -> Answer:
    sampling = ask.sampling
    if ask.response_format is not None and sampling.grammar is None:
        from eftlite.arguments import format_grammar

        sampling = replace(sampling, grammar=format_grammar(ask.response_format))
    how: dict[str, Any] = {
        "sampling": sampling,
        "limits": ask.limits,
        "knobs": ask.knobs,
        "speculation": ask.speculation,
        "slot": slot,
    }
    if ask.messages is not None:
        return eft.chat(ask.messages, tools=ask.tools, **how)
    return eft.complete(ask.prompt or (), **how)


def _rounds(events: Iterable[TokenEvent]) -> Iterator[list[TokenEvent]]:
    """Events of one decode at a time: an accepted token is always followed by more of its round."""
    step: list[TokenEvent] = []
    for event in events:
        step.append(event)
        if event.origin != "accepted" and not event.finish_reason:
            yield step
            step = []
    if step:  # after the answer's own end, so that its statistics are complete
        yield step
