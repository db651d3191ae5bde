"""Noise: a pure function of its key, uniform, independent between keys."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eftlite.noise import ACCEPT, DRAFT, RESIDUAL, TARGET, Noise, fresh_seed

IDS = np.arange(50_000, dtype=np.int32)


def test_the_same_key_gives_the_same_numbers_in_any_order() -> None:
    whole = Noise(7).gumbel(3, IDS)
    part = Noise(7).gumbel(3, IDS[::-7].copy())
    assert np.array_equal(whole[::-7], part)


@pytest.mark.parametrize(
    "other",
    [
        lambda: Noise(8).gumbel(3, IDS),
        lambda: Noise(7 + 2**32).gumbel(3, IDS),
        lambda: Noise(7).gumbel(4, IDS),
        lambda: Noise(7).gumbel(3, IDS, DRAFT),
        lambda: Noise(7).gumbel(3, IDS, TARGET, round_index=1),
    ],
)
def test_every_part_of_the_key_counts(other: object) -> None:
    """Correlation of 50,000 independent pairs is below 0.025 but for one time in 2e7."""
    assert callable(other)
    a, b = Noise(7).gumbel(3, IDS), other()
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.025


def test_uniforms_are_uniform() -> None:
    """Chi-square over 64 bins, 63 degrees of freedom: above 120 once in 30,000; the seed is fixed."""
    u = Noise(1).uniforms(0, IDS, TARGET, 0)
    assert u.min() > 0
    assert u.max() < 1
    counts = np.histogram(u, 64, (0, 1))[0]
    assert ((counts - len(u) / 64) ** 2 / (len(u) / 64)).sum() < 120


def test_gumbels_are_gumbels() -> None:
    """Mean 0.5772 and variance π²/6, within five standard errors."""
    g = Noise(2).gumbel(0, IDS)
    assert g.mean() == pytest.approx(0.57722, abs=5 * math.pi / math.sqrt(6 * len(g)))
    assert g.var() == pytest.approx(math.pi**2 / 6, rel=0.05)


def test_the_largest_of_scores_plus_noise_is_a_draw() -> None:
    p = np.array([0.5, 0.3, 0.15, 0.05])
    ids = np.arange(4, dtype=np.int32)
    noise, n = Noise(11), 20_000
    counts = np.bincount([int(np.argmax(np.log(p) + noise.gumbel(i, ids))) for i in range(n)], minlength=4)
    assert ((counts - n * p) ** 2 / (n * p)).sum() < 25  # 3 degrees of freedom: once in 60,000


def test_single_uniforms_of_different_purpose_differ() -> None:
    noise = Noise(5)
    values = {noise.uniform(p, s, r) for p in range(10) for s in (TARGET, DRAFT, ACCEPT, RESIDUAL) for r in range(10)}
    assert len(values) == 400


def test_fresh_seeds_differ() -> None:
    assert len({fresh_seed() for _ in range(20)}) == 20
