"""Numba kernels that compare rows of two models: rows in, a few numbers a row out; no row is copied.

Knows logits and llama-perplexity's 16-bit log-probabilities, never models or files. Exponentials are eftlite.kernels'
(float32, within 3e-7); every sum is float64.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from eftlite.kernels import BLOCK, exp_row, row_max

# Columns of what a comparison finds out about a position; p is the base's probability, q the other model's.
NLL, NLL_BASE, KLD, DELTA_P, SAME_TOP = range(5)
N_FOUND = 5

SUMS = {"reassoc", "contract", "nsz", "arcp"}
# exp_row gives this for everything smaller; what has no weight must not count, were its logit -inf.
NOTHING = np.float32(1.2e-38)
ZERO = np.float32(0.0)
# llama-perplexity keeps log-probabilities down to max - 16 and counts only those above -16.
LOWEST = np.float32(-16.0)
LEVELS = np.float32(65535.0)
HEAD = 4  # 16-bit words before a row's log-probabilities: scale and minimum, float32 each


@njit(cache=True, nogil=True)
def _first(row: np.ndarray, value: float) -> int:
    """Where ``value`` first stands in ``row``."""
    for i in range(row.shape[0]):
        if row[i] == value:
            return i
    return -1


@njit(cache=True, nogil=True, fastmath=SUMS)
def _total(weights: np.ndarray) -> float:
    """Σ weights, float64."""
    total = 0.0
    for i in range(weights.shape[0]):
        total += np.float64(weights[i])
    return total


@njit(cache=True, nogil=True, fastmath=SUMS)
def _weighted_gap(weights: np.ndarray, p: np.ndarray, q: np.ndarray) -> float:
    """Σ weights · (p - q), float64, over what has a weight."""
    total = 0.0
    for i in range(weights.shape[0]):
        gap = np.float64(p[i]) - np.float64(q[i])
        total += np.float64(weights[i]) * gap if weights[i] > NOTHING else 0.0
    return total


@njit(cache=True, nogil=True)
def _exp_block(block: np.ndarray, peak: float, shifted: np.ndarray, out: np.ndarray) -> None:
    """``out = exp(block - peak)``; the difference is taken first, so that a large peak costs no digits."""
    top = np.float32(peak)
    for i in range(block.shape[0]):
        shifted[i] = block[i] - top
    exp_row(shifted, ZERO, out)


@njit(cache=True, nogil=True)
def _log_total(row: np.ndarray, peak: float, shifted: np.ndarray, weights: np.ndarray) -> float:
    """log Σ exp(row - peak)."""
    total = 0.0
    for start in range(0, row.shape[0], BLOCK):
        block = row[start : start + BLOCK]
        n = block.shape[0]
        _exp_block(block, peak, shifted[:n], weights[:n])
        total += _total(weights[:n])
    return math.log(total)


@njit(cache=True, nogil=True)
def compare_rows(
    base: np.ndarray, other: np.ndarray, targets: np.ndarray, scratch: np.ndarray, found: np.ndarray
) -> None:
    """What another model makes of positions that a base model has read too.

    Args:
        base, other: (m, n_vocab) float32 logits.
        targets: (m,) int32, the tokens that follow.
        scratch: (2, BLOCK) float32.
        found: (m, N_FOUND) float64, filled.
    """
    shifted, weights = scratch[0], scratch[1]
    for row in range(targets.shape[0]):
        p, q, target = base[row], other[row], targets[row]
        p_max, q_max = row_max(p), row_max(q)
        p_total, q_total, gap = 0.0, 0.0, 0.0
        for start in range(0, p.shape[0], BLOCK):
            p_block, q_block = p[start : start + BLOCK], q[start : start + BLOCK]
            n = p_block.shape[0]
            _exp_block(p_block, p_max, shifted[:n], weights[:n])
            p_total += _total(weights[:n])
            gap += _weighted_gap(weights[:n], p_block, q_block)
            _exp_block(q_block, q_max, shifted[:n], weights[:n])
            q_total += _total(weights[:n])
        p_lse, q_lse = p_max + math.log(p_total), q_max + math.log(q_total)
        nll, nll_base = q_lse - q[target], p_lse - p[target]
        found[row, NLL], found[row, NLL_BASE] = nll, nll_base
        found[row, KLD] = gap / p_total - (p_lse - q_lse)
        found[row, DELTA_P] = math.exp(-nll) - math.exp(-nll_base)
        found[row, SAME_TOP] = 1.0 if _first(p, p_max) == _first(q, q_max) else 0.0


@njit(cache=True, nogil=True, fastmath=SUMS)
def _stored_divergence(
    levels: np.ndarray, scale: float, lowest: float, q: np.ndarray, q_lse: float, shifted: np.ndarray,
    weights: np.ndarray,
) -> float:  # fmt: skip
    """Σ p · (log p - log q) over a block of stored log-probabilities, those above -16 as llama-perplexity does."""
    for i in range(levels.shape[0]):
        shifted[i] = scale * np.float32(levels[i]) + lowest
    exp_row(shifted, ZERO, weights)
    total = 0.0
    for i in range(levels.shape[0]):
        gap = np.float64(shifted[i]) - (np.float64(q[i]) - q_lse)
        total += np.float64(weights[i]) * gap if shifted[i] > LOWEST else 0.0
    return total


@njit(cache=True, nogil=True)
def compare_stored(
    heads: np.ndarray, levels: np.ndarray, other: np.ndarray, targets: np.ndarray, scratch: np.ndarray,
    found: np.ndarray,
) -> None:  # fmt: skip
    """``compare_rows`` with a base whose log-probabilities were stored by llama-perplexity.

    Args:
        heads: (m, 2) float32, scale and minimum of each row.
        levels: (m, n_vocab) uint16.
        other: (m, n_vocab) float32 logits.
        targets: (m,) int32, the tokens that follow.
        scratch: (2, BLOCK) float32.
        found: (m, N_FOUND) float64, filled.
    """
    shifted, weights = scratch[0], scratch[1]
    for row in range(targets.shape[0]):
        q, target, scale, lowest = other[row], targets[row], heads[row, 0], heads[row, 1]
        q_max = row_max(q)
        q_lse = q_max + _log_total(q, q_max, shifted, weights)
        divergence = 0.0
        for start in range(0, q.shape[0], BLOCK):
            block = levels[row, start : start + BLOCK]
            n = block.shape[0]
            divergence += _stored_divergence(
                block, scale, lowest, q[start : start + BLOCK], q_lse, shifted[:n], weights[:n]
            )
        nll, nll_base = q_lse - q[target], -(scale * np.float32(levels[row, target]) + lowest)
        found[row, NLL], found[row, NLL_BASE] = nll, nll_base
        found[row, KLD] = divergence
        found[row, DELTA_P] = math.exp(-nll) - math.exp(-nll_base)
        found[row, SAME_TOP] = 1.0 if np.argmax(levels[row]) == _first(q, q_max) else 0.0


@njit(cache=True, nogil=True)
def store_rows(rows: np.ndarray, scratch: np.ndarray, heads: np.ndarray, levels: np.ndarray) -> None:
    """Log-probabilities as llama-perplexity stores them: 65,536 levels from the row's minimum, at least max - 16.

    Args:
        rows: (m, n_vocab) float32 logits.
        scratch: (2, BLOCK) float32.
        heads: (m, 2) float32, filled with scale and minimum.
        levels: (m, n_vocab) uint16, filled.
    """
    for row in range(rows.shape[0]):
        logits = rows[row]
        top = row_max(logits)
        bottom = top
        for i in range(logits.shape[0]):
            bottom = min(bottom, logits[i])
        bottom = max(bottom, top + LOWEST)
        log_total = np.float32(_log_total(logits, top, scratch[0], scratch[1]))
        scale = (top - bottom) / LEVELS
        heads[row, 0], heads[row, 1] = scale, bottom - top - log_total
        inverse = np.float32(1.0) / scale if scale > ZERO else ZERO
        for i in range(logits.shape[0]):
            above = logits[i] - bottom
            levels[row, i] = np.uint16(np.rint(inverse * above)) if above > ZERO else np.uint16(0)
