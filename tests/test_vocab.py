"""The proof that members share a vocabulary: each kind of mismatch is refused by its first id, padding is not."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from eftlite.errors import VocabularyError
from eftlite.vocab import Vocabulary, share

# Two control tokens, words, a control token, two spare ones.
TEXTS = (b"<s>", b"</s>", "é".encode(), b"dog", b"cat", b"\xff", b"<|im_end|>", b"<|spare_0|>", b"<|spare_1|>")
CONTROL = (0, 1, 6, 7, 8)


def flags(n: int, ids: tuple[int, ...]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """(n,) bool, True at ids."""
    made = np.zeros(n, bool)
    made[list(ids)] = True
    return made


def vocabulary(
    name: str,
    texts: tuple[bytes, ...] = TEXTS,
    control: tuple[int, ...] = CONTROL,
    unused: tuple[int, ...] = (),
    kind: str = "bpe",
    bos: int = 0,
    eos: int = 1,
    add_bos: bool = True,
    eog: tuple[int, ...] = (1,),
) -> Vocabulary:
    """A member's vocabulary, like the others unless something is said."""
    n = len(texts)
    return Vocabulary(
        name, kind, texts, flags(n, control), flags(n, unused), bos=bos, eos=eos, add_bos=add_bos, eog=frozenset(eog)
    )


def changed(token_id: int, text: bytes) -> tuple[bytes, ...]:
    """TEXTS with one id's text changed."""
    return TEXTS[:token_id] + (text,) + TEXTS[token_id + 1 :]


def padded(n_pad: int) -> tuple[bytes, ...]:
    """TEXTS with rows of padding."""
    return TEXTS + tuple(b"[PAD%d]" % i for i in range(n_pad))


BASE, REFERENCE = vocabulary("base"), vocabulary("reference")


def test_equal_vocabularies() -> None:
    shared = share([BASE, vocabulary("tuned"), REFERENCE])
    assert shared.n_vocab == len(TEXTS)
    assert shared.masked.tolist() == []
    assert shared.control.tolist() == list(CONTROL)
    assert {str(shared.masked.dtype), str(shared.control.dtype)} == {"int32"}
    assert shared.eog == {1}
    assert shared.notes == ()


def test_one_member_shares_with_itself() -> None:
    assert share([BASE]).n_vocab == len(TEXTS)
    with pytest.raises(VocabularyError, match="expected at least one"):
        share([])


# ---- refused: the mismatch, the first differing id, both texts, words of the message
MISMATCHES = {
    "text": (vocabulary("tuned", changed(3, b"cow")), 3, ("dog", "cow"), "token 3 is 'dog' in base and 'cow' in tuned"),
    "several texts": (vocabulary("tuned", TEXTS[::-1], control=()), 0, ("<s>", "<|spare_1|>"), "token 0 is"),
    "text that is no UTF-8": (vocabulary("tuned", changed(5, b"\xfe")), 5, ("\\xff", "\\xfe"), "token 5 is"),
    "case": (vocabulary("tuned", changed(4, b"Cat")), 4, ("cat", "Cat"), "token 4 is 'cat' in base and 'Cat' in tuned"),
    "control against word": (
        vocabulary("tuned", changed(3, b"<|x|>"), control=(*CONTROL, 3)), 3, ("dog", "<|x|>"), "token 3 is",
    ),
    "unused against word": (
        vocabulary("tuned", changed(3, b"[PAD3]"), unused=(3,)), 3, ("dog", "[PAD3]"), "token 3 is",
    ),
    "size, larger": (
        vocabulary("tuned", (*padded(2), b"cow"), unused=(9, 10)), 11, ("", "cow"),
        "token 11 is 'cow' in tuned, and base has 9 tokens",
    ),
    "size, smaller": (
        vocabulary("tuned", TEXTS[:7], control=(0, 1, 6)), 7, ("<|spare_0|>", ""),
        "token 7 is '<|spare_0|>' in base, and tuned has 7 tokens",
    ),
    "special id: BOS": (
        vocabulary("tuned", bos=7), 0, ("<s>", "<|spare_0|>"),
        "a text begins with token 0 '<s>' in base and with 7 '<|spare_0|>' in tuned",
    ),
    "special id: a word ends answers": (
        vocabulary("tuned", eos=4), 4, ("cat", "cat"),
        "token 4 'cat' ends an answer in tuned and is an ordinary word in base",
    ),
    "type": (
        vocabulary("tuned", changed(2, "▁é".encode()), kind="spm"), 2, ("é", "▁é"),
        "base's is of type bpe, tuned's of type spm; token 2 is 'é' in base and '▁é' in tuned",
    ),
    "type alone": (vocabulary("tuned", kind="wpm"), None, None, "base's is of type bpe, tuned's of type wpm"),
}  # fmt: skip  # a mismatch a paragraph


@pytest.mark.parametrize("name", sorted(MISMATCHES))
def test_mismatches_are_refused(name: str) -> None:
    tuned, token_id, texts, words = MISMATCHES[name]
    for members in ([BASE, tuned, REFERENCE], [BASE, REFERENCE, tuned]):
        with pytest.raises(VocabularyError) as caught:
            share(members)
        error = caught.value
        assert error.message.startswith("base and tuned do not share a vocabulary: ")
        assert words in error.message
        assert (error.token_id, error.texts) == (token_id, texts)
        assert "inspect" in error.hint
        assert error.exit_code == 2


