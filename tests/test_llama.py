"""Weights and vocabulary of one file, and the library: its version, log, devices."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from eftlite import llama
from eftlite.errors import EFTError, EngineError, InputError, MemoryLimitError, ModelFileError
from eftlite.llama import Model
from eftlite.settings import ModelSettings
from tests.tiny_gguf import CHAT_TEMPLATE, write_model

TEXT = "Héllo wörld 🙂\n\ttab <|user|>hi<|end|>"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with padding rows and a chat template."""
    folder = tmp_path_factory.mktemp("llama")
    return write_model(folder / "m.gguf", seed=1, n_pad=3, chat_template=CHAT_TEMPLATE, name="tiny")


@pytest.fixture(scope="module")
def model(file: Path) -> Iterator[Model]:
    """It, loaded."""
    made = Model(file, ModelSettings(n_threads=1), "tiny")
    yield made
    made.close()


# ---- what it is


def test_what_a_model_says_of_itself(model: Model, file: Path) -> None:
    assert model.name == "tiny"
    assert model.n_vocab == 515
    assert model.n_ctx_train == 256
    assert model.n_params == model.header.n_params
    assert model.n_bytes <= file.stat().st_size
    assert "F32" in model.description
    assert model.chat_template == CHAT_TEMPLATE
    assert not model.is_recurrent


def test_a_file_without_a_template_has_none(tmp_path: Path) -> None:
    model = Model(write_model(tmp_path / "m.gguf", seed=1))
    assert model.chat_template is None
    model.close()


def test_the_vocabulary_for_the_proof(model: Model) -> None:
    vocabulary = model.vocabulary()
    assert vocabulary.name == "tiny"
    assert vocabulary.kind == "bpe"
    assert len(vocabulary.texts) == 515
    assert vocabulary.texts[509:512] == (b"<|user|>", b"<|assistant|>", b"<|end|>")
    assert vocabulary.control.nonzero()[0].tolist() == [509, 510, 511]
    assert vocabulary.unused.nonzero()[0].tolist() == [512, 513, 514]
    assert vocabulary.ends() == {511}
    assert not vocabulary.add_bos


def test_a_sentencepiece_vocabulary(tmp_path: Path) -> None:
    model = Model(write_model(tmp_path / "m.gguf", seed=1, tokenizer="llama"))
    vocabulary = model.vocabulary()
    assert vocabulary.kind == "spm"
    assert vocabulary.add_bos
    assert vocabulary.bos == model.bos == 1
    assert model.tokenize(b"a")[0] == 1
    assert model.detokenize(model.tokenize("Héllo 🙂".encode(), add_bos=False)).decode() == " Héllo 🙂"
    model.close()


# ---- tokens


@pytest.mark.parametrize("special", [True, False])
def test_text_comes_back_from_tokens(model: Model, special: bool) -> None:
    ids = model.tokenize(TEXT.encode(), special=special)
    assert model.detokenize(ids, special=special).decode() == TEXT
    assert (509 in ids) == special


def test_control_tokens_have_no_bytes_unless_asked_for(model: Model) -> None:
    assert model.piece(509) == b""
    assert model.piece(509, special=True) == b"<|user|>"
    assert len(model.piece(200)) == 1  # a byte that is no character by itself


def test_a_piece_longer_than_the_first_buffer(tmp_path: Path) -> None:
    long = "x" * 200
    texts = [*(chr(c) for c in range(33, 127)), long, "<|end|>"]
    model = Model(write_model(tmp_path / "m.gguf", seed=1, texts=texts))
    assert model.piece(texts.index(long)) == long.encode()
    model.close()


def test_as_many_tokens_as_bytes(model: Model) -> None:
    text = "🙂" * 500
    ids = model.tokenize(text.encode())
    assert len(ids) == 2000
    assert model.detokenize(ids).decode() == text


@pytest.mark.parametrize("token", [-1, 515, 1 << 30])
def test_ids_outside_the_vocabulary_are_refused(model: Model, token: int) -> None:
    """llama.cpp throws across the C border, which ends the process."""
    with pytest.raises(InputError, match=f"expected an id from 0 to 514, got {token}"):
        model.detokenize([65, token])


def test_an_empty_text_has_no_tokens(model: Model) -> None:
    assert model.tokenize(b"") == []


# ---- loading


def test_progress_is_reported_and_its_answer_ignored(file: Path) -> None:
    seen: list[float] = []

    def progress(done: float) -> Any:
        seen.append(done)
        return False  # in llama.cpp's own callback this would end the loading

    Model(file, name="tiny", progress=progress).close()
    assert seen[-1] == 1.0
    assert seen == sorted(seen)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"<html></html>" * 40])
def test_what_is_no_model_is_refused_before_llama_cpp_sees_it(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "llama_model_load_from_file", lambda *_: pytest.fail("llama.cpp opened it"))
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"bad\.gguf"):
        Model(path)
    with pytest.raises(ModelFileError, match=r"missing\.gguf"):
        Model(tmp_path / "missing.gguf")


