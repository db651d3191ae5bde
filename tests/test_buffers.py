"""Caches and buffers: what the formulas give, held to llama.cpp's own dry runs, up to shapes of 70 B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eftlite.buffers import cache_bytes, compute_bytes, row_bytes, slot_cells
from eftlite.gguf import check
from eftlite.layers import sizes
from eftlite.settings import ModelSettings
from eftlite.shapes import SHAPES, Shape
from tests.architectures import ARCHITECTURES, sparse_architecture
from tests.dry_run import dry_run, sparse_model

MIB = 1 << 20
N_VOCAB = 32_000
LARGE = Shape("70b", "Llama-2-70B", 8192, 80, 64, 8, 28672, N_VOCAB, tied=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Headers of every shape, weights left out."""
    folder = tmp_path_factory.mktemp("sparse")
    known = {**SHAPES, "70b": LARGE}
    return {name: sparse_model(folder / f"{name}.gguf", shape, "q4_0", N_VOCAB) for name, shape in known.items()}


CASES: list[tuple[int, int, dict[str, Any]]] = [
    (512, 1, {}),
    (4096, 1, {}),
    (1024, 4, {}),
    (4096, 1, {"type_k": "q8_0", "type_v": "q8_0"}),
    (4096, 1, {"type_k": "f32", "type_v": "f32"}),
    (2048, 1, {"flash_attn": False}),
    (2048, 1, {"n_ubatch": 128}),
    (100, 3, {"n_batch": 64}),
]


@pytest.mark.parametrize("name", [*SHAPES, "70b"])
def test_as_llama_cpp_says(models: dict[str, Path], name: str) -> None:
    """Caches exactly; the buffer within 5 %, or 3 MiB of a small one, besides the room of matrix products."""
    header = check(models[name])
    model = sizes(header)
    for n_ctx, n_slots, options in CASES:
        settings = ModelSettings(**options)
        found = dry_run(models[name], settings, n_ctx, n_slots)
        cache = sum(cache_bytes(model, layer, settings, n_ctx, n_slots) for layer in model.layers)
        assert cache == pytest.approx(found["cache"], abs=MIB / 100), (n_ctx, n_slots, options)
        n_tokens = min(slot_cells(n_ctx, n_slots) * n_slots, settings.n_ubatch, settings.n_batch)
        work = n_tokens * row_bytes("q8_0", model.n_ff)
        compute = compute_bytes(model, N_VOCAB, settings, n_ctx, n_slots) - work
        assert compute == pytest.approx(found["compute"], rel=0.05, abs=3 * MIB), (n_ctx, n_slots, options)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_architectures(tmp_path: Path, name: str) -> None:
    """Caches exactly; buffers, a few percent of what such models take, within 15 %."""
    path = sparse_architecture(tmp_path / "m.gguf", ARCHITECTURES[name])
    model = sizes(check(path))
    for n_ctx, options in ((4096, {}), (4096, {"type_k": "q8_0", "type_v": "q8_0"}), (2048, {"flash_attn": False})):
        settings = ModelSettings(**options)
        found = dry_run(path, settings, n_ctx, 1)
        cache = sum(cache_bytes(model, layer, settings, n_ctx, 1) for layer in model.layers)
        assert cache == pytest.approx(found["cache"] + found["RS"], abs=MIB / 100), options
        work = 512 * row_bytes("q8_0", max(model.n_ff, model.n_ff_expert, model.n_embd, model.n_inner))
        compute = compute_bytes(model, N_VOCAB, settings, n_ctx, 1) - work
        assert compute == pytest.approx(found["compute"], rel=0.15), options


def test_contexts_are_rounded_up_as_llama_cpp_does() -> None:
    assert [slot_cells(*case) for case in ((1, 1), (256, 1), (257, 1), (100, 3), (64, 8))] == [256, 256, 512, 256, 256]


def test_rows_take_whole_blocks() -> None:
    assert [row_bytes(*case) for case in (("f16", 64), ("q8_0", 64), ("q4_0", 33))] == [128, 68, 36]
