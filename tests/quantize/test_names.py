"""Types: every name that llama.cpp has, and no other."""

from __future__ import annotations

import pytest

from eftlite.errors import InputError
from eftlite.gguf_types import FILE_TYPES, TENSOR_TYPES
from eftlite_quantize.names import TYPES, bits, file_type, file_types, n_bytes, requires_imatrix, tensor_type


def test_all_types_of_files_are_there() -> None:
    assert {one.name: one.number for one in TYPES.values()} == {
        name: number for number, name in FILE_TYPES.items() if name != "NVFP4"
    }
    assert list(TYPES)[-1] == "F32"
    sizes = [one.bits for one in TYPES.values()]
    assert sizes == sorted(sizes)


# As `llama_ftype_get_default_type` has them, where the name does not say.
MAIN = {"Q2_K_S": "Q2_K", "Q3_K_L": "Q3_K", "Q4_K_M": "Q4_K", "IQ3_XS": "IQ3_S", "IQ3_M": "IQ3_S", "IQ2_S": "IQ2_XS",
        "IQ2_M": "IQ2_S", "IQ4_NL": "IQ4_NL", "MXFP4_MOE": "MXFP4", "Q8_0": "Q8_0", "BF16": "BF16"}  # fmt: skip


@pytest.mark.parametrize(("name", "main"), MAIN.items())
def test_main_types(name: str, main: str) -> None:
    assert TYPES[name].tensor_type == main


@pytest.mark.parametrize(
    ("written", "name"),
    [("q4_k_m", "Q4_K_M"), ("Q4_K", "Q4_K_M"), ("q3_k", "Q3_K_M"), (" Q8_0 ", "Q8_0"), ("iq2_xxs", "IQ2_XXS")],
)
def test_names_in_any_case_and_aliases(written: str, name: str) -> None:
    assert file_type(written).name == name


def test_types_between_commas_each_once() -> None:
    assert [one.name for one in file_types("Q8_0, q4_k,,Q4_K_M")] == ["Q8_0", "Q4_K_M"]


@pytest.mark.parametrize(("text", "near"), [("Q4_K_X", "Q4_K_M"), ("Q8", "Q8_0"), ("nonsense", "IQ1_S"), (",", "Q8_0")])
def test_unknown_types_are_refused_with_what_is_near(text: str, near: str) -> None:
    with pytest.raises(InputError) as caught:
        file_types(text)
    assert near in str(caught.value)


def test_tensor_types() -> None:
    assert tensor_type("q6_k") == "Q6_K"
    for name in ("Q4_K_M", "Q8_K", "I32", ""):  # a recipe, two that no weights have, and nothing
        with pytest.raises(InputError):
            tensor_type(name)


def test_bits_and_bytes() -> None:
    assert bits("Q8_0") == 8.5
    assert bits("Q4_K") == 4.5
    for kind in TENSOR_TYPES.values():
        assert n_bytes((kind.block_size * 3, 5), kind.name) == 15 * kind.block_bytes


def test_what_requires_an_importance_matrix() -> None:
    assert requires_imatrix("blk.0.attn_q.weight", "IQ3_XXS", "Q4_K_M")
    assert requires_imatrix("blk.0.attn_q.weight", "Q2_K", "Q2_K_S")
    assert not requires_imatrix("blk.0.attn_q.weight", "Q2_K", "Q2_K")
    assert not requires_imatrix("token_embd.weight", "IQ3_XXS", "IQ3_XXS")
    assert requires_imatrix("token_embd.weight", "IQ2_XXS", "Q4_0")  # where llama.cpp would end the process
