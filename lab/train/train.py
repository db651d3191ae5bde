"""Training loops: rows of packed documents in, a trained model out.

Knows token ids and schedules; knows nothing of text or files. Arithmetic is bfloat16 where it pays, weights float32.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lab.train.model import Llama

Log = Callable[[str], None]
IGNORE = -100


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train; one step sees batch · length tokens."""

    steps: int
    rate: float
    batch: int = 8
    length: int = 512
    warm_up: int = 50
    cool_down: float = 0.5
    decay: float = 0.05
    muon: bool = False

    def rate_at(self, step: int) -> float:
        """Warm-up, plateau, then a straight line to zero over the last `cool_down` of the steps."""
        left = (self.steps - step) / max(1.0, self.cool_down * self.steps)
        return self.rate * min(1.0, (step + 1) / min(self.warm_up, self.steps), left)


@dataclass(frozen=True)
class Rows:
    """Packed documents: ids int16 [n_rows, length + 1]; scored bool, same shape, where a token counts in the loss."""

    ids: NDArray[np.int16]
    scored: NDArray[np.bool_]


def pack(documents: list[NDArray[np.int16]], masks: list[NDArray[np.bool_]], length: int) -> Rows:
    """Whole documents one after the other; each row begins with a document and cuts the last one off."""
    ids, scored = [], []
    row, marks, size = [], [], 0
    for document, mask in zip(documents, masks, strict=True):
        row.append(document)
        marks.append(mask)
        size += len(document)
        if size > length:
            ids.append(np.concatenate(row)[: length + 1])
            scored.append(np.concatenate(marks)[: length + 1])
            row, marks, size = [], [], 0
    return Rows(np.stack(ids), np.stack(scored))


def batches(rows: Rows, plan: Plan, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled passes over the rows, without end; inputs and targets int64 [batch, length]."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(rows.ids))
        for start in range(0, len(order) - plan.batch + 1, plan.batch):
            chosen = order[start : start + plan.batch]
            ids = torch.from_numpy(rows.ids[chosen].astype(np.int64))
            wanted = torch.from_numpy(rows.scored[chosen][:, 1:])
            yield ids[:, :-1], torch.where(wanted, ids[:, 1:], IGNORE)


def optimizers(model: Llama, plan: Plan) -> tuple[torch.optim.Optimizer, ...]:
    """AdamW for everything, or Muon for the blocks' matrices and AdamW for the embedding and the norms."""
    matrices = [weight for name, weight in model.named_parameters() if weight.dim() == 2 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.dim() != 2 or "embed" in name]
    adam = functools.partial(torch.optim.AdamW, lr=plan.rate, betas=(0.9, 0.95), fused=True)
    if plan.muon:
        # Matched to AdamW's step size, so that one rate serves both.
        muon = torch.optim.Muon(matrices, lr=plan.rate, weight_decay=plan.decay, adjust_lr_fn="match_rms_adamw")
        return muon, adam(others, weight_decay=0.0)
    return adam(matrices, weight_decay=plan.decay), adam(others, weight_decay=0.0)


def loss_of(model: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the scored targets, a scalar."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(inputs)  # [B, T, V]
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE)


def faster(model: Llama, plan: Plan) -> Callable[[Tensor], Tensor]:
    """The model compiled, where a compiler is at hand and the run is long enough to pay for it."""
    return torch.compile(model) if plan.steps >= 300 and shutil.which("g++") else model


def train(model: Llama, rows: Rows, plan: Plan, seed: int, log: Log) -> Llama:
    """Train in place; reports the loss twenty times."""
    forward = faster(model, plan)
    tools = optimizers(model, plan)
    source = batches(rows, plan, seed)
    began, losses = time.time(), list[float]()
    for step in range(plan.steps):
        for group in (group for tool in tools for group in tool.param_groups):
            group["lr"] = plan.rate_at(step)
        loss = loss_of(forward, *next(source))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for tool in tools:
            tool.step()
            tool.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % max(1, plan.steps // 20) == 0:
            log(f"  step {step + 1:5}  loss {np.mean(losses[-50:]):.3f}  {time.time() - began:6.0f} s")
    return model
