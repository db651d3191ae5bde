"""Adapters made by hand, a good one and many with one thing wrong, each with the words that name it.

``bad_adapters`` are wrong by themselves; ``misfits`` are sound, and wrong for the model of ``write_model``'s defaults.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence

from tests.bad_gguf import ARRAY, F16, F32, FLOAT32, I32, Q4_0, STRING, UINT32, header, key, numbers, tensor
from tests.bad_gguf import GOOD_KEYS as MODEL_KEYS

Tensor = tuple[str, tuple[int, ...], int]  # name, shape with the row length first, type
FLOAT64 = 12
_BYTES = {F32: 4, F16: 2, I32: 4}
GOOD_KEYS = {
    "general.architecture": key("general.architecture", STRING, "llama"),
    "general.type": key("general.type", STRING, "adapter"),
    "adapter.type": key("adapter.type", STRING, "lora"),
    "adapter.lora.alpha": key("adapter.lora.alpha", FLOAT32, 8.0),
}
QUERY, EMBEDDING, NORM = "blk.0.attn_q.weight", "token_embd.weight", "blk.0.attn_norm.weight"


def pair(target: str, a: tuple[int, ...], b: tuple[int, ...], kind: int = F32) -> tuple[Tensor, Tensor]:
    """Both factors of a change."""
    return (f"{target}.lora_a", a, kind), (f"{target}.lora_b", b, kind)


GOOD = pair(QUERY, (64, 4), (4, 64))


def adapter(tensors: Sequence[Tensor] = GOOD, keys: Mapping[str, bytes | None] | None = None, cut: int = 0) -> bytes:
    """A file like the good one, with other tensors, with keys replaced, added or (None) left out, or cut off."""
    described, end = [], 0
    for name, shape, kind in tensors:
        n = 1
        for size in shape:
            n *= size
        described.append(tensor(name, shape, kind, offset=end))
        end += -(-(n // 32 * 18 if kind == Q4_0 else n * _BYTES[kind]) // 32) * 32
    data = header({**dict.fromkeys(MODEL_KEYS), **GOOD_KEYS, **(keys or {})}, described, n_data=end)
    return data[: len(data) - cut]


def _with(name: str, kind: int, value: float | str | bytes) -> bytes:
    """The good adapter with one key changed or added."""
    return adapter(keys={name: key(name, kind, value)})


def bad_adapters() -> Iterator[tuple[str, bytes, str]]:
    """(name, the whole file, words that the error must contain) of every adapter that is wrong by itself."""
    yield from _bad_keys()
    yield from _bad_tensors()


def _bad_keys() -> Iterator[tuple[str, bytes, str]]:
    alora = "adapter.alora.invocation_tokens"
    yield "a_model", header(), "expected a LoRA adapter, got a model"
    yield "no_kind", adapter(keys={"general.type": None}), "got a model"
    yield "another_kind", _with("general.type", STRING, "imatrix"), "got 'imatrix'"
    yield "kind_number", _with("general.type", UINT32, 1), "got '1'"
    yield "kind_with_nul", _with("general.type", STRING, "adapter\0"), r"got 'adapter\x00'"
    yield "no_method", adapter(keys={"adapter.type": None}), "adapter.type to be lora, got nothing"
    yield "another_method", _with("adapter.type", STRING, "control_vector"), "got control_vector"
    yield "method_number", _with("adapter.type", UINT32, 1), "got 1"
    yield "no_architecture", adapter(keys={"general.architecture": None}), "general.architecture"
    yield "architecture_empty", _with("general.architecture", STRING, ""), "general.architecture"
    yield "architecture_number", _with("general.architecture", UINT32, 1), "general.architecture"
    yield "alpha_double", _with("adapter.lora.alpha", FLOAT64, struct.pack("<d", 8.0)), "to be float32"
    yield "alpha_text", _with("adapter.lora.alpha", STRING, "8"), "to be float32"
    yield "alpha_nan", _with("adapter.lora.alpha", FLOAT32, float("nan")), "to be a number, got nan"
    yield "alpha_infinite", _with("adapter.lora.alpha", FLOAT32, float("inf")), "to be a number, got inf"
    yield "activated", adapter(keys={alora: numbers(alora, UINT32, (1, 2))}), "an activated one"
    yield "activated_by_text", _with(alora, STRING, "now"), "an activated one"
    yield (
        "array_as_kind",
        adapter(keys={"general.type": key("general.type", ARRAY, struct.pack("<IQ", UINT32, 0))}),
        "()",
    )


def _bad_tensors() -> Iterator[tuple[str, bytes, str]]:
    a, b = GOOD
    yield "cut", adapter(cut=200), "got a file of"
    yield "cut_in_the_header", adapter()[:150], "got"
    yield "empty", adapter(()), "a change of a tensor at least, got none"
    yield "norms_alone", adapter(((NORM, (64,), F32),)), "a change of a tensor at least, got none"
    yield "no_second_factor", adapter((a,)), f"got {QUERY}.lora_a alone"
    yield "no_first_factor", adapter((b,)), f"got {QUERY}.lora_b alone"
    yield "factor_twice", adapter((a, a, b)), "twice"
    yield "a_whole_matrix", adapter((*GOOD, (QUERY, (64, 64), F32))), f"got {QUERY}"
    yield "suffix_in_capitals", adapter(((f"{QUERY}.LORA_A", (64, 4), F32), b)), f"got {QUERY}.LORA_A"
    yield "suffix_alone", adapter(((".lora_a", (64, 4), F32), b)), "got .lora_a alone"
    yield (
        "ranks_differ",
        adapter(pair(QUERY, (64, 4), (3, 64))),
        "one rank in both factors for blk.0.attn_q.weight, got 4 and 3",
    )
    yield "ranks_swapped", adapter(pair(QUERY, (4, 64), (4, 64))), "got 64 and 4"
    yield "embedding_ranks", adapter(pair(EMBEDDING, (4, 512), (3, 64))), "got 4 and 3"
    yield "integers", adapter(pair(QUERY, (64, 4), (4, 64), I32)), "in F32, F16, BF16, Q8_0, got I32"
    yield "four_bits", adapter(pair(QUERY, (64, 32), (32, 64), Q4_0)), "got Q4_0"


def misfits() -> Iterator[tuple[str, bytes, str]]:
    """(name, the whole file, words that the error must contain) of every adapter that the tiny model cannot take."""
    another = key("general.architecture", STRING, "qwen2")
    layers = "blk.7.attn_q.weight"
    yield (
        "architecture",
        adapter(keys={"general.architecture": another}),
        "architecture llama as tiny.gguf is, got qwen2",
    )
    yield "layer", adapter(pair(layers, (64, 4), (4, 64))), f"tensors of tiny.gguf, got one for {layers}"
    yield "stranger", adapter(pair("", (64, 4), (4, 64))), "got one for "
    yield "suffix_twice", adapter(pair(f"{QUERY}.lora_a", (64, 4), (4, 64))), f"got one for {QUERY}.lora_a"
    yield "columns", adapter(pair(QUERY, (32, 4), (4, 64))), f"{QUERY} of 64 × 64 as in tiny.gguf, got 32 × 64"
    yield "rows", adapter(pair(QUERY, (64, 4), (4, 32))), "got 64 × 32"
    yield (
        "swapped",
        adapter(pair("blk.0.ffn_up.weight", (128, 4), (4, 64))),
        "of 64 × 128 as in tiny.gguf, got 128 × 64",
    )
    yield "three_dimensions", adapter(pair(QUERY, (64, 4, 2), (4, 64, 2))), "got 64 × 64 × 2"
    yield "one_of_three", adapter(pair(QUERY, (64, 4), (4, 64, 2))), "of 64 × 64 as in tiny.gguf"
    yield "four_dimensions", adapter(pair(QUERY, (64, 4, 1, 2), (4, 64, 1, 2))), "of 64 × 64 as in tiny.gguf"
    yield "vector", adapter(pair(NORM, (64, 4), (4, 1))), f"got {NORM} of tiny.gguf, a vector"
    yield (
        "embedding_on_its_feet",
        adapter(pair(EMBEDDING, (64, 4), (64, 512))),
        "of 64 × 512 as in tiny.gguf, got 512 × 4",
    )
