"""What quantizing each member does to the composite: one member at a time, the small ones together, all of them.

With log-probabilities off by e_base, e_tuned, e_reference, the composite is off by e_base + e_tuned - e_reference (for
alpha = beta = 1). Were the last two alike, they would cancel; this measures whether they do.

Knows recorded types, never models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eftlite.errors import InputError
from eftlite_quantize.metrics import Figure
from eftlite_quantize.recorded import Index
from eftlite_quantize.replay import Report, Score, Setting, originals, over_sum, replay, usual
from eftlite_quantize.variants import playing

ALIKE, DIFFERENT, ALL = "small alike", "small differently", "all"


@dataclass(frozen=True)
class Swap:
    """A combination of types.

    Attributes:
        what: the member that is quantized alone, or ``ALIKE``, ``DIFFERENT``, ``ALL``.
        kinds: the type of each quantized member; the others are the originals.
        score: of the composite.
        alone: the sum of the members' KLDs when each is quantized alone.
        over_sum: KLD over ``alone``, which below 1 says that errors cancel; None for one member, or where ``alone``
            is 0.
    """

    what: str
    kinds: Mapping[str, str]
    score: Score
    alone: float
    over_sum: Figure | None

    def as_json(self) -> dict[str, Any]:
        """Stable keys, values that JSON takes."""
        return {
            "what": self.what,
            "types": dict(self.kinds),
            "kld": self.score.kld.as_json(),
            "alone": self.alone,
            "over_sum": None if self.over_sum is None else self.over_sum.as_json(),
        }


def files_of(index: Index, kinds: Mapping[str, str]) -> tuple[str, ...]:
    """A recording of each member, those without a type their originals; InputError for a type not recorded."""
    usual_files = zip(index.members, originals(index), strict=True)
    return tuple(index.find(name, kinds[name]).file if name in kinds else file for name, file in usual_files)


def combinations(members: Sequence[str], types: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """What is compared: each member alone at each type, the small ones at one type and at two, all at one type."""
    small = members[1:]
    found = [(name, {name: kind}) for name in members for kind in types]
    if len(small) > 1:
        found += [(ALIKE, dict.fromkeys(small, kind)) for kind in types]
        found += [
            (DIFFERENT, {small[0]: one, **dict.fromkeys(small[1:], other)})
            for one in types
            for other in types
            if one != other
        ]
    return found + [(ALL, dict.fromkeys(members, kind)) for kind in types] * (len(members) > 1)


def swaps(
    folder: Path,
    index: Index,
    types: Sequence[str],
    report: Report = lambda what, done, total: None,  # noqa: ARG005  # says nothing
) -> list[Swap]:
    """Score every combination against the family as it is.

    Raises:
        InputError: a type is not recorded, or a recording is damaged.
    """
    if not types:
        raise InputError("--types: expected a recorded type, got none", "Name some, and they will be made and recorded")
    asked = combinations(playing(index), types)
    knobs = usual(index).knobs
    settings = [Setting(what, knobs, files_of(index, kinds)) for what, kinds in asked]
    scores = replay(folder, index, settings, None, report)
    single = {(what, kinds[what]): one for (what, kinds), one in zip(asked, scores, strict=True) if what in kinds}
    found = []
    for (what, kinds), score in zip(asked, scores, strict=True):
        parts = [single[item] for item in kinds.items()]
        ratio = over_sum(score, parts) if len(parts) > 1 else None
        found.append(Swap(what, kinds, score, sum(one.kld.value for one in parts), ratio))
    return found


def recorded_types(index: Index) -> list[str]:
    """Types that every member that counts has beside its original."""
    first, *rest = ([one.kind for one in index.members[name][1:]] for name in playing(index))
    return [kind for kind in first if all(kind in other for other in rest)]
