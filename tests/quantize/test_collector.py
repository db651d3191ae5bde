"""Importance matrices computed: against a llama in numpy, of dense models and of mixtures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eftlite.errors import EngineError, InputError
from eftlite.llama import Model
from eftlite.settings import ModelSettings
from eftlite_quantize import collector as module
from eftlite_quantize.collector import collect
from tests.numpy_llama import Floats, Llama
from tests.quantize.tiny_moe import N_EXPERTS, N_USED, write_mixture
from tests.tiny_gguf import write_model

CHUNKS = np.random.default_rng(1).integers(0, 512, (3, 48)).astype(np.int32)


class Watched:
    """A matrix that sums the squares of what it is multiplied with."""

    __array_ufunc__ = None  # so that numpy leaves the product to us

    def __init__(self, values: Floats) -> None:
        self.values = values
        self.sums = np.zeros(values.shape[1])

    @property
    def T(self) -> Watched:  # noqa: N802  # numpy's name
        return self

    def __rmatmul__(self, x: Floats) -> Floats:
        self.sums += (x * x).reshape(-1, x.shape[-1]).sum(0)
        product: Floats = x @ self.values.T
        return product


def expected(path: Path, chunks: NDArray[np.int32]) -> dict[str, Floats]:
    """The sums of a model's layers."""
    llama = Llama(path)
    weights: dict[str, Any] = llama._weights
    for name, values in weights.items():
        if name.startswith("blk.") and values.ndim == 2:
            weights[name] = Watched(values)
    llama.logits(chunks.astype(np.int64))
    return {name: one.sums for name, one in weights.items() if isinstance(one, Watched)}


@pytest.fixture
def dense(tmp_path: Path) -> Iterator[Model]:
    model = Model(write_model(tmp_path / "tiny.gguf", seed=1, n_kv_heads=2), ModelSettings(n_threads=1))
    yield model
    model.close()


@pytest.mark.parametrize("n_ubatch", [512, 32])
def test_sums_are_those_of_an_independent_llama(tmp_path: Path, n_ubatch: int) -> None:
    """In one batch, and in two of 32 and 16 tokens."""
    path = write_model(tmp_path / "tiny.gguf", seed=1, n_kv_heads=2)
    model = Model(path, ModelSettings(n_threads=1, n_ubatch=n_ubatch))
    try:
        steps: list[int] = []
        found = collect(model, CHUNKS, steps.append)
    finally:
        model.close()
    want = expected(path, CHUNKS)
    assert steps == [1, 2, 3]
    assert list(found) == sorted(want)
    for name, sums in want.items():
        entry = found[name]
        assert entry.counts.tolist() == [CHUNKS.size]
        np.testing.assert_allclose(entry.sums, sums[None], rtol=2e-3, err_msg=name)  # its activations are f16 in part


def test_a_mixture_counts_by_experts(tmp_path: Path) -> None:
    """What the router sees is what the experts see, each token as often as experts are used."""
    model = Model(write_mixture(tmp_path / "mixture.gguf"), ModelSettings(n_threads=1))
    try:
        found = collect(model, CHUNKS)
    finally:
        model.close()
    for layer in range(2):
        router = found[f"blk.{layer}.ffn_gate_inp.weight"]
        for what in ("gate", "up", "down"):
            entry = found[f"blk.{layer}.ffn_{what}_exps.weight"]
            assert len(entry.sums) == len(entry.counts) == N_EXPERTS
            assert entry.counts.sum() == N_USED * CHUNKS.size
            assert len(set(entry.counts.tolist())) > 1
            if what != "down":
                np.testing.assert_allclose(entry.sums.sum(0), N_USED * router.sums[0], rtol=1e-5)


@pytest.mark.parametrize("n_rows", [1, 3])
def test_each_expert_gets_the_rows_of_its_tokens(n_rows: int) -> None:
    """Before the experts a token has one row for all of them; between their matrices each has its own."""
    draw = np.random.default_rng(1)
    values = draw.standard_normal((40, n_rows, 5)).astype(np.float32)
    ids = np.argsort(draw.random((40, 6)), axis=1)[:, :3].astype(np.int32)
    collector = module.Collector()
    collector._add_experts("experts", 6, values, ids)
    sums, counts = np.zeros((6, 5)), np.zeros(6)
    for token in range(40):
        for used in range(3):
            sums[ids[token, used]] += values[token, used % n_rows].astype(float) ** 2
            counts[ids[token, used]] += 1
    np.testing.assert_allclose(collector.sums["experts"], sums, rtol=1e-5)
    np.testing.assert_array_equal(collector.counts["experts"], counts)


def test_a_stack_of_matrices_has_one_count() -> None:
    """Products with a stack: the columns of its matrices side by side."""
    collector = module.Collector()
    values = np.arange(2 * 3 * 4, dtype=np.float32).reshape(1, 2, 3, 4)
    collector._add("stack", 2, 1, values)
    collector._add("flat", 1, 1, values)
    entries = collector.entries()
    np.testing.assert_array_equal(entries["stack"].sums, (values[0] ** 2).sum(1).reshape(1, 8))
    np.testing.assert_array_equal(entries["flat"].sums, (values[0] ** 2).sum((0, 1))[None])
    assert (entries["stack"].counts.tolist(), entries["flat"].counts.tolist()) == ([3], [6])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_is_raised_in_the_callback_arrives(
    dense: Model, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Ctrl+C too: while llama.cpp computes, Python runs nowhere else."""

    def fail(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        raise error

    monkeypatch.setattr(module, "_squares", fail)
    with pytest.raises(error):
        collect(dense, CHUNKS)


def test_another_layout_is_noticed(dense: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    class Longer(module._Ggml):
        def __init__(self) -> None:
            super().__init__()
            self.name = lambda address: b"another"

    monkeypatch.setattr(module, "_Ggml", Longer)
    with pytest.raises(EngineError, match="lays its tensors out differently"):
        collect(dense, CHUNKS)


def test_numbers_that_are_not_finite_are_an_error(dense: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_squares", lambda rows: rows[0] * np.inf)
    with pytest.raises(EngineError, match="expected to be multiplied with finite numbers"):
        collect(dense, CHUNKS)


def test_chunks_must_be_long_enough_to_count(dense: Model) -> None:
    with pytest.raises(InputError, match="expected at least 16 tokens"):
        collect(dense, CHUNKS[:, :15])


@pytest.mark.parametrize(
    ("name", "plain"),
    [(b"blk.0.attn_k.weight", "blk.0.attn_k.weight"), (b"CUDA0#blk.0.attn_k.weight#0", "blk.0.attn_k.weight")],
)
def test_names_are_freed_of_what_schedulers_add(name: bytes, plain: str) -> None:
    assert module._plain(name) == plain
