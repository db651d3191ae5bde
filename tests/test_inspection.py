"""Files by their headers: the vocabulary as llama.cpp sees it, differences, memory, words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eftlite.errors import ModelFileError
from eftlite.gguf import check
from eftlite.inspection import cache_bytes, count, look, relate, size, summary, vocabulary
from eftlite.llama import Model
from tests.lora import write_adapter
from tests.tiny_gguf import CHAT_TEMPLATE, gpt2_texts, write_family, write_model


def assert_same_as_llama(path: Path) -> None:
    """The vocabulary read from the header equals the one of the loaded model."""
    with_llama = Model(path)
    theirs = with_llama.vocabulary()
    with_llama.close()
    ours = vocabulary(check(path), theirs.name)
    assert ours.texts == theirs.texts
    np.testing.assert_array_equal(ours.control, theirs.control)
    np.testing.assert_array_equal(ours.unused, theirs.unused)
    for field in ("kind", "bos", "eos", "eot", "add_bos", "eog"):
        assert getattr(ours, field) == getattr(theirs, field), field


@pytest.mark.parametrize("role", ["base", "tuned", "reference", "real", "refusing"])
def test_bundled_vocabulary_is_llamas(role: str, demo_family: dict[str, Path]) -> None:
    assert_same_as_llama(demo_family[role])


@pytest.mark.parametrize("tokenizer", ["gpt2", "llama"])
def test_tiny_vocabulary_is_llamas(tokenizer: str, tmp_path: Path) -> None:
    assert_same_as_llama(write_model(tmp_path / "m.gguf", seed=1, tokenizer=tokenizer, n_pad=16))


@pytest.mark.parametrize("text", ["<|im_end|>", "<end_of_turn>", "<｜end▁of▁sentence｜>", "<|file_sep|>", "[EOS]"])
def test_end_tokens_by_text_are_llamas(text: str, tmp_path: Path) -> None:
    texts = gpt2_texts(300)
    texts[290] = text
    assert_same_as_llama(write_model(tmp_path / "m.gguf", seed=1, texts=texts))


def test_family_shares_a_vocabulary(tmp_path: Path) -> None:
    files = write_family(tmp_path, seed=1, base_n_pad=8)
    relation = relate({name: check(path) for name, path in files.items()})
    found = relation.as_json()
    assert relation.error is None
    assert relation.shared is not None
    assert found["vocabulary_shared"] is True
    assert found["vocabulary"] == 512
    assert any("8 rows of padding" in note for note in relation.shared.notes)
    assert found["templates"] == {"base": "none", "tuned": "own", "reference": "none"}


def test_first_differing_token_is_named(tmp_path: Path) -> None:
    files = write_family(tmp_path, seed=1, base_text=(300, "foreign"))
    found = relate({name: check(path) for name, path in files.items()}).as_json()
    assert found["vocabulary_shared"] is False
    assert found["first_differing_id"] == 300
    assert isinstance(found["texts"], list)
    assert found["texts"][0] == "foreign"
    assert "token 300" in str(found["error"])


def test_tokenizers_of_two_kinds_do_not_go_together(tmp_path: Path) -> None:
    files = write_family(tmp_path, seed=1, base_tokenizer="llama")
    relation = relate({name: check(path) for name, path in files.items()})
    assert relation.error is not None
    assert "type" in relation.error.message


def test_equal_templates_are_recognised(tmp_path: Path) -> None:
    paths = {name: write_model(tmp_path / name, seed=1, chat_template=CHAT_TEMPLATE) for name in ("a", "b")}
    assert relate({name: check(path) for name, path in paths.items()}).templates == {"a": "own", "b": "as a"}


def test_cache_is_two_matrices_a_layer(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", seed=1, n_embd=64, n_heads=4, n_kv_heads=2, n_layers=3)
    assert cache_bytes(check(path), 100) == 2 * 3 * 2 * 16 * 100 * 2


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(5, "5 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (1 << 40, "1024.0 GiB")]
)
def test_sizes(n_bytes: int, text: str) -> None:
    assert size(n_bytes) == text


@pytest.mark.parametrize(("number", "text"), [(12, "12"), (135_000, "135 K"), (7_240_000_000, "7.24 B")])
def test_counts(number: int, text: str) -> None:
    assert count(number) == text


def test_summary_names_the_adapter(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", seed=1)
    line = summary(model, write_adapter(tmp_path / "lora.gguf", model, seed=2))
    assert line.endswith("context 256 · with lora.gguf: LoRA of rank 4, 8.7 K parameters")


def test_what_is_neither_model_nor_adapter(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(ModelFileError, match="expected"):
        look(path)


def test_summary_is_one_line(tmp_path: Path) -> None:
    line = summary(write_model(tmp_path / "m.gguf", seed=1, dtype="f16"))
    assert line.startswith("m.gguf · llama, ")
    assert "F16" in line
    assert line.endswith("context 256")
