"""Sums of several answers, and one answer under llama-server's names."""

from __future__ import annotations

from eftlite.events import DraftStatistics, Statistics
from eftlite.server.figures import timings, total


def taken(n_tokens: int, shift: float | None, drafts: DraftStatistics | None = None) -> Statistics:
    """An answer's statistics."""
    return Statistics(
        n_prompt=5, n_reused=1, n_tokens=n_tokens, n_end_tokens=1, prompt_s=0.5, decode_s=0.25,
        member_s={"base": 0.25}, shift=shift, finish_reason="stop", speculation="tuned, gumbel", drafts=drafts,
    )  # fmt: skip  # a record


def drafts(*accepted: int) -> DraftStatistics:
    """Rounds of three drafted tokens."""
    made = DraftStatistics()
    for n in accepted:
        made.add(3, n)
    return made


def test_the_total_of_one_is_itself() -> None:
    one = taken(3, 0.5)
    assert total([one]) is one


def test_counts_and_seconds_add_up() -> None:
    both = total([taken(3, 0.5), taken(1, 0.1)])
    assert (both.n_prompt, both.n_reused, both.n_tokens, both.n_end_tokens) == (10, 2, 4, 2)
    assert (both.prompt_s, both.decode_s, both.member_s) == (1.0, 0.5, {"base": 0.5})
    assert both.shift == 0.4  # the mean over tokens
    assert (both.finish_reason, both.speculation, both.drafts) == ("stop", "tuned, gumbel", None)


def test_an_answer_without_a_shift_does_not_count_for_it() -> None:
    assert total([taken(3, None), taken(1, 0.1)]).shift == 0.1
    assert total([taken(3, None), taken(3, None)]).shift is None
    assert total([Statistics(), taken(2, 0.3)]).shift == 0.3


def test_drafts_add_up_as_if_they_were_of_one_answer() -> None:
    both = total([taken(9, None, drafts(3, 0)), taken(9, None), taken(9, None, drafts(1))])
    assert both.drafts == drafts(3, 0, 1)


def test_drafts_of_different_lengths() -> None:
    short = DraftStatistics()
    short.add(1, 1)
    both = total([taken(1, None, drafts(2)), taken(1, None, short)]).drafts
    assert both is not None
    assert (both.tried_at, both.accepted_at, both.lengths) == ([2, 1, 1], [2, 1, 0], {3: 1, 1: 1})


def test_timings_have_llama_servers_names() -> None:
    assert timings(taken(6, None)) == {
        "cache_n": 1, "prompt_n": 4, "prompt_ms": 500.0, "prompt_per_token_ms": 125.0, "prompt_per_second": 8.0,
        "predicted_n": 6, "predicted_ms": 250.0, "predicted_per_token_ms": 50.0, "predicted_per_second": 20.0,
    }  # fmt: skip  # a record


def test_timings_of_nothing() -> None:
    assert set(timings(Statistics()).values()) == {0}
