"""The quantizer's process: its log's words, and that it lives and dies as it should."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlite.errors import EngineError, ModelFileError
from eftlite.gguf import check
from eftlite_quantize.child import Child, Job
from eftlite_quantize.names import TYPES
from eftlite_quantize.quantizer import LogReader, cut
from tests.conftest import DEMO
from tests.tiny_gguf import write_model

REFERENCE = DEMO / "reference-f16.gguf"

# Of real runs: quantized, kept, a dry run's, a tensor without its entry, two that fell back, the end.
LOG = b"""llama_model_loader: loaded meta data with 22 key-value pairs and 38 tensors
warning: blk.0.attn_k.weight                  - ncols     64 not divisible by 256 (required for type    q4_K) \
-> falling back to    q5_0
warning: odd.weight                           - ncols     40 not divisible by 256 (required for type    q6_K) \
(WARNING: must use F16 due to unusual shape) -> falling back to     f16
[   1/  38] token_embd.weight                    - [   512,   1024,      1,      1], type =    f16, \
converting to q6_K .. size =     1.00 MiB ->     0.41 MiB
[   2/  38] output_norm.weight                   - [   512,      1,      1,      1], type =    f32, \
size =    0.002 MiB
[   3/  38] blk.0.attn_k.weight                  - [   512,    128,      1,      1], type =    f16, \
size =     0.12 MiB ->     0.04 MiB (q4_K)
[   4/  38] blk.0.attn_q.weight                  - [   512,    512,      1,      1], type =   bf16, \

====== llama_model_quantize_impl: did not find weights for blk.0.attn_q.weight
converting to q4_K .. size =     0.50 MiB ->     0.14 MiB
llama_model_quantize: failed to quantize: requantizing from type q8_0 is disabled
"""
MESSAGES: list[dict[str, Any]] = [
    {"fallback": "blk.0.attn_k.weight", "wanted": "Q4_K", "got": "Q5_0"},
    {"fallback": "odd.weight", "wanted": "Q6_K", "got": "F16"},
    {"tensor": "token_embd.weight", "index": 1, "count": 38, "type": "Q6_K"},
    {"tensor": "output_norm.weight", "index": 2, "count": 38, "type": "F32"},
    {"tensor": "blk.0.attn_k.weight", "index": 3, "count": 38, "type": "Q4_K"},
    {"tensor": "blk.0.attn_q.weight", "index": 4, "count": 38, "type": "BF16"},
]


@given(st.lists(st.integers(0, len(LOG)), max_size=20))
def test_the_log_is_read_however_it_is_cut(cuts: list[int]) -> None:
    sent: list[dict[str, Any]] = []
    reader = LogReader(sent.append)
    borders = [0, *sorted(cuts), len(LOG)]
    for start, stop in pairwise(borders):
        reader.take(2, LOG[start:stop], None)
    assert sent == MESSAGES
    assert reader.reason == "requantizing from type q8_0 is disabled"


@pytest.mark.parametrize("text", ["short", "é" * 100, "x" * 500])
def test_texts_are_cut_to_llama_cpps_room_between_characters(text: str) -> None:
    data = cut(text)
    assert len(data) <= 127
    assert text.startswith(data.decode())


def job(target: Path | None, name: str = "Q4_0", **options: Any) -> Job:
    return Job(str(REFERENCE), None if target is None else str(target), TYPES[name].number, **options)


def test_jobs_one_after_the_other(tmp_path: Path) -> None:
    child = Child()
    try:
        dry = list(child.run(job(None, "Q4_K_M")))
        real = list(child.run(job(tmp_path / "a.gguf", "Q4_K_M", metadata={"test.word": "é", "test.number": 7})))
        with pytest.raises(EngineError, match="requires an imatrix"):
            list(child.run(job(tmp_path / "b.gguf", "IQ2_XS")))
        again = list(child.run(job(tmp_path / "c.gguf", "Q8_0")))
    finally:
        child.close()
    header = check(tmp_path / "a.gguf")
    types = {one.name: one.type for one in header.tensors}
    assert {one["tensor"]: one["type"] for one in dry} == types
    assert dry == real
    assert (header.metadata["test.word"], header.metadata["test.number"]) == ("é", 7)
    assert len(again) == len(types)
    assert "ggml" in child.build


def test_tensor_types_of_a_job(tmp_path: Path) -> None:
    child = Child()
    try:
        options = {"tensor_types": (("ffn_down", 8), (r"blk\.0\.", 7)), "embedding_type": 1}
        found = {one["tensor"]: one["type"] for one in child.run(job(None, "Q4_0", **options))}
    finally:
        child.close()
    assert found["blk.0.ffn_down.weight"] == found["blk.1.ffn_down.weight"] == "Q8_0"
    assert (found["blk.0.attn_q.weight"], found["blk.1.attn_q.weight"]) == ("Q5_1", "Q4_0")
    assert found["token_embd.weight"] == "F16"


def test_a_process_that_dies_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    """Embeddings of a type that must have a matrix, without one: llama.cpp ends the process."""
    child = Child()
    try:
        with pytest.raises(EngineError, match="GGML_ASSERT"):
            list(child.run(job(tmp_path / "a.gguf", embedding_type=16)))
        with pytest.raises(EngineError, match="ended with code"):
            list(child.run(job(None)))
    finally:
        child.close()
        child.close()


def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    """In the middle of a file, which is never finished."""
    large, target = write_model(tmp_path / "large.gguf", seed=1, n_embd=768, n_ff=1536), tmp_path / "out.gguf"
    code = f"""
from eftlite_quantize.child import Child, Job
child = Child()
print(child._process.pid, flush=True)
for message in child.run(Job({str(large)!r}, {str(target)!r}, {TYPES["Q2_K"].number}, threads=1)):
    print(message, flush=True)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert "tensor" in parent.stdout.readline()
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the quantizer outlives its parent"
        time.sleep(0.01)
    with pytest.raises(ModelFileError):
        check(target)
