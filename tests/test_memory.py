"""Estimates: where weights go, what is counted, and a quick look at whether a process really takes that much.

The whole comparison is benchmarks/memory_estimates.py; limits that cannot be kept are met in tests/stress.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eftlite import gguf, memory
from eftlite.available import VARIABLE
from eftlite.memory import CPU, Need, estimate
from eftlite.settings import ModelSettings
from eftlite.shapes import SHAPES, Shape, write_shape
from tests.dry_run import sparse_model
from tests.limited import LIMITS
from tests.tiny_gguf import write_family

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and peaks as Linux has them")
ONE = ModelSettings(n_threads=1)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> gguf.Header:
    """A model whose embedding is its output matrix, both Q6_K, and whose other matrices are Q4_K."""
    shape = Shape("tied", "none", 512, 4, 8, 4, 1024, 4096, tied=True)
    return gguf.check(sparse_model(tmp_path_factory.mktemp("tied") / "m.gguf", shape, "q4_k_m", 4096))


def need_on(processor: set[str], header: gguf.Header, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Need:
    """The estimate for a processor with such features."""
    monkeypatch.setattr(memory, "_features", lambda: frozenset(processor))
    return estimate(header, header.file_bytes, ModelSettings(n_threads=1, use_extra_bufts=True, **settings), 512, 1)


def bytes_of(header: gguf.Header, *types: str) -> int:
    """Bytes of all tensors of these types."""
    return sum(one.n_bytes for one in header.tensors if one.type in types)


def test_weights_as_they_are_stay_in_the_file(tied: gguf.Header, monkeypatch: pytest.MonkeyPatch) -> None:
    need = need_on(set(), tied, monkeypatch)
    part = need.devices[CPU]
    assert (part.mapped, part.weights, need.pages) == (tied.n_bytes, 0, 0)
    read = need_on(set(), tied, monkeypatch, use_mmap=False)
    assert (read.devices[CPU].mapped, read.devices[CPU].weights) == (0, tied.n_bytes)


def test_repacked_weights_are_copies_beside_the_file(tied: gguf.Header, monkeypatch: pytest.MonkeyPatch) -> None:
    need = need_on({"AVX2"}, tied, monkeypatch)
    copied = bytes_of(tied, "Q4_K")
    assert (need.devices[CPU].weights, need.pages) == (copied, copied)
    assert need.resident == need.memory + copied
    read = need_on({"AVX2"}, tied, monkeypatch, use_mmap=False)
    assert (read.weights, read.pages) == (tied.n_bytes, 0)
    assert read.staging == max(one.n_bytes for one in tied.tensors if one.type == "Q4_K")


def test_an_output_matrix_that_is_repacked_no_longer_is_the_embedding(
    tied: gguf.Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On ARM Q6_K is repacked; the rows that are looked up stay as they are."""
    need = need_on({"DOTPROD"}, tied, monkeypatch)
    embedding = next(one.n_bytes for one in tied.tensors if one.name == "token_embd.weight")
    assert need.weights == tied.n_bytes + embedding
    assert need.devices[CPU].mapped == embedding + bytes_of(tied, "F32")


def test_repacking_can_be_switched_off(tied: gguf.Header, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_features", lambda: frozenset({"AVX2"}))
    assert estimate(tied, 0, ModelSettings(n_threads=1, use_extra_bufts=False), 512, 1).pages == 0


def test_what_this_build_uses_is_known() -> None:
    assert all(word == word.upper() for word in memory._features())


def test_an_adapter_and_the_vocabulary_count(tied: gguf.Header) -> None:
    plain, adapted = (estimate(tied, 0, ONE, 512, 1, adapter_bytes) for adapter_bytes in (0, 1000))
    assert adapted.memory == plain.memory + 1000
    more = estimate(replace(tied, n_vocab=tied.n_vocab + 1000), 0, ONE, 512, 1)
    assert more.devices[CPU].vocabulary - plain.devices[CPU].vocabulary == 1000 * memory.TOKEN_BYTES


def test_parts_add_up(tied: gguf.Header) -> None:
    need = estimate(tied, tied.file_bytes, ONE, 512, 2)
    assert need.total == need.weights + need.cache + need.compute == need.memory
    assert need.sharing_weights().total == need.total - need.weights - need.devices[CPU].vocabulary
    assert need.memory <= need.resident < need.address_space


# ---- held to what processes take


@LINUX
@pytest.mark.parametrize(("quant", "kv", "use_mmap"), [("q4_0", "f16", True), ("q8_0", "q8_0", False)])
def test_a_process_takes_what_was_estimated(tmp_path: Path, quant: str, kv: str, use_mmap: bool) -> None:
    """Two of the benchmark's cases with a smaller model; a few seconds each."""
    shape = replace(SHAPES["135m"], n_layers=8)
    path = write_shape(tmp_path / "m.gguf", shape, quant)
    settings = {"type_k": kv, "type_v": kv, "use_mmap": use_mmap, "n_threads": 1}
    task = {"files": [str(path)], "n_ctx": 256, "n_slots": 1, "settings": settings}
    command = [sys.executable, "-m", "benchmarks.memory_estimates", "--child", json.dumps(task)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    assert found["estimated"] == pytest.approx(found["measured"], rel=0.05, abs=4e6)


@LINUX
def test_a_limit_below_the_need_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    """At each of three loads, weights mapped and read, for every kind of limit; and what fits is loaded."""
    files = [str(path) for path in write_family(tmp_path, seed=1).values()]
    task = {"files": files[:3], "n_ctx": 256, "limits": LIMITS, "shares": [1, 2, 3, 1.1]}
    command = [sys.executable, "-m", "tests.limited", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(LIMITS) * 2 * 4
    for row in rows:
        if isinstance(row["share"], int):
            assert (row["error"], row["opened"]) == ("MemoryLimitError", 0), row
            assert "another quantization" in row["text"]
        else:
            assert (row["error"], row["opened"]) == (None, 3), row
    assert VARIABLE in {row["limit"] for row in rows}
