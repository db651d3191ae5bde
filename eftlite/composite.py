"""Members' logits rows and knobs -> the composite: EFT's distribution of the next token.

With every term a log-softmax,

    s = β·log p_base + Σ_i α_i·(log p_tuned,i − log p_reference,i) − (β − 1)·log p_reference,1

which for one delta and α = β = 1 is the paper's ``log p_L + log p_ft − log p_b`` (Mitchell et al., ICLR 2024, eq. 5
and §3.3). A term whose weight is zero is left out, and its model need not run: α = 0 is the base alone, α = 1 with
β = 0 the first tuned model alone.

Two rules give a token the up-scaling weight 1, that is, replace the base by the first reference in its score
(β·log p_base − (β − 1)·log p_reference becomes log p_reference; with one delta and α = 1 the score is log p_tuned):

* conservative decoding (paper §3.3): tokens outside the tuned model's top-p set;
* control tokens (end of turn, role markers), where a pre-trained model's ratio ``p_base / p_reference`` is noise.

Knows rows and weights; never models, caches or text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eftlite import kernels
from eftlite.errors import EngineError, InputError
from eftlite.settings import Knobs

Row = NDArray[np.float32]


@dataclass(frozen=True)
class Roles:
    """Which member plays which part, by index; one model may serve several deltas as reference.

    Attributes:
        n_members: number of distinct models.
        base: index of the base.
        deltas: (tuned, reference) of each delta.
    """

    n_members: int
    base: int
    deltas: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Recipe:
    """What the knobs mean for the members: made once for each setting of the knobs.

    Attributes:
        weights: of each member's log-probabilities; they sum to one.
        needed: members whose logits a step needs, the base first.
        base: index of the base, or None when its weight is zero.
        tuned, reference: of the delta that anchors the rules: the first whose alpha is not zero.
    """

    weights: tuple[float, ...]
    needed: tuple[int, ...]
    base: int | None
    tuned: int | None
    reference: int | None
    knobs: Knobs

    @classmethod
    def of(cls, knobs: Knobs, roles: Roles) -> Recipe:
        """The recipe of ``knobs``; InputError when they do not fit the family."""
        if not roles.deltas:
            if any(knobs.alphas) or knobs.beta != 1.0 or knobs.conservative_p is not None:
                raise InputError("knobs: expected none, since a base alone has nothing to combine", "Name a delta")
            weights = [1.0 if member == roles.base else 0.0 for member in range(roles.n_members)]
            return cls(tuple(weights), (roles.base,), roles.base, None, None, knobs)
        if len(knobs.alphas) != len(roles.deltas):
            raise InputError(f"alphas: expected {len(roles.deltas)}, one for each delta, got {len(knobs.alphas)}")
        active = [index for index, alpha in enumerate(knobs.alphas) if alpha]
        tuned, reference = roles.deltas[active[0] if active else 0]
        weights = [0.0] * roles.n_members
        weights[roles.base] += knobs.beta
        weights[reference] -= knobs.beta - 1.0
        for alpha, (tuned_i, reference_i) in zip(knobs.alphas, roles.deltas, strict=True):
            weights[tuned_i] += alpha
            weights[reference_i] -= alpha
        needed = {member for member, weight in enumerate(weights) if weight}
        if active and knobs.beta:
            needed.add(reference)  # the rules need it even when its weight cancels
        return cls(
            tuple(weights),
            tuple(sorted(needed)),
            roles.base if knobs.beta else None,
            tuned if active else None,
            reference if active or knobs.beta != 1.0 else None,
            knobs,
        )


class Composite:
    """Combines rows into scratch it owns, so that a step allocates nothing of vocabulary length.

    Args:
        n_vocab: length of the members' common range of token ids.
        control: (k,) int32 ids that the control-token rule covers.
        masked: (m,) int32 ids that never occur: padding.
    """

    def __init__(self, n_vocab: int, control: NDArray[np.int32], masked: NDArray[np.int32]) -> None:
        self.n_vocab = n_vocab
        self.control = control
        self.masked = masked
        self._exp = np.empty(n_vocab, np.float32)  # (n_vocab,)
        self._mass = np.empty(1 << 16, np.float64)  # (65536,)
        self._blocks = np.empty((2, kernels.BLOCK), np.float32)  # (2, BLOCK)

    def combine(self, rows: Sequence[Row | None], recipe: Recipe, out: Row) -> Row:
        """Scores of every token, up to a constant: ``log_normaliser`` gives that constant.

        Args:
            rows: of each member, (n_vocab,) float32 raw logits; None for those that ``recipe`` does not need.
            recipe: from the knobs.
            out: (n_vocab,) float32, overwritten.

        Returns:
            ``out``, or the one row itself when only one member counts: a view, not to be written.
        """
        if len(recipe.needed) == 1 and not self.masked.size:
            alone = rows[recipe.needed[0]]
            assert alone is not None
            return alone
        difference = self._weighted_sum(rows, recipe, out)
        if recipe.base is not None and recipe.reference is not None:
            self._rules(rows, recipe, -recipe.knobs.beta * difference, out)
        kernels.mask(out, self.masked)
        return out

    def _weighted_sum(self, rows: Sequence[Row | None], recipe: Recipe, out: Row) -> float:
        """Fill ``out``; returns the base's log-normaliser minus the anchoring reference's."""
        anchors = (recipe.base, recipe.tuned, recipe.reference)
        base, tuned, reference = (None if member is None else rows[member] for member in anchors)
        rest = set(recipe.needed)
        if base is not None and tuned is not None and reference is not None:
            u, v, w = (recipe.weights[member] for member in anchors if member is not None)
            base_lse, reference_lse = kernels.weighted_sum(base, u, tuned, v, reference, w, out)
            rest -= set(anchors)
        else:
            out[:] = np.float32(0.0)
            base_lse = 0.0 if base is None else kernels.log_sum_exp(base)
            reference_lse = 0.0 if reference is None else kernels.log_sum_exp(reference)
        for member in sorted(member for member in rest if member is not None):
            row = rows[member]
            assert row is not None
            kernels.add_weighted(out, row, recipe.weights[member])
        return float(base_lse - reference_lse)

    def _rules(self, rows: Sequence[Row | None], recipe: Recipe, constant: float, out: Row) -> None:
        """Give control tokens, and those outside the tuned model's nucleus, the up-scaling weight 1."""
        assert recipe.base is not None
        assert recipe.reference is not None
        base, reference, knobs = rows[recipe.base], rows[recipe.reference], recipe.knobs
        tuned = None if recipe.tuned is None else rows[recipe.tuned]
        assert base is not None
        assert reference is not None
        if knobs.conservative_p is not None and tuned is not None:
            total = kernels.exp_row(tuned, kernels.row_max(tuned), self._exp)
            threshold = kernels.nucleus_threshold(self._exp, total, knobs.conservative_p, self._mass)
            if knobs.control_tokens:
                self._exp[self.control] = np.float32(np.inf)  # theirs is the next rule; not to be corrected twice
            kernels.replace_base_outside(out, self._exp, threshold, base, reference, knobs.beta, constant)
        if knobs.control_tokens:
            kernels.replace_base(out, self.control, base, reference, knobs.beta, constant)

    def log_normaliser(self, scores: Row) -> float:
        """log Σ exp(scores); EngineError when the members' logits were not finite."""
        value = float(kernels.log_sum_exp(scores))
        if not np.isfinite(value):
            raise EngineError(
                f"composite: expected finite logits, got a log-normaliser of {value}",
                "A model file may be damaged, or a quantization too coarse",
            )
        return value

    def shift(self, scores: Row, normaliser: float, tuned: Row) -> float:
        """TV(tuned, composite) in 0..1: how far the base changed the tuned model's mind (paper §5)."""
        lse = kernels.log_sum_exp(tuned)
        distance = kernels.total_variation(scores, normaliser, tuned, lse, self._blocks[0], self._blocks[1])
        return float(min(distance, 1.0))
