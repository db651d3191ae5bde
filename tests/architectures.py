"""Headers of other architectures than llama, weights left out, so that llama.cpp's dry runs can be asked about them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from eftlite import shapes

N_VOCAB = 32_000
Tensors = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Architecture:
    """A model of four layers.

    Attributes:
        tensors: names and sizes of a layer's tensors, rows first.
        keys: metadata of its own.
    """

    name: str
    n_embd: int
    n_heads: int
    n_kv_heads: int
    head: int
    n_ff: int
    tensors: Callable[[Architecture], Tensors]
    keys: Mapping[str, int] = field(default_factory=dict)
    n_layers: int = 4


def attention(one: Architecture) -> Tensors:
    """Attention with its norm."""
    q, kv = one.n_heads * one.head, one.n_kv_heads * one.head
    yield "attn_norm.weight", (one.n_embd,)
    yield "attn_output.weight", (one.n_embd, q)
    yield from ((f"attn_{part}.weight", (rows, one.n_embd)) for part, rows in (("q", q), ("k", kv), ("v", kv)))


def dense(one: Architecture) -> Tensors:
    """A plain transformer's layer."""
    yield from attention(one)
    yield "ffn_norm.weight", (one.n_embd,)
    yield from ((f"ffn_{part}.weight", (one.n_ff, one.n_embd)) for part in ("gate", "up"))
    yield "ffn_down.weight", (one.n_embd, one.n_ff)


def biased(one: Architecture) -> Tensors:
    """Qwen2's."""
    yield from dense(one)
    q, kv = one.n_heads * one.head, one.n_kv_heads * one.head
    yield from ((f"attn_{part}.bias", (rows,)) for part, rows in (("q", q), ("k", kv), ("v", kv)))


def gemma(one: Architecture) -> Tensors:
    """Gemma 2's, with two more norms."""
    yield from dense(one)
    yield from ((f"{part}.weight", (one.n_embd,)) for part in ("post_attention_norm", "post_ffw_norm"))


def normed(one: Architecture) -> Tensors:
    """Qwen3's: queries and keys are normed."""
    yield from dense(one)
    yield from ((f"attn_{part}_norm.weight", (one.head,)) for part in "qk")


def experts(one: Architecture) -> Tensors:
    """A mixture of experts."""
    n, ff = one.keys["expert_count"], one.n_ff
    yield from attention(one)
    yield "ffn_norm.weight", (one.n_embd,)
    yield "ffn_gate_inp.weight", (n, one.n_embd)
    yield from ((f"ffn_{part}_exps.weight", (n, ff, one.n_embd)) for part in ("gate", "up"))
    yield "ffn_down_exps.weight", (n, one.n_embd, ff)


def mamba(one: Architecture) -> Tensors:
    """A state-space layer."""
    n, inner, state, rank = (
        one.n_embd,
        *(one.keys[f"ssm.{key}"] for key in ("inner_size", "state_size", "time_step_rank")),
    )
    yield from (("attn_norm.weight", (n,)), ("ssm_in.weight", (2 * inner, n)), ("ssm_out.weight", (n, inner)))
    yield from (("ssm_conv1d.weight", (inner, 4)), ("ssm_conv1d.bias", (inner,)), ("ssm_d", (inner,)))
    yield from (("ssm_x.weight", (rank + 2 * state, inner)), ("ssm_dt.weight", (inner, rank)))
    yield from (("ssm_dt.bias", (inner,)), ("ssm_a", (inner, state)))


_SSM = {"ssm.conv_kernel": 4, "ssm.inner_size": 2048, "ssm.state_size": 16, "ssm.time_step_rank": 64}
ARCHITECTURES = {
    "qwen2": Architecture("qwen2", 1536, 12, 2, 128, 8960, biased),
    "qwen3": Architecture("qwen3", 2560, 32, 8, 128, 9728, normed),
    "gemma2": Architecture("gemma2", 2304, 8, 4, 256, 9216, gemma, {"attention.sliding_window": 4096}),
    "mixtral": Architecture("llama", 2048, 16, 4, 128, 4096, experts, {"expert_count": 8, "expert_used_count": 2}),
    "mamba": Architecture("mamba", 1024, 1, 1, 64, 0, mamba, _SSM),
}


def sparse_architecture(path: Path, one: Architecture) -> Path:
    """The model's file, whose weights are a hole."""
    writer = gguf.GGUFWriter(path, one.name)
    writer.add_vocab_size(N_VOCAB)
    writer.add_context_length(32_768)
    for key, value in (
        *(("embedding_length", one.n_embd), ("block_count", one.n_layers), ("feed_forward_length", one.n_ff)),
        *(("attention.head_count", one.n_heads), ("attention.head_count_kv", one.n_kv_heads)),
        *((f"attention.{part}_length", one.head) for part in ("key", "value")),
        *one.keys.items(),
    ):
        writer.add_uint32(f"{one.name}.{key}", value)
    writer.add_layer_norm_rms_eps(1e-5)
    shapes._write_vocabulary(writer, gguf.TokenType, N_VOCAB)
    n_bytes = sum(_describe(writer, name, size) for name, size in _all(one))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, shapes._padded(path.stat().st_size) + n_bytes)
    return path


def _all(one: Architecture) -> Tensors:
    yield "token_embd.weight", (N_VOCAB, one.n_embd)
    yield "output_norm.weight", (one.n_embd,)
    for layer in range(one.n_layers):
        yield from ((f"blk.{layer}.{name}", size) for name, size in one.tensors(one))


def _describe(writer: Any, name: str, size: tuple[int, ...]) -> int:
    """Add a tensor's description; bytes that it takes in the file."""
    is_matrix = len(size) > 1 and not name.endswith(("ssm_a", "conv1d.weight", "gate_inp.weight"))
    kind = gguf.GGMLQuantizationType.F16 if is_matrix else gguf.GGMLQuantizationType.F32
    n_bytes = prod(size) * (2 if is_matrix else 4)
    writer.add_tensor_info(name, size, np.dtype(np.float32), n_bytes, kind)
    return shapes._padded(n_bytes)
