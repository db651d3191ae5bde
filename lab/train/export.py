"""Models to GGUF files that llama.cpp reads, and back.

Knows GGUF's names; knows nothing of training. Matrices F16 or Q8_0, norms F32.
"""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lab.train import tokenizer as tk
from lab.train.model import Llama, Shape

MATRICES = {
    "attn.q": "attn_q",
    "attn.k": "attn_k",
    "attn.v": "attn_v",
    "attn.o": "attn_output",
    "ffn.gate": "ffn_gate",
    "ffn.up": "ffn_up",
    "ffn.down": "ffn_down",
    "attn_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
}
QUANTS = {"f16": gguf.GGMLQuantizationType.F16, "q8_0": gguf.GGMLQuantizationType.Q8_0}
FILE_TYPES = {"f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}


def tensor_names(n_layers: int) -> dict[str, str]:
    """Our parameter names -> GGUF's."""
    names = {"embed.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
    for i in range(n_layers):
        names |= {f"blocks.{i}.{ours}.weight": f"blk.{i}.{theirs}.weight" for ours, theirs in MATRICES.items()}
    return names


def write_shape(writer: gguf.GGUFWriter, shape: Shape) -> None:
    """The hyper-parameters under the `llama` architecture's keys."""
    writer.add_vocab_size(shape.n_vocab)
    writer.add_context_length(shape.n_context)
    writer.add_embedding_length(shape.d_model)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.d_ff)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_rope_dimension_count(shape.d_head)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_eps)


def write_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    """Tokens, merges, control tokens and the chat template."""
    tokens = [tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size())]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    kinds = [gguf.TokenType.CONTROL if token in tk.CONTROL else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tk.DOCUMENT_END_ID)
    writer.add_eos_token_id(tk.END_ID)
    writer.add_eot_token_id(tk.END_ID)
    writer.add_pad_token_id(tk.DOCUMENT_END_ID)
    writer.add_add_bos_token(value=False)
    writer.add_add_eos_token(value=False)
    writer.add_chat_template(tk.CHAT_TEMPLATE)


def write_tensors(writer: gguf.GGUFWriter, model: Llama, quant: str) -> None:
    """All weights; a shared embedding is written once, which llama.cpp understands."""
    weights = model.state_dict()
    for ours, theirs in tensor_names(model.shape.n_layers).items():
        weight: NDArray[np.float32] = weights[ours].float().numpy()
        if weight.ndim == 1:
            writer.add_tensor(theirs, weight)
            continue
        packed = gguf.quants.quantize(weight, QUANTS[quant])
        writer.add_tensor(theirs, packed, raw_dtype=QUANTS[quant])


def export(model: Llama, tokenizer: Tokenizer, path: Path, name: str, about: str, quant: str = "f16") -> None:
    """Write one GGUF file; a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_name(name)
    writer.add_description(about)
    writer.add_license("MIT")
    writer.add_languages(["en"])
    writer.add_file_type(FILE_TYPES[quant])
    write_shape(writer, model.shape)
    write_tokenizer(writer, tokenizer)
    write_tensors(writer, model, quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)


def read_shape(reader: gguf.GGUFReader) -> Shape:
    """The hyper-parameters of a file `export` wrote."""

    def number(key: str) -> float:
        found = reader.get_field(f"llama.{key}")
        if found is None:
            raise ValueError(f"the file has no llama.{key}")
        return float(found.contents())

    return Shape(
        n_vocab=int(number("vocab_size")),
        d_model=int(number("embedding_length")),
        n_layers=int(number("block_count")),
        n_heads=int(number("attention.head_count")),
        n_kv_heads=int(number("attention.head_count_kv")),
        d_ff=int(number("feed_forward_length")),
        n_context=int(number("context_length")),
        rope_base=number("rope.freq_base"),
        norm_eps=number("attention.layer_norm_rms_epsilon"),
    )


def load(path: Path) -> Llama:
    """A GGUF file that `export` wrote, as a torch model in float32 that holds exactly the file's values."""
    reader = gguf.GGUFReader(path)
    model = Llama(read_shape(reader))
    ours = {theirs: name for name, theirs in tensor_names(model.shape.n_layers).items()}
    weights = {
        ours[tensor.name]: torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type)))
        for tensor in reader.tensors
    }
    model.load_state_dict(weights)
    return model.eval()
