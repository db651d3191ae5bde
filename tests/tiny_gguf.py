"""Tiny random llama models for tests, written with the gguf package in well under 0.1 s; nothing is downloaded.

A byte-level vocabulary: 256 bytes, merges of two letters, unused fillers, then ``<|user|> <|assistant|> <|end|>`` as
the last three of ``n_vocab``, then padding rows. Weights are normal and scaled so that the logits' standard deviation
is about ``scale``; one seed gives one file, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase

import gguf
import numpy as np
import numpy.typing as npt

from tests.bad_gguf import bad_headers

__all__ = [
    "CHAT_TEMPLATE", "CONTROLS", "bad_headers", "byte_characters", "gpt2_texts", "spm_texts", "write_family",
    "write_model",
]  # fmt: skip  # reads across

Floats = npt.NDArray[np.float32]

CONTROLS = ("<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPM_CONTROLS = ("<unk>", "<s>", "</s>")
_TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}


def byte_characters() -> list[str]:
    """The printable character that GPT-2's tokenizer writes for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) if byte in plain else chr(256 + hidden.index(byte)) for byte in range(256)]


def _merges() -> Iterator[tuple[str, str]]:
    """Pairs of characters to merge: a space before a letter, then two letters."""
    space = byte_characters()[32]
    yield from ((space, letter) for letter in ascii_lowercase)
    yield from product(ascii_lowercase, repeat=2)


def gpt2_texts(n_vocab: int = 512) -> list[str]:
    """Token texts of a byte-level vocabulary of n_vocab >= 259; the control tokens are the last three."""
    n_more = n_vocab - 256 - len(CONTROLS)
    assert n_more >= 0, f"n_vocab: expected at least 259, got {n_vocab}"
    merged = [left + right for left, right in islice(_merges(), n_more)]
    return byte_characters() + merged + [f"[UNUSED{i}]" for i in range(n_more - len(merged))] + list(CONTROLS)


def spm_texts(n_vocab: int = 512) -> list[str]:
    """Token texts of a SentencePiece vocabulary of n_vocab >= 262; the control tokens are the last three."""
    n_more = n_vocab - 256 - len(SPM_CONTROLS) - len(CONTROLS)
    assert n_more >= 0, f"n_vocab: expected at least 262, got {n_vocab}"
    letters = ["▁", *ascii_lowercase, *("▁" + letter for letter in ascii_lowercase)]
    letters += ["".join(pair) for pair in product(ascii_lowercase, repeat=2)]
    more = letters[:n_more] + [f"[UNUSED{i}]" for i in range(n_more - len(letters[:n_more]))]
    return [*SPM_CONTROLS, *(f"<0x{byte:02X}>" for byte in range(256)), *more, *CONTROLS]


def _token_types(texts: Sequence[str]) -> list[gguf.TokenType]:
    """llama.cpp's type of each token."""
    kinds = {
        **dict.fromkeys(("<s>", "</s>", *CONTROLS), gguf.TokenType.CONTROL),
        **{f"<0x{byte:02X}>": gguf.TokenType.BYTE for byte in range(256)},
        "<unk>": gguf.TokenType.UNKNOWN,
    }
    unused = ("[UNUSED", "[PAD")
    default = {True: gguf.TokenType.UNUSED, False: gguf.TokenType.NORMAL}
    return [kinds.get(text, default[text.startswith(unused)]) for text in texts]


def _write_vocabulary(writer: gguf.GGUFWriter, texts: Sequence[str], tokenizer: str, ids: dict[str, int]) -> None:
    """Tokens, their types, merges or scores, special ids."""
    writer.add_tokenizer_model(tokenizer)
    writer.add_token_list(list(texts))
    writer.add_token_types(_token_types(texts))
    if tokenizer == "gpt2":
        writer.add_tokenizer_pre("gpt-2")
        known = set(texts)
        # The gguf package writes no empty array, hence one merge that leads nowhere.
        writer.add_token_merges([f"{a} {b}" for a, b in _merges() if a + b in known] or ["a b"])
    else:
        writer.add_token_scores([-float(i) for i in range(len(texts))])
    writer.add_bos_token_id(ids["bos"])
    writer.add_eos_token_id(ids["eos"])
    writer.add_eot_token_id(ids["eot"])
    writer.add_add_bos_token(tokenizer != "gpt2")
    writer.add_add_eos_token(False)


def _matrices(n_vocab: int, n_embd: int, n_layers: int, n_kv: int, n_ff: int) -> Iterator[tuple[str, int, int]]:
    """(name, rows, columns) of every matrix of a llama model."""
    yield "token_embd", n_vocab, n_embd
    for i in range(n_layers):
        yield f"blk.{i}.attn_q", n_embd, n_embd
        yield f"blk.{i}.attn_k", n_kv, n_embd
        yield f"blk.{i}.attn_v", n_kv, n_embd
        yield f"blk.{i}.attn_output", n_embd, n_embd
        yield f"blk.{i}.ffn_gate", n_ff, n_embd
        yield f"blk.{i}.ffn_up", n_ff, n_embd
        yield f"blk.{i}.ffn_down", n_embd, n_ff
    yield "output", n_vocab, n_embd


