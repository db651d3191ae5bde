"""The composite against its naive twin: every knob, several deltas, shared references, masks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from eftlite.composite import Composite, Recipe, Roles, Row
from eftlite.errors import EngineError, InputError
from eftlite.settings import Knobs
from tests import naive

N = 5000
ONE = Roles(3, 0, ((1, 2),))
TWO = Roles(5, 0, ((1, 2), (3, 4)))
SHARED = Roles(4, 0, ((1, 2), (3, 2)))
NONE = np.zeros(0, np.int32)


def _rows(n_members: int, n: int = N, seed: int = 0) -> list[Row]:
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 3, n)
    return [(common + rng.normal(0, 1.5, n) + rng.normal(0, 5)).astype(np.float32) for _ in range(n_members)]


def _composite(
    rows: list[Row],
    roles: Roles,
    knobs: Knobs,
    control: NDArray[np.int32] = NONE,
    masked: NDArray[np.int32] = NONE,
) -> NDArray[np.float64]:
    """log p from the fast path; only what the recipe needs is handed over."""
    recipe = Recipe.of(knobs, roles)
    composite = Composite(len(rows[0]), control, masked)
    given_rows = [row if index in recipe.needed else None for index, row in enumerate(rows)]
    scores = composite.combine(given_rows, recipe, np.empty(len(rows[0]), np.float32))
    return scores.astype(np.float64) - composite.log_normaliser(scores)


def _expected(
    rows: list[Row], roles: Roles, knobs: Knobs, control: NDArray[np.int32] = NONE, masked: NDArray[np.int32] = NONE
) -> NDArray[np.float64]:
    deltas = [(rows[t], rows[r], a) for (t, r), a in zip(roles.deltas, knobs.alphas, strict=True)]
    return naive.composite(rows[0], deltas, knobs.beta, knobs.conservative_p, control.tolist(), masked.tolist())


CONTROL = np.array([3, 77, N - 1], np.int32)
MASKED = np.array([5, 78], np.int32)
KNOBS = [
    Knobs((1.0,)),
    Knobs((0.5,)),
    Knobs((2.0,), beta=1.5),
    Knobs((1.0,), beta=0.5, conservative_p=0.9),
    Knobs((1.0,), conservative_p=0.0),
    Knobs((1.0,), conservative_p=1.0),
    Knobs((0.0,), beta=2.0),
    Knobs((-1.0,), allow_negative=True),
]


@pytest.mark.parametrize("knobs", KNOBS)
@pytest.mark.parametrize("masked", [NONE, MASKED])
def test_one_delta(knobs: Knobs, masked: NDArray[np.int32]) -> None:
    rows = _rows(3)
    got = _composite(rows, ONE, knobs, CONTROL, masked)
    np.testing.assert_allclose(got, _expected(rows, ONE, knobs, CONTROL, masked), atol=3e-5)


@pytest.mark.parametrize("roles", [TWO, SHARED])
@pytest.mark.parametrize("alphas", [(0.7, 0.3), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("conservative_p", [None, 0.8])
def test_several_deltas(roles: Roles, alphas: tuple[float, ...], conservative_p: float | None) -> None:
    rows = _rows(roles.n_members)
    knobs = Knobs(alphas, 1.25, conservative_p)
    got = _composite(rows, roles, knobs, CONTROL)
    np.testing.assert_allclose(got, _expected(rows, roles, knobs, CONTROL), atol=3e-5)


def test_settings_that_are_one_member_alone_need_only_it() -> None:
    rows = _rows(3)
    for knobs, member in ((Knobs((0.0,)), 0), (Knobs((1.0,), beta=0.0), 1), (Knobs((0.0,), beta=0.0), 2)):
        assert Recipe.of(knobs, ONE).needed == (member,)
        np.testing.assert_allclose(_composite(rows, ONE, knobs, CONTROL), naive.log_softmax(rows[member]), atol=3e-5)


def test_a_member_alone_is_not_copied() -> None:
    rows: list[Row | None] = [_rows(1)[0], None, None]
    composite = Composite(N, CONTROL, NONE)
    scores = composite.combine(rows, Recipe.of(Knobs((0.0,)), ONE), np.empty(N, np.float32))
    assert scores is rows[0]


def test_weights_sum_to_one() -> None:
    for knobs in (Knobs((0.3, 0.9), 1.7), Knobs((0.0, 0.0)), Knobs((0.0, 2.0), 0.0)):
        for roles in (TWO, SHARED):
            assert sum(Recipe.of(knobs, roles).weights) == pytest.approx(1.0)


def test_a_control_token_has_the_tuned_models_score_up_to_the_normaliser() -> None:
    """With one delta and alpha 1: differences between control tokens are the tuned model's."""
    rows = _rows(3)
    got, tuned = _composite(rows, ONE, Knobs(), CONTROL), naive.log_softmax(rows[1])
    assert got[3] - got[77] == pytest.approx(tuned[3] - tuned[77], abs=2e-5)
    free = _composite(rows, ONE, replace(Knobs(), control_tokens=False), CONTROL)
    assert abs((free[3] - free[77]) - (tuned[3] - tuned[77])) > 0.1


