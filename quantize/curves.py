"""Pictures of what recordings say: a sweep's curves, divergence by role, and the front of a plan.

As plots.py: for screens and black-and-white print, matplotlib only when a picture is asked for. Lines differ by colour
(Okabe and Ito's, which colour-blind people tell apart), marker and dash. The ground is white, on dark pages too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eftlite.errors import InputError
from eftlite_quantize.metrics import Figure
from eftlite_quantize.names import TYPES
from eftlite_quantize.plots import DPI, check_plot, save
from eftlite_quantize.roles import ALIKE, ALL, DIFFERENT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

    from eftlite_quantize.plan import Plan
    from eftlite_quantize.replay import Score
    from eftlite_quantize.roles import Swap

_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#808080")
_MARKERS, _DASHES = "os^vDPX<", ("-", "--", "-.", ":")
_ORDER = {name: number for number, name in enumerate(TYPES)}  # by bits
_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))

_NOTHING = "--plot: expected a combination that differs from the originals, got none"


@contextmanager
def _picture(path: Path, size: tuple[float, float]) -> Iterator[Picture]:
    """A figure that is saved at the end; the same figures give the same bytes."""
    check_plot(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure as Picture

    with mpl.rc_context({"svg.hashsalt": "eftlite", "font.size": 9}):
        picture = Picture(figsize=size, dpi=DPI, layout="constrained")
        yield picture
        save(picture, path)


def _style(number: int) -> dict[str, Any]:
    """How the curve of that number is drawn."""
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _DASHES[number % len(_DASHES)],
        "linewidth": 1.2,
        "markersize": 4.5,
        "capsize": 2,
        "elinewidth": 0.8,
    }


def _curve(axes: Axes, places: Sequence[Any], figures: Sequence[Figure], label: str, number: int) -> None:
    """Points with their ±, joined."""
    errors = [one.bootstrap or 0.0 for one in figures]
    if axes.get_yscale() == "log":  # a bar down to 0 has no end there
        below = [min(error, 0.9 * one.value) for error, one in zip(errors, figures, strict=True)]
        axes.errorbar(places, [one.value for one in figures], yerr=[below, errors], label=label, **_style(number))
    else:
        axes.errorbar(places, [one.value for one in figures], yerr=errors, label=label, **_style(number))


def _by_bits(kind: str) -> int:
    """Where a type stands among others; what is no type, a file's name, stands last."""
    return _ORDER.get(kind, len(_ORDER))


def _grid(*axes: Axes) -> None:
    for one in axes:
        one.grid(visible=True, color="0.88", linewidth=0.6)
        one.set_axisbelow(True)


def draw_sweep(name: str, values: Sequence[float], scores: Sequence[Score], path: Path) -> None:
    """Perplexity, expected acceptance and divergence against a knob.

    Raises:
        InputError, EFTError: as ``check_plot``, or the file cannot be written.
    """
    curves = {
        "perplexity": [Figure(one.ppl, None, one.ppl * (one.nll.bootstrap or 0.0)) for one in scores],
        "drafts that stand, %": [
            Figure(100 * one.acceptance, None, 100 * (one.shift.bootstrap or 0.0)) for one in scores
        ],
        "mean KLD, nats": [one.kld for one in scores],
    }
    with _picture(path, (6.4, 6.0)) as picture:
        axes = picture.subplots(len(curves), 1, sharex=True)
        for one, (title, figures) in zip(axes, curves.items(), strict=True):
            _curve(one, values, figures, title, 0)
            one.set_ylabel(title)
        _grid(*axes)
        picture.align_ylabels(axes)
        axes[-1].set_xlabel(f"{name}; bars are ± over resampled chunks")