def _weights(seed: int, noise: float, noise_seed: int, scale: float) -> Callable[[str, int, int], Floats]:
    """A drawer of matrices; noise is relative to a matrix's own standard deviation."""
    draw, disturb = np.random.default_rng(seed), np.random.default_rng(noise_seed)

    def matrix(name: str, rows: int, columns: int) -> Floats:
        values = draw.standard_normal((rows, columns), dtype=np.float32)  # [rows, columns] float32
        if noise:
            values += np.float32(noise) * disturb.standard_normal((rows, columns), dtype=np.float32)
        gain = 1.0 if name == "token_embd" else scale if name == "output" else 1.0
        return values * np.float32(gain if name == "token_embd" else gain / np.sqrt(columns))

    return matrix


def write_model(
    path: Path,
    *,
    seed: int,
    n_vocab: int = 512,
    n_embd: int = 64,
    n_layers: int = 2,
    n_heads: int = 4,
    n_kv_heads: int | None = None,
    n_ff: int = 128,
    n_ctx: int = 256,
    dtype: str = "f32",
    texts: Sequence[str] | None = None,
    chat_template: str | None = None,
    bos: int | None = None,
    eos: int | None = None,
    eot: int | None = None,
    scale: float = 3.0,
    tokenizer: str = "gpt2",
    n_pad: int = 0,
    noise: float = 0.0,
    noise_seed: int = 1,
    name: str = "tiny",
) -> Path:
    """Write a model that llama.cpp loads and decodes; equal arguments give equal bytes.

    Args:
        texts: token texts in place of the generated ones, padding included; their number is the vocabulary's size.
        tokenizer: "gpt2" (byte-level merges) or "llama" (SentencePiece with byte tokens).
        n_pad: rows ``[PAD i]`` after the vocabulary.
        noise: added to each weight, relative to its matrix's standard deviation, drawn from noise_seed.
        scale: standard deviation of the logits, about.
    """
    generated = gpt2_texts(n_vocab) if tokenizer == "gpt2" else spm_texts(n_vocab)
    all_texts = list(texts) if texts is not None else generated + [f"[PAD{i}]" for i in range(n_pad)]
    end = all_texts.index("<|end|>") if "<|end|>" in all_texts else len(all_texts) - 1
    start = end if tokenizer == "gpt2" else 1
    ids = {"bos": start if bos is None else bos, "eos": end if eos is None else eos, "eot": end if eot is None else eot}
    kv_heads = n_heads if n_kv_heads is None else n_kv_heads
    tensor_type, file_type = _TYPES[dtype]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layers)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(n_embd // n_heads)
    _write_vocabulary(writer, all_texts, tokenizer, ids)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    matrix = _weights(seed, noise, noise_seed, scale)
    for tensor, rows, columns in _matrices(len(all_texts), n_embd, n_layers, kv_heads * n_embd // n_heads, n_ff):
        values = matrix(tensor, rows, columns)
        writer.add_tensor(f"{tensor}.weight", gguf.quantize(values, tensor_type), raw_dtype=tensor_type)
    norms = ["output_norm", *(f"blk.{i}.{kind}_norm" for i in range(n_layers) for kind in ("attn", "ffn"))]
    for norm in norms:
        writer.add_tensor(f"{norm}.weight", np.ones(n_embd, dtype=np.float32))  # [n_embd] float32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_family(
    folder: Path,
    *,
    seed: int,
    n_vocab: int = 512,
    n_ctx: int = 256,
    dtype: str = "f32",
    noise: float = 0.1,
    tokenizer: str = "gpt2",
    base_n_pad: int = 0,
    base_text: tuple[int, str] | None = None,
    base_eos: int | None = None,
    base_tokenizer: str | None = None,
) -> dict[str, Path]:
    """Write base, tuned and reference with one vocabulary, the base larger; tuned is reference plus noise.

    Only the base can be made to differ: padding rows, one token's text as (id, text), the end id, the vocabulary type.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base_type = tokenizer if base_tokenizer is None else base_tokenizer
    texts = gpt2_texts(n_vocab) if base_type == "gpt2" else spm_texts(n_vocab)
    texts += [f"[PAD{i}]" for i in range(base_n_pad)]
    if base_text is not None:
        texts[base_text[0]] = base_text[1]
    return {
        "base": write_model(
            folder / "base.gguf", seed=seed + 1, n_embd=96, n_layers=3, n_ff=192, dtype=dtype, texts=texts,
            eos=base_eos, tokenizer=base_type, n_vocab=n_vocab, n_ctx=n_ctx, name="tiny base",
        ),
        "tuned": write_model(
            folder / "tuned.gguf", seed=seed, dtype=dtype, tokenizer=tokenizer, noise=noise, noise_seed=seed + 2,
            chat_template=CHAT_TEMPLATE, n_vocab=n_vocab, n_ctx=n_ctx, name="tiny tuned",
        ),
        "reference": write_model(
            folder / "reference.gguf", seed=seed, dtype=dtype, tokenizer=tokenizer, n_vocab=n_vocab, n_ctx=n_ctx,
            name="tiny reference",
        ),
    }  # fmt: skip  # one member a paragraph
