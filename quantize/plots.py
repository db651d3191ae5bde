"""A comparison as a picture: divergence against size, with the line of the best, for screens and black-and-white print.

Only this file knows matplotlib, which comes with the extra ``plot`` and is imported when a picture is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eftlite.errors import EFTError, InputError
from eftlite_quantize.comparison import Comparison
from eftlite_quantize.newfile import NewFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

SUFFIXES = (".png", ".svg")
DPI = 160
MARKER, STEP = 8, 6  # pixels: half of a point with some air, and of a line that a text should not cross
_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (1, "bytes"))


@dataclass(frozen=True)
class Point:
    """One model: bytes of its tensors, its divergence with its ±, its label."""

    size: float
    divergence: float
    error: float
    label: str


def check_plot(path: str | os.PathLike[str]) -> None:
    """Refuse before the work what could not be drawn after it.

    Raises:
        InputError: the name ends in neither .png nor .svg.
        EFTError: matplotlib is not installed.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(f"--plot: expected a name that ends in {' or '.join(SUFFIXES)}, got {Path(path).name!r}")
    if find_spec("matplotlib") is None:
        raise EFTError("--plot: expected matplotlib, which is not installed", "pip install 'eftlite[plot]'")


def points(comparison: Comparison) -> list[Point]:
    """What can be drawn: variants that differ from the base, by size."""
    variants = comparison.variants
    types = [one.quantization for one in variants]
    labels = types if all(types) and len(set(types)) == len(types) else [one.name for one in variants]
    found = []
    for one, label in zip(variants, labels, strict=True):
        kld = one.figures["kld_mean"]
        if kld.value > 0:  # there is no place for 0 on a logarithmic axis
            found.append(Point(one.facts["size_bytes"].value, kld.value, kld.bootstrap or kld.gaussian or 0.0, label))
    return sorted(found, key=lambda point: (point.size, point.divergence))


def pareto(found: Sequence[Point]) -> list[Point]:
    """Those that no other beats in both, by size; ``found`` must be sorted by size."""
    best: list[Point] = []
    for point in found:
        if not best or point.divergence < best[-1].divergence:
            best.append(point)
    return best


