"""LoRA adapters for tests: random ones for any llama model, and models with an adapter merged into them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DTYPES = {"f32": np.float32, "f16": np.float16}


def write_adapter(
    path: Path,
    model: Path,
    *,
    seed: int,
    rank: int = 4,
    alpha: float = 8.0,
    strength: float = 0.3,
    dtype: str = "f32",
    only: Sequence[str] = ("attn", "ffn"),
    architecture: str = "llama",
) -> Path:
    """Write a random adapter for a model's matrices; equal arguments give equal bytes.

    Args:
        strength: standard deviation of the change, relative to the matrix's own.
        only: parts of the names of the matrices that are changed; "token_embd" is possible too.
    """
    draw = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_name(f"tiny adapter {seed}")
    for one in gguf.GGUFReader(model).tensors:
        name, shape = str(one.name), tuple(map(int, one.shape))
        if len(shape) < 2 or not any(part in name for part in only):
            continue
        columns, rows = shape
        weight = gguf.dequantize(one.data, one.tensor_type)
        # The product of two normal factors has the standard deviation sqrt(rank), which alpha / rank scales.
        scale = (strength * float(weight.std()) * rank / alpha / rank**0.5) ** 0.5
        sizes = ((rows, rank), (columns, rank)) if name == "token_embd.weight" else ((rank, columns), (rows, rank))
        for part, size in zip("ab", sizes, strict=True):
            writer.add_tensor(f"{name}.lora_{part}", (scale * draw.standard_normal(size)).astype(DTYPES[dtype]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def changes(adapter: Path) -> dict[str, Floats]:
    """What an adapter adds to each tensor, in the shape of its data."""
    reader = gguf.GGUFReader(adapter)
    field = reader.get_field(gguf.Keys.Adapter.LORA_ALPHA)
    alpha = float(field.contents()) if field else 0.0
    data = {str(one.name): np.array(one.data, np.float64) for one in reader.tensors}
    found = {}
    for name, a in data.items():
        if name.endswith(".lora_a"):
            target = name.removesuffix(".lora_a")
            b = data[f"{target}.lora_b"]
            scale = alpha / b.shape[1] if alpha else 1.0
            found[target] = scale * (a @ b.T if target == "token_embd.weight" else b @ a)
    return found


def merge(model: Path, adapter: Path, out: Path) -> Path:
    """Write the model with the adapter merged into its weights, which keep their type, F32 or F16."""
    shutil.copyfile(model, out)
    out.chmod(0o644)
    tensors = {str(one.name): one for one in gguf.GGUFReader(out, "r+").tensors}
    for name, change in changes(adapter).items():
        data = tensors[name].data
        data[:] = (data.astype(np.float64) + change).astype(data.dtype)
    return out
