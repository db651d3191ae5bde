"""Bytes of a context's caches and of the buffers it computes in, from a model's sizes.

llama.cpp lays a graph's results into one buffer and uses their room again. The largest moments of a transformer's
graph are few, and their sizes follow from the lengths of its vectors; the formulas were found by reading its sources
and are held to its dry runs by tests/test_memory.py.

Knows sizes; never headers or devices.
"""

from __future__ import annotations

from eftlite.gguf_types import TENSOR_TYPES
from eftlite.layers import Layer, Sizes
from eftlite.settings import ModelSettings

MAX_ROWS = 64  # of logits that one decode keeps, see member.py
PAD = 256  # tokens; llama.cpp rounds contexts up to it
F32, F16 = 4, 2
_WITH_LARGE_GRAPHS = frozenset({"qwen3next", "qwen35", "qwen35moe", "kimi-linear", "minimax-01", "minimax-m3"})
_TYPES = {kind.name.lower(): kind for kind in TENSOR_TYPES.values()}


def kv_type(name: str | None) -> str:
    """The cache's type that a setting names; None is f16."""
    return name or "f16"


def slot_cells(n_ctx: int, n_slots: int) -> int:
    """Tokens that llama.cpp makes room for in each slot."""
    return padded(padded(n_ctx * n_slots) // n_slots)


def padded(n: int) -> int:
    """Tokens, rounded up as llama.cpp does."""
    return -(-n // PAD) * PAD


def row_bytes(name: str, n: int) -> int:
    """Bytes of n numbers of a type."""
    kind = _TYPES[name]
    return -(-n // kind.block_size) * kind.block_bytes


def cache_bytes(sizes: Sizes, layer: Layer, settings: ModelSettings, n_ctx: int, n_slots: int) -> int:
    """One layer's cache of all slots: keys, values, states with their snapshots."""
    cells = slot_cells(n_ctx, n_slots)
    if layer.local and not settings.swa_full:
        cells = min(cells, padded(sizes.window + min(settings.n_ubatch, settings.n_batch)))
    token = row_bytes(kv_type(settings.type_k), layer.k) + row_bytes(kv_type(settings.type_v), layer.v)
    snapshots = settings.n_rs_seq if sizes.has_snapshots else 0
    return n_slots * (cells * token + layer.state * F32 * (1 + snapshots))


def compute_bytes(sizes: Sizes, n_vocab: int, settings: ModelSettings, n_ctx: int, n_slots: int) -> int:
    """The buffer of the largest graph: a full batch of the prompt, at the end of the context."""
    cells = slot_cells(n_ctx, n_slots)
    n_tokens = min(cells * n_slots, settings.n_ubatch, settings.n_batch)
    vector = n_tokens * F32
    between, q, k = sizes.n_embd * vector, max(sizes.n_q, sizes.n_embd) * vector, sizes.n_k * vector
    rows = min(MAX_ROWS, n_tokens) * n_vocab * F32
    fixed = 0 if not sizes.n_k else _mask(sizes, settings, cells, n_tokens)
    moments = (
        fixed + _attention(sizes, settings, cells, n_tokens) + between + 4 * q,
        fixed + 3 * between + _kept(settings, between, k) + max(q - between, 0) + _feed_forward(sizes) * vector,
        rows + between + between // 2,
        7 * sizes.n_inner * vector,
    )
    return max(moments) + n_tokens * _row_of_work(sizes)


def graph_nodes(architecture: str, n_tensors: int, n_tokens: int) -> int:
    """Nodes for which llama.cpp prepares tables (llama_context::graph_max_nodes)."""
    if architecture in _WITH_LARGE_GRAPHS:
        return max(40 * n_tokens, 32 * n_tensors)
    return max(1024, 8 * n_tensors)


def _kept(settings: ModelSettings, between: int, k: int) -> int:
    """What attention leaves in the way of the feed-forward part: less where it works on rotated or converted caches."""
    types = {kv_type(settings.type_k), kv_type(settings.type_v)}
    if types <= {"f16", "bf16"}:
        return between
    return k if types <= {"f32", "f16", "bf16"} else 0


def _mask(sizes: Sizes, settings: ModelSettings, cells: int, n_tokens: int) -> int:
    """Who sees whom; local layers have their own."""
    one = cells * n_tokens * (F32 if settings.flash_attn is False else F16)
    return one * (2 if any(layer.local for layer in sizes.layers) else 1)


def _attention(sizes: Sizes, settings: ModelSettings, cells: int, n_tokens: int) -> int:
    """Scores of every head and more where there is no flash attention, or a layer's float32 cache as float16."""
    if settings.flash_attn is False:
        return (sizes.n_heads * cells + 2 * sizes.n_k) * n_tokens * F32 if sizes.n_k else 0
    types = (kv_type(settings.type_k), kv_type(settings.type_v))
    return sum(cells * sizes.n_k * F16 for name in types if name == "f32")


def _feed_forward(sizes: Sizes) -> int:
    """Numbers for each token inside the feed-forward part: gate, up and their product, or the experts' outputs."""
    experts = sizes.n_ff_expert * sizes.n_experts_used
    return max(3 * sizes.n_ff, 3 * experts, 2 * sizes.n_embd * sizes.n_experts_used + experts)


def _row_of_work(sizes: Sizes) -> int:
    """Bytes for each token of a matrix product's input, converted as quantized weights want it."""
    return row_bytes("q8_0", max(sizes.n_ff, sizes.n_ff_expert, sizes.n_embd, sizes.n_inner))
