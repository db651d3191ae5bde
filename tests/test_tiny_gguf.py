from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlite.gguf import check, describe, token_texts
from tests.bad_gguf import bad_headers
from tests.tiny_gguf import CHAT_TEMPLATE, CONTROLS, byte_characters, gpt2_texts, spm_texts, write_family, write_model

TEXT = "Héllo wörld 🙂\n\ttab  <|user|>hi<|assistant|>you<|end|>"


class Loaded:
    """A model in llama.cpp, through its C functions alone."""

    def __init__(self, path: Path) -> None:
        params = llama_cpp.llama_model_default_params()
        params.use_extra_bufts = False  # some compilers break ggml's AMX kernels; these tests are about files
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        assert self.model, f"llama.cpp refuses {path.name}"
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = 128
        settings.n_threads = settings.n_threads_batch = 1
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)

    def tokenize(self, text: str) -> list[int]:
        data = text.encode("utf-8", "surrogatepass")
        room = len(data) + 8
        ids = (llama_cpp.llama_token * room)()
        n = llama_cpp.llama_tokenize(self.vocab, data, len(data), ids, room, False, True)
        return list(ids[:n])

    def detokenize(self, ids: list[int]) -> str:
        array = (llama_cpp.llama_token * max(len(ids), 1))(*ids)
        buffer = ctypes.create_string_buffer(64 * (len(ids) + 1))
        n = llama_cpp.llama_detokenize(self.vocab, array, len(ids), buffer, len(buffer), False, True)
        return buffer.raw[:n].decode()

    def logprobs(self, ids: list[int]) -> npt.NDArray[np.float64]:
        """Log-probabilities after the ids, [n_vocab] float64."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        array = (llama_cpp.llama_token * len(ids))(*ids)
        assert llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(array, len(ids))) == 0
        n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)
        row = llama_cpp.llama_get_logits_ith(self.context, -1)
        logits = np.ctypeslib.as_array(row, (n_vocab,)).astype(np.float64)
        assert np.isfinite(logits).all()
        return np.asarray(logits - np.logaddexp.reduce(logits))


@contextmanager
def loaded(path: Path) -> Iterator[Loaded]:
    """Load, and free in the end."""
    model = Loaded(path)
    try:
        yield model
    finally:
        llama_cpp.llama_free(model.context)
        llama_cpp.llama_model_free(model.model)


@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("tokenizer", ["gpt2", "llama"])
def test_llama_cpp_decodes_every_kind(tmp_path: Path, dtype: str, tokenizer: str) -> None:
    path = write_model(tmp_path / "model.gguf", seed=1, dtype=dtype, tokenizer=tokenizer, n_kv_heads=2)
    assert describe(check(path))["quantization"] == dtype.upper()
    with loaded(path) as model:
        ids = model.tokenize(TEXT)
        # SentencePiece puts spaces before the text and after control tokens.
        assert model.detokenize(ids).replace(" ", "") == TEXT.replace(" ", "")
        logprobs = model.logprobs(ids)
    assert logprobs.shape == (512,)
    assert 1.5 < logprobs.std() < 6, "scale=3 is the standard deviation of the logits, about"


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    with loaded(write_model(tmp_path_factory.mktemp("gpt2") / "model.gguf", seed=1)) as model:
        yield model


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60))
def test_any_text_is_tokenized_and_comes_back(gpt2: Loaded, text: str) -> None:
    assert gpt2.detokenize(gpt2.tokenize(text)) == text


def test_control_tokens_are_single_and_merges_apply(gpt2: Loaded) -> None:
    texts = gpt2_texts(512)
    assert [gpt2.tokenize(text) for text in CONTROLS] == [[509], [510], [511]]
    assert gpt2.tokenize(" b") == [texts.index("Ġb")]
    assert llama_cpp.llama_vocab_is_eog(gpt2.vocab, 511)
    assert llama_cpp.llama_vocab_eos(gpt2.vocab) == 511


def test_byte_characters_are_those_of_gpt2() -> None:
    characters = byte_characters()
    assert len(set(characters)) == 256
    assert (characters[32], characters[10], characters[65], characters[0xAD]) == ("Ġ", "Ċ", "A", "Ń")


@pytest.mark.parametrize("make", [gpt2_texts, spm_texts])
def test_texts_are_different_at_every_size(make: object) -> None:
    assert callable(make)
    for n in (262, 300, 512, 2000):
        texts = make(n)
        assert len(set(texts)) == len(texts) == n
        assert tuple(texts[-3:]) == CONTROLS


def test_one_seed_gives_one_file(tmp_path: Path) -> None:
    first, again, other = (
        write_model(tmp_path / f"{i}.gguf", seed=seed, noise=0.1).read_bytes() for i, seed in enumerate((1, 1, 2))
    )
    assert first == again != other


def test_a_model_is_written_fast(tmp_path: Path) -> None:
    def seconds() -> float:
        start = time.process_time()
        write_model(tmp_path / "model.gguf", seed=1)
        return time.process_time() - start

    assert min(seconds() for _ in range(3)) < 0.1


def divergence(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    """Total variation of two rows of log-probabilities."""
    return float(np.abs(np.exp(p) - np.exp(q)).sum() / 2)


def test_a_familys_tune_is_near_its_reference(tmp_path: Path) -> None:
    family = write_family(tmp_path, seed=5)
    headers = {role: check(path) for role, path in family.items()}
    assert len({tuple(token_texts(header)) for header in headers.values()}) == 1
    assert headers["base"].n_params > headers["reference"].n_params == headers["tuned"].n_params
    assert headers["tuned"].chat_template == CHAT_TEMPLATE
    rows = {}
    for role, path in family.items():
        with loaded(path) as model:
            rows[role] = model.logprobs(model.tokenize(TEXT))
    near, far = divergence(rows["tuned"], rows["reference"]), divergence(rows["base"], rows["reference"])
    assert 0.01 < near < 0.5 < far


def test_a_familys_base_can_differ_in_each_way(tmp_path: Path) -> None:
    padded = check(write_family(tmp_path / "pad", seed=5, base_n_pad=8)["base"])
    assert padded.n_vocab == 520
    assert token_texts(padded)[512:] == [f"[PAD{i}]" for i in range(8)]
    assert token_texts(padded)[:512] == gpt2_texts(512)
    changed = token_texts(check(write_family(tmp_path / "text", seed=5, base_text=(300, "other"))["base"]))
    assert [i for i, pair in enumerate(zip(changed, gpt2_texts(512), strict=True)) if len(set(pair)) > 1] == [300]
    special = check(write_family(tmp_path / "eos", seed=5, base_eos=7)["base"])
    assert special.metadata["tokenizer.ggml.eos_token_id"] == 7
    family = write_family(tmp_path / "type", seed=5, base_tokenizer="llama")
    kinds = {role: check(path).metadata["tokenizer.ggml.model"] for role, path in family.items()}
    assert kinds == {"base": "llama", "tuned": "gpt2", "reference": "gpt2"}
    for path in tmp_path.glob("*/base.gguf"):
        with loaded(path) as model:
            model.logprobs([5, 6])


def test_bad_headers_are_many_and_different() -> None:
    headers = dict(bad_headers())
    assert len(set(headers.values())) == len(headers) >= 40
