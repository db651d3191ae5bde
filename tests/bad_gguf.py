"""GGUF headers made by hand, one good one and many with exactly one thing wrong, each with the words that name it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence

UINT8, UINT16, INT32, UINT32, FLOAT32, BOOL, STRING, ARRAY = 0, 2, 5, 4, 6, 7, 8, 9
F32, F16, Q4_0, I32 = 0, 1, 2, 26
_CODES = {UINT8: "B", UINT16: "H", INT32: "i", UINT32: "I", FLOAT32: "f", BOOL: "B"}
TOKENS = ("a", "b", "<|end|>")
N_EMBD = 32


def text(content: str | bytes) -> bytes:
    """A string as GGUF writes it."""
    data = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(data)) + data


def key(name: str | bytes, kind: int, value: float | str | bytes) -> bytes:
    """A key with its value; bytes are the value as it stands in the file."""
    if isinstance(value, str):
        value = text(value)
    elif not isinstance(value, bytes):
        value = struct.pack("<" + _CODES[kind], value)
    return text(name) + struct.pack("<I", kind) + value


def strings(name: str, values: Sequence[str], count: int | None = None) -> bytes:
    """A key with an array of strings that may lie about its length."""
    body = b"".join(map(text, values))
    return key(name, ARRAY, struct.pack("<IQ", STRING, len(values) if count is None else count) + body)


def numbers(name: str, kind: int, values: Sequence[float], count: int | None = None) -> bytes:
    """A key with an array of numbers that may lie about its length."""
    body = struct.pack(f"<{len(values)}{_CODES[kind]}", *values)
    return key(name, ARRAY, struct.pack("<IQ", kind, len(values) if count is None else count) + body)


def tensor(name: str, shape: Sequence[int], kind: int = F32, offset: int = 0, n_dims: int | None = None) -> bytes:
    """A tensor's description."""
    dims = len(shape) if n_dims is None else n_dims
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", dims, *shape, kind, offset)


