"""Prompt look-up: what followed the last few tokens the last time they stood in the text.

Drafts that cost nothing where an answer repeats its prompt or itself (Saxena, "Prompt Lookup Decoding", 2023). Knows
token ids only. The proposals have no probabilities: their law is one-hot, and every rule of verify.py takes that.

The longest n-gram that occurred before decides, and of its occurrences the most recent one. A copy may run into its
own output, as in LZ77: after ``a b a b a``, five tokens are ``b a b a b``.
"""

from __future__ import annotations

from collections.abc import Sequence

from eftlite.errors import InputError

MAX_NGRAM = 3
MIN_NGRAM = 2  # a single token recurs everywhere, and a wrong draft costs its verification


class NgramIndex:
    """A text that knows where each of its n-grams was last followed by something.

    Appending a token, and taking one back, costs max_ngram - min_ngram + 1 dictionary operations; a proposal costs no
    more than the tokens proposed. Keeps at most that many dictionary entries for each token.

    Args:
        ids: the text to begin with.
        max_ngram: tokens at the end of the text that are looked up first.
        min_ngram: tokens that are looked up last, if no longer end was found.

    Raises:
        InputError: not ``1 <= min_ngram <= max_ngram``.
    """

    def __init__(self, ids: Sequence[int] = (), max_ngram: int = MAX_NGRAM, min_ngram: int = MIN_NGRAM) -> None:
        if not 1 <= min_ngram <= max_ngram:
            raise InputError(f"n-gram sizes: expected 1 <= min_ngram <= max_ngram, got {min_ngram} and {max_ngram}")
        self._sizes = range(max_ngram, min_ngram - 1, -1)
        self._ids: list[int] = []
        self._followers: dict[tuple[int, ...], int] = {}  # n-gram -> index of the token that last followed it
        self._replaced: list[list[tuple[tuple[int, ...], int | None]]] = []  # for each token, what it overwrote
        self.extend(ids)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> tuple[int, ...]:
        """The text."""
        return tuple(self._ids)

    def append(self, token_id: int) -> None:
        """Continue the text by one token."""
        position = len(self._ids)
        replaced = []
        for size in self._sizes:
            if size <= position:
                ngram = tuple(self._ids[position - size :])
                replaced.append((ngram, self._followers.get(ngram)))
                self._followers[ngram] = position
        self._replaced.append(replaced)
        self._ids.append(token_id)

    def extend(self, ids: Sequence[int]) -> None:
        """Continue the text."""
        for token_id in ids:
            self.append(token_id)

    def rewind(self, length: int) -> None:
        """Cut the text to its first ``length`` tokens, and know what was known then.

        Raises:
            InputError: the text is shorter than that, or length is negative.
        """
        if not 0 <= length <= len(self._ids):
            raise InputError(f"rewind: expected a length from 0 to {len(self._ids)}, got {length}")
        while len(self._ids) > length:
            self._ids.pop()
            for ngram, before in self._replaced.pop():
                if before is None:
                    del self._followers[ngram]
                else:
                    self._followers[ngram] = before

    def propose(self, n: int) -> list[int]:
        """Up to n token ids that may follow: n of them, or none when no end of the text occurred before."""
        end = len(self._ids)
        for size in self._sizes:
            source = self._followers.get(tuple(self._ids[end - size :])) if size <= end else None
            if source is not None:
                distance = end - source
                return [self._ids[source + i % distance] for i in range(n)]
        return []


def propose(ids: Sequence[int], n: int, max_ngram: int = MAX_NGRAM, min_ngram: int = MIN_NGRAM) -> list[int]:
    """What NgramIndex proposes after ``ids``, for a single question; reads the whole text."""
    return NgramIndex(ids, max_ngram, min_ngram).propose(n)
