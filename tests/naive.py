"""Slow, obvious twins of the kernels and rules, in float64 and plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def log_sum_exp(row: Sequence[float] | NDArray[np.float32]) -> float:
    """log Σ exp(x)."""
    values = [float(x) for x in row]
    if any(math.isnan(x) or x == math.inf for x in values):
        return math.nan
    peak = max(values)
    if peak == -math.inf:
        return -math.inf
    return peak + math.log(math.fsum(math.exp(x - peak) for x in values))


def log_softmax(row: NDArray[np.float32]) -> Floats:
    """log p of raw logits."""
    return row.astype(np.float64) - log_sum_exp(row)


def nucleus(probabilities: Floats, top_p: float) -> set[int]:
    """The fewest heaviest tokens whose mass reaches top_p, with all that tie with the last of them."""
    order = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])
    mass, last = 0.0, 0.0
    for i in order:
        mass += probabilities[i]
        last = probabilities[i]
        if mass >= top_p:
            break
    return {i for i in order if probabilities[i] >= last}


def composite(
    base: NDArray[np.float32],
    deltas: Sequence[tuple[NDArray[np.float32], NDArray[np.float32], float]],
    beta: float = 1.0,
    conservative_p: float | None = None,
    control: Sequence[int] = (),
    masked: Sequence[int] = (),
) -> Floats:
    """log p of EFT's composite, by its definition: (tuned, reference, alpha) for each delta."""
    active = [delta for delta in deltas if delta[2]]
    anchor_tuned, anchor_reference, _ = (active or list(deltas))[0]
    lp_base, lp_anchor = log_softmax(base), log_softmax(anchor_reference)
    shared = sum((a * (log_softmax(t) - log_softmax(r)) for t, r, a in active), np.zeros(len(base)))
    scores = beta * lp_base - (beta - 1) * lp_anchor + shared
    if beta and (active or beta != 1):  # otherwise the base answers alone
        replaced = set(control)
        if conservative_p is not None and active:
            inside = nucleus(np.exp(log_softmax(anchor_tuned)), conservative_p)
            replaced |= set(range(len(base))) - inside
        for token in replaced:
            scores[token] = lp_anchor[token] + shared[token]
    scores[list(masked)] = -math.inf
    finite: Floats = scores - log_sum_exp(scores)  # type: ignore[arg-type]  # a twin in float64 takes any row
    return finite


def total_variation(log_p: Floats, log_q: Floats) -> float:
    """½ Σ |p − q|."""
    return 0.5 * math.fsum(abs(math.exp(a) - math.exp(b)) for a, b in zip(log_p, log_q, strict=True))


def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox 4x32-10 with Python's integers (Salmon et al., SC 2011, §3.3)."""
    c, k = list(counter), list(key)
    for _ in range(10):
        product0, product1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [
            (product1 >> 32) ^ c[1] ^ k[0],
            product1 & 0xFFFFFFFF,
            (product0 >> 32) ^ c[3] ^ k[1],
            product0 & 0xFFFFFFFF,
        ]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c
