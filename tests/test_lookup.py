"""Prompt look-up against a naive search of the whole text."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlite.errors import InputError
from eftlite.lookup import NgramIndex, propose


def naive(ids: Sequence[int], n: int, max_ngram: int, min_ngram: int) -> list[int]:
    """Search backwards for the longest end of the text; copy token by token from the place that follows."""
    for size in range(max_ngram, min_ngram - 1, -1):
        for start in range(len(ids) - size - 1, -1, -1):
            if list(ids[start : start + size]) == list(ids[len(ids) - size :]):
                text = list(ids)
                for i in range(n):
                    text.append(text[start + size + i])
                return text[len(ids) :]
    return []


texts = st.lists(st.integers(0, 3), max_size=40)


@given(texts, st.integers(0, 12), st.integers(1, 4), st.integers(1, 4))
def test_against_naive_search(ids: list[int], n: int, a: int, b: int) -> None:
    sizes = max(a, b), min(a, b)
    assert propose(ids, n, *sizes) == naive(ids, n, *sizes)


@given(st.lists(st.one_of(st.lists(st.integers(0, 2), max_size=6), st.floats(0.0, 1.0)), max_size=20))
def test_appending_and_rewinding_leave_no_trace(moves: list[list[int] | float]) -> None:
    """After any moves, the index is that of the text alone."""
    index = NgramIndex(max_ngram=3, min_ngram=1)
    text: list[int] = []
    for move in moves:
        if isinstance(move, float):
            text = text[: int(move * len(text))]
            index.rewind(len(text))
        else:
            text += move
            index.extend(move)
        assert index.ids == tuple(text)
        assert len(index) == len(text)
        assert index.propose(5) == naive(text, 5, 3, 1)
    assert vars(index) == vars(NgramIndex(text, 3, 1))


def test_longest_end_first_then_the_most_recent_place() -> None:
    assert propose([1, 2, 3, 7, 9, 2, 3, 8, 1, 2, 3], 2) == [7, 9]  # 1 2 3 before 2 3, although that is nearer
    assert propose([2, 3, 7, 2, 3, 8, 2, 3], 2) == [8, 2]  # of both 2 3, the later


def test_a_copy_runs_into_its_own_output() -> None:
    assert propose([1, 2, 1, 2, 1], 5) == [2, 1, 2, 1, 2]
    assert propose([5, 5, 5], 4) == [5, 5, 5, 5]


@pytest.mark.parametrize("ids", [[], [1], [1, 2], [1, 2, 3, 4], [1, 9, 1]])
def test_nothing_to_propose(ids: list[int]) -> None:
    """The last text repeats one token only, and two are needed."""
    assert propose(ids, 4) == []


def test_a_single_token_when_asked_for() -> None:
    assert propose([1, 9, 1], 2, min_ngram=1) == [9, 1]


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(InputError, match="min_ngram"):
        NgramIndex(max_ngram=2, min_ngram=3)
    with pytest.raises(InputError, match="min_ngram"):
        NgramIndex(min_ngram=0)
    index = NgramIndex([1, 2])
    for length in (-1, 3):
        with pytest.raises(InputError, match="from 0 to 2"):
            index.rewind(length)


def test_a_token_costs_the_same_in_a_long_text() -> None:
    """No rescan: 20 000 more tokens, proposals after each, cost seconds at most; rescanning would cost minutes."""
    index = NgramIndex([i * i % 977 for i in range(20_000)])
    began = time.process_time()
    for i in range(20_000):
        index.append(i * 7 % 1009)
        index.propose(8)
    index.rewind(20_000)
    assert time.process_time() - began < 5.0
