"""Conditions on a comparison's figures, such as ``kld_mean>0.05``: what makes a run fail."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from eftlite.errors import InputError
from eftlite_quantize.comparison import FACTS, Comparison
from eftlite_quantize.metrics import FIGURES

SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
NAMES = (*FIGURES, *FACTS)
_FORM = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*", re.ASCII)


@dataclass(frozen=True)
class Condition:
    """A figure's name, a sign and a limit."""

    name: str
    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.limit:g}"

    def failing(self, comparison: Comparison) -> list[tuple[str, float]]:
        """Names of the variants for which it holds, with their values. What was not measured holds for nobody."""
        found = ((one.name, one.all().get(self.name)) for one in comparison.variants)
        holds = SIGNS[self.sign]
        return [(name, figure.value) for name, figure in found if figure and holds(figure.value, self.limit)]


def condition(text: str) -> Condition:
    """Read a condition: a name of ``NAMES``, one of ``< <= > >=``, a number.

    Raises:
        InputError: it is none; an unknown name gets the list of those there are.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise InputError(f"--fail-if: expected a name, one of {' '.join(SIGNS)}, and a number, got {text[:80]!r}")
    name, sign, limit = match.groups()
    if name not in NAMES:
        near = [one for one in NAMES if one.startswith(name)] or get_close_matches(name, NAMES, 1)
        guess = f"Did you mean {near[0]}? " if near else ""
        raise InputError(f"--fail-if: {name[:40]!r} is no figure", f"{guess}There are: {', '.join(NAMES)}")
    return Condition(name, sign, float(limit))
