"""A Llama in torch, laid out so that llama.cpp's `llama` architecture computes the same function.

Knows shapes and token ids; knows nothing of text, files or the world.
Shapes: B rows, T positions, D model width, H query heads, K key/value heads, C = D / H head width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    """Sizes of one model; every row length of a matrix should be a multiple of 256 (K-quants)."""

    n_vocab: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_ff: int
    n_context: int = 1024
    rope_base: float = 10000.0
    norm_eps: float = 1e-5

    @property
    def d_head(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads


def rope_tables(shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 [n_context, C/2]."""
    half = torch.arange(0, shape.d_head, 2, dtype=torch.float64) / shape.d_head
    angle = torch.outer(torch.arange(shape.n_context, dtype=torch.float64), shape.rope_base**-half)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring pairs of x [B, T, heads, C]; cos, sin [T, 1, C/2]."""
    # Pairs are (0, 1), (2, 3) …, llama.cpp's "norm" rotary: no permutation is needed at export.
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)  # each [B, T, heads, C/2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation, computed in float32 as llama.cpp does."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis; the result has x's dtype."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight.float()).to(x.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        d_kv = shape.n_kv_heads * shape.d_head
        self.q = nn.Linear(shape.d_model, shape.d_model, bias=False)
        self.k = nn.Linear(shape.d_model, d_kv, bias=False)
        self.v = nn.Linear(shape.d_model, d_kv, bias=False)
        self.o = nn.Linear(shape.d_model, shape.d_model, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        heads = (-1, self.shape.d_head)
        q = rotate(self.q(x).unflatten(-1, heads), cos, sin).transpose(1, 2)  # [B, H, T, C]
        k = rotate(self.k(x).unflatten(-1, heads), cos, sin).transpose(1, 2)  # [B, K, T, C]
        v = self.v(x).unflatten(-1, heads).transpose(1, 2)  # [B, K, T, C]
        groups = self.shape.n_heads // self.shape.n_kv_heads
        # Repeating is exact and lets the CPU's fused kernel run, which knows no grouped heads.
        k, v = (side.repeat_interleave(groups, dim=1) for side in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # [B, H, T, C]
        return self.o(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.d_model, shape.d_ff, bias=False)
        self.up = nn.Linear(shape.d_model, shape.d_ff, bias=False)
        self.down = nn.Linear(shape.d_ff, shape.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Attention and feed-forward, each behind its norm, each added to the stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(shape.d_model, shape.norm_eps)
        self.attn = Attention(shape)
        self.ffn_norm = RMSNorm(shape.d_model, shape.norm_eps)
        self.ffn = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        x = x + self.attn(self.attn_norm(x), cos, sin)
        return x + self.ffn(self.ffn_norm(x))


class Llama(nn.Module):
    """The whole model; input and output embedding are one matrix."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.n_vocab, shape.d_model)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.n_layers))
        self.norm = RMSNorm(shape.d_model, shape.norm_eps)
        cos, sin = rope_tables(shape)
        self.register_buffer("cos", cos[:, None], persistent=False)  # [n_context, 1, C/2]
        self.register_buffer("sin", sin[:, None], persistent=False)
        self.start()

    def start(self) -> None:
        """Draw the starting weights; outputs into the stream shrink with depth."""
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                last = name.endswith(("o.weight", "down.weight"))
                std = 0.02 / (2 * self.shape.n_layers) ** 0.5 if last else 0.02
                nn.init.normal_(weight, std=std)

    def forward(self, ids: Tensor) -> Tensor:
        """ids int64 [B, T] -> logits [B, T, V]."""
        n = ids.shape[1]
        x = self.embed(ids)  # [B, T, D]
        cos, sin = self.cos[:n].to(x.dtype), self.sin[:n].to(x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        return F.linear(self.norm(x), self.embed.weight)

    def n_parameters(self) -> int:
        """Number of weights, the shared embedding counted once."""
        return sum(weight.numel() for weight in self.parameters())
