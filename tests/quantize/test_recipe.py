"""Recipes: what cannot be followed is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eftlite.errors import InputError
from eftlite.gguf import check
from eftlite_quantize.imatrix import Entry, ImportanceMatrix, write_imatrix
from eftlite_quantize.names import TYPES
from eftlite_quantize.recipe import Recipe
from eftlite_quantize.records import Record
from tests.tiny_gguf import write_model

Q4_0, IQ2_XS = TYPES["Q4_0"], TYPES["IQ2_XS"]


def matrix(path: Path, entries: dict[str, int]) -> Path:
    """A file with so many numbers for each tensor."""
    made = {name: Entry(np.ones((1, n), np.float32), np.ones(1, np.float32)) for name, n in entries.items()}
    write_imatrix(path, ImportanceMatrix(made, ("some/text.txt",), 4, 512))
    return path


def test_the_digest_knows_all_that_decides_the_bytes(tmp_path: Path) -> None:
    first, second = matrix(tmp_path / "a.gguf", {"x": 1}), matrix(tmp_path / "b.gguf", {"x": 2})
    recipes = [
        Recipe(),
        Recipe(pure=True),
        Recipe(leave_output=True),
        Recipe(output_type="Q8_0"),
        Recipe(embedding_type="Q8_0"),
        Recipe(tensor_types=(("ffn_down", "Q8_0"),)),
        Recipe(tensor_types=(("ffn_up", "Q8_0"),)),
        Recipe(imatrix=first),
        Recipe(imatrix=second),
    ]
    digests = [recipe.digest(kind) for recipe in recipes for kind in (Q4_0, IQ2_XS)]
    assert len(set(digests)) == len(digests)
    copy = matrix(tmp_path / "copy.gguf", {"x": 1})
    assert Recipe(imatrix=copy).digest(Q4_0) == Recipe(imatrix=first).digest(Q4_0)
    assert Recipe(allow_requantize=True).digest(Q4_0) == Recipe().digest(Q4_0)


def test_a_job_carries_the_keys_that_llama_quantize_writes(tmp_path: Path) -> None:
    path = matrix(tmp_path / "imatrix.gguf", {"x": 1, "y": 2})
    record = Record("1" * 64, "2" * 64, "build")
    made = Recipe(imatrix=path).job(Path("in.gguf"), Q4_0, Path("out.gguf"), 3, record)
    assert made.metadata == {
        "quantize.imatrix.file": "imatrix.gguf",
        "quantize.imatrix.dataset": "some/text.txt",
        "quantize.imatrix.entries_count": 2,
        "quantize.imatrix.chunks_count": 4,
        **record.metadata(),
    }
    assert (made.file_type, made.threads, made.imatrix) == (2, 3, str(path))
    assert Recipe(imatrix=path).job(Path("in.gguf"), Q4_0, None).metadata == {}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(tensor_types=(("no_such", "Q8_0"),)), "has no tensor like 'no_such'"),
        (Recipe(tensor_types=(("blk.(", "Q8_0"),)), "expected a pattern"),
        (Recipe(output_type="Q6_K"), r"output.weight: expected rows of a multiple of 256 for Q6_K, got 64"),
        (Recipe(embedding_type="Q4_K"), "token_embd.weight: expected rows of a multiple of 256"),
    ],
)
def test_what_does_not_fit_the_source(tmp_path: Path, recipe: Recipe, message: str) -> None:
    header = check(write_model(tmp_path / "tiny.gguf", seed=1))
    with pytest.raises(InputError, match=message):
        recipe.check(header)


def test_what_fits_the_source(tmp_path: Path) -> None:
    header = check(write_model(tmp_path / "tiny.gguf", seed=1))
    Recipe(tensor_types=((r"blk\.1\.", "Q8_0"),), output_type="Q8_0", embedding_type="F16").check(header)
    Recipe(output_type="Q6_K", leave_output=True).check(header)


def test_a_source_that_is_quantized(tmp_path: Path) -> None:
    header = check(write_model(tmp_path / "tiny.gguf", seed=1, dtype="q8_0"))
    same = {one.name: one.type for one in header.tensors}
    changed = {**same, "blk.0.attn_q.weight": "Q4_0"}
    Recipe().check_types(header, Q4_0, same)
    with pytest.raises(InputError, match=r"expected F32, F16 or BF16 weights, got Q8_0 in blk.0.attn_q.weight"):
        Recipe().check_types(header, Q4_0, changed)
    Recipe(allow_requantize=True).check_types(header, Q4_0, changed)


def test_matrices_that_lack_something_or_are_of_another_model(tmp_path: Path) -> None:
    header = check(write_model(tmp_path / "tiny.gguf", seed=1))
    types = {one.name: one.type for one in header.tensors} | {"blk.0.attn_q.weight": "IQ2_XS"}
    with pytest.raises(InputError, match="IQ2_XS: expected an importance matrix, got none"):
        Recipe().check_types(header, IQ2_XS, types)
    lacking = Recipe(imatrix=matrix(tmp_path / "a.gguf", {"blk.1.attn_q.weight": 64}))
    lacking.check(header)
    with pytest.raises(InputError, match=r"got one without blk.0.attn_q.weight"):
        lacking.check_types(header, IQ2_XS, types)
    wide = Recipe(imatrix=matrix(tmp_path / "b.gguf", {"blk.0.attn_q.weight": 128}))
    with pytest.raises(InputError, match=r"expected 64 numbers for blk.0.attn_q.weight, got 128"):
        wide.check_types(header, IQ2_XS, types)
    with pytest.raises(InputError, match="none of its entries is a tensor"):
        Recipe(imatrix=matrix(tmp_path / "c.gguf", {"other": 64})).check(header)
    Recipe(imatrix=matrix(tmp_path / "d.gguf", {"blk.0.attn_q.weight": 64})).check_types(header, IQ2_XS, types)