def draw_roles(swaps: Sequence[Swap], path: Path) -> None:
    """Divergence against type, a line for each role; beside it, over the sum of the members' own divergences.

    Small members with two types stand at the type of the first.

    Raises:
        InputError, EFTError: as ``check_plot``; or nothing differs, or the file cannot be written.
    """
    if not any(one.score.kld.value > 0 for one in swaps):
        raise InputError(_NOTHING)
    types = sorted({kind for one in swaps for kind in one.kinds.values()}, key=_by_bits)
    lines: dict[str, dict[str, Swap]] = {}
    for one in swaps:
        if len(set(one.kinds.values())) == 1:
            lines.setdefault(one.what, {})[next(iter(one.kinds.values()))] = one
    together = [what for what in (ALIKE, ALL) if what in lines]
    with _picture(path, (8.6, 4.2) if together else (5.4, 4.2)) as picture:
        left, *right = picture.subplots(1, 2 if together else 1, squeeze=False)[0]
        left.set_yscale("log")
        for number, (what, found) in enumerate(lines.items()):
            kinds = [kind for kind in types if kind in found and found[kind].score.kld.value > 0]
            _curve(left, [types.index(one) for one in kinds], [found[k].score.kld for k in kinds], what, number)
        left.set_ylabel("mean KLD of the composite, nats")
        left.legend(frameon=False, title="quantized")
        for axes in right:
            _draw_ratios(axes, swaps, types, {what: list(lines).index(what) for what in together})
        for axes in (left, *right):
            axes.set_xticks(range(len(types)), types, rotation=45, ha="right", rotation_mode="anchor")
        _grid(left, *right)


def _draw_ratios(axes: Axes, swaps: Sequence[Swap], types: Sequence[str], numbers: Mapping[str, int]) -> None:
    """KLD over the sum of the members' own; below 1 errors cancel."""
    axes.axhline(1.0, color="0.3", linewidth=0.8)
    loose = [one for one in swaps if one.what == DIFFERENT and one.over_sum]
    places = [types.index(next(iter(one.kinds.values()))) for one in loose]
    heights = [one.over_sum.value for one in loose if one.over_sum]
    if loose:
        axes.plot(places, heights, "x", color="0.55", markersize=4, label=DIFFERENT)
    for what, number in numbers.items():
        found = {next(iter(one.kinds.values())): one.over_sum for one in swaps if one.what == what and one.over_sum}
        kinds = [kind for kind in types if kind in found]
        _curve(axes, [types.index(one) for one in kinds], [found[kind] for kind in kinds], what, number)
    axes.set_ylabel("KLD over the sum of the members' own KLDs")
    axes.legend(frameon=False, loc="lower right")


def draw_front(plan: Plan, path: Path) -> None:
    """Divergence against size, by the type of the first member; the chosen combination is ringed.

    Raises:
        InputError, EFTError: as ``check_plot``; or nothing differs, or the file cannot be written.
    """
    first = next(iter(plan.chosen.kinds))
    drawn = [one for one in plan.choices if one.score.kld.value > 0]  # there is no place for 0 on a logarithmic axis
    if not drawn:
        raise InputError(_NOTHING)
    largest = max(one.n_bytes for one in plan.choices)
    unit, unit_name = next((one for one in _UNITS if largest >= one[0]), (1, "bytes"))
    with _picture(path, (6.4, 4.4)) as picture:
        axes = picture.add_subplot()
        axes.set_yscale("log")
        axes.plot([one.n_bytes / unit for one in drawn], [one.score.kld.value for one in drawn], color="0.75", zorder=1)
        for number, kind in enumerate(sorted({one.kinds[first] for one in drawn}, key=_by_bits)):
            points = [one for one in drawn if one.kinds[first] == kind]
            style = {**_style(number), "linestyle": "none"}
            axes.plot(
                [one.n_bytes / unit for one in points], [one.score.kld.value for one in points], label=kind,
                **{key: style[key] for key in ("color", "marker", "linestyle", "markersize")},
            )  # fmt: skip  # reads across
        if plan.chosen in drawn:
            place = [plan.chosen.n_bytes / unit], [plan.chosen.score.kld.value]
            axes.plot(*place, "o", markersize=12, markerfacecolor="none", markeredgecolor="black", label="chosen")
        axes.set_xlabel(f"weights and caches, {unit_name}")
        axes.set_ylabel("mean KLD of the composite, nats")
        axes.set_title("chosen: " + ", ".join(f"{name} {kind}" for name, kind in plan.chosen.kinds.items()))
        axes.legend(frameon=False, title=f"type of the {first}")
        _grid(axes)
