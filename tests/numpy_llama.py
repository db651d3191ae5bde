"""A llama in numpy: logits of one GGUF file, from the tensors and numbers that the file holds and nothing else.

For test_independent.py, which runs it in a process of its own: ``python -m tests.numpy_llama IDS.npy OUT FILE …`` reads
(n, length) ids and writes OUT/<name of the file>.npy, (n, length, n_vocab) float32 logits.

RMSNorm, rotary positions in adjacent pairs, grouped queries, SwiGLU, tied or untied output; float64.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Llama:
    """Logits of one GGUF file, F16 or F32, of the ``llama`` architecture."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        fields: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
        self.n_heads: int = fields["llama.attention.head_count"]
        self.n_kv_heads: int = fields["llama.attention.head_count_kv"]
        self.n_layers: int = fields["llama.block_count"]
        self.eps: float = fields["llama.attention.layer_norm_rms_epsilon"]
        self.base: float = fields.get("llama.rope.freq_base", 10_000.0)
        self.n_rot: int = fields["llama.rope.dimension_count"]
        self._weights: dict[str, Floats] = {t.name: np.array(t.data, np.float64) for t in reader.tensors}

    def logits(self, windows: NDArray[np.int64]) -> Floats:
        """(n, length, n_vocab) float64 of (n, length) ids, each window by itself."""
        w = self._weights
        x = w["token_embd.weight"][windows]  # (n, length, n_embd)
        for i in range(self.n_layers):
            x = x + self._attention(self._norm(x, f"blk.{i}.attn_norm"), i)
            hidden = self._norm(x, f"blk.{i}.ffn_norm")
            gate = hidden @ w[f"blk.{i}.ffn_gate.weight"].T
            up = hidden @ w[f"blk.{i}.ffn_up.weight"].T
            x = x + (gate / (1.0 + np.exp(-gate)) * up) @ w[f"blk.{i}.ffn_down.weight"].T
        output = w.get("output.weight", w["token_embd.weight"])
        result: Floats = self._norm(x, "output_norm") @ output.T
        return result

    def _norm(self, x: Floats, name: str) -> Floats:
        scaled: Floats = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self._weights[f"{name}.weight"]
        return scaled

    def _attention(self, x: Floats, i: int) -> Floats:
        n, length, _ = x.shape
        q, k, v = (x @ self._weights[f"blk.{i}.attn_{part}.weight"].T for part in "qkv")
        q, k, v = (part.reshape(n, length, -1, part.shape[-1] // heads).swapaxes(1, 2) for part, heads in (
            (q, self.n_heads), (k, self.n_kv_heads), (v, self.n_kv_heads)))  # fmt: skip  # (n, heads, length, head)
        q, k = self._rotate(q), self._rotate(k)
        group = self.n_heads // self.n_kv_heads
        k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
        scores = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1])  # (n, heads, length, length)
        scores += np.triu(np.full((length, length), -np.inf), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        joined = mixed.swapaxes(1, 2).reshape(n, length, -1)
        result: Floats = joined @ self._weights[f"blk.{i}.attn_output.weight"].T
        return result

    def _rotate(self, x: Floats) -> Floats:
        """Rotary positions: pairs of neighbours (2j, 2j + 1) turn by position * base^(-2j / n_rot)."""
        length, n_rot = x.shape[2], self.n_rot
        angles = np.outer(np.arange(length), self.base ** (-np.arange(0, n_rot, 2) / n_rot))  # (length, n_rot / 2)
        even, odd = x[..., 0:n_rot:2], x[..., 1:n_rot:2]
        turned = x.copy()
        turned[..., 0:n_rot:2] = even * np.cos(angles) - odd * np.sin(angles)
        turned[..., 1:n_rot:2] = even * np.sin(angles) + odd * np.cos(angles)
        return turned


def main(ids: Path, out: Path, files: list[Path]) -> None:
    """Write the logits of every file."""
    windows = np.load(ids)  # (n, length) int64
    for file in files:
        np.save(out / f"{file.stem}.npy", Llama(file).logits(windows).astype(np.float32))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
