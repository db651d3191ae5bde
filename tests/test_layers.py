"""Sizes read from metadata: grouped heads, windows, compressed keys, shared caches, states of recurrent layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eftlite.buffers import cache_bytes
from eftlite.gguf import Header
from eftlite.layers import Layer, Sizes, sizes
from eftlite.settings import ModelSettings

FULL, WINDOW = ModelSettings(), ModelSettings(swa_full=False)


def sizes_of(architecture: str, n_layers: int, n_embd: int = 64, **keys: Any) -> Sizes:
    """Sizes of a model with this metadata; "__" stands for a point."""
    named = {f"{architecture}.{name.replace('__', '.')}": value for name, value in keys.items()}
    header = Header(
        path=Path("m"), version=3, architecture=architecture, name="", metadata=named, tensors=(), n_params=0,
        n_bytes=0, file_bytes=0, quantization="", n_ctx_train=4096, n_vocab=100, n_layers=n_layers, n_embd=n_embd,
        chat_template=None, split=None,
    )  # fmt: skip  # one word each
    return sizes(header)


def cells(model: Sizes, settings: ModelSettings, n_ctx: int) -> list[int]:
    """Tokens that each layer's cache has room for."""
    return [
        cache_bytes(model, layer, settings, n_ctx, 1) // (2 * (layer.k + layer.v)) if layer.k else 0
        for layer in model.layers
    ]


def test_grouped_heads() -> None:
    model = sizes_of("llama", 2, attention__head_count=4, attention__head_count_kv=2, feed_forward_length=128)
    assert model.layers == (Layer(32, 32, 0, local=False),) * 2
    assert (model.n_heads, model.n_q, model.n_k, model.n_ff) == (4, 64, 32, 128)
    alone = sizes_of("llama", 1, attention__head_count=4)
    assert alone.layers[0].k == 64  # a file without groups has as many heads of keys


def test_heads_of_their_own_length() -> None:
    model = sizes_of(
        "qwen3", 1, attention__head_count=4, attention__head_count_kv=1, attention__key_length=32,
        attention__value_length=16,
    )  # fmt: skip  # one word each
    assert model.layers == (Layer(32, 16, 0, local=False),)
    assert model.n_q == 128


@pytest.mark.parametrize(
    ("architecture", "pattern", "local"),
    [
        ("gemma2", {}, [True, False] * 3),
        ("gemma3", {}, [True] * 5 + [False]),
        ("gemma3", {"attention__sliding_window_pattern": 3}, [True, True, False] * 2),
        ("gemma4", {"attention__sliding_window_pattern": (True, True, True, False, True, False)}, None),
        ("llama", {}, [False] * 6),
    ],
)
def test_sliding_windows(architecture: str, pattern: dict[str, Any], local: list[bool] | None) -> None:
    model = sizes_of(architecture, 6, attention__head_count=4, attention__sliding_window=512, **pattern)
    expected = local or [True, True, True, False, True, False]
    assert [layer.local for layer in model.layers] == expected
    assert cells(model, FULL, 4096) == [4096] * 6
    assert cells(model, WINDOW, 4096) == [1024 if one else 4096 for one in expected]  # the window and a batch
    assert cells(model, WINDOW, 256) == [256] * 6


def test_layers_that_use_anothers_cache() -> None:
    model = sizes_of("gemma4", 4, attention__head_count=4, attention__shared_kv_layers=1)
    assert [layer.k for layer in model.layers] == [64, 64, 64, 0]


def test_compressed_keys_hold_the_values_too() -> None:
    model = sizes_of(
        "deepseek2", 1, attention__head_count=16, attention__head_count_kv=1, attention__key_length=576,
        attention__value_length=512, attention__key_length_mla=192,
    )  # fmt: skip  # one word each
    assert model.layers == (Layer(576, 0, 0, local=False),)


def test_states_of_recurrent_and_hybrid_models() -> None:
    ssm = {"ssm__conv_kernel": 4, "ssm__inner_size": 128, "ssm__state_size": 16}
    state = 3 * 128 + 128 * 16
    assert sizes_of("mamba", 2, **ssm).layers == (Layer(0, 0, state, local=False),) * 2
    hybrid = sizes_of("jamba", 2, attention__head_count=4, attention__head_count_kv=(0, 2), **ssm)
    assert [(layer.k, layer.state) for layer in hybrid.layers] == [(0, state), (32, 0)]
    every = sizes_of("qwen35", 4, attention__head_count=4, **ssm)
    assert [(layer.k > 0, layer.state > 0) for layer in every.layers] == [(False, True)] * 3 + [(True, False)]
    assert every.has_snapshots
    both = sizes_of("falcon-h1", 1, attention__head_count=4, **ssm)
    assert (both.layers[0].k, both.layers[0].state) == (64, state)
    assert sizes_of("rwkv6", 1, wkv__head_size=64).layers[0].state == 64 * 66


def test_states_are_kept_for_every_slot_and_snapshot() -> None:
    ssm = {"ssm__conv_kernel": 4, "ssm__inner_size": 128, "ssm__state_size": 16}
    layer = sizes_of("qwen35", 4, attention__head_count=4, **ssm).layers[0]
    model = sizes_of("qwen35", 4, attention__head_count=4, **ssm)
    assert cache_bytes(model, layer, ModelSettings(n_rs_seq=16), 512, 3) == 3 * 17 * 4 * layer.state
    plain = sizes_of("mamba", 1, **ssm)
    assert cache_bytes(plain, plain.layers[0], ModelSettings(n_rs_seq=16), 512, 3) == 3 * 4 * layer.state


def test_layers_that_only_predict_further_tokens_are_not_used() -> None:
    assert len(sizes_of("glm4moe", 5, attention__head_count=4, nextn_predict_layers=1).layers) == 4


def test_mixtures_of_experts() -> None:
    model = sizes_of(
        "qwen3moe", 1, attention__head_count=4, feed_forward_length=6144, expert_count=128, expert_used_count=8,
        expert_feed_forward_length=768,
    )  # fmt: skip  # one word each
    assert (model.n_experts_used, model.n_ff_expert, model.n_ff) == (8, 768, 0)
    mixtral = sizes_of(
        "llama", 1, attention__head_count=4, feed_forward_length=512, expert_count=8, expert_used_count=2
    )
    assert (mixtral.n_experts_used, mixtral.n_ff_expert) == (2, 512)
