"""The speculative loop: EFT at about the price of the large model, with plain decoding's law.

Each round the drafter proposes n tokens; base and reference score ``[pending, x_1 … x_n]`` in one batch each; a rule
decides on the draft with the composite's law at every row; every member is rewound to what stands. The tuned model,
when it drafts, has evaluated all but the last drafted token already and evaluates that one only if all were accepted.

Knows rounds; laws are sampling.py's, rules verify.py's, draft lengths pace.py's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from eftlite.composite import Row
from eftlite.drafting import Draft, Drafter, Situation
from eftlite.errors import Cancelled, EFTError
from eftlite.events import DraftStatistics, TokenEvent
from eftlite.generate import Decoder
from eftlite.sampling import Sampler
from eftlite.verify import EXPECTED_ACCEPTANCE, RULES, Law, Rule

Expected = Callable[[Law, Law], float]


class Acceptance(NamedTuple):
    """How drafts are judged.

    Attributes:
        decide: the rule.
        expected: the chance that it keeps a token drawn from q where the law is p, as a function of p and q; None where
            that is not known, so that the pace can only count what was accepted.
    """

    decide: Rule
    expected: Expected | None


class Pace(Protocol):
    """Chooses draft lengths and learns from what became of them; pace.Pace, or FixedPace."""

    def draft_length(self) -> int:
        """Tokens to draft next; 0 decodes one token plainly."""

    def observe(
        self, drafted: int, accepted: int, overlaps: Sequence[float] | None = None, seconds: float | None = None
    ) -> None:
        """A round ended; ``overlaps`` are the expected acceptance at the positions that were looked at."""

    def observe_plain(self, overlap: float | None = None, seconds: float | None = None) -> None:
        """A token was decoded plainly; a draft would have been accepted with probability ``overlap``."""


class FixedPace:
    """Always the same draft length."""

    def __init__(self, n_draft: int) -> None:
        self._n_draft = n_draft

    def draft_length(self) -> int:
        """The length."""
        return self._n_draft

    def observe(
        self, drafted: int, accepted: int, overlaps: Sequence[float] | None = None, seconds: float | None = None
    ) -> None:
        """Nothing is learnt."""

    def observe_plain(self, overlap: float | None = None, seconds: float | None = None) -> None:
        """Nothing is learnt."""


class Verification:
    """The members' rows along one draft, and the law of each, made when asked for.

    Args:
        decoder: the answer.
        draft: at least one token.
        drafter: whose member's rows the draft carries.
        expected: see Acceptance.
        scores: (n + 1, n_vocab) float32 scratch.
    """

    def __init__(
        self, decoder: Decoder, draft: Draft, drafter: Drafter, expected: Expected | None, scores: Row
    ) -> None:
        self._expected_acceptance = expected
        self._decoder, self._draft, self._scores = decoder, draft, scores
        self.recipe = decoder.recipe
        self._drafted_by = drafter.member if draft.rows else None
        self._batched = [member for member in self.recipe.needed if member != self._drafted_by]
        n_rows = len(draft.tokens) + 1
        decoder.ensemble.advance_all(decoder.slot, self._batched, draft.tokens, n_rows)
        remembers = decoder.sampler.remembers
        self._sampler = decoder.sampler.clone() if remembers else decoder.sampler
        self._n_accepted = 0  # drafted tokens the cloned sampler knows
        self.overlaps: list[float] = []
        self.seen: dict[int, tuple[Row, list[Row | None]]] = {}

    def law(self, i: int) -> Law:
        """p_i: the law after the text and x_1 … x_i."""
        rows = self._rows(i)
        scores = self._decoder.composite.combine(rows, self.recipe, self._scores[i])
        self.seen[i] = scores, rows
        if self._sampler is not self._decoder.sampler:
            while self._n_accepted < i:
                self._sampler.accept(self._draft.tokens[self._n_accepted])
                self._n_accepted += 1
        law = self._sampler.law(scores)
        if self._expected_acceptance is not None and i < len(self._draft.tokens):
            self.overlaps.append(self._expected_acceptance(law, self._draft.proposals[i]))
        return law

    def _rows(self, i: int) -> list[Row | None]:
        """Every needed member's logits after x_i."""
        ensemble, slot = self._decoder.ensemble, self._decoder.slot
        rows: list[Row | None] = [None] * len(ensemble.members)
        for member in self._batched:
            rows[member] = ensemble.row(slot, member, i)
        drafter = self._drafted_by
        if drafter is not None and drafter in self.recipe.needed:
            if i < len(self._draft.rows):
                rows[drafter] = self._draft.rows[i]
            else:  # all were accepted: now the drafter too needs its logits after the last drafted token
                ensemble.advance(slot, drafter, self._draft.tokens)
                rows[drafter] = ensemble.row(slot, drafter, i)
        return rows


