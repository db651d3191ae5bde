"""Teacher forcing: what the composite thinks of a text that is given, token by token.

Scoring is verification of a draft that is accepted whatever the laws say: the text is drafted in pieces, each member
evaluates a piece in one batch, and the piece is settled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from eftlite.composite import Composite, Recipe, Row
from eftlite.ensemble import Ensemble
from eftlite.errors import EngineError
from eftlite.events import Candidate, TokenEvent
from eftlite.member import MAX_ROWS


def likeliest(row: Row, normaliser: float, n: int, piece: Callable[[int], bytes]) -> tuple[Candidate, ...]:
    """The n likeliest tokens of a row (n_vocab,), by falling log-probability."""
    n = min(n, len(row))
    best = np.argpartition(-row, n - 1)[:n]  # (n,)
    ordered = sorted((-float(row[i]), int(i)) for i in best)
    pieces = [piece(token) for _, token in ordered]
    return tuple(
        Candidate(token, text.decode("utf-8", "replace"), -score - normaliser, text)
        for (score, token), text in zip(ordered, pieces, strict=True)
    )


def score(
    ensemble: Ensemble,
    composite: Composite,
    slot: int,
    recipe: Recipe,
    ids: Sequence[int],
    piece: Callable[[int], bytes],
    first: int = 0,
    n_top: int = 0,
) -> Iterator[list[TokenEvent]]:
    """Events of the tokens ``ids[first:]``, a batch at a time.

    Args:
        recipe: the members' weights.
        ids: the text; at least one token, fewer than the context holds.
        piece: bytes of a token.
        first: the first token that is scored; what stands before it may still be in the caches.
        n_top: likeliest candidates of the composite for each event.

    Yields:
        Lists of events; ``logprob`` of a text's very first token is NaN, because nothing stands before it.

    Raises:
        EngineError: another text was put into the slot meanwhile.
    """
    known = max(first, 1)
    ensemble.begin(slot, [list(ids[:known])] * len(ensemble.members))
    text = ensemble.texts[slot]
    scores = np.empty(ensemble.n_vocab, np.float32)  # (n_vocab,)
    if first == 0:
        yield [TokenEvent(ids[0], _text(piece(ids[0])), piece(ids[0]), math.nan)]
    for start in range(known, len(ids), MAX_ROWS):
        if ensemble.texts[slot] is not text:
            raise EngineError(f"slot {slot}: an answer was begun here, this text cannot be scored further")
        draft = list(ids[start : start + MAX_ROWS])
        ensemble.advance_all(slot, recipe.needed, draft[:-1], len(draft))
        events = []
        for n_before, token in enumerate(draft):
            rows: list[Row | None] = [None] * len(ensemble.members)
            for index in recipe.needed:
                rows[index] = ensemble.row(slot, index, n_before)
            row = composite.combine(rows, recipe, scores)  # a member alone gives its own row, uncopied
            events.append(_event(token, row, composite.log_normaliser(row), piece, n_top))
        ensemble.settle(slot, draft)
        yield events


def _event(token: int, scores: Row, normaliser: float, piece: Callable[[int], bytes], n_top: int) -> TokenEvent:
    top = {"eft": likeliest(scores, normaliser, n_top, piece)} if n_top else None
    found = piece(token)
    return TokenEvent(token, _text(found), found, float(scores[token]) - normaliser, top=top)


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")
