"""Proof that members share a vocabulary, or where they differ.

Knows token texts and flags, never models: the composite adds log-probabilities id by id, so an id must mean the same
text to every member. Stricter than llama.cpp's check of a draft model, which tolerates other texts below id 5.

Not guaranteed: that merges or scores agree. They decide how a text is cut into tokens, for which one member's tokenizer
is used; whatever it makes is valid for all members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from eftlite.errors import VocabularyError

_HINT = "Choose models that come with one tokenizer; `eftlite inspect` shows what several files are to each other"
_MAX_NAMED = 4


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """One member's vocabulary.

    Attributes:
        name: the member's.
        kind: of tokenizer: "bpe", "spm" …
        texts: each id's text, as the file spells it.
        control: (n_vocab,) bool; control tokens, which stand for no text.
        unused: (n_vocab,) bool; padding rows and tokens the file calls unused.
        bos, eos, eot: begin of text, end of text, end of turn; -1 for none.
        add_bos: whether a text begins with bos.
        eog: all ids that end an answer.

    Raises:
        VocabularyError: the flags are not one for each text, or a special id is outside the vocabulary.
    """

    name: str
    kind: str
    texts: tuple[bytes, ...]
    control: NDArray[np.bool_]
    unused: NDArray[np.bool_]
    bos: int = -1
    eos: int = -1
    eot: int = -1
    add_bos: bool = False
    eog: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        n_vocab = len(self.texts)
        for what, flags in (("control", self.control), ("unused", self.unused)):
            if flags.shape != (n_vocab,):
                raise VocabularyError(f"{self.name}: expected {n_vocab} {what} flags, got shape {flags.shape}")
        for token_id in (self.bos, self.eos, self.eot, *self.eog):
            if not -1 <= token_id < n_vocab:
                message = f"{self.name}: expected special ids below {n_vocab}, got {token_id}"
                raise VocabularyError(message, _HINT, token_id)

    def text(self, token_id: int) -> str:
        """An id's text for people; empty outside the vocabulary."""
        return self.texts[token_id].decode(errors="backslashreplace") if 0 <= token_id < len(self.texts) else ""

    def ends(self) -> frozenset[int]:
        """Every id that ends an answer, eos and eot among them."""
        return (self.eog | {self.eos, self.eot}) - {-1}


@dataclass(frozen=True, eq=False)
class SharedVocabulary:
    """What members have in common.

    Attributes:
        n_vocab: ids below it mean the same to all; rows beyond are padding and are cut.
        masked: (n_masked,) int32; ids below n_vocab that no member uses. Nobody trained them, so a difference of two
            models could lift them.
        control: (n_control,) int32; control tokens of any member, and end tokens whatever their flag.
        eog: ids that end an answer for any member.
        notes: harmless differences, a line each.
    """

    n_vocab: int
    masked: NDArray[np.int32]
    control: NDArray[np.int32]
    eog: frozenset[int]
    notes: tuple[str, ...]


def share(vocabularies: Sequence[Vocabulary]) -> SharedVocabulary:
    """The common vocabulary of members.

    Harmless, with a note: padding beyond the common range, an unused token or a control token under another name,
    another end token (base models end at ``<|endoftext|>``, their tunes at ``<|im_end|>``), BOS added by some only.

    Raises:
        VocabularyError: anything else, with the first differing id and both texts; or no vocabulary at all.
    """
    if not vocabularies:
        raise VocabularyError("vocabularies: expected at least one, got none")
    notes = [note for first, second in combinations(vocabularies, 2) for note in _compare(first, second)]
    n_vocab = min(len(vocabulary.texts) for vocabulary in vocabularies)
    unused = reduce(np.logical_and, (vocabulary.unused[:n_vocab] for vocabulary in vocabularies))  # (n_vocab,) bool
    control = reduce(np.logical_or, (vocabulary.control[:n_vocab] for vocabulary in vocabularies))  # (n_vocab,) bool
    ends = frozenset[int]().union(*(vocabulary.ends() for vocabulary in vocabularies))
    eog = frozenset(token_id for token_id in ends if token_id < n_vocab)
    return SharedVocabulary(
        n_vocab=n_vocab,
        masked=np.flatnonzero(unused).astype(np.int32),
        control=np.union1d(np.flatnonzero(control), sorted(eog)).astype(np.int32),
        eog=eog,
        notes=tuple(notes),
    )


