"""Counter-based randomness: every number is a pure function of (seed, position, stream, round, token).

No state, so rewinding needs no care, a draft and its verification can share noise, and the same seed gives the same
text with or without speculation. Numbers are made only for the candidates that survive the filters.
Generator: Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011).
"""

from __future__ import annotations

import secrets

import numpy as np
from numpy.typing import NDArray

from eftlite import kernels

# What a number is used for; different uses of one position must not share noise.
TARGET, DRAFT, ACCEPT, RESIDUAL = range(4)
STREAMS = 16


def fresh_seed() -> int:
    """A seed from the operating system, small enough to be typed again: 0..2**32-1."""
    return secrets.randbits(32)


class Noise:
    """Uniforms and Gumbels of one seed.

    Args:
        seed: 0..2**64-1.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._low, self._high = seed & 0xFFFFFFFF, seed >> 32
        self._scratch = np.empty(4, np.uint64)  # (4,)

    def uniforms(self, position: int, ids: NDArray[np.int32], stream: int, round_index: int) -> NDArray[np.float64]:
        """One number in (0, 1) for each token of ``ids`` (k,); the result is (k,) float64."""
        out = np.empty(ids.shape[0], np.float64)  # (k,)
        counter = round_index * STREAMS + stream
        kernels.uniforms(ids, position, counter, self._low, self._high, self._scratch, out)
        return out

    def gumbel(
        self, position: int, ids: NDArray[np.int32], stream: int = TARGET, round_index: int = 0
    ) -> NDArray[np.float64]:
        """A standard Gumbel number for each token of ``ids`` (k,): argmax(logprobs + gumbel) is a draw."""
        gumbels: NDArray[np.float64] = -np.log(-np.log(self.uniforms(position, ids, stream, round_index)))
        return gumbels

    def uniform(self, position: int, stream: int, round_index: int = 0) -> float:
        """One number in (0, 1)."""
        return float(self.uniforms(position, np.zeros(1, np.int32), stream, round_index)[0])
