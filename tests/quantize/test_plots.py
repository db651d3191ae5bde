"""Plots: what is on the line of the best, labels that do not overlap, files that are what they say."""

from __future__ import annotations

import builtins
import math
import re
import sys
from itertools import combinations, pairwise
from pathlib import Path
from random import Random

import pytest

from eftlite.errors import EFTError, InputError
from eftlite_quantize.comparison import Comparison
from eftlite_quantize.plots import Point, check_plot, pareto, place_labels, plot, points
from tests.quantize.made_up import comparison, variant

TYPES = (
    "Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_0 Q4_1 Q4_K_S Q4_K_M Q5_0 Q5_1 Q5_K_S Q5_K_M Q6_K Q8_0 IQ4_XS IQ4_NL IQ3_S".split()
)


def crowd(seed: int = 0) -> Comparison:
    """Many types close together, as real ones are."""
    rng = Random(seed)
    sizes = [2e9 + 6e9 * rng.random() ** 2 for _ in TYPES]
    made = zip(TYPES, sizes, strict=True)
    return comparison(*(variant(kind, size, math.exp(-size / 1e9 + rng.random())) for kind, size in made))


def test_points_are_sorted_and_labelled_by_type() -> None:
    found = points(comparison(variant("m-b", 20, 0.1, "Q8_0"), variant("m-a", 10, 0.2, "Q4_0")))
    assert found == [Point(10, 0.2, 0.02, "Q4_0"), Point(20, 0.1, 0.01, "Q8_0")]


def test_points_of_one_type_are_labelled_by_name() -> None:
    found = points(comparison(variant("x", 20, 0.1, "Q8_0"), variant("y", 10, 0.2, "Q8_0")))
    assert [point.label for point in found] == ["y", "x"]


def test_what_does_not_differ_has_no_place() -> None:
    assert points(comparison(variant("x", 20, 0.0))) == []
    with pytest.raises(InputError, match="expected a variant that differs"):
        plot(comparison(variant("x", 20, 0.0)), "x.png")


def test_pareto() -> None:
    found = points(crowd())
    best = pareto(found)
    for point in found:
        beaten = any(other.size <= point.size and other.divergence < point.divergence for other in found)
        assert (point in best) != beaten
    assert all(a.size <= b.size and a.divergence > b.divergence for a, b in pairwise(best))


def test_a_larger_one_that_is_no_closer_is_not_on_the_line() -> None:
    found = [Point(1, 0.5, 0, "a"), Point(2, 0.5, 0, "b"), Point(3, 0.4, 0, "c")]
    assert [point.label for point in pareto(found)] == ["a", "c"]


@pytest.mark.parametrize("seed", range(3))
def test_labels_do_not_overlap(seed: int) -> None:
    from matplotlib.figure import Figure as Picture
    from matplotlib.text import Text

    picture = Picture(figsize=(6.4, 4.4), dpi=160, layout="constrained")
    axes = picture.add_subplot()
    axes.set_yscale("log")
    axes.margins(0.12, 0.12)
    found = [(point.size, point.divergence, point.label) for point in points(crowd(seed))]
    axes.plot([x for x, _, _ in found], [y for _, y, _ in found], "o")
    notes = place_labels(picture, axes, found)
    assert [note.get_text() for note in notes] == [label for _, _, label in found]
    picture.draw_without_rendering()
    boxes = [Text.get_window_extent(note) for note in notes]
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)


def test_a_png(tmp_path: Path) -> None:
    plot(crowd(), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_an_svg_is_the_same_each_time_and_grey(tmp_path: Path) -> None:
    plot(crowd(), tmp_path / "p.svg")
    plot(crowd(), tmp_path / "q.SVG")
    text = (tmp_path / "p.svg").read_text()
    assert text == (tmp_path / "q.SVG").read_text()
    assert all(kind in text for kind in TYPES)  # matplotlib writes texts beside their shapes as comments
    colours = {found.lower() for found in re.findall(r"#([0-9a-fA-F]{6})\b", text)}
    assert colours
    assert all(colour[:2] == colour[2:4] == colour[4:] for colour in colours)


def test_other_files_are_refused() -> None:
    for name in ("p.pdf", "p", "p.svg.txt"):
        with pytest.raises(InputError, match=r"ends in \.png or \.svg"):
            check_plot(name)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EFTError, match=r"p\.png: cannot be written: No such file"):
        plot(crowd(), tmp_path / "none" / "p.png")


def test_without_matplotlib_there_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EFTError, match="matplotlib, which is not installed") as found:
        check_plot("p.png")
    assert "eftlite[plot]" in found.value.hint


def test_matplotlib_is_imported_by_a_plot_only(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    real = builtins.__import__

    def noted(name: str, *rest: object) -> object:
        imported.append(name)
        return real(name, *rest)  # type: ignore[arg-type]  # passed on as they come

    monkeypatch.setattr(builtins, "__import__", noted)
    check_plot("p.png")
    points(crowd())
    assert not [name for name in imported if name.startswith("matplotlib")]
