"""The composite over many positions at once, compiled: what composite.py does a row at a time, on log-probabilities.

Knows arrays, never recordings or knobs. A composite over recorded rows is called a million times in a sweep, where a
row at a time would spend most of it between Python and the kernels.
"""

# mypy: disallow-untyped-decorators=False
# numba's decorators have no types
from __future__ import annotations

import numpy as np
from numba import njit

from eftlite.kernels import (
    add_weighted,
    exp_row,
    log_sum_exp,
    mask,
    nucleus_threshold,
    replace_base,
    replace_base_outside,
    subtract,
)  # fmt: skip  # reads across

# Columns of what is found about a position.
NLL, SHIFT, KLD = range(3)
N_FOUND = 3
SUMS = {"reassoc", "contract", "nsz"}


@njit(cache=True, nogil=True)
def combine(
    rows: np.ndarray, weights: np.ndarray, anchors: np.ndarray, beta: float, top_p: float, control: np.ndarray,
    masked: np.ndarray, out: np.ndarray, scratch: np.ndarray, mass: np.ndarray,
) -> None:  # fmt: skip
    """Log-probabilities of the composite.

    Args:
        rows: (n_members, m, n_vocab) float32 log-probabilities.
        weights: (n_members,) float64; a member of weight 0 is not looked at, but for the rules.
        anchors: (3,) base, tuned and reference of the rules, -1 for none.
        top_p: of conservative decoding; negative for none.
        control: ids of the control-token rule; empty for none.
        masked: ids that never occur.
        out: (m, n_vocab) float32, filled.
        scratch: (n_vocab,) float32.
        mass: (65536,) float64.
    """
    base, tuned, reference = anchors
    for row in range(out.shape[0]):
        scores = out[row]
        scores[:] = np.float32(0.0)
        for member in range(rows.shape[0]):
            if weights[member] != 0.0:
                add_weighted(scores, rows[member, row], weights[member])
        if base >= 0 and reference >= 0:
            if top_p >= 0.0 and tuned >= 0:
                total = exp_row(rows[tuned, row], 0.0, scratch)
                threshold = nucleus_threshold(scratch, total, top_p, mass)
                for k in range(control.shape[0]):
                    scratch[control[k]] = np.float32(np.inf)  # theirs is the next rule; not to be corrected twice
                replace_base_outside(scores, scratch, threshold, rows[base, row], rows[reference, row], beta, 0.0)
            replace_base(scores, control, rows[base, row], rows[reference, row], beta, 0.0)
        mask(scores, masked)
        subtract(scores, log_sum_exp(scores))


@njit(cache=True, nogil=True)
def exp_rows(rows: np.ndarray, out: np.ndarray) -> None:
    """Probabilities of log-probabilities (m, n_vocab)."""
    for row in range(rows.shape[0]):
        exp_row(rows[row], 0.0, out[row])


@njit(cache=True, nogil=True, fastmath=SUMS)
def _distance(p: np.ndarray, q: np.ndarray) -> float:
    total = np.float32(0.0)
    for i in range(p.shape[0]):
        total += abs(p[i] - q[i])
    return float(total)


@njit(cache=True, nogil=True, fastmath=SUMS)
def _divergence(p: np.ndarray, log_p: np.ndarray, log_q: np.ndarray) -> float:
    total = 0.0
    for i in range(p.shape[0]):
        total += np.float64(p[i]) * np.float64(log_p[i] - log_q[i])
    return total


@njit(cache=True, nogil=True)
def describe(
    scores: np.ndarray, targets: np.ndarray, tuned: np.ndarray, log_base: np.ndarray, base: np.ndarray,
    masked: np.ndarray, scratch: np.ndarray, found: np.ndarray,
) -> None:  # fmt: skip
    """What is known of positions: negative log-probability of the right token, TV to the tuned model, KLD.

    Args:
        scores: (m, n_vocab) float32 log-probabilities of the composite; ids that never occur become 0.
        targets: (m,) int32, the tokens that follow.
        tuned: (m, n_vocab) probabilities.
        log_base, base: (m, n_vocab) log-probabilities and probabilities of what KLD is measured from; the first with
            0 in place of what never occurs.
        masked: ids that never occur.
        scratch: (n_vocab,) float32.
        found: (m, N_FOUND) float64, filled.
    """
    for row in range(scores.shape[0]):
        exp_row(scores[row], 0.0, scratch)
        found[row, NLL] = -scores[row, targets[row]]
        found[row, SHIFT] = 0.5 * _distance(scratch, tuned[row])
        for k in range(masked.shape[0]):
            scores[row, masked[k]] = np.float32(0.0)  # -inf - -inf is no number
        found[row, KLD] = _divergence(base[row], log_base[row], scores[row])
