"""Random quantized blocks, as ggml lays them out, with numbers of a given standard deviation; streamed into files.

Blocks come from a pool of ``POOL_BLOCKS`` random ones for each type, repeated from another place for each tensor. The
bytes in the file are all there, so memory traffic and arithmetic are those of real weights; the rows of a matrix
begin at different blocks of the pool, so none is a copy of another.

Knows types and bytes; never tensors, shapes or files' headers.
"""

from __future__ import annotations

import math
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

# A prime, so that rows of any length begin at every block before one repeats; above the largest vocabulary.
POOL_BLOCKS = 200_003

# Fields of a block, as in ggml-common.h; q stands for all bytes of the quants.
LAYOUTS = {
    "F16": np.dtype([("q", "<f2", 1)]),
    "Q8_0": np.dtype([("d", "<f2"), ("q", "i1", 32)]),
    "Q4_0": np.dtype([("d", "<f2"), ("q", "u1", 16)]),
    "Q5_0": np.dtype([("d", "<f2"), ("q", "u1", 20)]),
    "Q5_1": np.dtype([("d", "<f2"), ("min", "<f2"), ("q", "u1", 20)]),
    "Q4_K": np.dtype([("d", "<f2"), ("min", "<f2"), ("scales", "u1", 12), ("q", "u1", 128)]),
    "Q5_K": np.dtype([("d", "<f2"), ("min", "<f2"), ("scales", "u1", 12), ("q", "u1", 160)]),
    "Q6_K": np.dtype([("q", "u1", 192), ("scales", "i1", 16), ("d", "<f2")]),
}
_BITS = {"Q8_0": 8, "Q4_0": 4, "Q5_0": 5, "Q5_1": 5, "Q4_K": 4, "Q5_K": 5, "Q6_K": 6}
# All eight scales and minima 32, as Q4_K and Q5_K pack them: six bits each, the second half's upper two bits apart.
_SCALES_32 = np.array([0b10_100000] * 8 + [0] * 4, np.uint8)  # (12,)


class Pools:
    """Pools by type and standard deviation, made when first needed; one seed gives one sequence of bytes."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._pools: dict[tuple[str, float], NDArray[np.uint8]] = {}

    def write(self, handle: BinaryIO, kind: str, std: float, n_bytes: int) -> None:
        """Write whole blocks of a type, ``n_bytes`` in all."""
        if (kind, std) not in self._pools:
            self._pools[kind, std] = make_pool(kind, std, self._rng)
        pool = self._pools[kind, std]
        left, start = n_bytes // pool.shape[1], int(self._rng.integers(len(pool)))
        while left:
            part = pool[start : start + left]
            handle.write(part.data)
            left, start = left - len(part), 0


def make_pool(kind: str, std: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(POOL_BLOCKS, bytes of a block) uint8: random blocks whose numbers have mean 0 and standard deviation ``std``."""
    layout = LAYOUTS[kind]
    if kind == "F16":
        normal = rng.standard_normal(POOL_BLOCKS, np.float32) * np.float32(std)  # (POOL_BLOCKS,)
        return normal.astype("<f2").view(np.uint8).reshape(POOL_BLOCKS, 2)
    blocks = np.frombuffer(bytearray(rng.bytes(POOL_BLOCKS * layout.itemsize)), layout)  # (POOL_BLOCKS,)
    levels = 1 << _BITS[kind]
    # The quants are uniform but not centred (Q4_0's run from -8 to 7): a random sign takes their mean away.
    step = rng.choice((-1.0, 1.0), POOL_BLOCKS) * std / math.sqrt((levels**2 - 1) / 12)  # (POOL_BLOCKS,)
    if kind == "Q8_0":
        np.maximum(blocks["q"], -127, out=blocks["q"])  # a quantizer never writes -128
    elif kind == "Q5_1":
        blocks["min"] = -step * (levels - 1) / 2  # is added
    elif kind == "Q6_K":
        blocks["scales"] = 64
        step /= 64
    elif kind in ("Q4_K", "Q5_K"):
        blocks["scales"] = _SCALES_32
        step /= 32
        blocks["min"] = step * (levels - 1) / 2  # is subtracted
    blocks["d"] = step
    return blocks.view(np.uint8).reshape(POOL_BLOCKS, layout.itemsize)
