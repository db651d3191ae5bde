"""Log-likelihoods of many continuations, each text's shared beginning evaluated once.

An ``EFT`` keeps one text in its caches and evaluates only what follows the longest prefix that a new text shares with
it. So the order is what saves work: sorted by token ids, texts that begin alike stand side by side. The continuations
of a question cost their own tokens only, and questions with the same examples share these too. Sorting by length, which
saves padding elsewhere, would save nothing here: no batch is padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eftlite import EFT, Knobs
from eftlite.errors import ContextError


@dataclass(frozen=True)
class Request:
    """A continuation after its context, as token ids; the context has one at least."""

    context: Sequence[int]
    continuation: Sequence[int]


@dataclass(frozen=True)
class Score:
    """A continuation's log-likelihood, and whether each of its tokens was the likeliest."""

    log_likelihood: float
    is_greedy: bool


def in_order(texts: Sequence[Sequence[int]]) -> list[int]:
    """Indices of texts, those that begin alike side by side."""
    return sorted(range(len(texts)), key=lambda index: tuple(texts[index]))


def scores(eft: EFT, knobs: Knobs, requests: Sequence[Request]) -> Iterator[tuple[int, Score]]:
    """Each request's index with its score, in the order in which they are made.

    Raises:
        ContextError: a continuation does not fit the context.
    """
    for index in in_order([[*one.context, *one.continuation] for one in requests]):
        yield index, score(eft, knobs, requests[index])


def score(eft: EFT, knobs: Knobs, request: Request) -> Score:
    """One request's score; a text that is too long loses its beginning, as everywhere in the harness."""
    n = len(request.continuation)
    if not n:
        return Score(0.0, is_greedy=True)
    if n >= eft.n_ctx:
        raise ContextError(
            f"continuation: expected fewer than {eft.n_ctx} tokens, the context, got {n}", "Use a larger n_ctx"
        )
    ids = [*request.context, *request.continuation][-eft.n_ctx :]
    total, is_greedy = 0.0, True
    for event in eft.score(ids, knobs=knobs, first=len(ids) - n, n_top=1):
        total += event.logprob
        is_greedy = is_greedy and event.top is not None and event.top["eft"][0].id == event.id
    return Score(total, is_greedy)
