"""Numba kernels over logits rows: arrays in, arrays out; lazily compiled and cached on disk.

Knows float32 rows of vocabulary length, never tokens' meanings or models. Kernels allocate nothing; callers check
shapes and pass scratch. Fast-math lets sums be reordered and contracted (that is what vectorises them); NaN and
infinity keep their meaning.

The exponential is our own: numba calls libm's once per element, which at 152 k tokens costs milliseconds; this one
is a polynomial that LLVM vectorises (relative error below 3e-7 near the peak, see tests/test_kernels.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

FASTMATH = {"reassoc", "contract", "nsz", "arcp"}

# Sums run over a block in float32 and over blocks in float64: vectorised, and exact to about 1e-7. 16 KiB of each row.
BLOCK = 4096

LOG2E = np.float32(1.44269504)
# 2**f on [-0.5, 0.5], minimax of degree 5, relative error 1e-7.
C0, C1, C2 = np.float32(1.0000000716552997), np.float32(0.6931469670628839), np.float32(0.24022119720751733)
C3, C4, C5 = np.float32(0.05550713275066591), np.float32(0.009675541502615069), np.float32(0.0013276471959224128)
# Adding 1.5 * 2**23 rounds a float32 to an integer and leaves it in the low bits.
ROUNDER = np.float32(12582912.0)
# Below 2**-126 numbers are denormal: smaller exponentials are given this value, 1.2e-38, instead.
SMALLEST = np.float32(-126.0)
# Larger exponents would run into the sign bit; they are cut here, and the sum's size tells (see _add_exp).
LARGEST = np.float32(126.0)
TOO_MUCH = np.float32(2.0**125)
NEG_INF = np.float32(-np.inf)


@intrinsic
def _bits_to_float(typingctx: Any, bits: Any) -> Any:
    """Reinterpret int32 bits as float32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def _float_to_bits(typingctx: Any, value: Any) -> Any:
    """Reinterpret float32 as its int32 bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), codegen


# No "reassoc" here: it would cancel the rounding trick.
@njit(cache=True, nogil=True, fastmath={"contract", "nsz"})
def _exp2(y: float) -> float:
    """2**y for float32 y, cut to the range of normal numbers."""
    y = SMALLEST if y < SMALLEST else y  # in this order NaN stays NaN
    y = LARGEST if y > LARGEST else y
    rounded = y + ROUNDER
    f = y - (rounded - ROUNDER)
    p = ((((C5 * f + C4) * f + C3) * f + C2) * f + C1) * f + C0
    return _bits_to_float(_float_to_bits(p) + (_float_to_bits(rounded) << np.int32(23)))


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _block_max(row: np.ndarray) -> float:
    """Largest entry of a block, by its bits as order-preserving integers.

    An integer maximum vectorises, a float one that respects NaN does not. A NaN with its sign bit set counts as the
    smallest; sums of exponentials still show it.
    """
    best = np.int32(-2147483648)
    for i in range(row.shape[0]):
        bits = _float_to_bits(row[i])
        key = np.int32(bits ^ np.int32(np.int32(bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))
        best = key if key > best else best
    return _bits_to_float(best ^ ((best >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _block_sum_exp(row: np.ndarray, peak: float) -> float:
    """Σ exp(row - peak) of a block, float32."""
    total = np.float32(0.0)
    shift = peak * LOG2E
    for i in range(row.shape[0]):
        total += _exp2(row[i] * LOG2E - shift)
    return total


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _block_exp(row: np.ndarray, peak: float, out: np.ndarray) -> float:
    """``out = exp(row - peak)`` of a block; returns its sum, float32."""
    total = np.float32(0.0)
    shift = peak * LOG2E
    for i in range(row.shape[0]):
        e = _exp2(row[i] * LOG2E - shift)
        out[i] = e
        total += e
    return total


@njit(cache=True, nogil=True)
def row_max(row: np.ndarray) -> float:
    """Largest entry of ``row`` (n,) float32."""
    return _block_max(row)


@njit(cache=True, nogil=True)
def exp_row(row: np.ndarray, peak: float, out: np.ndarray) -> float:
    """``out = exp(row - peak)``; returns its sum as float64. row, out: (n,) float32."""
    total = 0.0
    for start in range(0, row.shape[0], BLOCK):
        total += _block_exp(row[start : start + BLOCK], np.float32(peak), out[start : start + BLOCK])
    return total


@njit(cache=True, nogil=True)
def _add_exp(block: np.ndarray, peak: float, total: float) -> tuple[float, float]:
    """Online Σ exp: a peak and the sum of exponentials relative to it, with ``block`` added.

    Any peak not too far below the largest entry serves; so the block's own is looked for only at the start and when
    the sum says that the present one is too low, or that an entry is not a number.
    """
    if peak != NEG_INF:
        part = _block_sum_exp(block, peak)
        if part < TOO_MUCH:
            return peak, total + part
    higher = _block_max(block)
    if not higher <= peak:  # written so that NaN becomes the peak and shows
        total *= np.exp(peak - higher)
        peak = higher
    if peak != NEG_INF:
        total += _block_sum_exp(block, peak)
    return peak, total


@njit(cache=True, nogil=True)
def _log_total(peak: float, total: float) -> float:
    """log Σ exp from a peak and a sum relative to it; the shift is undone as it was rounded in ``_block_sum_exp``."""
    return -np.inf if peak == NEG_INF else float(np.float32(peak * LOG2E)) / float(LOG2E) + np.log(total)


@njit(cache=True, nogil=True)
def log_sum_exp(row: np.ndarray) -> float:
    """log Σ exp(row), float64; row: (n,) float32. -inf for a row of -inf, NaN when an entry is NaN or +inf."""
    peak, total = NEG_INF, 0.0
    for start in range(0, row.shape[0], BLOCK):
        peak, total = _add_exp(row[start : start + BLOCK], peak, total)
    return _log_total(peak, total)


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _block_weighted_sum(
    a: np.ndarray, u: float, b: np.ndarray, v: float, c: np.ndarray, w: float, out: np.ndarray
) -> None:
    """``out = u*a + v*b + w*c`` of a block, float32."""
    for i in range(out.shape[0]):
        out[i] = u * a[i] + v * b[i] + w * c[i]


@njit(cache=True, nogil=True)
def weighted_sum(
    base: np.ndarray, w_base: float, tuned: np.ndarray, w_tuned: float, reference: np.ndarray, w_reference: float,
    out: np.ndarray,
) -> tuple[float, float]:  # fmt: skip
    """``out = w_base*base + w_tuned*tuned + w_reference*reference`` and log Σ exp of base and of reference.

    One pass over memory: a block of each row is summed, exponentiated and combined while it is in the cache.

    Args:
        base, tuned, reference, out: (n,) float32.
    """
    u, v, w = np.float32(w_base), np.float32(w_tuned), np.float32(w_reference)
    base_peak, base_total = NEG_INF, 0.0
    reference_peak, reference_total = NEG_INF, 0.0
    for start in range(0, out.shape[0], BLOCK):
        base_block, reference_block = base[start : start + BLOCK], reference[start : start + BLOCK]
        base_peak, base_total = _add_exp(base_block, base_peak, base_total)
        reference_peak, reference_total = _add_exp(reference_block, reference_peak, reference_total)
        _block_weighted_sum(
            base_block, u, tuned[start : start + BLOCK], v, reference_block, w, out[start : start + BLOCK]
        )
    return _log_total(base_peak, base_total), _log_total(reference_peak, reference_total)


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def add_weighted(out: np.ndarray, row: np.ndarray, weight: float) -> None:
    """``out += weight*row``, (n,) float32."""
    w = np.float32(weight)
    for i in range(out.shape[0]):
        out[i] += w * row[i]


@njit(cache=True, nogil=True)
def subtract(out: np.ndarray, constant: float) -> None:
    """``out -= constant`` in place, (n,) float32."""
    c = np.float32(constant)
    for i in range(out.shape[0]):
        out[i] -= c


@njit(cache=True, nogil=True)
def replace_base(
    out: np.ndarray, ids: np.ndarray, base: np.ndarray, reference: np.ndarray, beta: float, constant: float
) -> None:
    """Give the tokens ``ids`` the up-scaling weight 1: ``out[t] -= beta*(base[t] - reference[t]) + constant``.

    ``constant`` holds the two log-normalisers, ``-beta*(lse_base - lse_reference)``. The other rows' terms stay, so
    with one delta and alpha = 1 the score becomes ``log p_tuned``.
    """
    for k in range(ids.shape[0]):
        t = ids[k]
        out[t] -= np.float32(beta * (base[t] - reference[t]) + constant)


@njit(cache=True, nogil=True)
def replace_base_outside(
    out: np.ndarray, weights: np.ndarray, threshold: float, base: np.ndarray, reference: np.ndarray,
    beta: float, constant: float,
) -> None:  # fmt: skip
    """``replace_base`` for every token whose ``weights`` entry is below ``threshold``. All (n,) float32."""
    b, c, t = np.float32(beta), np.float32(constant), np.float32(threshold)
    for i in range(out.shape[0]):
        correction = b * (base[i] - reference[i]) + c
        out[i] -= correction if weights[i] < t else np.float32(0.0)


@njit(cache=True, nogil=True)
def mask(out: np.ndarray, ids: np.ndarray) -> None:
    """``out[ids] = -inf``: after combining, since -inf - (-inf) is NaN."""
    for k in range(ids.shape[0]):
        out[ids[k]] = NEG_INF


@njit(cache=True, nogil=True)
def nucleus_threshold(weights: np.ndarray, total: float, top_p: float, mass: np.ndarray) -> float:
    """Smallest weight inside the top-p set of the distribution ``weights / total``: a radix select, no sort.

    The top-p set is the fewest heaviest tokens whose mass reaches ``top_p``, tokens tied with the last one included.

    Args:
        weights: (n,) float32, >= 0.
        total: their sum.
        top_p: 0..1; 0 keeps the heaviest only.
        mass: (65536,) float64 scratch.
    """
    target = top_p * total
    mass[:] = 0.0
    for i in range(weights.shape[0]):
        mass[_float_to_bits(weights[i]) >> 16] += weights[i]
    above = 0.0
    high = 0x7F80
    while high > 0:  # from the heaviest bin downwards; positive floats order as their bits do
        if mass[high] > 0.0 and above + mass[high] >= target:
            break
        above += mass[high]
        high -= 1
    mass[:] = 0.0
    lowest = 65536
    for i in range(weights.shape[0]):
        bits = _float_to_bits(weights[i])
        if bits >> 16 == high:
            low = bits & 0xFFFF
            mass[low] += weights[i]
            lowest = min(lowest, low)
    low = 65535
    while low > lowest:
        if mass[low] > 0.0 and above + mass[low] >= target:
            break
        above += mass[low]
        low -= 1
    return _bits_to_float(np.int32((high << 16) | max(low, 0) & 0xFFFF))


@njit(cache=True, nogil=True, fastmath=FASTMATH)
def _block_distance(p: np.ndarray, p_scale: float, q: np.ndarray, q_scale: float) -> float:
    """Σ |p_scale*p - q_scale*q| of a block, float32."""
    total = np.float32(0.0)
    for i in range(p.shape[0]):
        total += abs(p_scale * p[i] - q_scale * q[i])
    return total


@njit(cache=True, nogil=True)
def total_variation(
    p: np.ndarray, p_lse: float, q: np.ndarray, q_lse: float, p_exp: np.ndarray, q_exp: np.ndarray
) -> float:
    """``½ Σ |exp(p - p_lse) - exp(q - q_lse)|`` of two rows of scores with their log-normalisers.

    Args:
        p, q: (n,) float32.
        p_exp, q_exp: (BLOCK,) float32 scratch.
    """
    total = 0.0
    for start in range(0, p.shape[0], BLOCK):
        pb, qb = p[start : start + BLOCK], q[start : start + BLOCK]
        _block_exp(pb, np.float32(p_lse), p_exp[: pb.shape[0]])
        _block_exp(qb, np.float32(q_lse), q_exp[: qb.shape[0]])
        total += _block_distance(p_exp[: pb.shape[0]], np.float32(1.0), q_exp[: qb.shape[0]], np.float32(1.0))
    return 0.5 * total


@njit(cache=True, nogil=True)
def fill_candidates(row: np.ndarray, words: np.ndarray) -> None:
    """Lay a row out as llama.cpp's candidates: id, logit, probability. row: (n,); words: (n, 3) int32, C order."""
    for i in range(row.shape[0]):
        words[i, 0] = i
        words[i, 1] = _float_to_bits(row[i])
        words[i, 2] = 0