GOOD_KEYS = {
    "general.architecture": key("general.architecture", STRING, "llama"),
    "llama.context_length": key("llama.context_length", UINT32, 64),
    "llama.embedding_length": key("llama.embedding_length", UINT32, N_EMBD),
    "llama.block_count": key("llama.block_count", UINT32, 2),
    "llama.feed_forward_length": key("llama.feed_forward_length", UINT32, 64),
    "llama.attention.head_count": key("llama.attention.head_count", UINT32, 4),
    "llama.attention.head_count_kv": key("llama.attention.head_count_kv", UINT32, 2),
    "llama.attention.layer_norm_rms_epsilon": key("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
    "tokenizer.ggml.model": key("tokenizer.ggml.model", STRING, "gpt2"),
    "tokenizer.ggml.pre": key("tokenizer.ggml.pre", STRING, "gpt-2"),
    "tokenizer.ggml.tokens": strings("tokenizer.ggml.tokens", TOKENS),
    "tokenizer.ggml.token_type": numbers("tokenizer.ggml.token_type", INT32, (1, 1, 3)),
    "tokenizer.ggml.merges": strings("tokenizer.ggml.merges", ("a b",)),
    "tokenizer.ggml.eos_token_id": key("tokenizer.ggml.eos_token_id", UINT32, 2),
}
_EMBEDDING = tensor("token_embd.weight", (N_EMBD, len(TOKENS)))
_NORM = tensor("output_norm.weight", (N_EMBD,), offset=N_EMBD * len(TOKENS) * 4)
GOOD_TENSORS = (_EMBEDDING, _NORM)
N_DATA = N_EMBD * (len(TOKENS) + 1) * 4


def header(
    keys: Mapping[str, bytes | None] | None = None,
    tensors: Sequence[bytes] = GOOD_TENSORS,
    *,
    start: bytes = b"GGUF\x03\0\0\0",
    n_tensors: int | None = None,
    n_keys: int | None = None,
    n_data: int = N_DATA,
    alignment: int = 32,
) -> bytes:
    """A file like the good one, with keys replaced, added or (None) left out, and counts that may lie."""
    entries = [entry for entry in {**GOOD_KEYS, **(keys or {})}.values() if entry is not None]
    counts = struct.pack(
        "<QQ", len(tensors) if n_tensors is None else n_tensors, len(entries) if n_keys is None else n_keys
    )
    head = start + counts + b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + bytes(n_data)


def _changed(name: str, kind: int, value: float | str | bytes) -> bytes:
    """The good file with one key changed or added."""
    return header({name: key(name, kind, value)})


def _first(shape: Sequence[int], kind: int = F32, name: str = "token_embd.weight", n_dims: int | None = None) -> bytes:
    """The good file with another first tensor."""
    return header(tensors=(tensor(name, shape, kind, n_dims=n_dims), _NORM))


def _unaligned() -> bytes:
    """The good file aligned to 8 bytes, with just the padding that puts its weights at no multiple of 32."""
    for n in range(1, 33):
        keys = {"general.alignment": key("general.alignment", UINT32, 8), "x": key("x" * n, UINT8, 0)}
        if len(header(keys, n_data=0, alignment=8)) % 32:
            break
    return header(keys, alignment=8)


def _of_architecture(name: str) -> bytes:
    """The good file of another architecture, which may want more."""
    sizes = ("block_count", "embedding_length", "context_length")
    keys = {f"{name}.{size}": key(f"{name}.{size}", UINT32, 8) for size in sizes}
    return header({"general.architecture": key("general.architecture", STRING, name), **keys})


def _bad_starts() -> Iterator[tuple[str, bytes, str]]:
    good = header()
    yield "magic", header(start=b"FOOO\x03\0\0\0"), "begins with 'FOOO"
    yield "magic_swapped", header(start=b"FUGG\0\0\0\x03"), "bytes swapped"
    yield "magic_only", good[:4], "the version"
    yield "cut_in_counts", good[:20], "number of keys"
    yield "version_0", header(start=b"GGUF\0\0\0\0"), "version 2 or 3, got 0"
    yield "version_1", header(start=b"GGUF\x01\0\0\0"), "version 2 or 3, got 1"
    yield "version_4", header(start=b"GGUF\x04\0\0\0"), "version 2 or 3, got 4"
    yield "big_endian", header(start=b"GGUF\0\0\0\x03"), "big-endian"
    yield "400000_tensors", header(n_tensors=400_000), "400,000"
    yield "tensors_negative", header(n_tensors=2**64 - 1), "at most 16,384 tensors"
    yield "400000_keys", header(n_keys=400_000), "400,000"
    yield "keys_negative", header(n_keys=2**63), "at most 65,536 keys"
    yield "one_key_too_many", header(n_keys=len(GOOD_KEYS) + 1), "got"
    yield "cut_in_keys", good[:300], "got"
    yield "cut_in_tensors", header(n_data=0)[:-60], "got"


def _bad_keys() -> Iterator[tuple[str, bytes, str]]:
    yield "key_length_huge", header({"x": struct.pack("<Q", 1 << 60)}), "at most 1,024 bytes"
    yield "key_empty", header({"x": key("", UINT8, 1)}), "an empty one"
    yield "key_not_utf8", header({"x": key(b"\xff\xfe", UINT8, 1)}), "in UTF-8"
    yield "key_twice", header({"x": GOOD_KEYS["llama.block_count"]}), "llama.block_count twice"
    yield "value_type_13", header({"x": text("x") + struct.pack("<I", 13)}), "got 13"
    yield "value_type_negative", header({"x": text("x") + struct.pack("<I", 2**32 - 1)}), "got 4294967295"
    yield "bool_2", _changed("x", BOOL, 2), "expected 0 or 1 for x, got 2"
    yield "string_past_end", _changed("x", STRING, struct.pack("<Q", 1 << 20)), "got"
    yield "string_huge", _changed("x", STRING, struct.pack("<Q", 2**64 - 1)), "at most 67,108,864 bytes"
    yield "array_of_arrays", _changed("x", ARRAY, struct.pack("<IQ", ARRAY, 1)), "an array of arrays"
    yield "array_of_type_99", _changed("x", ARRAY, struct.pack("<IQ", 99, 1)), "type 99"
    yield "array_huge", header({"x": numbers("x", UINT32, (1,), count=1 << 62)}), "got"
    yield "strings_huge", header({"x": strings("x", ("a",), count=1 << 40)}), "1,099,511,627,776 strings"
    yield "strings_past_end", header({"x": strings("x", ("a",), count=40)}), "got"
    yield "alignment_0", _changed("general.alignment", UINT32, 0), "power of two"
    yield "alignment_24", _changed("general.alignment", UINT32, 24), "power of two"
    yield "alignment_text", _changed("general.alignment", STRING, "32"), "to be uint32"


def _bad_tensors() -> Iterator[tuple[str, bytes, str]]:
    shape = (N_EMBD, len(TOKENS))
    yield "name_empty", _first(shape, name=""), "printable ASCII"
    yield "name_of_64_bytes", _first(shape, name="x" * 64), "at most 63 bytes, got 64"
    yield "name_with_control", _first(shape, name="token\x1b[2J"), "printable ASCII"
    yield "name_twice", header(tensors=(_EMBEDDING, tensor("token_embd.weight", (N_EMBD,), offset=384))), "twice"
    yield "dims_0", _first(()), "1 to 4 dimensions, got 0"
    yield "dims_5", _first((N_EMBD, 3, 1, 1, 1)), "1 to 4 dimensions, got 5"
    yield "dim_zero", _first((N_EMBD, 0)), "elements"
    yield "dim_negative", _first((N_EMBD, 2**64 - 1)), "elements"
    yield "dims_overflow", _first((2**32, 2**32)), "elements"
    yield "type_99", _first(shape, 99), "known tensor type"
    yield "type_removed", _first(shape, 4), "known tensor type"
    yield "row_no_multiple", _first((N_EMBD + 4, 3), Q4_0), "a multiple of 32"
    yield "offset_unaligned", header(tensors=(_EMBEDDING, tensor("b.weight", (N_EMBD,), offset=385))), "byte 385"
    yield "offset_gap", header(tensors=(_EMBEDDING, tensor("b.weight", (N_EMBD,), offset=512))), "byte 512"
    yield "offset_overlap", header(tensors=(_EMBEDDING, tensor("b.weight", (N_EMBD,), offset=0))), "byte 0"
    yield "weights_cut", header()[:-1], "for 2 tensors, got a file of"
    yield "weights_missing", header(n_data=0), "for 2 tensors, got a file of"
    yield "weights_of_another", header(n_data=N_DATA + (1 << 17)), "for 2 tensors, got a file of"
    yield "norm_in_f16", header(tensors=(_EMBEDDING, tensor("output_norm.weight", (N_EMBD,), F16, 384))), "in F32"
    yield "embedding_of_integers", _first(shape, I32), "got the type I32"
    yield "weights_unaligned", _unaligned(), "multiple of 32"


def _bad_models() -> Iterator[tuple[str, bytes, str]]:
    yield "no_architecture", header({"general.architecture": None}), "general.architecture"
    yield "architecture_number", _changed("general.architecture", UINT32, 7), "general.architecture"
    yield "adapter", _changed("general.type", STRING, "adapter"), "a LoRA adapter"
    for name in ("block_count", "embedding_length", "context_length"):
        yield f"no_{name}", header({f"llama.{name}": None}), f"llama.{name} to be an integer from 1"
        yield f"{name}_0", _changed(f"llama.{name}", UINT32, 0), "got 0"
    yield "feed_forward_length_0", _changed("llama.feed_forward_length", UINT32, 0), "got 0"
    yield "layers_513", _changed("llama.block_count", UINT32, 513), "from 1 to 512, got 513"
    yield "layers_text", _changed("llama.block_count", STRING, "2"), "to be an integer"
    yield "heads_0", _changed("llama.attention.head_count", UINT32, 0), "got 0"
    yield "heads_no_multiple", _changed("llama.attention.head_count_kv", UINT32, 3), "got 4 and 3"
    yield "heads_per_layer", header({"x": numbers("llama.attention.head_count_kv", UINT32, (2, 2, 2)),
                                     "llama.attention.head_count_kv": None}), "got 3 values"  # fmt: skip  # one file
    yield "head_lengths", _changed("llama.attention.value_length", UINT32, 16), "got 8, 16 and 8"
    yield "rope_odd", _changed("llama.rope.dimension_count", UINT32, 7), "even and at most 8"
    yield "rope_scaling", _changed("llama.rope.scaling.type", STRING, "wild"), "rope.scaling.type"
    yield "epsilon_nan", _changed("llama.attention.layer_norm_rms_epsilon", FLOAT32, float("nan")), "got nan"
    yield "epsilon_negative", _changed("llama.attention.layer_norm_rms_epsilon", FLOAT32, -1.0), "from 0 to 1, got -1"
    yield "nextn", _changed("llama.nextn_predict_layers", UINT32, 2), "nextn_predict_layers"
    yield "experts_2000", _changed("llama.expert_count", UINT32, 2_000), "from 0 to 1,024"
    yield "experts_missing", _of_architecture("llada-moe"), "llada-moe.expert_count to be an integer from 1"
    yield "sections_missing", _of_architecture("paddleocr"), "rope.dimension_sections"
    yield "not_causal", _changed("llama.attention.causal", BOOL, 0), "predicts the next token"
    yield "experts_unused", _changed("llama.expert_count", UINT32, 8), "expert_used_count from 1 to 8, got 0"
    yield "split_of_wrong_type", _changed("split.no", UINT32, 0), "split.no to be uint16"
    second = {"split.no": key("split.no", UINT16, 1), "split.count": key("split.count", UINT16, 3)}
    yield "split_second", header(second), "part 2 of 3"


def _bad_vocabularies() -> Iterator[tuple[str, bytes, str]]:
    tokens = "tokenizer.ggml.tokens"
    yield "no_tokenizer", header({"tokenizer.ggml.model": None}), "tokenizer.ggml.model"
    yield "tokenizer_with_nul", _changed("tokenizer.ggml.model", STRING, "llama\0"), "got 'llama\\x00'"
    yield "tokenizer_none", _changed("tokenizer.ggml.model", STRING, "none"), "got 'none'"
    yield "no_tokens", header({tokens: None}), "got none"
    yield "tokens_empty", header({tokens: strings(tokens, ())}), "got 0"
    yield "tokens_numbers", header({tokens: numbers(tokens, UINT32, (1, 2, 3))}), "an array of uint32"
    yield "tokens_single", _changed(tokens, STRING, "abc"), "a single value"
    yield "tokens_twice", header({tokens: strings(tokens, ("a", "b", "a"))}), "got 'a' as 0 and 2"
    yield "tokens_named_empty", header({tokens: strings(tokens, ("[EMPTY_1]", "", "c"))}), "as 0 and 1"
    yield "tokens_with_nul", header({tokens: strings(tokens, ("a", "a\0b", "c"))}), "got 'a' as 0 and 1"
    yield "tokens_rows", header({tokens: strings(tokens, ("a", "b")),
                                 "tokenizer.ggml.token_type": None}), "each of 2 tokens, got 3"  # fmt: skip  # one file
    types, scores = "tokenizer.ggml.token_type", "tokenizer.ggml.scores"
    yield "types_short", header({types: numbers(types, INT32, (1, 1))}), "of 3 tokens, got 2"
    yield "types_bytes", header({types: numbers(types, UINT8, (1, 1, 3))}), "to be an array of int32"
    yield "scores_long", header({scores: numbers(scores, FLOAT32, (0.0,) * 4)}), "of 3 tokens, got 4"
    yield "no_merges", header({"tokenizer.ggml.merges": None}), "tokenizer.ggml.merges"
    yield "eos_outside", _changed("tokenizer.ggml.eos_token_id", UINT32, 3), "from 0 to 2, got 3"
    yield "bos_negative", _changed("tokenizer.ggml.bos_token_id", INT32, -1), "from 0 to 2, got -1"
    yield "bos_missing", _changed("tokenizer.ggml.add_bos_token", BOOL, 1), "add_bos_token is set"
    yield "bytes_missing", _changed("tokenizer.ggml.model", STRING, "llama"), "a token for each byte"
    yield "template_huge", _changed("tokenizer.chat_template", STRING, "x" * 65_537), "at most 65,536 bytes, got 65,537"


def bad_headers_with_reasons() -> Iterator[tuple[str, bytes, str]]:
    """(name, the whole file, words that the error must contain) of every bad file."""
    for kinds in (_bad_starts, _bad_keys, _bad_tensors, _bad_models, _bad_vocabularies):
        yield from kinds()


def bad_headers() -> Iterator[tuple[str, bytes]]:
    """(name, the whole file) of every bad file."""
    for name, data, _ in bad_headers_with_reasons():
        yield name, data
