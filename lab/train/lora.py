"""Low-rank adapters: put on a model, trained with the rest frozen, merged into it, written as GGUF.

Knows matrices and GGUF's names for them; training is train.py's, as for whole models.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.train.export import tensor_names
from lab.train.model import Llama


@dataclass(frozen=True)
class Rank:
    """Size of the factors, and alpha: their product counts alpha / rank times."""

    rank: int = 8
    alpha: float = 16.0

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / self.rank


class LowRank(nn.Module):
    """A frozen linear layer plus a product of two small matrices, zero at first."""

    def __init__(self, plain: nn.Linear, size: Rank) -> None:
        super().__init__()
        self.plain = plain.requires_grad_(False)  # noqa: FBT003  # torch's own signature
        self.scale = size.scale
        self.a = nn.Parameter(torch.randn(size.rank, plain.in_features) / plain.in_features**0.5)  # [rank, in]
        self.b = nn.Parameter(torch.zeros(plain.out_features, size.rank))  # [out, rank]

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        out: Tensor = self.plain(x)
        return out + self.scale * F.linear(F.linear(x, self.a), self.b)

    def merged(self) -> Tensor:
        """The one matrix that does the same, [out, in]."""
        return self.plain.weight + self.scale * self.b @ self.a


def adapt(model: Llama, size: Rank) -> Llama:
    """Freeze a model and put factors beside every matrix of its blocks, in place."""
    model.requires_grad_(False)  # noqa: FBT003  # torch's own signature
    for block in model.blocks:
        for part in (block.attn, block.ffn):
            for name, layer in list(part.named_children()):
                setattr(part, name, LowRank(layer, size))
    return model


def factors(model: Llama) -> dict[str, LowRank]:
    """The adapted layers by the names of a plain model's weights."""
    return {f"{name}.weight": layer for name, layer in model.named_modules() if isinstance(layer, LowRank)}


def merge(model: Llama) -> Llama:
    """A plain model that computes what the adapted one does."""
    changed = {name: layer.merged() for name, layer in factors(model).items()}
    kept = {name.replace(".plain.", "."): weight for name, weight in model.state_dict().items()}
    plain = Llama(model.shape)
    plain.load_state_dict({name: changed.get(name, kept[name]) for name in plain.state_dict()})
    return plain.eval()


def export_adapter(model: Llama, size: Rank, path: Path, name: str, about: str) -> None:
    """Write the factors alone, in F16, as llama.cpp's converter writes PEFT's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, size.alpha)
    writer.add_name(name)
    writer.add_description(about)
    writer.add_license("MIT")
    theirs = tensor_names(model.shape.n_layers)
    for ours, layer in factors(model).items():
        for part, factor in (("a", layer.a), ("b", layer.b)):
            writer.add_tensor(f"{theirs[ours]}.lora_{part}", factor.detach().numpy().astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)