def test_masked_tokens_never_occur_even_where_every_member_forbids_them() -> None:
    """-inf - (-inf) is NaN: masking comes after combining."""
    rows = _rows(3)
    for row in rows:
        row[MASKED] = -np.inf
    got = _composite(rows, ONE, Knobs(), NONE, MASKED)
    assert np.all(got[MASKED] == -math.inf)
    assert np.exp(got).sum() == pytest.approx(1.0, abs=1e-5)


@given(st.integers(1, 40), st.integers(0, 10_000), st.sampled_from(KNOBS))
def test_small_vocabularies(n: int, seed: int, knobs: Knobs) -> None:
    rows = _rows(3, n, seed)
    control = np.array([n - 1], np.int32)
    got, expected = _composite(rows, ONE, knobs, control), _expected(rows, ONE, knobs, control)
    if knobs.conservative_p is None:  # at the nucleus' border the last bit of a sum may decide
        np.testing.assert_allclose(got, expected, atol=5e-5)
    assert np.exp(got).sum() == pytest.approx(1.0, abs=1e-5)


def test_equal_rows_change_nothing() -> None:
    row = _rows(1)[0]
    np.testing.assert_allclose(_composite([row] * 3, ONE, Knobs(), CONTROL), naive.log_softmax(row), atol=2e-5)


def test_shift_is_the_total_variation_between_tuned_and_composite() -> None:
    rows = _rows(3)
    recipe = Recipe.of(Knobs(), ONE)
    composite = Composite(N, NONE, NONE)
    scores = composite.combine(rows, recipe, np.empty(N, np.float32))
    got = composite.shift(scores, composite.log_normaliser(scores), rows[1])
    expected = naive.total_variation(_expected(rows, ONE, Knobs()), naive.log_softmax(rows[1]))
    assert got == pytest.approx(expected, abs=1e-5)
    assert 0.05 < got < 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error(bad: float) -> None:
    rows = _rows(3)
    rows[0][17] = bad
    with pytest.raises(EngineError, match="finite"):
        _composite(rows, ONE, Knobs())


def test_knobs_for_another_number_of_deltas_are_refused() -> None:
    with pytest.raises(InputError, match="expected 2, one for each delta, got 1"):
        Recipe.of(Knobs((1.0,)), TWO)


def test_knobs_of_a_base_alone_are_refused_rather_than_ignored() -> None:
    alone = Roles(1, 0, ())
    assert Recipe.of(Knobs(()), alone).needed == (0,)
    for knobs in (Knobs((1.0,)), Knobs((), beta=2.0), Knobs((), conservative_p=0.9)):
        with pytest.raises(InputError, match="base alone"):
            Recipe.of(knobs, alone)
