"""Who proposes the next tokens: a member, prompt look-up, or one drafter first and then another.

A drafter gives tokens and, for each, the law it was drawn from; both go to a rule of verify.py. It stops after an end
token, which depends on the drafted prefix only and so leaves every rule exact.

Knows ids, rows and laws; never acceptance or pace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from eftlite.composite import Row
from eftlite.ensemble import Ensemble, Text
from eftlite.lookup import NgramIndex
from eftlite.noise import Noise
from eftlite.sampling import Sampler
from eftlite.verify import Law, draw_draft


@dataclass(frozen=True)
class Situation:
    """What a drafter is asked for: a continuation of a slot's text."""

    slot: int
    n: int  # tokens wanted, at least one
    rule: str
    noise: Noise
    round_index: int
    sampler: Sampler
    end_tokens: frozenset[int]


@dataclass
class Draft:
    """Proposed tokens x_1 … x_n and the laws q_0 … q_(n-1) they were drawn from.

    ``rows`` are the drafting member's logits, (n_vocab,) float32 each, one for each token; empty when it did not run.
    """

    tokens: list[int] = field(default_factory=list)
    proposals: list[Law] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


@runtime_checkable
class Drafter(Protocol):
    """Proposes continuations.

    Attributes:
        member: index of the member whose rows a draft carries, or None.
    """

    member: int | None

    def draft(self, situation: Situation) -> Draft:
        """Propose up to ``situation.n`` tokens; none at all is allowed."""

    def proposal_of(self, rows: Sequence[Row | None], sampler: Sampler) -> Law | None:
        """The law a token would have been drafted from, given the members' rows; None when that is not known."""


class MemberDrafter:
    """A member drafts by ordinary decoding, under the same law's filters as the composite.

    Args:
        ensemble: it belongs to.
        member: its index.
        masked: ids that never occur.
        max_draft: the most it will be asked for.
    """

    def __init__(self, ensemble: Ensemble, member: int, masked: NDArray[np.int32], max_draft: int) -> None:
        self.member: int | None = member
        self._ensemble, self._index, self._masked = ensemble, member, masked
        # Each drafted row must survive the next decode, which overwrites llama.cpp's: the one copy there is.
        self._rows = np.empty((max_draft, ensemble.n_vocab), np.float32)  # (max_draft, n_vocab), touched as needed

    def draft(self, situation: Situation) -> Draft:
        """Decode one token at a time."""
        draft, position = Draft(), len(self._ensemble.texts[situation.slot].answer)
        sampler = situation.sampler.clone() if situation.sampler.remembers else situation.sampler
        for i in range(situation.n):
            self._ensemble.advance(situation.slot, self._index, draft.tokens)
            row = self._rows[i]
            row[:] = self._ensemble.row(situation.slot, self._index, i)
            law = self._law(row, sampler)
            token = draw_draft(situation.rule, law, situation.noise, position + i, situation.round_index)
            draft.tokens.append(token)
            draft.proposals.append(law)
            draft.rows.append(row)
            if token in situation.end_tokens:
                break
            if sampler is not situation.sampler:
                sampler.accept(token)
        return draft

    def proposal_of(self, rows: Sequence[Row | None], sampler: Sampler) -> Law | None:
        """The member's law, if it was evaluated anyway."""
        row = rows[self._index] if rows else None
        if row is None:
            return None
        self._rows[0] = row  # no draft is pending when this is asked
        return self._law(self._rows[0], sampler)

    def _law(self, row: Row, sampler: Sampler) -> Law:
        """The law of a row without the masked ids; the row is left as it was, since the composite needs all of it."""
        kept = row[self._masked]  # (n_masked,)
        row[self._masked] = -np.inf
        law = sampler.law(row)
        row[self._masked] = kept
        return law


class LookupDrafter:
    """Prompt look-up: repeats what followed the text's last tokens before; certain of each token it proposes."""

    member: int | None = None

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble
        self._text, self._index = Text([]), NgramIndex()

    def draft(self, situation: Situation) -> Draft:
        """Propose the continuation of the longest n-gram seen before; nothing when there is none."""
        text, base = self._ensemble.texts[situation.slot], self._ensemble.roles.base
        if text is not self._text:  # a text only grows; a new prompt is a new text
            self._text, self._index = text, NgramIndex()
        self._index.extend(text.tail(base, len(self._index)))
        tokens = until_end(self._index.propose(situation.n), situation.end_tokens)
        return Draft(tokens, [certain(token) for token in tokens])

    def proposal_of(self, rows: Sequence[Row | None], sampler: Sampler) -> Law | None:  # noqa: ARG002  # the protocol's
        """Unknown: whether there would have been a proposal depends on the text."""
        return None


class Fallback:
    """A drafter that costs no decoding where it finds something, another one where it does not."""

    def __init__(self, first: Drafter, second: Drafter) -> None:
        self.member = second.member
        self._first, self._second = first, second

    def draft(self, situation: Situation) -> Draft:
        """Propose what the first finds, or else what the second drafts."""
        draft = self._first.draft(situation)
        return draft if draft.tokens else self._second.draft(situation)

    def proposal_of(self, rows: Sequence[Row | None], sampler: Sampler) -> Law | None:
        """The second one's law."""
        return self._second.proposal_of(rows, sampler)


def until_end(tokens: Sequence[int], end_tokens: frozenset[int]) -> list[int]:
    """Tokens up to and including the first end token."""
    for i, token in enumerate(tokens):
        if token in end_tokens:
            return list(tokens[: i + 1])
    return list(tokens)


def certain(token: int) -> Law:
    """The law of a token that was not drawn."""
    return Law(np.array([token], np.int32), np.zeros(1))
