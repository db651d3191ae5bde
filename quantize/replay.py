"""Settings scored offline: what EFT would have made of a recorded text, with any knobs and any recorded types.

Of each setting, with every position given the text before it: the perplexity, how far the composite is from the tuned
model (TV, which is 1 minus the expected acceptance of the tuned model's drafts), and its KLD from one setting that all
are compared with. No model runs, and memory does not grow with the text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eftlite.composite import Recipe
from eftlite.errors import EngineError, InputError
from eftlite.pace import expected_tokens
from eftlite.settings import Knobs
from eftlite_quantize import kernels_composite as kernels
from eftlite_quantize.metrics import N_RESAMPLES, SEED, Figure
from eftlite_quantize.recorded import Index, open_recording
from eftlite_quantize.recording import PIECE
from eftlite_quantize.texts import first_scored, scored

Report = Callable[[str, int, int], None]
Rows = NDArray[np.float32]  # (m, n_vocab)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """What is scored.

    Attributes:
        name: as tables call it.
        files: a recording of each member, in the index's order.
    """

    name: str
    knobs: Knobs
    files: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """What was found; ± is the standard error over resampled chunks.

    Attributes:
        nll: mean negative log-probability of the right token, nats.
        shift: mean TV to the first tuned model; of a base alone, to itself.
        kld: mean, from the setting that all are compared with, nats.
        kld_chunks: (n_chunks,) means of the chunks, for figures of several scores.
    """

    setting: Setting
    nll: Figure
    shift: Figure
    kld: Figure
    kld_chunks: Array

    @property
    def ppl(self) -> float:
        """Perplexity."""
        return math.exp(min(self.nll.value, 300.0))

    @property
    def acceptance(self) -> float:
        """Expected share of the tuned model's drafts that stand."""
        return 1.0 - self.shift.value

    def tokens(self, n_draft: int) -> float:
        """Expected tokens of a verification of n_draft drafted ones."""
        return expected_tokens(min(max(self.acceptance, 0.0), 1.0), n_draft)

    def as_json(self, n_draft: int) -> dict[str, Any]:
        """Stable keys, values that JSON takes."""
        figures = {"nll": self.nll, "shift": self.shift, "kld": self.kld}
        return {
            "name": self.setting.name,
            "alphas": list(self.setting.knobs.alphas),
            "beta": self.setting.knobs.beta,
            "conservative_p": self.setting.knobs.conservative_p,
            "recordings": list(self.setting.files),
            "ppl": self.ppl,
            "acceptance": self.acceptance,
            "tokens_per_verification": self.tokens(n_draft),
            **{name: one.as_json() for name, one in figures.items()},
        }


def originals(index: Index) -> tuple[str, ...]:
    """Each member's original recording."""
    return tuple(entries[0].file for entries in index.members.values())


def usual(index: Index) -> Setting:
    """The family as it is: its own knobs, the original files."""
    return Setting(
        "full precision", Knobs(tuple(one.alpha for one in index.deltas), allow_negative=True), originals(index)
    )


def replay(
    folder: Path,
    index: Index,
    settings: Sequence[Setting],
    against: Setting | None = None,
    report: Report = lambda what, done, total: None,  # noqa: ARG005  # says nothing
) -> list[Score]:
    """Score settings.

    Args:
        against: what KLD is measured from; the family as it is by default.

    Raises:
        InputError: a recording is damaged or missing, or knobs do not fit the family.
        EngineError: a composite is no number.
    """
    entries = {one.file: one for found in index.members.values() for one in found}
    against = against or usual(index)
    with ExitStack() as stack:
        names = list(dict.fromkeys(file for one in (against, *settings) for file in one.files))
        opened = {name: stack.enter_context(open_recording(folder, index, entries[name])) for name in names}
        first = next(iter(opened.values()))
        if any(one.head.n_vocab != first.head.n_vocab for one in opened.values()):
            raise InputError("recordings: expected one vocabulary, got several", "Record the family again")
        n_chunks, n_ctx = first.tokens.shape
        buffers = _Buffers(first.head.n_vocab)
        players = [_Player(index, one, buffers) for one in (against, *settings)]
        sums = np.zeros((len(players), n_chunks, kernels.N_FOUND))
        for chunk in range(n_chunks):
            report("replaying", chunk, n_chunks)
            start = first_scored(n_ctx) + 1
            for pieces in zip(*(one.pieces(chunk) for one in opened.values()), strict=True):
                rows = dict(zip(names, pieces, strict=True))
                targets = first.tokens[chunk, start : start + len(pieces[0])]
                sums[:, chunk] += _score(index, players, rows, targets)
                start += len(targets)
    drawn = _draws(n_chunks)
    n = scored(n_ctx)
    return [_score_of(one.setting, found / n, drawn) for one, found in zip(players[1:], sums[1:], strict=True)]


