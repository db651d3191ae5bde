"""Settings that a command line names: ``alpha=0:2:.1`` and the like, every combination of several.

Knows words and knobs, never recordings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product

from eftlite.errors import InputError
from eftlite.settings import Knobs

MOST = 10_000
_HINT = "For example alpha=0:2:.1, beta=1,1.5 or conservative_p=0.5:1:0.1"


def values(text: str) -> tuple[str, list[float]]:
    """The name and the numbers of ``name=FROM:TO:STEP``, both ends included, or ``name=A,B,C``.

    Raises:
        InputError: it is neither, or more than ``MOST`` numbers.
    """
    name, _, rest = text.partition("=")
    try:
        if ":" not in rest:
            return name.strip(), [float(one) for one in rest.split(",")]
        low, high, step = (float(one) for one in rest.split(":"))
        n = math.floor((high - low) / step + 1e-6) + 1  # 0.1 is no binary number
    except (ValueError, ZeroDivisionError, OverflowError):
        raise InputError(f"--sweep: expected NAME=FROM:TO:STEP, got {text!r}", _HINT) from None
    if not 1 <= n <= MOST:
        raise InputError(f"--sweep: expected 1 to {MOST} numbers, got {text!r}", _HINT)
    return name.strip(), [round(low + i * step, 10) for i in range(n)]


def settings(start: Knobs, deltas: Sequence[str], sweeps: Sequence[str]) -> list[tuple[str, Knobs]]:
    """Knobs with their names: ``start``, or every combination of what the sweeps say.

    Args:
        deltas: names of the deltas; a sweep of one is ``NAME=…``, of the first also ``alpha=…``.

    Raises:
        InputError: an unknown name, the same one twice, too many combinations, or a value out of range.
    """
    known: Mapping[str, Callable[[Knobs, float], Knobs]] = {
        "beta": lambda knobs, value: replace(knobs, beta=value),
        "conservative_p": lambda knobs, value: replace(knobs, conservative_p=value),
        **({"alpha": lambda knobs, value: knobs.with_alpha(0, value)} if deltas else {}),
        **{name: _alpha(index) for index, name in enumerate(deltas)},
    }
    taken = [values(text) for text in sweeps]
    names = [name for name, _ in taken]
    for name in names:
        if name not in known:
            raise InputError(f"--sweep: expected a knob, got {name!r}", f"Known: {', '.join(known)}")
        if names.count(name) > 1:
            raise InputError(f"--sweep: expected {name} once")
    if math.prod(len(numbers) for _, numbers in taken) > MOST:
        raise InputError(f"--sweep: expected at most {MOST} combinations")
    found = []
    for numbers in product(*(numbers for _, numbers in taken)):
        knobs = start
        for name, value in zip(names, numbers, strict=True):
            knobs = known[name](knobs, value)
        label = " ".join(f"{name}={value:g}" for name, value in zip(names, numbers, strict=True))
        found.append((label or "as given", knobs))
    return found


def _alpha(index: int) -> Callable[[Knobs, float], Knobs]:
    return lambda knobs, value: knobs.with_alpha(index, value)
