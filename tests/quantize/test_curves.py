"""Pictures of recordings: labels that are there and apart, the same bytes each time, colours that differ in more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from eftlite.errors import EFTError, InputError
from eftlite.settings import Knobs
from eftlite_quantize import curves
from eftlite_quantize.curves import draw_front, draw_roles, draw_sweep
from eftlite_quantize.metrics import Figure
from eftlite_quantize.names import TYPES
from eftlite_quantize.offload import Placement
from eftlite_quantize.plan import Choice, Plan
from eftlite_quantize.replay import Score, Setting
from eftlite_quantize.roles import Swap
from eftlite_quantize.roles import combinations as roles

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture
    from matplotlib.text import Text

MEMBERS = ("base", "tuned", "reference")
SOME = ["Q8_0", "Q2_K", "IQ4_XS", "Q4_K_M", "Q4_0", "Q3_K_M", "Q5_K_M"]


def score(kld: float) -> Score:
    figure = Figure(kld, None, kld / 20)
    return Score(Setting("", Knobs((1.0,)), ()), Figure(1.5, None, 0.1), Figure(0.3, None, 0.01), figure, np.ones(2))


def swaps() -> list[Swap]:
    found = []
    for what, kinds in roles(MEMBERS, SOME):
        own = sum(10 ** -TYPES[kind].bits for kind in kinds.values())
        found.append(Swap(what, kinds, score(own), own, Figure(0.9, None, 0.02) if len(kinds) > 1 else None))
    return found


def plan_of() -> Plan:
    placement = Placement({}, 0, 0)
    choices = [
        Choice(dict(zip(MEMBERS, kinds, strict=True)), 2**20 * (i + 5), placement, True, 0.0, score(2.0**-i))
        for i, kinds in enumerate(product(SOME, repeat=3))
    ]
    return Plan(tuple(choices[:40]), choices[20], ())


def draw(what: str, path: Path) -> None:
    if what == "sweep":
        draw_sweep("alpha", [0, 0.5, 1], [score(0.1), score(0.0), score(0.2)], path)
    elif what == "roles":
        draw_roles(swaps(), path)
    else:
        draw_front(plan_of(), path)


@pytest.mark.parametrize("what", ["sweep", "roles", "front"])
def test_an_svg_is_the_same_each_time_on_white(what: str, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw(what, tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert '<path d="M 0' in text
    assert "fill: #ffffff" in text  # the ground, so that it can be read on a dark page


def test_types_stand_by_their_bits(tmp_path: Path) -> None:
    draw("roles", tmp_path / "r.svg")
    written = re.findall(r"<!-- (\w+) -->", (tmp_path / "r.svg").read_text())
    found = [word for word in written if word in SOME][: len(SOME)]
    assert found == [name for name in TYPES if name in SOME]


def test_roles_of_a_base_alone(tmp_path: Path) -> None:
    draw_roles([one for one in swaps() if one.what == "base"], tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_what_does_not_differ_has_no_place(tmp_path: Path) -> None:
    same = [Swap("base", {"base": "F16"}, score(0.0), 0.0, None)]
    draw_roles([*same, Swap("tuned", {"tuned": "Q8_0"}, score(0.1), 0.1, None)], tmp_path / "r.svg")
    only = replace(plan_of().chosen, score=score(0.0))
    with pytest.raises(InputError, match="expected a combination that differs"):
        draw_roles(same, tmp_path / "r.svg")
    with pytest.raises(InputError, match="expected a combination that differs"):
        draw_front(Plan((only,), only, ()), tmp_path / "r.svg")


@pytest.mark.parametrize("what", ["sweep", "roles", "front"])
def test_no_text_covers_another(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure as Picture

    kept: list[Picture] = []
    saved = Picture.savefig

    def noted(self: Picture, path: Path, **options: Any) -> None:
        kept.append(self)
        saved(self, path, **options)

    monkeypatch.setattr(Picture, "savefig", noted)
    draw(what, tmp_path / "p.png")
    kept[0].draw_without_rendering()
    boxes = {text: text.get_window_extent() for text in written(kept[0])}
    # A slanted text's box is larger than its ink.
    upright = [(text, box) for text, box in boxes.items() if text.get_rotation() in (0, 90)]
    assert len(upright) > 10
    covered = [(a.get_text(), b.get_text()) for (a, x), (b, y) in combinations(upright, 2) if x.overlaps(y)]
    assert not covered
    page = kept[0].bbox
    outside = [
        text.get_text()
        for text, box in boxes.items()
        if not (page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1)
    ]
    assert not outside


def written(picture: Picture) -> Iterator[Text]:
    """Texts of a picture; ticks only where there is an axis below them."""
    for axes in picture.axes:
        yield from (one for one in (axes.title, axes.xaxis.label, axes.yaxis.label) if one.get_text())
        legend = axes.get_legend()
        yield from legend.get_texts() if legend else ()
        for labels, (low, high), column in (
            (axes.get_xticklabels(), axes.get_xlim(), 0),
            (axes.get_yticklabels(), axes.get_ylim(), 1),
        ):
            yield from (one for one in labels if one.get_text() and low <= one.get_position()[column] <= high)


def test_curves_differ_in_more_than_colour() -> None:
    styles = [curves._style(number) for number in range(8)]
    assert len({one["color"] for one in styles}) == len({one["marker"] for one in styles}) == 8


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        draw("roles", tmp_path / "r.pdf")
    with pytest.raises(EFTError, match="cannot be written"):
        draw("roles", tmp_path / "none" / "r.png")
