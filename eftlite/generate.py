"""The decoding loops: plain EFT, token by token. Yields one event for each token, with statistics.

The algorithm, in the paper's words: evaluate base, tuned and reference on the text; combine their log-probabilities;
draw from the result; append; repeat.

Knows ensembles, laws and events; chat, templates and files are eft.py's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from eftlite.composite import Composite, Recipe, Row
from eftlite.ensemble import Ensemble
from eftlite.errors import Cancelled
from eftlite.events import Candidate, Statistics, TokenEvent
from eftlite.noise import Noise
from eftlite.sampling import Sampler
from eftlite.scoring import likeliest
from eftlite.settings import Knobs, Limits
from eftlite.text import TextStream
from eftlite.verify import Law, draw


class Decoder:
    """One answer in the making: what the loops share.

    Args:
        ensemble: whose slot already holds the prompts (``Ensemble.begin``).
        composite: combines the rows.
        slot: which text.
        knobs: asked before every token, so that they can change in the middle.
        sampler: makes the law; closed by the caller.
        noise: draws from it.
        limits: where the answer ends.
        end_tokens: ids that end it.
        piece: bytes of a token.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        composite: Composite,
        slot: int,
        knobs: Callable[[], Knobs],
        sampler: Sampler,
        noise: Noise,
        limits: Limits,
        end_tokens: frozenset[int],
        piece: Callable[[int], bytes],
    ) -> None:
        self.ensemble, self.composite, self.slot = ensemble, composite, slot
        self.sampler, self.noise, self.limits = sampler, noise, limits
        self.statistics = Statistics(n_prompt=ensemble.texts[slot].length(ensemble.roles.base))
        self._knobs, self._temperature = knobs, sampler.sampling.temperature
        self._take(knobs())
        self.end_tokens, self._piece = end_tokens, piece
        self._stream = TextStream(limits.stop)
        self._scores = np.empty(ensemble.n_vocab, np.float32)  # (n_vocab,)
        self._shifts: list[float] = []
        self.last_rows: list[Row | None] = []  # of the last plain step
        self.last_law: Law | None = None
        self._began = time.perf_counter()
        self.begin_turn()

    # ---- one token

    @property
    def recipe(self) -> Recipe:
        """The members' weights for the next token."""
        knobs = self._knobs()
        if knobs is not self._recipe.knobs:
            self._take(knobs)
        return self._recipe

    def _take(self, knobs: Knobs) -> None:
        self._recipe = Recipe.of(knobs, self.ensemble.roles)
        self.sampler.heat(self._temperature if knobs.temperature is None else knobs.temperature)

    @property
    def position(self) -> int:
        """Tokens already in the answer: the noise's key."""
        return len(self.ensemble.texts[self.slot].answer)

    def check(self) -> None:
        """Raise Cancelled if a stop was asked for: a device that cannot stop inside a decode stops here."""
        if self.ensemble.members[0].cancel.is_set():
            raise Cancelled("stopped on request")

    def step(self) -> TokenEvent:
        """Evaluate, combine, draw, append."""
        self.check()
        recipe = self.recipe
        rows = self.ensemble.rows(self.slot, recipe.needed)
        scores = self.composite.combine(rows, recipe, self._scores)
        if self.sampler.draws_itself:
            token = self.sampler.select(scores)
        else:
            self.last_rows, self.last_law = rows, self.sampler.law(scores)
            token = draw(self.last_law, self.noise, self.position)
        event = self.event(token, scores, rows, recipe)
        self.commit([token])
        return event

    def commit(self, tokens: Sequence[int]) -> None:
        """Make drawn tokens part of the text and of the sampler's memory."""
        for token in tokens:
            self.sampler.accept(token)
        self.ensemble.settle(self.slot, tokens)

    def event(
        self,
        token: int,
        scores: Row,
        rows: Sequence[Row | None],
        recipe: Recipe,
        origin: str = "plain",
        n_ahead: int = 0,
    ) -> TokenEvent:
        """Describe a drawn token, and decide whether it ends the answer; ``n_ahead`` tokens before it are not yet
        part of the text.
        """
        normaliser = self.composite.log_normaliser(scores)
        tuned = None if recipe.tuned is None else rows[recipe.tuned]
        shift = None if tuned is None else self.composite.shift(scores, normaliser, tuned)
        if shift is not None:
            self._shifts.append(shift)
        statistics = self.statistics
        statistics.n_tokens += 1
        if statistics.n_tokens == 1:
            statistics.prompt_s = time.perf_counter() - self._began
        piece = self._piece(token)
        text, finish = self._advance(token, piece, n_ahead)
        statistics.finish_reason = finish
        return TokenEvent(
            id=token,
            text=text,
            piece=piece,
            logprob=float(scores[token]) - normaliser,
            shift=shift,
            origin=origin,
            top=self._top(scores, normaliser, rows) if self.limits.n_top else None,
            finish_reason=finish,
            is_end=token in self.end_tokens,
        )

    def _advance(self, token: int, piece: bytes, n_ahead: int) -> tuple[str, str | None]:
        """Text that becomes visible with this token, and why the answer ends with it, if it does."""
        if token in self.end_tokens:
            self.statistics.n_end_tokens = 1
            return self._stream.finish(), "stop"
        text = self._stream.push(piece)
        if self._stream.stopped is not None:
            return text, "stop"
        if self.statistics.n_tokens == self.limits.max_tokens or self.ensemble.room(self.slot) - n_ahead <= 1:
            return text + self._stream.finish(), "length"
        return text, None

    def _top(self, scores: Row, normaliser: float, rows: Sequence[Row | None]) -> dict[str, tuple[Candidate, ...]]:
        """The likeliest candidates of the composite and of every member that was evaluated."""
        n = self.limits.n_top
        top = {"eft": likeliest(scores, normaliser, n, self._piece)}
        for member, row in zip(self.ensemble.members, rows, strict=True):
            if row is not None:
                top[member.name] = likeliest(row, self.composite.log_normaliser(row), n, self._piece)
        return top

    # ---- turns, for answers that are made at the same time

    def begin_turn(self) -> None:
        """From here on the members work for this answer."""
        self._seconds_before = [member.seconds for member in self.ensemble.members]

    def end_turn(self) -> None:
        """Count what the members took since ``begin_turn``, or since the last call."""
        spent = self.statistics.member_s
        for member, before in zip(self.ensemble.members, self._seconds_before, strict=True):
            spent[member.name] = spent.get(member.name, 0.0) + member.seconds - before
        self.begin_turn()

    # ---- the end

    def finish(self) -> None:
        """Fill in the statistics."""
        statistics = self.statistics
        statistics.decode_s = time.perf_counter() - self._began - statistics.prompt_s
        self.end_turn()
        if self._shifts:
            statistics.shift = float(np.mean(self._shifts))

    def cancelled(self) -> TokenEvent:
        """The last event of an answer that the user stopped; what was shown stays."""
        self.statistics.finish_reason = "cancelled"
        return TokenEvent(id=-1, text=self._stream.finish(), finish_reason="cancelled")


def plain(decoder: Decoder) -> Iterator[TokenEvent]:
    """Decode token by token until the answer ends."""
    try:
        while True:
            event = decoder.step()
            yield event
            if event.finish_reason:
                return
    except Cancelled:
        yield decoder.cancelled()
    finally:
        decoder.finish()
