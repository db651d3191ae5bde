"""Which type for which member, given a memory budget: the combination of recorded types with the smallest divergence.

Sizes are those of tensors and caches. Every member's divergence alone is replayed first; their sum predicts that of a
combination well enough to leave out what cannot be on the front, and what is left is replayed exactly. Nothing is
promised of other texts than the recorded one.

Knows recordings and headers, never loads a model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from eftlite.errors import EFTError, InputError
from eftlite.gguf import check
from eftlite.inspection import cache_bytes, size
from eftlite_quantize.recorded import Entry, Index
from eftlite_quantize.replay import Report, Score, Setting, replay, usual
from eftlite_quantize.roles import files_of
from eftlite_quantize.variants import playing

# A combination is left out when another, no larger, has a sum this many times smaller: sums of alike types overstate.
SLACK = 2.0
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Choice:
    """A combination.

    Attributes:
        kinds: the type of each member that counts.
        n_bytes: of tensors and caches.
        predicted: sum of the KLDs of the members alone.
        score: of the composite, by exact replay.
    """

    kinds: Mapping[str, str]
    n_bytes: int
    predicted: float
    score: Score

    def as_json(self) -> dict[str, Any]:
        """Stable keys, values that JSON takes."""
        kld = self.score.kld.as_json()
        return {"types": dict(self.kinds), "bytes": self.n_bytes, "predicted": self.predicted, "kld": kld}


def budget(text: str) -> int:
    """Bytes of ``8G``, ``3.5GiB``, ``900M``; units are powers of 1024. InputError for anything else."""
    number = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = number[-1:] if number[-1:] in _UNITS else ""
    try:
        n = round(float(number.removesuffix(unit)) * _UNITS[unit])
    except (ValueError, OverflowError):
        n = 0
    if n <= 0:
        raise InputError(f"--ram: expected a size, got {text!r}", "For example 8G or 900M")
    return n


def front(
    folder: Path,
    index: Index,
    n_ctx: int,
    report: Report = lambda what, done, total: None,  # noqa: ARG005  # says nothing
) -> list[Choice]:
    """Combinations that no other beats in both size and divergence, the smallest first.

    Args:
        n_ctx: tokens that each cache holds.

    Raises:
        InputError: a recording or a model file is damaged or missing.
    """
    members = playing(index)
    options = [index.members[name] for name in members]
    sizes = {one.file: one.n_bytes for entries in options for one in entries}
    caches = sum(cache_bytes(check(entries[0].path), n_ctx) or 0 for entries in options)
    alone = _alone(folder, index, members, report)
    every = [
        (caches + sum(sizes[one.file] for one in chosen), sum(alone[one.file] for one in chosen), chosen)
        for chosen in product(*options)
    ]
    kept = _promising(every)
    scores = replay(folder, index, [_setting(index, members, chosen) for _, _, chosen in kept], None, report)
    found = [
        Choice({name: one.kind for name, one in zip(members, chosen, strict=True)}, n_bytes, predicted, score)
        for (n_bytes, predicted, chosen), score in zip(kept, scores, strict=True)
    ]
    return _best(found)


def choose(choices: Sequence[Choice], n_bytes: int) -> Choice:
    """The best of a front within a budget; InputError when nothing fits."""
    fitting = [one for one in choices if one.n_bytes <= n_bytes]
    if not fitting:
        raise InputError(
            f"--ram: expected at least {size(choices[0].n_bytes)}, got {size(n_bytes)}",
            "Record smaller types with --types, or ask for a shorter context with -c",
        )
    return min(fitting, key=lambda one: (one.score.kld.value, one.n_bytes))


def write_family(index: Index, choice: Choice, path: Path) -> None:
    """A family file with the chosen files; deltas of strength 0, which the plan left out, are left out.

    Raises:
        EFTError: it cannot be written.
    """
    files = {name: index.find(name, kind).path for name, kind in choice.kinds.items()}
    lines = [f"name = {json.dumps(index.family)}", f"base = {_place(files['base'], path)}"]
    if index.template is not None:
        lines.append(f"template = {json.dumps(index.template)}")
    if index.stop:
        lines.append(f"stop = {json.dumps(list(index.stop))}")
    for one in index.deltas:
        if one.alpha:
            lines += ["", "[[delta]]", f"name = {json.dumps(one.name)}", f"alpha = {one.alpha!r}"]
            lines += [f"tuned = {_place(files[one.tuned], path)}", f"reference = {_place(files[one.reference], path)}"]
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise EFTError(f"{path.name}: cannot be written: {error.strerror}") from None


def _alone(folder: Path, index: Index, members: Sequence[str], report: Report) -> dict[str, float]:
    """KLD of each recording when its member alone is swapped, by file."""
    swaps = [(name, one) for name in members for one in index.members[name]]
    settings = [Setting(one.file, usual(index).knobs, files_of(index, {name: one.kind})) for name, one in swaps]
    return {score.setting.name: score.kld.value for score in replay(folder, index, settings, None, report)}


def _setting(index: Index, members: Sequence[str], chosen: Sequence[Entry]) -> Setting:
    kinds = {name: one.kind for name, one in zip(members, chosen, strict=True)}
    return Setting(" ".join(kinds.values()), usual(index).knobs, files_of(index, kinds))


def _promising(every: Sequence[tuple[int, float, tuple[Entry, ...]]]) -> list[tuple[int, float, tuple[Entry, ...]]]:
    """Combinations whose sum is within ``SLACK`` of the best that is no larger."""
    kept, least = [], float("inf")
    for one in sorted(every, key=lambda one: one[:2]):
        least = min(least, one[1])
        if one[1] <= SLACK * least:
            kept.append(one)
    return kept


def _best(found: Sequence[Choice]) -> list[Choice]:
    best: list[Choice] = []
    for one in sorted(found, key=lambda one: (one.n_bytes, one.score.kld.value)):
        if not best or one.score.kld.value < best[-1].score.kld.value:
            best.append(one)
    return best


def _place(file: str, family: Path) -> str:
    """A path in a family file: relative where the model lies below the file's folder. JSON's strings are TOML's."""
    path, folder = Path(file).resolve(), family.absolute().parent.resolve()
    return json.dumps(path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path))
