"""Tokens per second to expect of a setting: what its recordings' models cost on this machine, and its acceptance.

Each model's batches are timed once, one model after the other, and the times kept beside the recordings by machine:

    curves.json    see eftlite.costs

The expected acceptance is that of drafts drawn as they are, at temperature 1 and without filters, under the rules
``token`` and ``block``; ``gumbel`` keeps fewer of the same drafts, and sharper sampling accepts more of them.

Knows recordings, curves and rules of thumb; loads models only to time them.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eftlite.composite import Composite, Recipe
from eftlite.costs import CostCurve, Costs, load_curve, save_curve
from eftlite.ensemble import Ensemble
from eftlite.gguf import check
from eftlite.llama import BINDING_VERSION
from eftlite.loading import DEFAULT_N_CTX
from eftlite.member import physical_cores
from eftlite.pace import seconds_per_token
from eftlite.places import cache_folder
from eftlite.sampling import Sampler
from eftlite.settings import ModelSettings, Sampling, Speculation
from eftlite.timing import member_curve, row_seconds
from eftlite.vocab import share
from eftlite_quantize.evaluate import Evaluator
from eftlite_quantize.recorded import Entry, Index
from eftlite_quantize.replay import Report, Score, usual

CURVES = "curves.json"
_LAW, _DRAFTED_LAW = "a composite's row", "a draft's row"  # kept as curves of one point


@dataclass(frozen=True)
class Speed:
    """What to expect.

    Attributes:
        plain: tokens per second without drafts.
        drafted: with drafts of the best length.
        n_draft: that length; 0 where drafts do not pay, and ``drafted`` is ``plain``.
    """

    plain: float
    drafted: float
    n_draft: int

    def as_json(self) -> dict[str, Any]:
        """Stable keys, values that JSON takes."""
        return dict(vars(self))


def measure(folder: Path, index: Index, files: Iterable[str], settings: ModelSettings, report: Report) -> None:
    """Time the models of these recordings, those that this machine has not timed yet.

    Raises:
        ModelFileError, EngineError: a model cannot be loaded.
    """
    missing = [(name, one) for name, one in _entries(index, files) if _curve(folder, one.sha256) is None]
    for number, (name, one) in enumerate(missing):
        report(f"timing {Path(one.path).name}", number, len(missing))
        n_ctx = min(DEFAULT_N_CTX, check(one.path).n_ctx_train)  # as the family itself would be loaded
        with Evaluator(one.path, n_ctx, settings, name) as model:
            save_curve(folder / CURVES, _key(one.sha256), member_curve(model.member, cache_folder() / CURVES))
            for what, seconds in zip((_LAW, _DRAFTED_LAW), _row_seconds(index, model), strict=True):
                save_curve(folder / CURVES, _key(what), CostCurve.of({1: seconds}))


def speeds(folder: Path, index: Index, scores: Sequence[Score]) -> list[Speed] | None:
    """What to expect of each score's setting; None where a model that it needs was not timed on this machine."""
    curves = {one.file: _curve(folder, one.sha256) for _, one in _entries(index, _files(scores))}
    rows = [_curve(folder, what) for what in (_LAW, _DRAFTED_LAW)]
    known = {file: curve for file, curve in curves.items() if curve is not None}
    law, drafted_law = rows
    if law is None or drafted_law is None or len(known) < len(curves):
        return None
    row_s = law.at(1), drafted_law.at(1)
    return [_speed(index, score, dict(zip(index.members, _of(score, known), strict=True)), row_s) for score in scores]


def _speed(index: Index, score: Score, curves: Mapping[str, CostCurve], row_s: tuple[float, float]) -> Speed:
    """By the names of members. The tuned model of the strongest delta drafts, unless one member answers alone."""
    recipe = Recipe.of(score.setting.knobs, index.roles)
    names = list(index.members)
    needed = [names[member] for member in recipe.needed]
    alphas = score.setting.knobs.alphas
    drafter = None
    if len(needed) > 1:
        drafter = index.deltas[max(range(len(alphas)), key=alphas.__getitem__)].tuned
    costs = Costs(
        curves=curves,
        verifiers=tuple(name for name in needed if name != drafter) or (names[index.roles.base],),
        drafter=drafter,
        outsider=drafter is not None and drafter not in needed,
        row_s=row_s[0],
        draft_row_s=row_s[1],
    )
    most = Speculation().max_draft if drafter else 0
    seconds = seconds_per_token(costs, min(max(score.acceptance, 0.0), 1.0), most)
    best = min(range(len(seconds)), key=seconds.__getitem__)
    return Speed(1.0 / seconds[0], 1.0 / seconds[best], best)


# ---- what is kept


def _row_seconds(index: Index, model: Evaluator) -> tuple[float, float]:
    """Seconds to make a composite's row and a draft's; the one model stands for all, since only its length counts."""
    ensemble = Ensemble([model.member] * len(index.members), index.roles, share([model.vocabulary]))
    control, masked = (np.array(ids, np.int32) for ids in (index.control, index.masked))
    sampler = Sampler(Sampling(), model.model, ensemble.n_vocab)
    try:
        return row_seconds(Composite(ensemble.n_vocab, control, masked), ensemble, usual(index).knobs, sampler)
    finally:
        sampler.close()


def _key(what: str) -> dict[str, str | int]:
    """Of a model by its file's SHA-256, or of ``_LAW`` and ``_DRAFTED_LAW``."""
    machine = f"{platform.node()} {platform.machine()}"
    return {"machine": machine, "cores": physical_cores(), "llama-cpp-python": BINDING_VERSION, "of": what}


def _curve(folder: Path, what: str) -> CostCurve | None:
    return load_curve(folder / CURVES, _key(what))


def _files(scores: Iterable[Score]) -> set[str]:
    return {file for one in scores for file in one.setting.files}


def _of(score: Score, curves: Mapping[str, CostCurve]) -> list[CostCurve]:
    """The curve of each member, in the index's order."""
    return [curves[file] for file in score.setting.files]


def _entries(index: Index, files: Iterable[str]) -> list[tuple[str, Entry]]:
    """Members with those of their recordings that are named."""
    wanted = set(files)
    return [(name, one) for name, entries in index.members.items() for one in entries if one.file in wanted]
