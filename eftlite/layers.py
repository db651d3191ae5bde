"""What a model keeps for each token and each text, and how wide its computations are: sizes read from its metadata.

Follows llama.cpp 0c1e57098 (llama-hparams.cpp, llama-model.cpp) for the architectures that it knows: grouped heads,
sliding windows, compressed keys (MLA), shared caches, states of recurrent and hybrid models.

Knows a header; never bytes of buffers, which are memory.py's.

Not guaranteed: indexers' caches of sparse attention, which a few large models add.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from eftlite.gguf import Header
from eftlite.gguf_types import Value

RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
# Every that many layers attention, recurrent states between.
_INTERVALS = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4}
# Models whose states can be rewound to snapshots, which take room of their own.
_WITH_SNAPSHOTS = frozenset({"qwen35", "qwen35moe", "nemotron_h", "nemotron_h_moe", "lfm2", "lfm2moe"})
# Of so many layers the last has no sliding window, where the file does not say.
_WINDOW_PATTERNS = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "gpt-oss": 2, "olmo2": 4, "exaone4": 4, "llama4": 4,
}  # fmt: skip  # a table that reads across
_GEMMA3N_OWN_CACHES = 20


@dataclass(frozen=True)
class Layer:
    """What one layer keeps.

    Attributes:
        k, v: numbers of a token's key and value; 0 where there is no cache.
        state: float32 numbers of a text's state in recurrent layers.
        local: whether it sees a sliding window only.
    """

    k: int
    v: int
    state: int
    local: bool


@dataclass(frozen=True)
class Sizes:
    """A model's sizes.

    Attributes:
        layers: of the trunk, in order.
        n_heads: the most in a layer.
        n_embd, n_q, n_k, n_ff, n_inner: lengths of a token's vectors: between layers, queries, keys, inside
            feed-forward parts (shared experts included), inside state-space parts.
        n_experts_used, n_ff_expert: of mixtures; 0 in dense models.
        window: tokens of the sliding window; 0 where there is none.
        has_snapshots: whether recurrent states can be kept for rewinding.
    """

    layers: tuple[Layer, ...]
    n_heads: int
    n_embd: int
    n_q: int
    n_k: int
    n_ff: int
    n_inner: int
    n_experts_used: int
    n_ff_expert: int
    window: int
    has_snapshots: bool


def sizes(header: Header) -> Sizes:
    """The sizes of the model that a header describes."""
    keys = _Keys(header)
    n = max(header.n_layers - keys.number("nextn_predict_layers"), 1)
    heads, own_kv = keys.by_layer("attention.head_count", n), keys.by_layer("attention.head_count_kv", n)
    kv_heads = own_kv if keys.has("attention.head_count_kv") else heads
    length = header.n_embd // max(*heads, 1)
    k_length = keys.number("attention.key_length", length)
    n_used = max(keys.by_layer("expert_used_count", n))
    ff = max(keys.by_layer("feed_forward_length", n))
    expert = max(keys.by_layer("expert_feed_forward_length", n)) or ff if n_used else 0
    layers = tuple(_layer(keys, header, i, n, kv_heads[i]) for i in range(n))
    return Sizes(
        layers=layers,
        n_heads=max(heads),
        n_embd=header.n_embd,
        n_q=max(heads) * k_length,
        n_k=max((layer.k for layer in layers), default=0),
        n_ff=keys.number("expert_shared_feed_forward_length") if n_used and expert != ff else ff,
        n_inner=keys.number("ssm.inner_size"),
        n_experts_used=n_used,
        n_ff_expert=expert,
        window=keys.number("attention.sliding_window"),
        has_snapshots=header.architecture in _WITH_SNAPSHOTS,
    )


class _Keys:
    """Numbers of the architecture's own metadata."""

    def __init__(self, header: Header) -> None:
        self._get: Callable[[str], Value | None] = lambda name: header.metadata.get(f"{header.architecture}.{name}")

    def has(self, name: str) -> bool:
        return self._get(name) is not None

    def number(self, name: str, default: int = 0) -> int:
        value = self._get(name)
        return value if isinstance(value, int) else default

    def by_layer(self, name: str, n: int) -> tuple[int, ...]:
        """One number for each of n layers; a single one holds for all, none is 0."""
        value = self._get(name)
        if isinstance(value, tuple):
            found = tuple(int(one) for one in value[:n] if isinstance(one, int | float))
            return found + (0,) * (n - len(found))
        return (value if isinstance(value, int) else 0,) * n


def _layer(keys: _Keys, header: Header, i: int, n: int, n_kv_heads: int) -> Layer:
    architecture, local = header.architecture, _is_local(keys, header, i, n)
    is_recurrent = _is_recurrent(keys, architecture, i, n_kv_heads)
    state = _state(keys, header) if is_recurrent or architecture == "falcon-h1" else 0
    n_cached = n - keys.number("attention.shared_kv_layers")
    if architecture == "gemma3n":
        n_cached = _GEMMA3N_OWN_CACHES
    if is_recurrent or i >= n_cached:
        return Layer(0, 0, state, local)
    heads = keys.by_layer("attention.head_count", n)
    length = header.n_embd // max(*heads, 1)
    window = "_swa" if local and keys.has("attention.key_length_swa") else ""
    k = keys.number(f"attention.key_length{window}", length) * n_kv_heads
    v = keys.number(f"attention.value_length{window}", length) * n_kv_heads
    compressed = keys.has("attention.key_length_mla")  # values are read from the keys
    return Layer(k, 0 if compressed else v, state, local)


def _is_recurrent(keys: _Keys, architecture: str, i: int, n_kv_heads: int) -> bool:
    if architecture in RECURRENT:
        return True
    if architecture in _INTERVALS:
        interval = keys.number("full_attention_interval", _INTERVALS[architecture])
        return (i + 1) % max(interval, 1) != 0
    has_states = keys.has("ssm.state_size") or keys.has("shortconv.l_cache")
    return has_states and n_kv_heads == 0


def _is_local(keys: _Keys, header: Header, i: int, n: int) -> bool:
    if not keys.number("attention.sliding_window"):
        return False
    pattern = keys.by_layer("attention.sliding_window_pattern", n)
    if len(set(pattern)) > 1:  # one flag for each layer
        return bool(pattern[i])
    period = pattern[i] or _WINDOW_PATTERNS.get(header.architecture, 1)
    return period > 1 and i % period < period - 1


def _state(keys: _Keys, header: Header) -> int:
    """Numbers of a text's state in one layer: the last inputs of its convolution, and what it remembers."""
    if head := keys.number("wkv.head_size"):
        return header.n_embd * (keys.number("token_shift_count", 2) + head)
    if length := keys.number("shortconv.l_cache"):
        return header.n_embd * (length - 1)
    inner, size = keys.number("ssm.inner_size"), keys.number("ssm.state_size")
    convolution = max(keys.number("ssm.conv_kernel") - 1, 0) * (inner + 2 * keys.number("ssm.group_count") * size)
    return convolution + inner * size
