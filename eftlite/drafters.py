"""Drafters by name: one that is built in, a plugin's, a member's, or one of the first two and then another.

A plugin's drafter can cost time, and nothing else: what it proposes is checked, and one that fails is reported and
proposes nothing any more. With the default rule the text does not depend on drafts, so it stays what it would be.

Knows names and what a draft must be; never acceptance or pace.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from operator import index
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from eftlite.composite import Row
from eftlite.drafting import Draft, Drafter, Fallback, MemberDrafter, Situation, until_end
from eftlite.ensemble import Ensemble
from eftlite.errors import EngineError, InputError
from eftlite.plugins import Entry, Registry, report
from eftlite.sampling import Sampler
from eftlite.verify import Law

T = TypeVar("T")
# What each stands for is called with the ensemble and gives a Drafter.
DRAFTERS = Registry(
    "drafter",
    {"lookup": ("eftlite.drafting:LookupDrafter", "What followed the same tokens earlier.")},
    reserved=("auto", "base", "tuned", "reference", "drafter"),
)


def make_drafter(
    name: str, ensemble: Ensemble, masked: NDArray[np.int32], max_draft: int, unknown: Callable[[str], Exception]
) -> Drafter:
    """The drafter that goes by ``name``: "lookup", a plugin's, a member's, or "FIRST+SECOND".

    FIRST is no member, which would always propose something. A plugin's drafter that cannot be made proposes nothing.

    Raises:
        What ``unknown`` makes of a name that nobody has.
    """
    names = [member.name for member in ensemble.members]
    if name in names:
        return MemberDrafter(ensemble, names.index(name), masked, max_draft)
    first, plus, rest = name.partition("+")
    entry = DRAFTERS.find(first)
    if entry is None or (plus and not rest):
        raise unknown(name)
    drafter = _build_or_do_without(entry, ensemble)
    if not plus:
        return drafter
    if drafter.member is not None:
        raise unknown(name)
    return Fallback(drafter, make_drafter(rest, ensemble, masked, max_draft, unknown))


def build(entry: Entry, ensemble: Ensemble) -> Drafter:
    """The drafter of an entry.

    Raises:
        InputError: a plugin cannot be imported, fails, or makes something else.
    """
    make = entry.load()
    with entry.blamed():
        drafter: Drafter = make(ensemble)
        if entry.distribution is None:
            return drafter
        if not isinstance(drafter, Drafter):
            raise TypeError(f"expected a drafter with member, draft and proposal_of, got {type(drafter).__name__}")
        if drafter.member is not None and drafter.member not in range(len(ensemble.members)):
            raise ValueError(f"member: expected None or the index of a member, got {drafter.member!r}")
    return Guarded(entry, drafter, ensemble.n_vocab)


def _build_or_do_without(entry: Entry, ensemble: Ensemble) -> Drafter:
    try:
        return build(entry, ensemble)
    except InputError as error:
        report(str(error))
        return Guarded(entry, None, ensemble.n_vocab)


class Guarded:
    """A plugin's drafter, or None in place of one that could not be made.

    Args:
        n_vocab: ids below it may be proposed.
    """

    def __init__(self, entry: Entry, drafter: Drafter | None, n_vocab: int) -> None:
        self.member: int | None = None if drafter is None else drafter.member
        self._entry, self._drafter, self._n_vocab = entry, drafter, n_vocab

    def draft(self, situation: Situation) -> Draft:
        """What the drafter proposes, up to n tokens and an end token; nothing once it failed."""
        return self._ask(lambda drafter: self._checked(drafter.draft(situation), situation)) or Draft()

    def proposal_of(self, rows: Sequence[Row | None], sampler: Sampler) -> Law | None:
        """The drafter's law; None once it failed."""

        def law_of(drafter: Drafter) -> Law | None:
            law = drafter.proposal_of(rows, sampler)
            return None if law is None else self._checked_law(law)

        return self._ask(law_of)

    def _ask(self, question: Callable[[Drafter], T]) -> T | None:
        if self._drafter is None:
            return None
        try:
            return question(self._drafter)
        except EngineError:
            raise  # of a member that it decodes with: cancelled, cache full
        except Exception as error:  # noqa: BLE001  # a plugin may raise anything
            what = str(error) if isinstance(error, _Unusable) else _place(error)
            report(str(self._entry.fault(f"{what}; nothing is drafted by it any more")))
            self._drafter = None
            return None

    def _checked(self, draft: Draft, situation: Situation) -> Draft:
        """A draft that every rule can take."""
        if not isinstance(draft, Draft):
            raise _Unusable(f"expected a Draft, got {type(draft).__name__}")
        tokens = [index(token) for token in draft.tokens]
        if len(draft.proposals) != len(tokens):
            raise _Unusable(f"expected a law for each of {len(tokens)} tokens, got {len(draft.proposals)}")
        if draft.rows and (self.member is None or len(draft.rows) != len(tokens)):
            raise _Unusable("expected a row of the member for each token, or none")
        for token, law in zip(tokens, map(self._checked_law, draft.proposals), strict=True):
            if not (law.logprobs[law.ids == token] > -np.inf).any():
                raise _Unusable("expected each token to be a candidate of its law, got another")
        if any(row.shape != (self._n_vocab,) or row.dtype != np.float32 for row in draft.rows):
            raise _Unusable(f"expected rows of {self._n_vocab} float32 numbers, got others")
        n = len(until_end(tokens[: situation.n], situation.end_tokens))
        return Draft(tokens[:n], draft.proposals[:n], draft.rows[:n])

    def _checked_law(self, law: Law) -> Law:
        if not isinstance(law, Law) or law.ids.dtype != np.int32 or law.logprobs.dtype != np.float64:
            raise _Unusable("expected a Law of int32 ids and float64 logprobs, got something else")
        if law.ids.ndim != 1 or law.ids.shape != law.logprobs.shape or not law.ids.size:
            raise _Unusable("expected a Law with as many logprobs as ids, got another")
        if law.ids.min() < 0 or law.ids.max() >= self._n_vocab:
            raise _Unusable(f"expected token ids from 0 to {self._n_vocab - 1}, got another")
        return law


class _Unusable(Exception):
    """What a plugin proposed cannot be used; the text quotes none of it."""


def _place(error: Exception) -> str:
    """What was raised and where; its words may quote a prompt."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
