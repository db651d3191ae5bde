"""EFT's arithmetic as one writes it with numpy: what the kernels are compared with, and what peers do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]


def log_normaliser(row: Row) -> np.float32:
    """log Σ exp(row)."""
    peak = row.max()
    return np.float32(peak + np.log(np.exp(row - peak).sum()))


def log_softmax(row: Row) -> Row:
    """Normalised log-probabilities (n_vocab,)."""
    return row - log_normaliser(row)


def combine(base: Row, tuned: Row, reference: Row) -> Row:
    """The paper's log p_L + log p_ft − log p_b, (n_vocab,)."""
    return log_softmax(base) + log_softmax(tuned) - log_softmax(reference)


def conservative(base: Row, tuned: Row, reference: Row, top_p: float) -> Row:
    """``combine`` with log p_ft outside the tuned model's top-p set."""
    tuned_logprobs = log_softmax(tuned)
    order = np.argsort(-tuned_logprobs)
    mass = np.cumsum(np.exp(tuned_logprobs[order]))
    outside = order[np.searchsorted(mass, top_p) + 1 :]
    scores = log_softmax(base) + tuned_logprobs - log_softmax(reference)
    scores[outside] = tuned_logprobs[outside]
    return scores


def total_variation(scores: Row, tuned: Row) -> np.float32:
    """½ Σ |p − q| of two rows of scores."""
    return np.float32(np.abs(np.exp(log_softmax(scores)) - np.exp(log_softmax(tuned))).sum() / 2)


def sample(
    scores: Row, rng: np.random.Generator, temperature: float, top_k: int = 40, top_p: float = 0.95, min_p: float = 0.05
) -> int:
    """A token by llama.cpp's default filters; the likeliest at temperature 0."""
    if temperature == 0:
        return int(scores.argmax())
    best = np.argpartition(scores, -top_k)[-top_k:]
    best = best[np.argsort(-scores[best])]
    p = np.exp(scores[best] - scores[best[0]])
    p /= p.sum()
    keep = (np.cumsum(p) - p < top_p) & (p >= min_p * p[0])
    best = best[keep]
    p = np.exp((scores[best] - scores[best[0]]) / temperature)
    return int(rng.choice(best, p=p / p.sum()))