def test_a_mismatch_of_the_last_two_is_refused() -> None:
    """Both agree with the base: one by text, the other because neither uses the id."""

    def member(name: str, last: bytes, unused: tuple[int, ...]) -> Vocabulary:
        return vocabulary(name, changed(8, last), control=(0, 1, 6), unused=unused)

    base, tuned, reference = member("base", b"x", (8,)), member("tuned", b"y", (8,)), member("reference", b"x", ())
    assert share([base, tuned]).masked.tolist() == [8]
    assert share([base, reference]).masked.tolist() == []
    with pytest.raises(VocabularyError, match="tuned and reference do not share a vocabulary: token 8 is 'y' in"):
        share([base, tuned, reference])


# ---- accepted


def test_padding_beyond_the_common_range_is_cut() -> None:
    large = vocabulary("base", padded(128), unused=tuple(range(9, 137)))
    shared = share([large, vocabulary("tuned"), REFERENCE])
    assert shared.n_vocab == len(TEXTS)
    assert shared.masked.tolist() == []
    assert shared.notes[0] == "base has 128 rows of padding more than tuned (137 and 9)"


def test_padding_of_all_is_masked() -> None:
    base = vocabulary("base", padded(4), unused=(9, 10, 11, 12))
    tuned = vocabulary("tuned", (*TEXTS, b"[PAD_9]", b"[PAD_10]"), unused=(9, 10))
    shared = share([base, tuned])
    assert shared.n_vocab == 11
    assert shared.masked.tolist() == [9, 10]
    assert shared.notes == ("base has 2 rows of padding more than tuned (13 and 11)",)


def test_a_token_that_only_some_call_unused_is_kept() -> None:
    assert share([vocabulary("base", unused=(3,)), vocabulary("tuned")]).masked.tolist() == []


def test_renamed_control_tokens_are_noted() -> None:
    shared = share([BASE, vocabulary("tuned", changed(7, b"<|eot_id|>")), REFERENCE])
    assert shared.notes == (
        "control tokens are named differently: token 7 is '<|spare_0|>' in base and '<|eot_id|>' in tuned",
        "control tokens are named differently: token 7 is '<|eot_id|>' in tuned and '<|spare_0|>' in reference",
    )


def test_many_renamed_control_tokens_are_counted() -> None:
    def spare(form: bytes) -> tuple[bytes, ...]:
        return TEXTS + tuple(form % i for i in range(250))

    control = (*CONTROL, *range(9, 259))
    (note,) = share([vocabulary("base", spare(b"<r%d>"), control), vocabulary("tuned", spare(b"<s%d>"), control)]).notes
    assert note.count("token ") == 4
    assert note.endswith(" and 246 more")


def test_end_tokens_are_united() -> None:
    tuned = vocabulary("tuned", eos=6, eog=(6,))
    shared = share([BASE, tuned, REFERENCE])
    assert shared.eog == {1, 6}
    assert shared.notes[0] == (
        "answers end at any of both members' end tokens: base at 1 '</s>'; tuned at 6 '<|im_end|>'"
    )
    assert share([vocabulary("base", eog=()), replace(REFERENCE, eot=6)]).eog == {1, 6}


def test_end_tokens_count_as_control_whatever_their_flag() -> None:
    members = [vocabulary(name, control=(0, 1), eog=(1, 6)) for name in ("base", "tuned")]
    assert share(members).control.tolist() == [0, 1, 6]


def test_an_end_token_in_the_padding_is_cut() -> None:
    large = vocabulary("base", padded(2), control=(*CONTROL, 9), unused=(9, 10), eog=(1, 9))
    assert share([large, REFERENCE]).eog == {1}


def test_bos_added_by_some_is_noted() -> None:
    shared = share([BASE, vocabulary("tuned", add_bos=False, bos=7)])
    assert shared.notes == ("base begins a text with token 0 '<s>', tuned does not",)


def test_control_of_any_member_is_control() -> None:
    assert share([BASE, vocabulary("tuned", control=(0, 1, 3))]).control.tolist() == [0, 1, 3, 6, 7, 8]


# ---- the parts


def test_flags_and_special_ids_are_checked() -> None:
    with pytest.raises(VocabularyError, match=r"m: expected 9 control flags, got shape \(8,\)"):
        Vocabulary("m", "bpe", TEXTS, np.zeros(8, bool), np.zeros(9, bool))
    with pytest.raises(VocabularyError, match=r"m: expected 9 unused flags, got shape \(9, 1\)"):
        Vocabulary("m", "bpe", TEXTS, np.zeros(9, bool), np.zeros((9, 1), bool))
    specials: list[dict[str, Any]] = [{"eos": 9}, {"bos": -2}, {"eog": (3, 99)}]
    for special in specials:
        with pytest.raises(VocabularyError, match="m: expected special ids below 9, got"):
            vocabulary("m", **special)


def test_large_vocabularies_are_compared_quickly() -> None:
    """Qwen's sizes; each file's texts are objects of their own. Takes about .02 s."""

    def large(name: str, n: int) -> Vocabulary:
        texts = tuple(b"token %d" % i for i in range(151_665)) + tuple(b"[PAD%d]" % i for i in range(151_665, n))
        control, unused = np.zeros(n, bool), np.arange(n) >= 151_665
        control[151_643:151_665] = True
        return Vocabulary(name, "bpe", texts, control, unused, eos=151_643, eog=frozenset({151_643, 151_645}))

    members = [large("base", 152_064), large("tuned", 151_936), large("reference", 151_936)]
    start = time.perf_counter()
    shared = share(members)
    seconds = time.perf_counter() - start
    print(f"{seconds * 1e3:.1f} ms")
    assert shared.n_vocab == 151_936
    assert shared.masked.tolist() == list(range(151_665, 151_936))
    assert seconds < 0.2
