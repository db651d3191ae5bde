"""The comparing kernels against whole rows in numpy: sizes around a block, ties, holes, what is no number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from eftlite.kernels import BLOCK
from eftlite_quantize import kernels
from tests.quantize import perplexity

SIZES = (2, 7, 64, 1024, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5)
Rows = NDArray[np.float32]


def compared(base: Rows, other: Rows, targets: list[int]) -> NDArray[np.float64]:
    """What the kernel finds, (m, N_FOUND)."""
    found = np.full((len(base), kernels.N_FOUND), np.nan)
    kernels.compare_rows(base, other, np.array(targets, np.int32), np.empty((2, BLOCK), np.float32), found)
    return found


def naive(base: Rows, other: Rows, targets: list[int]) -> NDArray[np.float64]:
    """The same from whole rows."""
    p, q = perplexity.log_softmax(base), perplexity.log_softmax(other)
    at = (np.arange(len(p)), np.array(targets))
    kld = (np.exp(p) * (p - q)).sum(1)
    delta = np.exp(q[at]) - np.exp(p[at])
    return np.stack([-q[at], -p[at], kld, delta, base.argmax(1) == other.argmax(1)], 1)


def stored(rows: Rows) -> tuple[Rows, NDArray[np.uint16]]:
    """What is stored of rows: heads (m, 2) and levels (m, n)."""
    heads, levels = np.empty((len(rows), 2), np.float32), np.empty(rows.shape, np.uint16)
    kernels.store_rows(rows, np.empty((2, BLOCK), np.float32), heads, levels)
    return heads, levels


def some_rows(n: int, m: int = 6, spread: float = 3.0, seed: int = 0) -> Rows:
    """(m, n) float32 of several peaks."""
    rng = np.random.default_rng(seed)
    return (rng.normal(0, spread, (m, n)) + rng.uniform(-100, 100, (m, 1))).astype(np.float32)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("difference", [0.0, 0.001, 0.1, 3.0])
def test_compare_rows(n: int, difference: float) -> None:
    base = some_rows(n)
    other = (base + difference * some_rows(n, seed=1) / 3).astype(np.float32)
    targets = [i % n for i in range(0, 6 * 97, 97)]
    found, expected = compared(base, other, targets), naive(base, other, targets)
    np.testing.assert_allclose(found[:, :2], expected[:, :2], rtol=3e-7, atol=3e-7)
    np.testing.assert_allclose(found[:, kernels.KLD], expected[:, kernels.KLD], rtol=2e-6, atol=2e-7)
    np.testing.assert_allclose(found[:, 3:], expected[:, 3:], rtol=1e-6, atol=2e-7)


def test_a_model_does_not_diverge_from_itself() -> None:
    rows = some_rows(5000)
    found = compared(rows, rows, [1] * 6)
    assert (found[:, kernels.KLD] == 0).all()
    assert (found[:, kernels.DELTA_P] == 0).all()
    assert (found[:, kernels.SAME_TOP] == 1).all()


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    """A power of two, so that adding it rounds nothing away."""
    base = (np.round(some_rows(3000) * 64) / 64).astype(np.float32)
    found = compared(base, base + np.float32(64), [5] * 6)
    assert np.abs(found[:, kernels.KLD]).max() < 1e-6


def test_small_divergences_are_not_lost_in_large_logits() -> None:
    base = some_rows(4000) + np.float32(500)
    other = (base + some_rows(4000, spread=1e-3, seed=1) - 50).astype(np.float32)
    found, expected = compared(base, other, [0] * 6), naive(base, other, [0] * 6)
    np.testing.assert_allclose(found[:, kernels.KLD], expected[:, kernels.KLD], atol=1e-7)


def test_the_first_of_equal_tops_counts() -> None:
    base, other = np.zeros((2, 9), np.float32), np.zeros((2, 9), np.float32)
    base[:, [3, 6]] = 5
    other[0, [3, 7]], other[1, [6, 7]] = 5, 5
    assert compared(base, other, [0, 0])[:, kernels.SAME_TOP].tolist() == [1.0, 0.0]


def test_tokens_that_both_exclude_do_not_count() -> None:
    base, other = some_rows(700), some_rows(700, seed=1)
    base[:, 200:], other[:, 200:] = -np.inf, -np.inf
    found = compared(base, other, [3] * 6)
    expected = naive(base[:, :200].copy(), other[:, :200].copy(), [3] * 6)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, BLOCK + 3])
def test_what_is_no_number_shows(bad: float, place: int) -> None:
    base, other = some_rows(BLOCK + 9), some_rows(BLOCK + 9, seed=1)
    other[2, place] = bad
    found = compared(base, other, [1] * 6)
    assert not np.isfinite(found[2, [kernels.NLL, kernels.KLD]]).any()
    assert np.isfinite(np.delete(found, 2, 0)).all()
    assert np.isfinite(found[2, kernels.NLL_BASE])


@given(
    arrays(np.float32, st.tuples(st.just(2), st.integers(1, 40)), elements=st.floats(-50, 50, width=32)),
    st.integers(0, 39),
)
def test_compare_rows_of_anything(pair: Rows, target: int) -> None:
    base, other = pair[:1].copy(), pair[1:].copy()
    targets = [target % base.shape[1]]
    found, expected = compared(base, other, targets), naive(base, other, targets)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# ---- llama-perplexity's stored rows


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0, 20.0])
def test_store_rows(n: int, spread: float) -> None:
    rows = some_rows(n, spread=spread)
    heads, levels = stored(rows)
    expected_heads, expected_levels = perplexity.stored(rows)
    np.testing.assert_allclose(heads, expected_heads, rtol=2e-6, atol=2e-6)
    assert np.abs(levels.astype(np.int64) - expected_levels).max() <= 1  # halves may round to either side


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("spread", [0.5, 3.0, 20.0])
def test_compare_stored(n: int, spread: float) -> None:
    base, other = some_rows(n, spread=spread), some_rows(n, spread=spread, seed=1)
    heads, levels = stored(base)
    targets, m = [n - 1] * 6, 6
    found = np.empty((m, kernels.N_FOUND))
    scratch = np.empty((2, BLOCK), np.float32)
    kernels.compare_stored(heads, levels, other, np.array(targets, np.int32), scratch, found)
    p, q = perplexity.restored(heads.astype(np.float64), levels.astype(np.int64)), perplexity.log_softmax(other)
    counted = p > -16
    np.testing.assert_allclose(found[:, kernels.KLD], (counted * np.exp(p) * (p - q)).sum(1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[:, kernels.NLL], -q[:, -1], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[:, kernels.NLL_BASE], -p[:, -1], rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(found[:, kernels.DELTA_P], np.exp(q[:, -1]) - np.exp(p[:, -1]), atol=1e-6)
    assert found[:, kernels.SAME_TOP].tolist() == (levels.argmax(1) == other.argmax(1)).tolist()


def test_rows_of_one_value_are_stored() -> None:
    heads, levels = stored(np.full((1, 100), 3.0, np.float32))
    assert levels.max() == 0
    assert heads[0].tolist() == pytest.approx([0.0, -math.log(100)])
