"""Random blocks, read back by the gguf package; pools that are streamed."""

from __future__ import annotations

from io import BytesIO

import gguf
import numpy as np
import pytest

from eftlite import blocks
from eftlite.blocks import LAYOUTS, Pools, make_pool
from eftlite.gguf_types import TENSOR_TYPES

NUMBERS = {kind.name: number for number, kind in TENSOR_TYPES.items()}


@pytest.fixture
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "POOL_BLOCKS", 4001)


def test_pool_is_prime_and_longer_than_vocabularies() -> None:
    n = blocks.POOL_BLOCKS
    assert all(n % divisor for divisor in range(2, int(n**0.5) + 1))
    assert n > 152_064


@pytest.mark.usefixtures("small_pools")
@pytest.mark.parametrize("kind", LAYOUTS)
def test_blocks_have_the_asked_mean_and_deviation(kind: str) -> None:
    """4,001 blocks; the tolerances are above 4 standard errors."""
    pool = make_pool(kind, 0.02, np.random.default_rng(0))
    values = gguf.quants.dequantize(pool.reshape(-1), gguf.GGMLQuantizationType(NUMBERS[kind]))
    assert pool.shape == (4001, TENSOR_TYPES[NUMBERS[kind]].block_bytes)
    assert np.isfinite(values).all()
    assert values.std() == pytest.approx(0.02, rel=0.05 if kind == "F16" else 0.01)  # F16's blocks are single numbers
    assert abs(values.mean()) < (2e-3 if kind == "F16" else 4e-4)


@pytest.mark.usefixtures("small_pools")
def test_pools_repeat_from_another_place_each_time() -> None:
    pools, handle = Pools(seed=3), BytesIO()
    n_bytes = 10_000 * 34
    for _ in range(2):
        pools.write(handle, "Q8_0", 0.02, n_bytes)
    data = np.frombuffer(handle.getvalue(), np.uint8).reshape(20_000, 34)  # (blocks, bytes)
    assert np.array_equal(data[:4001], data[4001:8002])
    assert len(np.unique(data, axis=0)) == 4001
    assert not np.array_equal(data[0], data[10_000])


@pytest.mark.usefixtures("small_pools")
def test_seed_decides() -> None:
    handles = [BytesIO() for _ in range(3)]
    for handle, seed in zip(handles, (0, 0, 1), strict=True):
        Pools(seed).write(handle, "Q4_K", 0.02, 1440)
    assert handles[0].getvalue() == handles[1].getvalue() != handles[2].getvalue()
    assert len(handles[0].getvalue()) == 1440
