"""llama-perplexity in plain numpy, float64 and whole rows: chunks, statistics and the stored format, written down from
its source (tools/perplexity/perplexity.cpp) without a thought for speed or memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def positions(tokens: Sequence[int], n_ctx: int, add_bos: bool, bos: int) -> list[tuple[list[int], int]]:
    """(what the model reads, the token it should predict) of every scored position, in order."""
    found = []
    for i in range(len(tokens) // n_ctx):
        start = i * n_ctx
        for k in range(n_ctx):
            position = start + k
            if k >= n_ctx // 2 and k < n_ctx - 1:
                read = list(tokens[start : position + 1])
                if add_bos:
                    read[0] = bos
                found.append((read, tokens[position + 1]))
    return found


def log_softmax(logits: NDArray[np.float32]) -> Floats:
    """(m, n_vocab) float64."""
    rows = logits.astype(np.float64)
    peak = rows.max(1, keepdims=True)
    found: Floats = rows - peak - np.log(np.exp(rows - peak).sum(1, keepdims=True))
    return found


def stored(logits: NDArray[np.float32]) -> tuple[Floats, NDArray[np.int64]]:
    """(scale and minimum (m, 2), levels (m, n_vocab)) as ``log_softmax(…, uint16_t * log_prob, …)`` makes them."""
    rows = logits.astype(np.float64)
    top = rows.max(1)
    bottom = np.maximum(rows.min(1), top - 16)
    log_sum = np.log(np.exp(rows - top[:, None]).sum(1))
    scale = (top - bottom) / 65535
    steps = np.where(scale > 0, scale, 1)[:, None]
    levels = np.where(rows > bottom[:, None], np.rint((rows - bottom[:, None]) / steps), 0)
    return np.stack([scale, bottom - top - log_sum], 1), levels.astype(np.int64)


def restored(heads: Floats, levels: NDArray[np.int64]) -> Floats:
    """Log-probabilities from what was stored."""
    found: Floats = heads[:, :1] * levels + heads[:, 1:]
    return found


def statistics(base: Floats, other: Floats, targets: Sequence[int], counted: Floats | None = None) -> dict[str, float]:
    """Figures by our names, each as the program prints it, with ``…_pm`` for its ±.

    Args:
        base, other: (n, n_vocab) log-probabilities.
        counted: 1 where a token of the base counts in the divergence.
    """
    n = len(targets)
    at = (np.arange(n), np.asarray(targets))
    counts = np.ones_like(base) if counted is None else counted
    nll, nll_base = -other[at], -base[at]
    kld = (counts * np.exp(base) * (base - other)).sum(1)
    dp = np.exp(-nll) - np.exp(-nll_base)
    top = (base.argmax(1) == other.argmax(1)).mean()

    def mean(x: Floats) -> tuple[float, float]:
        return float(x.mean()), math.sqrt(max(float((x * x).mean() - x.mean() ** 2), 0.0) / (n - 1))

    (a, da), (b, db) = mean(nll), mean(nll_base)
    cov = float((nll * nll_base).mean() - nll.mean() * nll_base.mean()) / (n - 1)
    ppl, ppl_base = math.exp(a), math.exp(b)
    log_ratio = math.sqrt(max(da * da + db * db - 2 * cov, 0))
    diff = (ppl * da) ** 2 + (ppl_base * db) ** 2 - 2 * ppl * ppl_base * cov
    mse, d_mse = mean(dp * dp)
    found = {
        "ppl": ppl, "ppl_pm": ppl * da, "ppl_base": ppl_base, "ppl_base_pm": ppl_base * db,
        "cor_ln_ppl": 100 * cov / (da * db) if da * db else 100.0,
        "ln_ppl_ratio": a - b, "ln_ppl_ratio_pm": log_ratio,
        "ppl_ratio": math.exp(a - b), "ppl_ratio_pm": math.exp(a - b) * log_ratio,
        "ppl_diff": ppl - ppl_base, "ppl_diff_pm": math.sqrt(max(diff, 0)),
        "kld_mean": mean(kld)[0], "kld_mean_pm": mean(kld)[1],
        "dp_mean": 100 * mean(dp)[0], "dp_mean_pm": 100 * mean(dp)[1],
        "dp_rms": 100 * math.sqrt(mse), "dp_rms_pm": 100 * 0.5 / math.sqrt(mse) * d_mse if mse else 0.0,
        "same_top": 100 * top, "same_top_pm": 100 * math.sqrt(top * (1 - top) / (n - 1)),
    }  # fmt: skip  # a value and its ± side by side
    for what, values, unit in (("kld", kld, 1), ("dp", dp, 100)):
        ordered = sorted(values.tolist())
        names = {"max": 1.0, "p99_9": 0.999, "p99": 0.99, "p95": 0.95, "p90": 0.9, "p10": 0.1, "p5": 0.05, "p1": 0.01}
        names |= {"p0_1": 0.001, "min": 0.0, "median": 0.5} | ({"p75": 0.75, "p25": 0.25} if what == "dp" else {})
        found |= {f"{what}_{name}": unit * percentile(ordered, share) for name, share in names.items()}
    return found


def percentile(ordered: Sequence[float], share: float) -> float:
    """Between neighbours, as the program's ``percentile``."""
    p = share * (len(ordered) - 1)
    i = int(p)
    return (1 - (p - i)) * ordered[i] + (p - i) * ordered[min(i + 1, len(ordered) - 1)]
