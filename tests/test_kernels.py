"""Kernels against their naive twins: ties, ±infinity, NaN, constants, one token, sizes around a block."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from eftlite import kernels
from tests import naive

SIZES = (1, 2, 7, 64, kernels.BLOCK - 1, kernels.BLOCK, kernels.BLOCK + 1, 3 * kernels.BLOCK + 5)


def _rows(n: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """Rows of every awkward kind, each (n,) float32."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(0, 4, n).astype(np.float32)
    holes = normal.copy()
    holes[: n // 2] = -np.inf
    far = normal.copy()
    far[-1] = 80.0
    return [
        normal,
        holes,
        far,
        np.full(n, 3.25, np.float32),
        np.zeros(n, np.float32),
        np.full(n, -1e30, np.float32),
        np.round(normal),
        np.linspace(-300, 300, n, dtype=np.float32),
    ]


@pytest.mark.parametrize("n", SIZES)
def test_log_sum_exp(n: int) -> None:
    for row in _rows(n):
        assert kernels.log_sum_exp(row) == pytest.approx(naive.log_sum_exp(row), rel=2e-6, abs=2e-6)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
def test_log_sum_exp_shows_what_is_not_a_number(n: int, bad: float) -> None:
    for place in {0, n // 2, n - 1}:
        row = np.zeros(n, np.float32)
        row[place] = bad
        assert math.isnan(kernels.log_sum_exp(row))


def test_log_sum_exp_of_nothing_possible() -> None:
    assert kernels.log_sum_exp(np.full(9, -np.inf, np.float32)) == -math.inf


@pytest.mark.parametrize("step", [0.0, 60.0, 87.0, 100.0, 500.0])
def test_log_sum_exp_with_a_peak_that_climbs_from_block_to_block(step: float) -> None:
    """The running peak may lag behind; it must not lag too far."""
    row = np.concatenate([np.linspace(i * step, i * step + 1, kernels.BLOCK, dtype=np.float32) for i in range(5)])
    for rising in (row, row[::-1].copy()):
        assert kernels.log_sum_exp(rising) == pytest.approx(naive.log_sum_exp(rising), rel=2e-6, abs=2e-6)


@given(arrays(np.float32, st.integers(1, 300), elements=st.floats(-1e4, 1e4, width=32)))
def test_log_sum_exp_of_anything(row: NDArray[np.float32]) -> None:
    assert kernels.log_sum_exp(row) == pytest.approx(naive.log_sum_exp(row), rel=2e-6, abs=4e-6)


def test_exponential_is_close_everywhere() -> None:
    """Relative error against float64's exp; the argument's own rounding in base 2 grows with its size."""
    x = np.linspace(-80, 0, 400_001, dtype=np.float32)
    out = np.empty_like(x)
    kernels.exp_row(x, 0.0, out)
    error = np.abs(out - np.exp(x.astype(np.float64))) / np.exp(x.astype(np.float64))
    assert error[x > -1].max() < 3e-7
    assert error.max() < 8e-6


@pytest.mark.parametrize("n", SIZES)
def test_row_max(n: int) -> None:
    for row in _rows(n):
        assert kernels.row_max(row) == row.max()


@pytest.mark.parametrize("n", SIZES)
def test_weighted_sum(n: int) -> None:
    base, tuned, reference = (_rows(n, seed)[0] for seed in (1, 2, 3))
    out = np.empty(n, np.float32)
    base_lse, reference_lse = kernels.weighted_sum(base, 1.5, tuned, 0.7, reference, -1.2, out)
    np.testing.assert_allclose(out, 1.5 * base + 0.7 * tuned - 1.2 * reference, rtol=1e-5, atol=1e-5)
    assert base_lse == pytest.approx(naive.log_sum_exp(base), abs=4e-6)
    assert reference_lse == pytest.approx(naive.log_sum_exp(reference), abs=4e-6)


def _threshold(weights: NDArray[np.float32], top_p: float) -> float:
    total = float(weights.astype(np.float64).sum())
    return float(kernels.nucleus_threshold(weights, total, top_p, np.empty(1 << 16)))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("top_p", [0.0, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_nucleus(n: int, top_p: float) -> None:
    for row in _rows(n):
        weights = np.empty_like(row)
        kernels.exp_row(row, float(row.max()), weights)
        probabilities = weights.astype(np.float64) / weights.astype(np.float64).sum()
        inside = set(np.flatnonzero(weights >= np.float32(_threshold(weights, top_p))).tolist())
        expected = naive.nucleus(probabilities, top_p)
        # Sums in another order may differ in the last bit exactly at the border: then one tie-group more or less.
        border = abs(sum(probabilities[i] for i in inside) - top_p) < 1e-9 or top_p == 1.0
        assert inside == expected or border


def test_nucleus_takes_ties_together() -> None:
    weights = np.array([0.4, 0.2, 0.2, 0.1, 0.1], np.float32)
    assert _threshold(weights, 0.5) == np.float32(0.2)
    assert _threshold(weights, 0.0) == np.float32(0.4)
    assert _threshold(weights, 0.85) == np.float32(0.1)


@pytest.mark.parametrize("n", SIZES)
def test_total_variation(n: int) -> None:
    p, q = _rows(n, 4)[0], _rows(n, 5)[0]
    scratch = np.empty((2, kernels.BLOCK), np.float32)
    got = kernels.total_variation(p, kernels.log_sum_exp(p), q, kernels.log_sum_exp(q), scratch[0], scratch[1])
    assert got == pytest.approx(naive.total_variation(naive.log_softmax(p), naive.log_softmax(q)), abs=2e-6)


def test_candidates_are_laid_out_as_llama_cpp_wants_them() -> None:
    row = np.array([1.0, -np.inf, 3.0], np.float32)
    candidates = np.empty(3, np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)]))
    kernels.fill_candidates(row, candidates.view(np.int32).reshape(3, 3))
    assert candidates.tolist() == [(0, 1.0, 0.0), (1, -math.inf, 0.0), (2, 3.0, 0.0)]


# Known answers of the generator's authors (Random123, kat_vectors).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]) -> None:
    words = np.array(counter, np.uint64)
    kernels.philox(words, *key)
    assert tuple(int(word) for word in words) == expected
    assert tuple(naive.philox(counter, key)) == expected