def over_sum(score: Score, parts: Sequence[Score]) -> Figure | None:
    """A score's KLD over the sum of others', drawn together from the same chunks; None where that sum is 0."""
    whole, total = score.kld_chunks, np.sum([one.kld_chunks for one in parts], axis=0)
    if not total.sum() > 0:
        return None
    drawn = _draws(len(total))
    sums = drawn @ total if len(drawn) else total.sum(keepdims=True)
    some = sums > 0  # a resample of chunks without any divergence has no ratio
    error = float(((drawn @ whole)[some] / sums[some]).std(ddof=1)) if some.sum() > 1 else None
    return Figure(float(whole.sum() / total.sum()), None, error)


class _Buffers:
    """Scratch that all settings share, so that memory does not grow with their number."""

    def __init__(self, n_vocab: int) -> None:
        self.out = np.empty((PIECE, n_vocab), np.float32)
        self.scratch, self.mass = np.empty(n_vocab, np.float32), np.empty(1 << 16)


class _Player:
    """One setting, ready to be applied to rows."""

    def __init__(self, index: Index, setting: Setting, buffers: _Buffers) -> None:
        recipe = Recipe.of(setting.knobs, index.roles)
        none = np.zeros(0, np.int32)
        self.setting = setting
        self._weights = np.array(recipe.weights)
        anchors = (recipe.base, recipe.tuned, recipe.reference)
        self._anchors = np.array([-1 if one is None else one for one in anchors], np.int64)
        self._beta = float(setting.knobs.beta)
        self._top_p = -1.0 if setting.knobs.conservative_p is None else float(setting.knobs.conservative_p)
        self._control = np.array(index.control, np.int32) if setting.knobs.control_tokens else none
        self._masked = np.array(index.masked, np.int32)
        self._buffers = buffers

    def combine(self, rows: dict[str, Rows]) -> Rows:
        """Log-probabilities (m, n_vocab), valid until any player's next call."""
        members = np.stack([rows[file] for file in self.setting.files])
        out = self._buffers.out[: members.shape[1]]
        kernels.combine(
            members, self._weights, self._anchors, self._beta, self._top_p, self._control, self._masked, out,
            self._buffers.scratch, self._buffers.mass,
        )  # fmt: skip  # the arguments fit on two lines
        return out


def _score(index: Index, players: Sequence[_Player], rows: dict[str, Rows], targets: NDArray[np.int32]) -> Array:
    """(n_players, N_FOUND) sums over a piece; the first player is what KLD is measured from."""
    masked = np.array(index.masked, np.int32)
    log_base = players[0].combine(rows).copy()
    base, tuned = np.empty_like(log_base), np.empty_like(log_base)
    kernels.exp_rows(log_base, base)
    log_base[:, masked] = 0.0
    own = index.roles.deltas[0][0] if index.deltas else index.roles.base
    scratch = np.empty(log_base.shape[1], np.float32)
    found = np.empty((len(targets), kernels.N_FOUND))
    sums = np.empty((len(players), kernels.N_FOUND))
    file = None
    for number, player in enumerate(players):
        if player.setting.files[own] != file:
            file = player.setting.files[own]
            kernels.exp_rows(rows[file], tuned)
        kernels.describe(player.combine(rows), targets, tuned, log_base, base, masked, scratch, found)
        sums[number] = found.sum(0)
        if not np.isfinite(sums[number]).all():
            raise EngineError(f"{player.setting.name}: expected probabilities, got what is no number")
    return sums


def _draws(n_chunks: int) -> Array:
    """(N_RESAMPLES, n_chunks) how often each chunk is drawn; none where there is but one."""
    rng = np.random.default_rng(SEED)
    n = N_RESAMPLES if n_chunks > 1 else 0
    return np.array([np.bincount(rng.integers(0, n_chunks, n_chunks), minlength=n_chunks) for _ in range(n)], float)


def _score_of(setting: Setting, means: Array, drawn: Array) -> Score:
    """From the means of each chunk (n_chunks, N_FOUND), with the deviation of their resamples."""
    values = means.mean(0)
    errors = (drawn @ means / len(means)).std(0, ddof=1).tolist() if len(drawn) else [None] * kernels.N_FOUND
    nll, shift, kld = (Figure(float(value), None, error) for value, error in zip(values, errors, strict=True))
    return Score(setting, nll, shift, kld, means[:, kernels.KLD])
