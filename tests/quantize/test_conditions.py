"""Conditions: the grammar, names, and for whom they hold."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlite.errors import InputError
from eftlite_quantize.conditions import NAMES, Condition, condition
from tests.quantize.made_up import comparison, variant


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kld_mean>0.05", Condition("kld_mean", ">", 0.05)),
        ("  same_top <= 99.5 ", Condition("same_top", "<=", 99.5)),
        ("ppl_ratio>=1", Condition("ppl_ratio", ">=", 1.0)),
        ("dp_mean<-1.5e-2", Condition("dp_mean", "<", -0.015)),
        ("size_bytes>.5E9", Condition("size_bytes", ">", 5e8)),
        ("kld_p99_9>+3.", Condition("kld_p99_9", ">", 3.0)),
    ],
)
def test_conditions_are_read(text: str, expected: Condition) -> None:
    assert condition(text) == expected
    assert condition(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "kld_mean", "kld_mean>", ">0.05", "kld_mean=0.05", "kld_mean==0.05", "kld_mean>0.05%", "kld_mean>1>2",
        "kld_mean>nan", "kld_mean>inf", "kld_mean>0x10", "kld_mean>1_000", "kld_mean>٣", "__import__('os')>1",
        "kld_mean>1;ppl>2", "kld_mean>1 or 1", "kld_mean>1e", "kld_mean>.",
    ],
)  # fmt: skip  # a list that reads across
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--fail-if: expected a name, one of <= >= < >, and a number"):
        condition(text)


def test_unknown_names_get_the_list() -> None:
    with pytest.raises(InputError, match="'kld_men' is no figure") as found:
        condition("kld_men>1")
    assert found.value.hint.startswith("Did you mean kld_mean? There are: ppl, ")
    assert all(name in found.value.hint for name in NAMES)
    with pytest.raises(InputError) as found:
        condition("kld>1")
    assert found.value.hint.startswith("Did you mean kld_mean? ")
    with pytest.raises(InputError) as found:
        condition("zzzzzz>1")
    assert found.value.hint.startswith("There are: ")


@given(st.text(max_size=60))
def test_no_text_breaks_it(text: str) -> None:
    with suppress(InputError):
        condition(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("kld_mean>0.05", ["b"]),
        ("kld_mean>=0.05", ["a", "b"]),
        ("kld_mean<0.1", ["a"]),
        ("kld_mean<=0.1", ["a", "b"]),
        ("kld_mean>7", []),
        ("size_bytes<150", ["a"]),
    ],
)
def test_who_fails(text: str, names: list[str]) -> None:
    found = comparison(variant("a", 100, 0.05), variant("b", 200, 0.1))
    assert [name for name, _ in condition(text).failing(found)] == names


def test_the_reference_and_what_was_not_measured_do_not_fail() -> None:
    found = comparison(variant("a", 100, 0.05))
    assert condition("pp_ts<1e9").failing(found) == []
    assert condition("size_bytes>1e6").failing(found) == []
    assert condition("pp_ts<1e9").failing(comparison(variant("a", 100, 0.05, speed=True))) == [("a", 1234.5)]
