"""LoRA adapters' headers: what is read, what is refused and in which words, and which models an adapter fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlite.errors import ModelFileError
from eftlite.gguf import Header, check
from eftlite.gguf_adapter import check_adapter, check_fit, describe_adapter, is_adapter
from tests import bad_adapters as bad
from tests.bad_gguf import F32
from tests.conftest import DEMO
from tests.lora import write_adapter
from tests.tiny_gguf import write_model

BAD = list(bad.bad_adapters())
MISFITS = list(bad.misfits())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Header:
    """The tiny model that the misfits do not fit."""
    return check(write_model(tmp_path_factory.mktemp("model") / "tiny.gguf", seed=1))


def write(folder: Path, data: bytes) -> Path:
    """An adapter's file."""
    path = folder / "lora.gguf"
    path.write_bytes(data)
    return path


def refused(error: ModelFileError, folder: Path) -> str:
    """The message of an error that has the form of all of them."""
    assert str(error).isprintable()
    assert str(folder) not in str(error)
    assert error.message.startswith("lora.gguf: expected ")
    return error.message


def test_what_a_file_says(tmp_path: Path, model: Header) -> None:
    path = write_adapter(tmp_path / "lora.gguf", model.path, seed=3, rank=4, alpha=8.0)
    found = check_adapter(path)
    assert is_adapter(path)
    assert (found.architecture, found.name, found.rank, found.alpha) == ("llama", "tiny adapter 3", 4, 8.0)
    assert found.targets == ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert len(found.pairs) == 14
    assert found.n_params == 2 * 4 * (4 * 128 + 3 * 192)
    assert (found.n_bytes, found.file_bytes) == (4 * found.n_params, path.stat().st_size)
    check_fit(found, model)


def test_the_good_adapter_fits(tmp_path: Path, model: Header) -> None:
    """Else every refusal below would be for another reason."""
    check_fit(check_adapter(write(tmp_path, bad.adapter())), model)


@pytest.mark.parametrize(("data", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_adapters_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        check_adapter(write(tmp_path, data))
    assert words in refused(caught.value, tmp_path)


@pytest.mark.parametrize(("data", "words"), [case[1:] for case in MISFITS], ids=[case[0] for case in MISFITS])
def test_adapters_for_other_models_are_refused(tmp_path: Path, model: Header, data: bytes, words: str) -> None:
    adapter = check_adapter(write(tmp_path, data))
    with pytest.raises(ModelFileError) as caught:
        check_fit(adapter, model)
    assert words in refused(caught.value, tmp_path)


def test_every_case_is_different() -> None:
    assert len({data for _, data, _ in (*BAD, *MISFITS)}) == len(BAD) + len(MISFITS) > 40


def test_an_embedding_that_is_the_output_too_is_refused(tmp_path: Path) -> None:
    """llama.cpp ends the process at the first token of such an adapter."""
    reference = check(DEMO / "reference-f16.gguf")
    path = write_adapter(tmp_path / "lora.gguf", reference.path, seed=1, only=("token_embd",))
    with pytest.raises(ModelFileError, match=r"no change of token_embd\.weight, which is the output of reference-f16"):
        check_fit(check_adapter(path), reference)


def test_an_embedding_of_its_own_fits(tmp_path: Path, model: Header) -> None:
    path = write_adapter(tmp_path / "lora.gguf", model.path, seed=1, only=("token_embd", "output"))
    check_fit(check_adapter(path), model)


def test_nvfp4_matrices_are_refused(tmp_path: Path, model: Header) -> None:
    """llama.cpp asserts that they have no adapter."""
    tensors = tuple(replace(one, type="NVFP4") if one.name == bad.QUERY else one for one in model.tensors)
    with pytest.raises(ModelFileError, match="NVFP4"):
        check_fit(check_adapter(write(tmp_path, bad.adapter())), replace(model, tensors=tensors))


def test_experts_are_adapted_each(tmp_path: Path, model: Header) -> None:
    """A matrix for each expert, and a pair of factors for each."""
    experts = tuple(replace(one, shape=(64, 64, 8)) if one.name == bad.QUERY else one for one in model.tensors)
    many = replace(model, tensors=experts)
    check_fit(check_adapter(write(tmp_path, bad.adapter(bad.pair(bad.QUERY, (64, 4, 8), (4, 64, 8))))), many)
    with pytest.raises(ModelFileError, match="64 × 64 × 8 as in tiny"):
        check_fit(check_adapter(write(tmp_path, bad.adapter())), many)


def test_norms_are_ignored_as_llama_cpp_does(tmp_path: Path) -> None:
    found = check_adapter(write(tmp_path, bad.adapter((*bad.GOOD, (bad.NORM, (64,), F32)))))
    assert found.ignored == (bad.NORM,)
    assert list(found.pairs) == [bad.QUERY]
    assert describe_adapter(found)["ignored"] == [bad.NORM]


def test_a_scale_may_be_missing(tmp_path: Path) -> None:
    found = check_adapter(write(tmp_path, bad.adapter(keys={"adapter.lora.alpha": None})))
    assert found.alpha == 0.0
    assert describe_adapter(found)["alpha"] is None


def test_what_is_no_adapter(tmp_path: Path, model: Header) -> None:
    assert not is_adapter(model.path)
    assert not is_adapter(tmp_path / "missing.gguf")
    assert not is_adapter(write(tmp_path, b"GGUF"))
    with pytest.raises(ModelFileError, match="no such file"):
        check_adapter(tmp_path / "missing.gguf")


def test_a_model_is_asked_for_and_an_adapter_comes(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="expected a model, got a LoRA adapter"):
        check(write(tmp_path, bad.adapter()))


@given(st.data())
def test_damaged_adapters_are_refused_or_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Bytes changed at random: a ModelFileError or a header, never another error."""
    good = bytearray(bad.adapter())
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    path = write(tmp_path_factory.getbasetemp(), bytes(good))
    try:
        check_adapter(path)
    except ModelFileError as error:
        refused(error, path.parent)


def test_the_gguf_package_reads_what_we_call_good(tmp_path: Path) -> None:
    """The cases are hand-made; another reader must find the good one sound."""
    names = [str(one.name) for one in gguf.GGUFReader(write(tmp_path, bad.adapter())).tensors]
    assert names == [f"{bad.QUERY}.lora_a", f"{bad.QUERY}.lora_b"]
