"""Tables in every form, and where they go."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from eftlite.cli.output import Output
from eftlite.errors import InputError
from eftlite_quantize.cli_options import Chunking, Reporting
from eftlite_quantize.tables import FORMATS, Table, narrowed

CELLS = [["setting", "PPL", "KLD"], ["alpha=0", "5.04", "0.1 ± 0.01"], ["a|b", "4.3", ""]]
TABLE = Table(CELLS, {"n": 1}, notes=["a note"], spare=["PPL"])


def test_columns_are_as_wide_as_their_cells() -> None:
    lines = ["setting  PPL        KLD", "alpha=0 5.04 0.1 ± 0.01", "a|b      4.3", "a note"]
    assert TABLE.text("table").splitlines() == lines


def test_a_narrow_terminal_does_without_spare_columns_and_folds_what_is_left() -> None:
    assert TABLE.text("table", 24).splitlines()[0] == "setting  PPL        KLD"
    assert TABLE.text("table", 22).splitlines()[0] == "setting        KLD"
    assert "".join(TABLE.text("table", 10).split()).startswith("settin")  # every character is there
    assert narrowed(CELLS, [], 1) == CELLS


def test_long_cells_are_whole_where_there_is_no_terminal() -> None:
    long = "x" * 500
    assert long in Table([["a", "b"], [long, long]], {}).text("table").splitlines()[1]


def test_the_other_forms() -> None:
    lines = TABLE.text("md").splitlines()
    assert lines[:3] == ["| setting | PPL | KLD |", "| --- | ---: | ---: |", "| alpha=0 | 5.04 | 0.1 ± 0.01 |"]
    assert lines[3:] == ["| a\\|b | 4.3 |  |", "", "a note"]
    assert list(csv.reader(io.StringIO(TABLE.text("csv")))) == CELLS
    more = Table(CELLS, {}, figures=[["x"], ["1"]])
    assert more.text("csv") == "x\n1\n"
    assert json.loads(TABLE.text("json")) == {"n": 1}


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_gets_the_form_of_its_name(tmp_path: Path, form: str) -> None:
    target = tmp_path / f"t.{'txt' if form == 'table' else form}"
    Reporting(target=target).write(Output(), TABLE)
    assert target.read_text(encoding="utf-8") == TABLE.text(form)
    Reporting("csv", target).write(Output(), TABLE)
    assert target.read_text(encoding="utf-8") == TABLE.text("csv")


def test_files_that_cannot_be_are_refused_before(tmp_path: Path) -> None:
    for reporting in (Reporting(target=tmp_path), Reporting(plot=tmp_path / "no" / "p.png"), Reporting(plot=Path("p"))):
        with pytest.raises(InputError):
            reporting.check()
    with pytest.raises(InputError, match="expected a folder for it"):
        Reporting().check(None, tmp_path / "no" / "family.toml")


def test_options_that_are_not_given_leave_defaults() -> None:
    assert vars(Chunking()) == {"chat": False, "n_ctx": None, "n_chunks": None}


def test_every_verb_of_tables_has_the_same_options() -> None:
    from eftlite_quantize.cli import quantize_command

    for verb in ("compare", "replay", "family", "plan"):
        text = CliRunner().invoke(quantize_command, [verb, "--help"], obj=Output()).stdout
        assert "[table|md|csv|json]" in text, verb
        assert all(option in text for option in ("--json", "-o, --output FILE", "--plot FILE")), verb
