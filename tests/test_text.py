"""Text from token bytes: any splitting of any bytes gives the text that a look at the whole gives."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eftlite.errors import InputError
from eftlite.text import TextStream, visible_text


def naive_text(data: bytes, stops: list[str], final: bool = True) -> tuple[str, str | None]:
    """The slow twin: visible text of whole bytes, and the stop string, by looking at every prefix of the text."""
    text = data.decode(errors="replace")
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """Data cut at positions taken modulo its length; pieces may be empty."""
    places = sorted(cut % (len(data) + 1) for cut in cuts)
    return [data[low:high] for low, high in zip([0, *places], [*places, len(data)], strict=True)]


def stream(pieces: list[bytes], stops: list[str]) -> tuple[str, str | None]:
    """Visible text of pieces through a TextStream, and the stop string."""
    text = TextStream(stops)
    return "".join([*(text.push(piece) for piece in pieces), text.finish()]), text.stopped


# Few letters, so that stop strings occur and overlap; characters of every UTF-8 length; bytes that are no UTF-8.
ALPHABET = "aab\n<|é→\N{GRINNING FACE}\N{REPLACEMENT CHARACTER}"
LETTERS = st.text(alphabet=ALPHABET, max_size=24)
ODD_BYTES = st.lists(st.sampled_from([b"\x80", b"\xc3", b"\xe2\x86", b"\xed\xa0", b"\xf0\x9f", b"\xf4\x90", b"\xff"]))
DATA = st.lists(st.one_of(LETTERS.map(str.encode), ODD_BYTES.map(b"".join), st.binary(max_size=4))).map(b"".join)
STOPS = st.lists(st.text(alphabet=ALPHABET, min_size=1, max_size=5), max_size=4)


@settings(max_examples=400, derandomize=True, deadline=None)
@given(data=DATA, stops=STOPS, cuts=st.lists(st.integers(0, 1000), max_size=12))
def test_any_splitting_gives_the_text_of_the_whole(data: bytes, stops: list[str], cuts: list[int]) -> None:
    expected = naive_text(data, stops)
    assert stream(split(data, cuts), stops) == expected
    assert stream([bytes([byte]) for byte in data], stops) == expected


@settings(max_examples=200, derandomize=True, deadline=None)
@given(data=DATA, stops=STOPS)
def test_what_was_shown_is_never_taken_back(data: bytes, stops: list[str]) -> None:
    text, shown = TextStream(stops), ""
    for n_bytes in range(len(data)):
        shown += text.push(data[n_bytes : n_bytes + 1])
        for rest in (b"", b"a", b"<", b"\xff"):
            assert naive_text(data[: n_bytes + 1] + rest, stops)[0].startswith(shown)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(answer=LETTERS, n_bytes=st.integers(1, 3))
def test_no_replacement_character_that_the_model_did_not_emit(answer: str, n_bytes: int) -> None:
    data = answer.replace("\N{REPLACEMENT CHARACTER}", "").encode()
    text = TextStream()
    pieces = [data[start : start + n_bytes] for start in range(0, len(data), n_bytes)]
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(map(text.push, pieces)) + text.finish()


def test_nothing_is_held_without_need() -> None:
    text = TextStream(["</end>", "\nUser:"])
    assert text.push(b"Hello") == "Hello"
    assert text.push(b" <") == " "
    assert text.push(b"b>") == "<b>"
    assert text.push(b"\n") == ""
    assert text.push(b"\nUs") == "\n"
    assert text.push(b"er: hi") == ""
    assert text.stopped == "\nUser:"


def test_incomplete_characters_wait_for_their_bytes() -> None:
    text = TextStream()
    face = "\N{GRINNING FACE}".encode()
    assert [text.push(face[n : n + 1]) for n in range(4)] == ["", "", "", "\N{GRINNING FACE}"]


def test_an_incomplete_character_at_the_end_becomes_one_replacement() -> None:
    text = TextStream()
    assert text.push("ok\N{GRINNING FACE}".encode()[:-1]) == "ok"
    assert text.finish() == "\N{REPLACEMENT CHARACTER}"


def test_a_stop_string_across_utf8_borders() -> None:
    text = TextStream(["→é"])
    assert [text.push(bytes([byte])) for byte in "a→é!".encode()] == ["a", *[""] * 6]
    assert (text.stopped, text.finish()) == ("→é", "")


def test_after_a_stop_nothing_is_visible() -> None:
    text = TextStream(["STOP"])
    assert text.push(b"a STOP b") == "a "
    assert text.push(b" more") == ""
    assert text.finish() == ""


def test_the_beginning_of_a_stop_string_becomes_visible_at_the_end() -> None:
    text = TextStream(["STOP"])
    assert text.push(b"do not STO") == "do not "
    assert text.finish() == "STO"
    assert text.finish() == ""
    assert text.stopped is None


@pytest.mark.parametrize(
    ("stops", "data", "expected"),
    [
        (["\n\n", "\n"], b"a\n\nb", ("a", "\n")),  # the shorter is complete first
        (["bc", "abcd"], b"xabcd", ("xa", "bc")),  # so is the inner one
        (["b", "ab"], b"xab", ("x", "ab")),  # complete at the same character: the longest
        (["aab"], b"aaab", ("a", "aab")),  # a false start inside a match
        (["abac", "bad"], b"abad", ("a", "bad")),  # one fails where another goes on
        (["aa", "aa"], b"aaa", ("", "aa")),  # the same one twice
    ],
)
def test_which_stop_string_wins(stops: list[str], data: bytes, expected: tuple[str, str]) -> None:
    assert stream([data], stops) == expected
    assert stream([bytes([byte]) for byte in data], stops) == expected


def test_time_is_linear_even_for_the_worst_stop_string() -> None:
    """200,000 a's against a stop string of 100,000 a's and a b: comparing anew would be 1e10 steps, many minutes."""
    n_held = 100_000
    text = TextStream(["a" * n_held + "b"])
    start = time.perf_counter()
    shown = "".join(text.push(b"aa") for _ in range(n_held)) + text.push(b"c")
    assert shown == "a" * 2 * n_held + "c"
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("stop", [[""], ["ok", ""], "text"])
def test_a_useless_stop_string_is_refused(stop: list[str]) -> None:
    with pytest.raises(InputError, match="stop: expected a list of non-empty strings"):
        TextStream(stop)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("héllo \N{GRINNING FACE}", "héllo \N{GRINNING FACE}"),
        ("\ud83d\ude00", "\N{GRINNING FACE}"),
        ("a\ud83d", "a\N{REPLACEMENT CHARACTER}"),
        ("\ud83db\ude00", "\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"),
        ("\ude00\ud83d", "\N{REPLACEMENT CHARACTER}" * 2),
        ("\ud83d\ud83d\ude00\x00", "\N{REPLACEMENT CHARACTER}\N{GRINNING FACE}\x00"),
    ],
)
def test_lone_surrogates_become_replacement_characters(text: str, expected: str) -> None:
    assert visible_text(text) == expected.encode()


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.text(st.characters()))
def test_any_string_can_be_encoded(text: str) -> None:
    assert len(visible_text(text).decode()) <= len(text)
