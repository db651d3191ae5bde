"""Texts: what is taken for one, conversations, and chunks as llama-perplexity cuts them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlite.errors import InputError, TemplateError
from eftlite.llama import Model
from eftlite_quantize.texts import begun, chat_tokens, chunks, first_scored, scored, text_tokens
from tests.quantize.perplexity import positions
from tests.tiny_gguf import CHAT_TEMPLATE, write_model

TALK = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A model whose texts begin with nothing."""
    path = write_model(tmp_path_factory.mktemp("m") / "m.gguf", seed=1, chat_template=CHAT_TEMPLATE)
    model = Model(path)
    yield model
    model.close()


@pytest.fixture(scope="module")
def bos_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A model whose texts begin with BOS."""
    model = Model(write_model(tmp_path_factory.mktemp("b") / "b.gguf", seed=1, tokenizer="llama"))
    yield model
    model.close()


# ---- chunks


@given(st.lists(st.integers(0, 99), min_size=32, max_size=150), st.integers(8, 16), st.booleans())
def test_chunks_are_llama_perplexitys(tokens: list[int], n_ctx: int, add_bos: bool) -> None:
    cut = chunks(tokens, n_ctx, add_bos, 77)
    first = first_scored(n_ctx)
    found = [(ids[: k + 1].tolist(), int(ids[k + 1])) for ids in cut for k in range(first, n_ctx - 1)]
    assert found == positions(tokens, n_ctx, add_bos, 77)
    assert len(found) == len(cut) * scored(n_ctx)


def test_fewer_chunks_are_the_first_ones() -> None:
    cut = chunks(range(100), 10, n_chunks=3)
    assert cut.tolist() == [list(range(10)), list(range(10, 20)), list(range(20, 30))]
    assert len(chunks(range(100), 10, n_chunks=99)) == 10


def test_bos_replaces_a_token_and_leaves_the_text_alone() -> None:
    plain = chunks(range(20), 10)
    assert begun(plain, True, 5)[:, 0].tolist() == [5, 5]
    assert begun(plain, False, 5) is plain
    assert plain[:, 0].tolist() == [0, 10]


def test_short_texts_are_refused() -> None:
    assert len(chunks(range(20), 10)) == 2
    with pytest.raises(InputError, match="at least 20 tokens for a context of 10, got 19"):
        chunks(range(19), 10)
    with pytest.raises(InputError, match="at least 8 tokens, got 7"):
        chunks(range(100), 7)


# ---- files


def test_text_is_tokenized_as_it_is(model: Model, tmp_path: Path) -> None:
    """One final line feed is dropped, as llama-perplexity does; control tokens that are spelled out are words."""
    text = "a line\r\nand ünother <|end|>\n"
    (tmp_path / "t").write_bytes((text + "\n").encode())
    found = text_tokens(model, tmp_path / "t")
    assert found.dtype == np.int32
    assert model.detokenize(found.tolist()).decode() == text
    assert model.tokenize(b"<|end|>", special=True)[0] not in found


def test_text_begins_with_bos(bos_model: Model, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("hello")
    found = text_tokens(bos_model, tmp_path / "t").tolist()
    assert found[0] == bos_model.bos
    assert found.count(bos_model.bos) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"abc\xff\xfe", "byte 3 that is none"), (b"GGUF\x03\0\0\0", "a NUL at character 5"), (b"\x89PNG", "byte 0")],
)
def test_what_is_no_text_is_refused(model: Model, tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "t.bin").write_bytes(data)
    with pytest.raises(InputError, match=message) as found:
        text_tokens(model, tmp_path / "t.bin")
    assert str(tmp_path) not in str(found.value)


def test_missing_files_and_folders_are_refused(model: Model, tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            text_tokens(model, path)


def test_conversations_in_all_forms(model: Model, tmp_path: Path) -> None:
    """Lines of lists or of objects, one list of either: the same tokens."""
    talks = [TALK, TALK[:1]]
    forms = [
        "\n".join(json.dumps(talk) for talk in talks) + "\n\n",
        "\n".join(json.dumps({"id": 1, "messages": talk}) for talk in talks),
        json.dumps(talks, indent=1),
        json.dumps([{"messages": talk} for talk in talks]),
    ]
    rendered = "<|user|>hello<|end|><|assistant|>good day<|end|><|user|>hello<|end|>"
    expected = model.tokenize(rendered.encode(), special=True)
    for form in forms:
        (tmp_path / "c").write_text(form)
        assert chat_tokens(model, tmp_path / "c").tolist() == expected


def test_one_conversation_may_take_several_lines(model: Model, tmp_path: Path) -> None:
    expected = model.tokenize(b"<|user|>hello<|end|><|assistant|>good day<|end|>", special=True)
    for form in (json.dumps(TALK, indent=1), json.dumps({"messages": TALK}, indent=1), json.dumps(TALK)):
        (tmp_path / "c").write_text(form)
        assert chat_tokens(model, tmp_path / "c").tolist() == expected


def test_a_model_without_a_template_gets_chatml(bos_model: Model, tmp_path: Path) -> None:
    (tmp_path / "c").write_text(json.dumps([TALK]))
    found = chat_tokens(bos_model, tmp_path / "c").tolist()
    assert found[0] == bos_model.bos
    assert b"<|im_start|>user\nhello<|im_end|>" in bos_model.detokenize(found)


def test_a_template_that_writes_bos_gets_no_second_one(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", seed=1, tokenizer="llama", chat_template="{{ bos_token }}" + CHAT_TEMPLATE)
    model = Model(path)
    (tmp_path / "c").write_text(json.dumps([TALK] * 3))
    assert chat_tokens(model, tmp_path / "c").tolist().count(model.bos) == 3
    model.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello there", "line 1: expected JSON"),
        (json.dumps(TALK) + "\n{broken", "line 2: expected JSON"),
        ("7", "c: expected a conversation"),
        ('{"text": "x"}', "c: expected a conversation"),
        (json.dumps(TALK) + "\n7", "line 2: expected a conversation"),
        (json.dumps([TALK, 5]), r"c\[1\]: expected a conversation"),
        (json.dumps([TALK, [{"role": "fool", "content": ""}]]), r"c\[1\]: .*role: expected one of"),
        (json.dumps([TALK, []]), r"c\[1\]: messages: expected a list of at least one"),
    ],
)
def test_what_is_no_conversation_is_refused(model: Model, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c").write_text(text)
    with pytest.raises(InputError, match=message):
        chat_tokens(model, tmp_path / "c")


def test_a_template_that_refuses_says_which_conversation(tmp_path: Path) -> None:
    template = "{{ raise_exception('no talk') }}"
    model = Model(write_model(tmp_path / "m.gguf", seed=1, chat_template=template))
    (tmp_path / "c").write_text(json.dumps(TALK))
    with pytest.raises(TemplateError, match=r"^c: .*no talk"):
        chat_tokens(model, tmp_path / "c")
    model.close()


def test_no_conversations_are_no_tokens(model: Model, tmp_path: Path) -> None:
    (tmp_path / "c").write_text("\n")
    assert chat_tokens(model, tmp_path / "c").size == 0
