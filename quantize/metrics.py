"""Statistics of a comparison, by llama-perplexity's names and definitions; memory does not grow with the vocabulary.

Knows what kernels.py finds out about positions, never rows or models. Kept are two float32 a position, for exact
percentiles, and a few sums for each chunk: every figure that has a ± is a function of sums, so the same function serves
the whole text and each resampling of its chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eftlite_quantize.kernels import DELTA_P, KLD, NLL, NLL_BASE, SAME_TOP

Found = NDArray[np.float64]  # (m, N_FOUND), see kernels.py
Array = NDArray[np.float64]

N_RESAMPLES = 1000
SEED = 1
# Percentiles that llama-perplexity prints, of the divergence and of the change of the right token's probability.
KLD_PERCENTILES = (99.9, 99.0, 95.0, 90.0, 50.0, 10.0, 5.0, 1.0, 0.1)
DP_PERCENTILES = (99.9, 99.0, 95.0, 90.0, 75.0, 50.0, 25.0, 10.0, 5.0, 1.0, 0.1)
PERCENT = 100.0


@dataclass(frozen=True)
class Figure:
    """A number with its uncertainty.

    Attributes:
        value: as llama-perplexity has it.
        gaussian: its ±, a standard error that takes positions for independent; None where it gives none.
        bootstrap: the standard error over resampled chunks, whose positions stay together; None where it makes none.
    """

    value: float
    gaussian: float | None = None
    bootstrap: float | None = None

    def as_json(self) -> dict[str, float | None]:
        """All three."""
        return dict(vars(self))


def _percentile_name(what: str, percent: float) -> str:
    """``kld_99.9`` without the point: ``kld_p99_9``; the median has a name."""
    return f"{what}_median" if percent == 50.0 else f"{what}_p{percent:g}".replace(".", "_")


# Every figure of a variant, in llama-perplexity's order: its name here, there, and the unit.
FIGURES: Mapping[str, str] = {
    "ppl": "Mean PPL(Q)",
    "ppl_base": "Mean PPL(base)",
    "cor_ln_ppl": "Cor(ln(PPL(Q)), ln(PPL(base))), %",
    "ln_ppl_ratio": "Mean ln(PPL(Q)/PPL(base))",
    "ppl_ratio": "Mean PPL(Q)/PPL(base)",
    "ppl_diff": "Mean PPL(Q)-PPL(base)",
    "kld_mean": "Mean KLD",
    "kld_max": "Maximum KLD",
    **{_percentile_name("kld", p): f"{'Median' if p == 50 else f'{p}%'} KLD" for p in KLD_PERCENTILES},
    "kld_min": "Minimum KLD",
    "dp_mean": "Mean Δp, %",
    "dp_max": "Maximum Δp, %",
    **{_percentile_name("dp", p): f"{'Median' if p == 50 else f'{p}%'} Δp, %" for p in DP_PERCENTILES},
    "dp_min": "Minimum Δp, %",
    "dp_rms": "RMS Δp, %",
    "same_top": "Same top p, %",
}

# Columns of a chunk's sums: positions, then powers and products of what was found.
_N, _A, _AA, _B, _BB, _AB, _K, _KK, _D, _DD, _DDDD, _TOP = range(12)


def _sums(found: Found) -> Array:
    """(12,) float64 sums over the positions of a piece."""
    a, b, k, d = (found[:, column] for column in (NLL, NLL_BASE, KLD, DELTA_P))
    columns = (a, a * a, b, b * b, a * b, k, k * k, d, d * d, d**4, found[:, SAME_TOP])
    return np.array([len(found), *(column.sum() for column in columns)])


class Meter:
    """Takes what was found about one model's positions, in their order.

    Args:
        n_chunks: chunks of the text.
        n_scored: positions of a chunk that are scored.
    """

    def __init__(self, n_chunks: int, n_scored: int) -> None:
        self._n_scored = n_scored
        self._sums = np.zeros((n_chunks, 12))
        self._kld = np.empty(n_chunks * n_scored, np.float32)  # in order of position
        self._dp = np.empty(n_chunks * n_scored, np.float32)
        self._n = 0

    def add(self, found: Found) -> None:
        """The next positions (m, N_FOUND), all of one chunk."""
        n, m = self._n, len(found)
        self._sums[n // self._n_scored] += _sums(found)
        self._kld[n : n + m] = found[:, KLD]
        self._dp[n : n + m] = found[:, DELTA_P]
        self._n = n + m

    def figures(self, seed: int = SEED, n_resamples: int = N_RESAMPLES) -> dict[str, Figure]:
        """All of ``FIGURES``, by name; the same seed gives the same bootstrap."""
        values = _of_sums(self._sums.sum(0))
        gaussian = _gaussian(self._sums.sum(0))
        resampled = [_of_sums(sums) for sums in _resample(self._sums, seed, n_resamples)]
        found = {
            name: Figure(value, gaussian.get(name), _deviation([one[name] for one in resampled]))
            for name, value in values.items()
        }
        found |= _percentiles("kld", self._kld[: self._n], KLD_PERCENTILES, 1.0)
        found |= _percentiles("dp", self._dp[: self._n], DP_PERCENTILES, PERCENT)
        return {name: found[name] for name in FIGURES}


def _resample(sums: Array, seed: int, n_resamples: int) -> Iterator[Array]:
    """Sums of as many chunks as there are, drawn with replacement; none where there is but one chunk."""
    n = len(sums)
    rng = np.random.default_rng(seed)
    for _ in range(n_resamples if n > 1 else 0):
        yield np.bincount(rng.integers(0, n, n), minlength=n) @ sums


def _deviation(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _of_sums(sums: Array) -> dict[str, float]:
    """Figures that are functions of sums (12,)."""
    mean = sums / sums[_N]
    log_ratio = mean[_A] - mean[_B]
    return {
        "ppl": _exp(mean[_A]),
        "ppl_base": _exp(mean[_B]),
        "cor_ln_ppl": PERCENT * _correlation(mean),
        "ln_ppl_ratio": float(log_ratio),
        "ppl_ratio": _exp(log_ratio),
        "ppl_diff": _exp(mean[_A]) - _exp(mean[_B]),
        "kld_mean": float(mean[_K]),
        "dp_mean": PERCENT * float(mean[_D]),
        "dp_rms": PERCENT * math.sqrt(mean[_DD]),
        "same_top": PERCENT * float(mean[_TOP]),
    }


def _gaussian(sums: Array) -> dict[str, float]:
    """llama-perplexity's ± of the same figures; it gives none for the correlation."""
    n, mean = sums[_N], sums / sums[_N]
    ppl, ppl_base, ratio = _exp(mean[_A]), _exp(mean[_B]), _exp(mean[_A] - mean[_B])
    var_a, var_b = (_error(mean, x, xx, n) ** 2 for x, xx in ((_A, _AA), (_B, _BB)))
    covariance = (mean[_AB] - mean[_A] * mean[_B]) / max(n - 1, 1)
    log_ratio = math.sqrt(max(var_a + var_b - 2 * covariance, 0.0))
    difference = ppl**2 * var_a + ppl_base**2 * var_b - 2 * ppl * ppl_base * covariance
    rms = math.sqrt(mean[_DD])
    return {
        "ppl": ppl * math.sqrt(var_a),
        "ppl_base": ppl_base * math.sqrt(var_b),
        "ln_ppl_ratio": log_ratio,
        "ppl_ratio": ratio * log_ratio,
        "ppl_diff": math.sqrt(max(difference, 0.0)),
        "kld_mean": _error(mean, _K, _KK, n),
        "dp_mean": PERCENT * _error(mean, _D, _DD, n),
        "dp_rms": PERCENT * 0.5 / rms * _error(mean, _DD, _DDDD, n) if rms else 0.0,
        "same_top": PERCENT * math.sqrt(mean[_TOP] * (1 - mean[_TOP]) / max(n - 1, 1)),
    }


def _error(mean: Array, x: int, xx: int, n: float) -> float:
    """Standard error of a mean, from the means of values and of their squares."""
    return math.sqrt(max(mean[xx] - mean[x] ** 2, 0.0) / max(n - 1, 1))


def _correlation(mean: Array) -> float:
    """Of the two models' ln PPL; 1 where neither varies."""
    variances = (mean[_AA] - mean[_A] ** 2) * (mean[_BB] - mean[_B] ** 2)
    return float((mean[_AB] - mean[_A] * mean[_B]) / math.sqrt(variances)) if variances > 0 else 1.0


def _exp(value: float) -> float:
    """e**value, at most 1e100: what is beyond means nothing, and its square would be no number."""
    return min(math.exp(min(value, 300.0)), 1e100)


def _percentiles(what: str, values: NDArray[np.float32], percents: tuple[float, ...], unit: float) -> dict[str, Figure]:
    """Exact percentiles, interpolated between neighbours as llama-perplexity does, and both ends."""
    wanted = {f"{what}_max": 100.0, f"{what}_min": 0.0} | {_percentile_name(what, p): p for p in percents}
    found = np.percentile(values, list(wanted.values()))
    return {name: Figure(unit * float(value)) for name, value in zip(wanted, found, strict=True)}