class Rounds:
    """Speculative rounds of one answer.

    Args:
        decoder: the answer.
        drafter: proposes.
        rule: a name in ``verify.RULES``: which noise drafts are drawn from, and how they are judged.
        pace: chooses lengths.
        max_draft: the longest draft.
        acceptance: judges in place of the rule; for benchmarks.
    """

    def __init__(
        self,
        decoder: Decoder,
        drafter: Drafter,
        rule: str,
        pace: Pace,
        max_draft: int,
        acceptance: Acceptance | None = None,
    ) -> None:
        self.decoder, self.drafter, self.rule, self.pace = decoder, drafter, rule, pace
        self._acceptance = acceptance or Acceptance(RULES[rule], EXPECTED_ACCEPTANCE[rule])
        self.statistics = decoder.statistics.drafts = DraftStatistics()
        self._max_draft = max_draft
        self._scores = np.empty((max_draft + 1, decoder.ensemble.n_vocab), np.float32)  # (max_draft + 1, n_vocab)

    def length(self) -> int:
        """Tokens to draft now: what the pace wants, within the answer's and the context's end."""
        left = self.decoder.ensemble.room(self.decoder.slot)
        if self.decoder.limits.max_tokens is not None:
            left = min(left, self.decoder.limits.max_tokens - self.decoder.statistics.n_tokens)
        return max(0, min(self.pace.draft_length(), self._max_draft, left - 1))

    def step(self) -> TokenEvent:
        """One token decoded plainly, from which the pace learns too."""
        decoder, began = self.decoder, time.perf_counter()
        before = decoder.sampler.clone() if decoder.sampler.remembers else decoder.sampler
        event = decoder.step()
        self.pace.observe_plain(self._plain_overlap(before), time.perf_counter() - began)
        return event

    def _plain_overlap(self, sampler: Sampler) -> float | None:
        """How likely a draft of the last token would have stood, where that costs no decoding.

        ``sampler`` is what it was before that token.
        """
        expected, law = self._acceptance.expected, self.decoder.last_law
        proposal = self.drafter.proposal_of(self.decoder.last_rows, sampler)
        return None if expected is None or proposal is None or law is None else expected(law, proposal)

    def round(self, n: int) -> Iterator[TokenEvent]:
        """Draft, verify, accept, rewind; yields the tokens that stand."""
        decoder, began = self.decoder, time.perf_counter()
        decoder.check()
        number = self.statistics.n_rounds + 1
        draft = self.drafter.draft(
            Situation(decoder.slot, n, self.rule, decoder.noise, number, decoder.sampler, decoder.end_tokens)
        )
        if not draft.tokens:
            yield self.step()
            return
        verification = Verification(decoder, draft, self.drafter, self._acceptance.expected, self._scores)
        verdict = self._acceptance.decide(
            draft.tokens, draft.proposals, verification.law, decoder.noise, decoder.position, number
        )
        n_drafted, n_accepted = len(draft.tokens), verdict.n_accepted
        self.statistics.add(n_drafted, n_accepted)
        tokens = [*draft.tokens[:n_accepted], verdict.token]
        origins = ["accepted"] * n_accepted + ["bonus" if n_accepted == n_drafted else "corrected"]
        events = self._events(tokens, origins, verification)
        decoder.commit(tokens[: len(events)])
        self.pace.observe(n_drafted, n_accepted, verification.overlaps or None, time.perf_counter() - began)
        yield from events

    def _events(self, tokens: list[int], origins: list[str], verification: Verification) -> list[TokenEvent]:
        """Events of the tokens that stand, up to the one that ends the answer."""
        events: list[TokenEvent] = []
        for i, (token, origin) in enumerate(zip(tokens, origins, strict=True)):
            scores, rows = verification.seen[i]
            events.append(self.decoder.event(token, scores, rows, verification.recipe, origin, n_ahead=i))
            if events[-1].finish_reason:
                break
        return events


def speculative(rounds: Rounds) -> Iterator[TokenEvent]:
    """Decode in rounds until the answer ends; the first token comes plainly, as early as it can."""
    decoder = rounds.decoder
    try:
        event = rounds.step()
        yield event
        while not event.finish_reason:
            n = rounds.length()
            for event in rounds.round(n) if n else (rounds.step(),):
                yield event
    except EFTError as error:
        decoder.ensemble.settle(decoder.slot, ())  # a round that broke off left drafted tokens in caches
        if not isinstance(error, Cancelled):
            raise
        yield decoder.cancelled()
    finally:
        decoder.finish()
