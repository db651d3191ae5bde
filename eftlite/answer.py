"""Answers in the making: each is iterated by its caller; they share the engine by taking turns, an event at a time."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from eftlite.ensemble import Text
from eftlite.errors import EngineError
from eftlite.events import Statistics, TokenEvent
from eftlite.generate import Decoder, plain
from eftlite.member import CancelFlag
from eftlite.settings import Knobs
from eftlite.speculative import Rounds, speculative


class Turns:
    """Who may decode: one answer at a time, and a stop asked of one does not end another's turn.

    Args:
        cancel: ends the ``llama_decode`` that is running.

    Attributes:
        lock: held while caches change.
    """

    def __init__(self, cancel: CancelFlag) -> None:
        self.lock = threading.Lock()
        self._cancel = cancel
        self._guard = threading.Lock()  # of who is decoding; held for moments only
        self._decoding: Answer | None = None
        self._answers: weakref.WeakSet[Answer] = weakref.WeakSet()

    def add(self, answer: Answer) -> None:
        """Know an answer, so that ``stop_all`` reaches it."""
        self._answers.add(answer)

    @contextmanager
    def turn(self, answer: Answer) -> Iterator[None]:
        """Time for one event of one answer."""
        with self.lock:
            with self._guard:
                self._decoding = answer
                if answer.stopped:
                    self._cancel.set()
            try:
                yield
            finally:
                with self._guard:
                    self._decoding = None
                    self._cancel.clear()

    def stop(self, answer: Answer) -> None:
        """End an answer, in the middle of a decode if it is its turn."""
        with self._guard:
            answer.stopped = True
            if self._decoding is answer:
                self._cancel.set()

    def stop_all(self) -> None:
        """End every answer that is being made."""
        for answer in list(self._answers):
            self.stop(answer)


class Answer:
    """One answer: iterate over its events, as they are decoded.

    Attributes:
        seed: draws the same answer again.
        knobs: in force; assign others to change them from the next token on. None follows those of the ``EFT``.
        statistics: complete once the events are exhausted.
        stopped: whether it was asked to end.
    """

    def __init__(self, turns: Turns, knobs: Knobs | None, seed: int) -> None:
        self.seed, self.knobs, self.stopped = seed, knobs, False
        self.statistics = Statistics()
        self._turns = turns
        self._events: Iterator[TokenEvent] = iter(())

    def begin(self, decoder: Decoder, rounds: Rounds | None) -> None:
        """Take the events from this decoder, whose slot holds the prompts."""
        self.statistics = decoder.statistics
        self._events = self._decode(decoder, rounds, decoder.ensemble.texts[decoder.slot])
        self._turns.add(self)

    def __iter__(self) -> Iterator[TokenEvent]:
        return self._events

    def stop(self) -> None:
        """End this answer, from any thread, also while its prompt is being read; what was decoded stays."""
        self._turns.stop(self)

    def text(self) -> str:
        """Decode to the end; returns the visible text of the events not yet taken."""
        return "".join(event.text for event in self._events)

    def _decode(self, decoder: Decoder, rounds: Rounds | None, text: Text) -> Iterator[TokenEvent]:
        """The decoder's events, each made in a turn and only while the slot still holds its text."""
        if decoder.limits.max_tokens == 0:
            decoder.statistics.finish_reason = "length"
            return
        events = plain(decoder) if rounds is None else speculative(rounds)
        while True:
            with self._turns.turn(self):
                if decoder.ensemble.texts[decoder.slot] is not text:
                    raise EngineError(f"slot {decoder.slot}: another answer was begun here, this one cannot go on")
                decoder.begin_turn()
                event = next(events, None)
                decoder.end_turn()
            if event is None:
                return
            yield event
