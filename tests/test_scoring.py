"""Teacher forcing: the same numbers as decoding step by step, whatever the pieces it is done in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from eftlite import EFT
from eftlite.errors import ContextError, EngineError, InputError
from eftlite.member import MAX_ROWS
from eftlite.scoring import likeliest
from eftlite.settings import Knobs, Limits, Sampling
from tests.fakes import composite_scores, tiny_eft

F32: dict[str, Any] = {"type_k": "f32", "type_v": "f32"}
NOISE = 0.02  # of log-probabilities, between evaluations in batches of other sizes with f16 weights
IDS = [(7 * i * i + 3 * i + 1) % 500 for i in range(2 * MAX_ROWS + 9)]
KNOBS = Knobs((0.7,), beta=1.3, conservative_p=0.8)


@pytest.fixture(scope="module")
def eft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EFT]:
    """A tiny family with two slots."""
    with tiny_eft(tmp_path_factory.mktemp("scoring"), n_slots=2, n_ctx=512, **F32) as made:
        yield made


def naive(eft: EFT, ids: list[int], position: int, knobs: Knobs) -> float:
    """The log-probability of one token, from the composite after the text before it."""
    scores = composite_scores(eft, [ids[:position]] * len(eft.members), knobs)
    return float(scores[ids[position]] - np.logaddexp.reduce(scores.astype(np.float64)))


@pytest.mark.parametrize("knobs", [KNOBS, *(Knobs.alone(mode, 1) for mode in ("base", "tuned", "reference"))])
@pytest.mark.parametrize("position", [1, 2, MAX_ROWS - 1, MAX_ROWS, MAX_ROWS + 1, 2 * MAX_ROWS + 8])
def test_every_token_has_the_log_probability_of_a_step_by_step_decode(eft: EFT, position: int, knobs: Knobs) -> None:
    events = list(eft.score(IDS, knobs=knobs))
    assert [event.id for event in events] == IDS
    assert events[position].logprob == pytest.approx(naive(eft, IDS, position, knobs), abs=NOISE)


def test_nothing_stands_before_the_first_token(eft: EFT) -> None:
    events = list(eft.score(IDS[:3]))
    assert math.isnan(events[0].logprob)
    assert all(event.logprob < 0 for event in events[1:])
    assert [math.isnan(event.logprob) for event in eft.score(IDS[:1])] == [True]


@pytest.mark.parametrize("first", [1, 5, MAX_ROWS + 3])
def test_a_later_beginning_changes_no_figure(eft: EFT, first: int) -> None:
    whole = [event.logprob for event in eft.score(IDS, knobs=KNOBS)]
    part = [event.logprob for event in eft.score(IDS, knobs=KNOBS, first=first)]
    assert part == pytest.approx(whole[first:], abs=NOISE)


def test_an_answer_scores_as_it_was_drawn(eft: EFT) -> None:
    prompt = IDS[:9]
    drawn = list(eft.complete(prompt, sampling=Sampling(temperature=1.0, seed=5), limits=Limits(max_tokens=20)))
    drawn = [event for event in drawn if event.id >= 0]
    scored = list(eft.score([*prompt, *(event.id for event in drawn)], first=len(prompt)))
    assert [event.logprob for event in scored] == pytest.approx([event.logprob for event in drawn], abs=NOISE)


def test_candidates_are_the_likeliest_and_contain_the_token_when_it_is_the_best(eft: EFT) -> None:
    for event in list(eft.score(IDS[:40], n_top=512))[1:]:
        assert event.top is not None
        logprobs = [candidate.logprob for candidate in event.top["eft"]]
        assert logprobs == sorted(logprobs, reverse=True)
        own = {candidate.id: candidate.logprob for candidate in event.top["eft"]}
        assert own[event.id] == pytest.approx(event.logprob, abs=1e-5)


def test_caches_are_sound_afterwards_and_an_answer_in_another_slot_goes_on(eft: EFT) -> None:
    answer = eft.complete("hello", sampling=Sampling(temperature=0), limits=Limits(max_tokens=6), slot=1)
    alone = eft.complete("hello", sampling=Sampling(temperature=0), limits=Limits(max_tokens=6), slot=0).text()
    events = iter(answer)
    text = next(events).text
    list(eft.score(IDS, slot=0))
    eft.validate()
    assert text + "".join(event.text for event in events) == alone


def test_a_text_that_took_the_slot_meanwhile_ends_the_scoring(eft: EFT) -> None:
    events = eft.score(IDS, slot=0)
    next(events)
    eft.complete("hello", slot=0)
    with pytest.raises(EngineError, match="slot 0"):
        list(events)


def test_what_does_not_fit_is_refused_with_both_numbers(eft: EFT) -> None:
    with pytest.raises(ContextError) as caught:
        list(eft.score([1] * (eft.n_ctx + 1)))
    assert (caught.value.n_prompt, caught.value.n_ctx) == (eft.n_ctx + 1, eft.n_ctx)
    assert len(list(eft.score([1] * eft.n_ctx))) == eft.n_ctx


@pytest.mark.parametrize("options", [{"first": 3}, {"first": -1}, {"slot": 2}])
def test_values_out_of_range_are_named(eft: EFT, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        list(eft.score([1, 2, 3], **options))


def test_likeliest_of_a_short_row_are_all_of_it() -> None:
    row = np.log(np.array([0.2, 0.5, 0.3], np.float32))
    found = likeliest(row, 0.0, 10, lambda token: b"abc"[token : token + 1])
    assert [(c.text, round(float(np.exp(c.logprob)), 3)) for c in found] == [("b", 0.5), ("c", 0.3), ("a", 0.2)]