@njit(cache=True, nogil=True)
def philox(counter: np.ndarray, key_low: int, key_high: int) -> None:
    """Philox 4x32-10 (Salmon et al., SC 2011), in place on ``counter`` (4,) uint64 holding 32-bit words."""
    low32 = np.uint64(0xFFFFFFFF)
    c0, c1, c2, c3 = counter[0], counter[1], counter[2], counter[3]
    k0, k1 = np.uint64(key_low), np.uint64(key_high)
    for _ in range(10):
        product0 = c0 * np.uint64(0xD2511F53)
        product1 = c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (product1 >> np.uint64(32)) ^ c1 ^ k0,
            product1 & low32,
            (product0 >> np.uint64(32)) ^ c3 ^ k1,
            product0 & low32,
        )
        k0 = (k0 + np.uint64(0x9E3779B9)) & low32
        k1 = (k1 + np.uint64(0xBB67AE85)) & low32
    counter[0], counter[1], counter[2], counter[3] = c0, c1, c2, c3


@njit(cache=True, nogil=True)
def uniforms(
    tokens: np.ndarray, position: int, stream: int, key_low: int, key_high: int, scratch: np.ndarray, out: np.ndarray
) -> None:
    """Uniforms in (0, 1), one per token: a pure function of (key, position, stream, token).

    Args:
        tokens: (k,) int32.
        scratch: (4,) uint64.
        out: (k,) float64.
    """
    for i in range(tokens.shape[0]):
        scratch[0] = np.uint64(np.uint32(tokens[i]))
        scratch[1] = np.uint64(np.uint32(position))
        scratch[2] = np.uint64(np.uint32(stream))
        scratch[3] = np.uint64(stream) >> np.uint64(32)
        philox(scratch, key_low, key_high)
        bits = (scratch[0] << np.uint64(20)) ^ (scratch[1] >> np.uint64(12))  # 52 bits
        out[i] = (float(bits) + 0.5) * 2.220446049250313e-16  # 2**-52
