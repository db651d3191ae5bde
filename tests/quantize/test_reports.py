"""Reports: the table's cells, Markdown that holds, CSV and JSON with everything in them."""

from __future__ import annotations

import csv
import io
import json

import pytest

from eftlite_quantize.metrics import FIGURES, Figure
from eftlite_quantize.reports import COLUMNS, footnotes, rows, table, with_error
from eftlite_quantize.tables import narrowed
from tests.quantize.made_up import comparison, variant


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (Figure(0.005384, 0.0009, 0.00057), "0.0054 ± 0.0006"),
        (Figure(0.005384, 0.00057), "0.0054 ± 0.0006"),
        (Figure(1.84e-5, None, 7.8e-7), "1.84e-05 ± 8e-07"),
        (Figure(2e-8, None, 7.8e-7), "2e-08 ± 8e-07"),
        (Figure(12.34, 0.0, 3.0), "12 ± 3"),
        (Figure(1234.5, 0.0, 30.0), "1234 ± 30"),
        (Figure(-0.25, 0.0, 0.1), "-0.2 ± 0.1"),
        (Figure(0.25, 0.0, 0.0), "0.25"),
        (Figure(0.25), "0.25"),
    ],
)
def test_a_figure_with_its_error(figure: Figure, text: str) -> None:
    assert with_error(figure) == text


def test_the_table() -> None:
    (titles, *lines) = rows(comparison(variant("a", 3.6e6, 0.0125), variant("b", 2e9, 1e-3)))
    assert titles == ["model", *list(COLUMNS)[:9]]  # no speeds were measured
    assert lines[0] == ["base", "12.0 MiB", "16.00", "4.6", *[""] * 6]
    assert lines[1] == ["a", "3.4 MiB", "4.50", "0.5", "0.5000", "0.013 ± 0.001", "0.5", "0.5", "0.50%", "0.50%"]
    assert lines[2][:2] == ["b", "1.9 GiB"]


def test_speeds_are_shown_when_they_were_measured() -> None:
    titles, _, line = rows(comparison(variant("a", 1, 1, speed=True)))
    assert titles[-2:] == ["pp t/s", "tg t/s"]
    assert line[-2:] == ["1234", "99.25"]


@pytest.mark.parametrize("width", [120, 100, 80, 60, 40, 10])
def test_a_narrow_terminal_gets_fewer_columns(width: int) -> None:
    whole = table(comparison(variant("model-Q4_K_M", 3.6e6, 0.0125, speed=True)))
    cells = narrowed(whole.cells, whole.spare, width)
    kept = [whole.cells[0].index(title) for title in cells[0]]
    assert cells == [[line[i] for i in kept] for line in whole.cells]
    assert {"model", "size", "Mean KLD", "Same top p"} <= set(cells[0])
    needed = sum(max(map(len, column)) + 1 for column in zip(*cells, strict=True))
    assert needed <= max(width, 48)
    assert (cells == whole.cells) == (width >= 110)


def test_markdown() -> None:
    text = table(comparison(variant("a|b", 3.6e6, 0.0125))).text("md")
    body, notes = text.split("\n\n")
    lines = body.split("\n")
    assert lines[1] == "| --- |" + " ---: |" * 9
    assert "| a\\|b |" in lines[3]
    assert {line.replace("\\|", "").count("|") for line in lines} == {11}
    assert notes.split("  \n") == [*footnotes(comparison(variant("a", 1, 1)))[:-1], "a note\n"]


def test_footnotes_say_what_was_read() -> None:
    first, second, third = footnotes(comparison(variant("a", 1, 1)))
    assert first == "wiki.txt: 10 chunks of 512 tokens, 2550 predictions scored"
    assert "resampled chunks" in second
    assert third == "a note"
    assert footnotes(comparison()) == [first, third]  # no ± without a variant


def test_csv_has_everything_that_is_known() -> None:
    found = comparison(variant("a,b", 3.6e6, 0.0125), variant("c", 2e9, 1e-3, speed=True))
    lines = list(csv.DictReader(io.StringIO(table(found).text("csv"))))
    assert [line["name"] for line in lines] == ["base", "a,b", "c"]
    assert set(FIGURES) < set(lines[0])
    assert (lines[0]["kld_mean"], lines[0]["ppl"], lines[0]["ppl_bootstrap"]) == ("", "4.6", "0.2")
    assert (lines[1]["kld_mean"], lines[1]["kld_mean_gaussian"], lines[1]["pp_ts"]) == ("0.0125", "0.000625", "")
    assert lines[2]["tg_ts_gaussian"] == "1.0"
    assert "size_bytes_bootstrap" not in lines[0]


def test_json_has_everything_with_units() -> None:
    found = json.loads(table(comparison(variant("a", 3.6e6, 0.0125))).text("json"))
    assert (found["n_ctx"], found["n_chunks"], found["n_scored"], found["text"]) == (512, 10, 2550, "wiki.txt")
    assert found["variants"][0]["kld_mean"] == {"value": 0.0125, "gaussian": 0.000625, "bootstrap": 0.00125}
    assert set(FIGURES) < set(found["units"])
    assert found["base"]["size_bytes"]["value"] == 12.6e6