def plot(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Draw a comparison.

    Raises:
        InputError, EFTError: as ``check_plot``; or nothing can be drawn, or the file cannot be written.
    """
    check_plot(path)
    found = points(comparison)
    if not found:
        raise InputError("--plot: expected a variant that differs from the base, got none")
    import matplotlib as mpl
    from matplotlib.figure import Figure as Picture

    with mpl.rc_context({"svg.hashsalt": "eftlite", "font.size": 9}):  # the same figures give the same bytes
        picture = Picture(figsize=(6.4, 4.4), dpi=DPI, layout="constrained")
        axes = picture.add_subplot()
        unit, unit_name = next(one for one in _UNITS if found[-1].size >= one[0])
        _draw(axes, found, unit)
        axes.set_xlabel(f"size of the tensors, {unit_name}")
        axes.set_ylabel(f"mean KLD to {comparison.base.name}")
        axes.set_title(f"{comparison.text}: {comparison.n_scored} predictions, chunks of {comparison.n_ctx} tokens")
        place_labels(picture, axes, [(point.size / unit, point.divergence, point.label) for point in found])
        save(picture, path)


def save(picture: Picture, path: str | os.PathLike[str]) -> None:
    """Write a picture as a whole, in the format of the file's name, without the time of day; EFTError on failure."""
    kind = Path(path).suffix.lower().lstrip(".")
    with NewFile(path) as new:
        with new.explained():
            picture.savefig(new.part, format=kind, metadata={"Date": None} if kind == "svg" else {})
        new.keep()


def _draw(axes: Axes, found: Sequence[Point], unit: float) -> None:
    """The line of the best, and points: full ones on it, hollow ones where another is smaller and closer."""
    best = pareto(found)
    axes.set_yscale("log")
    axes.margins(0.12, 0.12)
    axes.grid(visible=True, which="major", color="0.88", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.plot([one.size / unit for one in best], [one.divergence for one in best], "--", color="0.4", linewidth=1)
    for chosen, fill, label in (
        (best, "black", "no other is smaller and closer"),
        ([one for one in found if one not in best], "white", "another is smaller and closer"),
    ):
        if chosen:
            y = [one.divergence for one in chosen]
            errors = [[min(one.error, 0.9 * one.divergence) for one in chosen], [one.error for one in chosen]]
            axes.errorbar(
                [one.size / unit for one in chosen], y, yerr=errors, label=label,
                fmt="o", markersize=5, markerfacecolor=fill, markeredgecolor="black", ecolor="0.5", elinewidth=0.8,
            )  # fmt: skip  # a table that reads across
    axes.legend(loc="upper right", frameon=False)


def place_labels(picture: Picture, axes: Axes, labels: Sequence[tuple[float, float, str]]) -> list[Any]:
    """Write (x, y, text) beside their points; texts overlap only where there is no room left. Returns the texts.

    Each takes the first free place around its point, the near ones first; a far one gets a thin line.
    """
    picture.draw_without_rendering()
    legend = axes.get_legend()
    taken = [_box(axes.transData.transform((x, y)), MARKER) for x, y, _ in labels] + (
        [legend.get_window_extent()] if legend else []
    )
    taken += [box for line in axes.get_lines() for box in _along(axes, line.get_xydata())]
    notes = []
    for x, y, text in labels:
        tried: list[tuple[int, int, Any]] = []
        for place in product(_DISTANCES, _DIRECTIONS):
            note = _note(axes, (x, y), text, *place)
            tried.append((_crowded(axes, note, taken), len(tried), note))
            if not tried[-1][0]:
                break
        kept = min(tried, key=lambda one: one[:2])[2]
        for _, _, note in tried:
            if note is not kept:
                note.remove()
        taken.append(_extent(kept))
        notes.append(kept)
    return notes


_DISTANCES = (7, 16, 28, 42, 58)  # typographic points
_DIRECTIONS = ((1, 0), (0.7, 0.7), (0.7, -0.7), (0, 1), (0, -1), (-1, 0), (-0.7, 0.7), (-0.7, -0.7))


def _note(axes: Axes, point: tuple[float, float], text: str, distance: int, direction: tuple[float, float]) -> Any:
    """A text at a distance from its point."""
    dx, dy = direction
    note = axes.annotate(
        text,
        point,
        (distance * dx, distance * dy),
        textcoords="offset points",
        ha="left" if dx > 0 else "right" if dx < 0 else "center",
        va="bottom" if dy > 0 else "top" if dy < 0 else "center",
        arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.5} if distance > _DISTANCES[0] else None,
    )
    note.set_in_layout(False)
    return note


def _crowded(axes: Axes, note: Any, taken: Sequence[Any]) -> int:
    """How many boxes a text overlaps, and one more if it leaves the axes."""
    box = _extent(note)
    inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1
    return sum(bool(box.overlaps(other)) for other in taken) + (not inside)


def _extent(note: Any) -> Any:
    """The box of an annotation's text, in pixels; its own method would include its line."""
    from matplotlib.text import Text

    note.get_window_extent()  # brings it to its place
    return Text.get_window_extent(note)


def _along(axes: Axes, points: Any) -> list[Any]:
    """Boxes along a line (n, 2) of the axes' numbers, in pixels."""
    pixels = axes.transData.transform(points)
    found = []
    for start, end in pairwise(pixels):
        n = max(int(max(abs(end - start)) / STEP), 1)
        found += [_box(start + (end - start) * i / n, 1) for i in range(n + 1)]
    return found


def _box(centre: Any, radius: float) -> Any:
    """A square around a place (2,) in pixels."""
    from matplotlib.transforms import Bbox

    return Bbox((centre - radius, centre + radius))
