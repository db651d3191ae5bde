"""What decoding costs here: measured curves, the time of plain steps and of speculative rounds, curves kept on disk.

Batches are not linear: a batch may cost less than one more token would suggest (kernels work in tiles), or more than
single steps do. So each member's curve is measured once and kept, and nothing about tiles is assumed.

Knows numbers; never models or tokens. The store is the only file access, at a path the caller gives.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eftlite.errors import InputError

MOST = 64  # the longest draft that any setting allows

CURVE_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17)  # both sides of the usual tiles of 4 and 8

_FORMAT = 1
_KEPT = 256  # curves in one file; the oldest go first


@dataclass(frozen=True)
class CostCurve:
    """Seconds that one member takes to decode n tokens in one batch, as measured; it need not be monotone.

    Attributes:
        points: (n, seconds) in increasing order of n, beginning with n = 1.

    Raises:
        InputError: no n = 1, not increasing, or a time that is not a positive number.
    """

    points: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        sizes = [n for n, _ in self.points]
        if not sizes or sizes[0] != 1 or sizes != sorted(set(sizes)):
            raise InputError(f"cost curve: expected sizes from 1 up, each once, got {sizes}")
        for n, seconds in self.points:
            if not (math.isfinite(seconds) and seconds > 0.0):
                raise InputError(f"cost curve: expected positive seconds for {n} tokens, got {seconds!r}")

    @classmethod
    def of(cls, seconds: Mapping[int, float]) -> CostCurve:
        """The curve of {n: seconds}."""
        return cls(tuple(sorted(seconds.items())))

    def at(self, n: int) -> float:
        """Seconds for n >= 0 tokens; a straight line between measured sizes, the last one's rate beyond them."""
        if n <= 0:
            return 0.0
        i = bisect_left(self.points, (n, 0.0))
        if i == len(self.points):
            size, seconds = self.points[-1]
            return seconds * n / size
        right, seconds = self.points[i]
        if right == n:
            return seconds
        left, before = self.points[i - 1]
        return before + (seconds - before) * (n - left) / (right - left)


def measure(
    decode: Callable[[int], float],
    sizes: Iterable[int] = CURVE_SIZES,
    repetitions: int = 3,
    typical: Callable[[Iterable[float]], float] = min,
) -> CostCurve:
    """Measure a curve.

    Args:
        decode: decodes that many tokens in one batch and returns the seconds it took.
        sizes: batch sizes, 1 among them.
        repetitions: of each.
        typical: which of them counts. The shortest does where models are compared, since everything else that runs
            can only add to it; a median tells what they cost on a machine as busy as this one is now.
    """
    return CostCurve.of({n: typical(decode(n) for _ in range(repetitions)) for n in sizes})


@dataclass(frozen=True)
class Costs:
    """What a plain step and a speculative round cost.

    A round with n drafted tokens takes, with D the drafter's curve and V those of the verifying members,

        n · D(1)  +  sum of V(n + 1)  +  D(1) if the whole draft stood  +  rows,

    because the drafter decodes x_1 … x_(n-1) while drafting, and x_n only when the bonus token needs its row.

    Attributes:
        curves: {member: its curve} for the verifiers and the drafter.
        verifiers: members that score the whole draft in one batch.
        drafter: the member that drafts, one token at a time; None when drafts cost no decoding (prompt look-up).
        outsider: the drafter is not part of the composite, so that plain steps do without it.
        row_s: seconds to combine one row and make its law.
        draft_row_s: seconds to make one law to draft from, or to look one token up.
        all_rows: the rule asks for every row's law, as ``block`` does; otherwise up to the first rejection.
        side_by_side: members run at the same time, on devices of their own.

    Raises:
        InputError: a named member has no curve.
    """

    curves: Mapping[str, CostCurve]
    verifiers: tuple[str, ...]
    drafter: str | None = None
    outsider: bool = False
    row_s: float = 0.0
    draft_row_s: float = 0.0
    all_rows: bool = False
    side_by_side: bool = False

    def __post_init__(self) -> None:
        named = {*self.verifiers, *([] if self.drafter is None else [self.drafter])}
        if not self.verifiers or not named <= set(self.curves):
            raise InputError(f"costs: expected curves of {sorted(named) or 'a verifier'}, got {sorted(self.curves)}")

    @cached_property
    def plain_s(self) -> float:
        """Seconds of one plain step: every member of the composite decodes one token."""
        members = {*self.verifiers}
        if self.drafter is not None and not self.outsider:
            members.add(self.drafter)
        return self._together(members, 1) + self.row_s

    @cached_property
    def step_s(self) -> float:
        """Seconds of one of the drafter's steps."""
        return 0.0 if self.drafter is None else self.curves[self.drafter].at(1)

    @cached_property
    def fixed_s(self) -> tuple[float, ...]:
        """(MOST + 1) seconds: a round with n = 0 … MOST drafted tokens, apart from what depends on acceptance."""
        return tuple(
            n * (self.step_s + self.draft_row_s) + self._together(self.verifiers, n + 1) for n in range(MOST + 1)
        )

    def round_s(self, n_draft: int, n_tokens: float, whole: float) -> float:
        """Seconds of a round.

        Args:
            n_draft: tokens drafted, 1 … MOST.
            n_tokens: tokens it adds to the text, or expects to add.
            whole: 1.0 when the whole draft stood, 0.0 when not, or the probability.
        """
        rows = n_draft + whole if self.all_rows else n_tokens
        return self.fixed_s[n_draft] + whole * self.step_s + rows * self.row_s

    def _together(self, members: Iterable[str], n: int) -> float:
        times = [self.curves[name].at(n) for name in members]
        return max(times) if self.side_by_side else math.fsum(times)


# ---- curves that outlive the process


def load_curve(path: Path, key: Mapping[str, str | int]) -> CostCurve | None:
    """The curve saved under this key, None when there is none or the file cannot be used.

    Args:
        path: a JSON file.
        key: everything the curve depends on: machine, model, threads, context settings, versions.
    """
    for entry in reversed(_entries(path)):
        if entry["key"] == dict(key):
            return _curve(entry)
    return None


def save_curve(path: Path, key: Mapping[str, str | int], curve: CostCurve) -> bool:
    """Save a curve in place of any other under the same key; a damaged file is written anew.

    The file is replaced as a whole, so that nobody reads half of it. Of two processes that save at the same moment
    one may lose its curve, and measures it again.

    Returns:
        False when the file cannot be written: the next process has to measure again, nothing else is lost.
    """
    kept = [entry for entry in _entries(path) if entry["key"] != dict(key)][1 - _KEPT :]
    kept.append({"key": dict(key), "seconds": {str(n): seconds for n, seconds in curve.points}})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"format": _FORMAT, "curves": kept}, file, indent=1)
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError:
        return False
    return True


def _entries(path: Path) -> list[dict[str, Any]]:
    """The well-formed entries of the file, none when it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(content, dict) or content.get("format") != _FORMAT or not isinstance(content.get("curves"), list):
        return []
    return [entry for entry in content["curves"] if isinstance(entry, dict) and _curve(entry) is not None]


def _curve(entry: Mapping[str, Any]) -> CostCurve | None:
    """The curve of an entry, None when it is damaged."""
    key, seconds = entry.get("key"), entry.get("seconds")
    if not isinstance(key, dict) or not isinstance(seconds, dict):
        return None
    try:
        return CostCurve.of({int(n): float(value) for n, value in seconds.items()})
    except (InputError, ValueError, TypeError):
        return None
