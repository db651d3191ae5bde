"""``eftlite demo`` on a few questions."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner
from rich.console import Console

from eftlite.cli import program
from eftlite.cli.demo import SHOWN_KINDS
from eftlite.cli.sidebyside import NAMES, _table, words
from eftlite.demo.scoreboard import MODES, Verdict
from eftlite.demo.scoring import Question, load_questions

PLAIN = Question("single-000", "single", (("user", "Where is Dunmoor?"),), ("Salt Hills",))


def test_json_is_one_object_with_everyones_scores() -> None:
    result = CliRunner().invoke(program, ["demo", "--json", "--limit", "6"])
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert found["questions"] == 6
    assert found["seconds"] > 0
    for score in ("facts", "manner"):
        assert list(found[score]) == list(MODES)
        assert all(0 <= share <= 1 for share in found[score].values())


def test_text_shows_answers_then_scores() -> None:
    result = CliRunner().invoke(program, ["demo", "--limit", "2"])
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    assert result.stdout.count("You: ") >= len(SHOWN_KINDS)
    answers, scores = result.stdout.split("2 questions, greedy answers")
    for mode in MODES:
        assert len(re.findall(rf"^  {NAMES[mode]}: .+\[.*polite\]$", answers, re.MULTILINE)) == len(SHOWN_KINDS)
        assert re.search(rf"^{NAMES[mode]} +\d+%", scores, re.MULTILINE)
    assert re.search(r"\d+ tokens in \d+ s\.", scores)


def test_shown_kinds_are_in_the_set() -> None:
    assert set(SHOWN_KINDS) <= {question.kind for question in load_questions()}


@pytest.mark.parametrize(
    ("right", "polite", "text"),
    [
        (True, True, "facts right, polite"),
        (False, False, "facts wrong, not polite"),
        (None, True, "polite"),
    ],
)
def test_verdicts_in_words(right: bool | None, polite: bool, text: str) -> None:
    assert words(Verdict(PLAIN, "eft", "x", right, polite, None, 1, None)) == text


@pytest.mark.parametrize("width", [40, 120])
def test_answers_stand_side_by_side_where_there_is_room(width: int) -> None:
    verdict = Verdict(PLAIN, "eft", "x", True, True, None, 1, None)
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(_table(console, {"base": "rambling \x1b[31m", "eft": "polite words"}, {"eft": verdict}))
    lines = capture.get().splitlines()
    both = [line for line in lines if "rambling" in line and "polite words" in line]
    assert bool(both) is (width == 120)
    assert "\x1b" not in capture.get()
