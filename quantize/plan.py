"""Which type for which member, given a memory budget: the combination of recorded types with the smallest divergence.

Sizes are those of tensors and caches. Every member's divergence alone is replayed first; their sum predicts that of a
combination well enough to leave out what cannot be best, and what is left is replayed exactly. Nothing is promised of
other texts than the recorded one.

Knows recordings and headers, never loads a model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from eftlite.gguf import check
from eftlite_quantize.newfile import write_text
from eftlite_quantize.offload import Budget, Load, Placement
from eftlite_quantize.recorded import Entry, Index
from eftlite_quantize.replay import Report, Score, Setting, replay, usual
from eftlite_quantize.roles import files_of
from eftlite_quantize.variants import playing

# A combination is left out when another, no larger, has a sum this many times smaller: sums of alike types overstate.
SLACK = 2.0


@dataclass(frozen=True)
class Choice:
    """A combination.

    Attributes:
        kinds: the type of each member that counts.
        n_bytes: of tensors and caches.
        placement: where it goes within the budget.
        fits: whether the budget has room for it.
        predicted: sum of the KLDs of the members alone.
        score: of the composite, by exact replay.
    """

    kinds: Mapping[str, str]
    n_bytes: int
    placement: Placement
    fits: bool
    predicted: float
    score: Score

    def as_json(self) -> dict[str, Any]:
        """Stable keys, values that JSON takes."""
        return {
            "types": dict(self.kinds),
            "bytes": self.n_bytes,
            **vars(self.placement),
            "fits": self.fits,
            "predicted": self.predicted,
            "kld": self.score.kld.as_json(),
        }


@dataclass(frozen=True)
class Plan:
    """What was found.

    Attributes:
        choices: combinations that no other beats in both size and divergence, and the one that was chosen; the
            smallest first.
        chosen: the best that fits.
        cache_unknown: members whose header does not say how large a cache is; it was not counted.
    """

    choices: tuple[Choice, ...]
    chosen: Choice
    cache_unknown: tuple[str, ...]


@dataclass(frozen=True)
class _Candidate:
    """A combination before it is replayed."""

    entries: tuple[Entry, ...]
    n_bytes: int
    placement: Placement
    fits: bool
    predicted: float


def plan(
    folder: Path,
    index: Index,
    n_ctx: int,
    budget: Budget,
    report: Report = lambda what, done, total: None,  # noqa: ARG005  # says nothing
) -> Plan:
    """Choose a type for each member that counts.

    Args:
        n_ctx: tokens that each cache holds.

    Raises:
        InputError: nothing fits, or a recording is damaged or missing.
        ModelFileError: a recorded model's file is damaged or missing.
    """
    members = playing(index)
    loads = {one.file: Load.of(check(one.path), n_ctx) for name in members for one in index.members[name]}
    every = _candidates(index, members, loads, budget, _alone(folder, index, members, report))
    if not any(one.fits for one in every):
        least = min(every, key=lambda one: one.n_bytes)
        raise budget.too_small({name: loads[one.file] for name, one in zip(members, least.entries, strict=True)})
    kept = [*_promising(every), *_promising(one for one in every if one.fits)]
    kept = list({id(one): one for one in kept}.values())
    scores = replay(folder, index, [_setting(index, members, one.entries) for one in kept], None, report)
    found = [
        Choice(_kinds(members, one.entries), one.n_bytes, one.placement, one.fits, one.predicted, score)
        for one, score in zip(kept, scores, strict=True)
    ]
    chosen = min((one for one in found if one.fits), key=_worth)
    front = [one for one in _best(found) if one is not chosen]
    unknown = tuple(name for name in members if not loads[index.members[name][0].file].cache_known)
    return Plan(tuple(sorted([*front, chosen], key=lambda one: one.n_bytes)), chosen, unknown)


def write_family(index: Index, choice: Choice, path: Path) -> None:
    """A family file with the chosen files; deltas of strength 0, which the plan left out, are left out.

    Raises:
        EFTError: it cannot be written.
    """
    files = {name: index.find(name, kind).path for name, kind in choice.kinds.items()}
    lines = [f"name = {_text(index.family)}", f"base = {_place(files['base'], path)}"]
    if index.template is not None:
        lines.append(f"template = {_text(index.template)}")
    if index.stop:
        lines.append(f"stop = [{', '.join(_text(one) for one in index.stop)}]")
    for one in index.deltas:
        if one.alpha:
            lines += ["", "[[delta]]", f"name = {_text(one.name)}", f"alpha = {one.alpha!r}"]
            lines += [f"tuned = {_place(files[one.tuned], path)}", f"reference = {_place(files[one.reference], path)}"]
    for name, n in choice.placement.n_gpu_layers.items():
        lines += ["", f"[settings.{_key(name)}]", f"n_gpu_layers = {n}"]
    write_text(path, "\n".join(lines) + "\n")


def _alone(folder: Path, index: Index, members: Sequence[str], report: Report) -> dict[str, float]:
    """KLD of each recording when its member alone is swapped, by file."""
    swaps = [(name, one) for name in members for one in index.members[name]]
    settings = [Setting(one.file, usual(index).knobs, files_of(index, {name: one.kind})) for name, one in swaps]
    return {score.setting.name: score.kld.value for score in replay(folder, index, settings, None, report)}


def _candidates(
    index: Index, members: Sequence[str], loads: Mapping[str, Load], budget: Budget, alone: Mapping[str, float]
) -> list[_Candidate]:
    """Every combination of recordings."""
    found = []
    for entries in product(*(index.members[name] for name in members)):
        chosen = {name: loads[one.file] for name, one in zip(members, entries, strict=True)}
        placement = budget.place(chosen)
        n_bytes = sum(one.total for one in chosen.values())
        predicted = sum(alone[one.file] for one in entries)
        found.append(_Candidate(entries, n_bytes, placement, budget.fits(chosen, placement), predicted))
    return found


def _kinds(members: Sequence[str], entries: Sequence[Entry]) -> dict[str, str]:
    return {name: one.kind for name, one in zip(members, entries, strict=True)}


def _setting(index: Index, members: Sequence[str], entries: Sequence[Entry]) -> Setting:
    kinds = _kinds(members, entries)
    return Setting(" ".join(kinds.values()), usual(index).knobs, files_of(index, kinds))


def _promising(every: Iterable[_Candidate]) -> list[_Candidate]:
    """Combinations whose sum is within ``SLACK`` of the best that is no larger."""
    kept, least = [], float("inf")
    for one in sorted(every, key=lambda one: (one.n_bytes, one.predicted)):
        least = min(least, one.predicted)
        if one.predicted <= SLACK * least:
            kept.append(one)
    return kept


def _worth(one: Choice) -> tuple[float, int]:
    """The less the better."""
    return one.score.kld.value, one.n_bytes


def _best(found: Sequence[Choice]) -> list[Choice]:
    best: list[Choice] = []
    for one in sorted(found, key=lambda one: (one.n_bytes, one.score.kld.value)):
        if not best or one.score.kld.value < best[-1].score.kld.value:
            best.append(one)
    return best


def _place(file: str, family: Path) -> str:
    """A path in a family file: relative where the model lies below the file's folder."""
    path, folder = Path(file).resolve(), family.absolute().parent.resolve()
    return _text(path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path))


def _key(name: str) -> str:
    """A member's name as a key; that of one delta among several has a colon."""
    return name if name.isalnum() and name.isascii() else _text(name)


def _text(text: str) -> str:
    """A string in TOML: JSON's, which may not escape what takes two escapes there and must escape DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