def test_llama_cpps_reason_is_given_when_it_refuses(file: Path, tmp_path: Path) -> None:
    """A header that is sound, of an architecture that this llama.cpp does not know."""
    data = file.read_bytes()
    assert data.count(b"\x05\0\0\0\0\0\0\0llama") == 1
    bad = tmp_path / "strange.gguf"
    bad.write_bytes(data.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lxama", 1))
    with pytest.raises(ModelFileError, match=r"strange\.gguf") as caught:
        Model(bad)
    assert "lxama" in caught.value.message


def test_settings_reach_llama_cpp(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    real = llama_cpp.llama_model_load_from_file

    def watch(path: bytes, params: llama_cpp.llama_model_params) -> object:
        names = ("n_gpu_layers", "main_gpu", "split_mode", "load_mode")
        seen.update({name: getattr(params, name) for name in names}, split=params.tensor_split[:2])
        return real(path, params)

    monkeypatch.setattr(llama_cpp, "llama_model_load_from_file", watch)
    settings = ModelSettings(n_gpu_layers=3, main_gpu=0, split_mode="row", tensor_split=(0.25, 0.75), use_mmap=False)
    Model(file, settings).close()
    assert seen == {"n_gpu_layers": 3, "main_gpu": 0, "split_mode": 2, "load_mode": 0, "split": [0.25, 0.75]}


def test_a_path_that_is_not_ascii(tmp_path: Path, file: Path) -> None:
    path = tmp_path / "modèle 🙂.gguf"
    path.write_bytes(file.read_bytes())
    Model(os.fspath(path)).close()


def test_a_closed_model_says_so(file: Path) -> None:
    """llama.cpp would crash."""
    model = Model(file, name="tiny")
    model.close()
    model.close()
    for use in (
        lambda: model.handle,
        lambda: model.vocab,
        lambda: model.description,
        lambda: model.n_bytes,
        lambda: model.chat_template,
        lambda: model.tokenize(b"a"),
        lambda: model.piece(7),
        model.vocabulary,
    ):
        with pytest.raises(EngineError, match="tiny: expected an open model"):
            use()


# ---- the library


def test_another_version_of_the_binding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "BINDING_VERSION", "0.2.99")
    with pytest.raises(EngineError, match=r"expected 0\.3\.\d+.*got 0\.2\.99") as caught:
        llama._Library().open()
    assert f"llama-cpp-python=={llama.SUPPORTED[-1]}" in caught.value.hint


def test_the_log_has_levels_and_keeps_the_last_complaint(caplog: pytest.LogCaptureFixture) -> None:
    library = llama._Library()
    assert library.last_error() == "llama.cpp gave no reason"
    with caplog.at_level(logging.DEBUG, "eftlite.llama"):
        library._take(2, b"all is well\n", None)
        library._take(4, b"it broke", None)
        library._take(5, b" in two\n", None)
        library._take(2, b"......\n", None)
    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("INFO", "all is well"), ("ERROR", "it broke"), ("ERROR", " in two"),
    ]  # fmt: skip
    assert "in two" in library.last_error()


def test_llama_cpp_prints_nothing_by_itself(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Model(file).close()
    assert capfd.readouterr() == ("", "")


def test_showing_the_log_adds_one_handler() -> None:
    before, level = list(llama.log.handlers), llama.log.level
    try:
        llama.log_to_stderr()
        llama.log_to_stderr()
        assert len(llama.log.handlers) <= len(before) + 1
        assert llama.log.isEnabledFor(logging.DEBUG)
        added = [handler for handler in llama.log.handlers if handler not in before]
        assert any(type(handler) is logging.StreamHandler for handler in added)
    finally:
        llama.log.handlers[:] = before
        llama.log.setLevel(level)


def test_devices_and_the_build_are_known() -> None:
    found = llama.devices()
    assert found
    assert any(device["name"].startswith("CPU") for device in found)
    assert all(device["total_bytes"] >= 0 for device in found)
    assert "CPU" in llama.system_info()
    assert llama.supports_gpu() in {True, False}


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ("unable to allocate RPC0[10.0.0.7:50052] buffer", MemoryLimitError, "llama.cpp was unable to allocate RPC0["),
        ("missing tensor 'output_norm.weight'", ModelFileError, "cannot load this file: missing tensor 'output_norm"),
    ],
)
def test_why_a_model_was_not_loaded(
    said: str, error: type[EFTError], message: str, demo_family: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp's last line says only that it failed; a device without room is no fault of the file."""

    def refuse(*_: object) -> None:
        llama.library.lines.append(f"llama_model_load: error loading model: {said}")
        llama.library.lines.append("llama_model_load_from_file_impl: failed to load model")

    monkeypatch.setattr("llama_cpp.llama_model_load_from_file", refuse)
    with pytest.raises(error) as caught:
        Model(demo_family["base"])
    assert type(caught.value) is error
    assert message in caught.value.message