def _compare(first: Vocabulary, second: Vocabulary) -> list[str]:
    """Notes on harmless differences of two members; raises VocabularyError for any other."""
    differing = _differing(first, second)
    if first.kind != second.kind:
        where = f"; {_both(first, second, differing[0])}" if differing else ""
        what = f"{first.name}'s is of type {first.kind}, {second.name}'s of type {second.kind}{where}"
        raise _error(first, second, what, differing[0] if differing else None)
    renamed = []
    for token_id in differing:
        if first.unused[token_id] and second.unused[token_id]:
            continue
        if not (first.control[token_id] and second.control[token_id]):
            raise _error(first, second, _both(first, second, token_id), token_id)
        renamed.append(token_id)
    notes = _padding(first, second)
    if renamed:
        more = f" and {len(renamed) - _MAX_NAMED} more" if len(renamed) > _MAX_NAMED else ""
        named = "; ".join(_both(first, second, token_id) for token_id in renamed[:_MAX_NAMED])
        notes.append(f"control tokens are named differently: {named}{more}")
    return notes + _begin(first, second) + _end(first, second)


def _differing(first: Vocabulary, second: Vocabulary) -> list[int]:
    """Ids of both whose texts differ, ascending."""
    n_common = min(len(first.texts), len(second.texts))
    left, right = first.texts[:n_common], second.texts[:n_common]
    if left == right:  # in C, and nearly always true
        return []
    return [token_id for token_id, (a, b) in enumerate(zip(left, right, strict=True)) if a != b]


def _padding(first: Vocabulary, second: Vocabulary) -> list[str]:
    """What one member has beyond the other's end must be padding."""
    short, long = sorted((first, second), key=lambda vocabulary: len(vocabulary.texts))
    n_short, n_long = len(short.texts), len(long.texts)
    used = np.flatnonzero(~long.unused[n_short:])
    if used.size:
        token_id = n_short + int(used[0])
        what = f"token {token_id} is {long.text(token_id)!r} in {long.name}, and {short.name} has {n_short} tokens"
        raise _error(first, second, what, token_id)
    if n_short == n_long:
        return []
    return [f"{long.name} has {n_long - n_short} rows of padding more than {short.name} ({n_long} and {n_short})"]


def _begin(first: Vocabulary, second: Vocabulary) -> list[str]:
    """Members that both begin a text with BOS must mean the same id."""
    if first.add_bos and second.add_bos and first.bos != second.bos:
        texts = first.text(first.bos), second.text(second.bos)
        starts = f"{first.bos} {texts[0]!r} in {first.name} and with {second.bos} {texts[1]!r} in {second.name}"
        raise _error(first, second, f"a text begins with token {starts}", first.bos, texts)
    if first.add_bos == second.add_bos:
        return []
    adds, omits = (first, second) if first.add_bos else (second, first)
    return [f"{adds.name} begins a text with token {adds.bos} {adds.text(adds.bos)!r}, {omits.name} does not"]


def _end(first: Vocabulary, second: Vocabulary) -> list[str]:
    """End tokens may differ, but an ordinary word must not end answers because one member says so."""
    differing = sorted(first.ends() ^ second.ends())
    for token_id in differing:
        if not any(token_id < len(v.texts) and v.control[token_id] for v in (first, second)):
            ends, goes_on = (first, second) if token_id in first.ends() else (second, first)
            what = f"token {token_id} {ends.text(token_id)!r} ends an answer in {ends.name}"
            raise _error(first, second, f"{what} and is an ordinary word in {goes_on.name}", token_id)
    if not differing:
        return []
    names = [
        f"{v.name} at " + ", ".join(f"{token_id} {v.text(token_id)!r}" for token_id in sorted(v.ends())[:_MAX_NAMED])
        for v in (first, second)
    ]
    return [f"answers end at any of both members' end tokens: {'; '.join(names)}"]


def _both(first: Vocabulary, second: Vocabulary, token_id: int) -> str:
    """An id with what it means to both."""
    texts = first.text(token_id), second.text(token_id)
    return f"token {token_id} is {texts[0]!r} in {first.name} and {texts[1]!r} in {second.name}"


def _error(
    first: Vocabulary, second: Vocabulary, what: str, token_id: int | None, texts: tuple[str, str] | None = None
) -> VocabularyError:
    """The refusal; texts are those of token_id unless given."""
    if token_id is not None and texts is None:
        texts = first.text(token_id), second.text(token_id)
    message = f"{first.name} and {second.name} do not share a vocabulary: {what}"
    return VocabularyError(message, _HINT, token_id, texts)
