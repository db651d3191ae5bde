"""A tiny random mixture of experts: the llama architecture with four experts, two of them used for each token."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from tests.tiny_gguf import _write_vocabulary, gpt2_texts

N_EXPERTS, N_USED = 4, 2


def write_mixture(path: Path, *, seed: int = 1, n_embd: int = 64, n_ff: int = 128, n_layers: int = 2) -> Path:
    """Write a model that llama.cpp loads and decodes, F32."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny mixture")
    writer.add_context_length(256)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layers)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_expert_count(N_EXPERTS)
    writer.add_expert_used_count(N_USED)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(n_embd // 4)
    texts = gpt2_texts()
    end = len(texts) - 1
    _write_vocabulary(writer, texts, "gpt2", {"bos": end, "eos": end, "eot": end})
    draw = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (len(texts), n_embd), "output": (len(texts), n_embd)}
    for i in range(n_layers):
        shapes |= {f"blk.{i}.attn_{what}": (n_embd, n_embd) for what in ("q", "k", "v", "output")}
        shapes[f"blk.{i}.ffn_gate_inp"] = (N_EXPERTS, n_embd)
        shapes |= {f"blk.{i}.ffn_{what}_exps": (N_EXPERTS, n_ff, n_embd) for what in ("gate", "up")}
        shapes[f"blk.{i}.ffn_down_exps"] = (N_EXPERTS, n_embd, n_ff)
    for name, shape in shapes.items():
        values = draw.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[-1]))
        writer.add_tensor(f"{name}.weight", values)
    for norm in ["output_norm", *(f"blk.{i}.{kind}_norm" for i in range(n_layers) for kind in ("attn", "ffn"))]:
        writer.add_tensor(f"{norm}.weight", np.ones(n_embd, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
