"""``eftlite history``: what it prints, writes and deletes; the table on a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eftlite.cli import program
from eftlite.cli.conversation import Conversation as Talk
from eftlite.history import History


@pytest.fixture
def names() -> list[str]:
    """Ids of two conversations, the newer one last."""
    found = []
    with History() as history:
        for question, answer in (
            ("Where is Kelworth?", "On the river.\nNorth of it."),
            ("Who\tare you?", "A model \x1b[31m."),
        ):
            found.append(history.create(family="demo", system="Be brief."))
            recorder = history.begin_answer(found[-1], history.add_user(found[-1], question, None))
            recorder.add(answer)
            recorder.finish("stopped" if question.startswith("Who") else "complete")
    return found


def history(*words: str, stdin: str = "") -> Result:
    """The verb."""
    return CliRunner().invoke(program, ["history", *words], input=stdin)


def left() -> list[str]:
    with History() as kept:
        return [summary.id for summary in kept.list()]


def test_list_has_a_line_for_each_where_no_terminal_is(names: list[str]) -> None:
    lines = [line.split("\t") for line in history("list").stdout.splitlines()]
    assert [line[0] for line in lines] == names[::-1]
    assert lines[1][2:] == ["2", "Where is Kelworth?", "On the river. North of it."]
    assert lines[0][3] == "Who are you?"
    assert history("list", "--limit", "1").stdout.count("\n") == 1


def test_list_is_a_table_on_a_terminal(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eftlite.cli.history.on_terminal", lambda stream: True)
    heading, first, second = history("list").stdout.splitlines()
    assert heading.split() == ["id", "last", "messages", "title", "text"]
    assert first.startswith(names[1])
    assert "\x1b" not in first
    assert second.split()[3:7] == ["2", "Where", "is", "Kelworth?"]
    assert max(map(len, (heading, first, second))) <= 100


def test_table_keeps_ids_whole_where_it_is_narrow(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eftlite.cli.history.on_terminal", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "60")
    assert [line.split()[0] for line in history("list").stdout.splitlines()] == ["id", *names[::-1]]


def test_json_lists(names: list[str]) -> None:
    found = json.loads(history("list", "--json").stdout)
    assert [one["id"] for one in found] == names[::-1]
    assert set(found[0]) == {"id", "title", "family", "created", "updated", "n_messages", "preview"}
    assert json.loads(history("search", "nowhere", "--json").stdout) == []


def test_search(names: list[str]) -> None:
    (line,) = history("search", "RIVER", "kelworth").stdout.splitlines()
    assert line.startswith(names[0])
    assert history("search", "kelworth", "model").stdout == ""
    assert history("search").exit_code == 2


def test_show(names: list[str]) -> None:
    result = history("show", names[0])
    assert result.stdout == "Where is Kelworth?\n\n> Where is Kelworth?\nOn the river.\nNorth of it.\n"
    assert f"{names[0]} · demo" in result.stderr
    assert "system: Be brief." in result.stderr
    assert "(stopped)" in history("show", "last").stderr


def test_show_takes_the_beginning_of_an_id(names: list[str]) -> None:
    assert json.loads(history("show", names[0][:11], "--json").stdout)["conversation"]["id"] == names[0]


def test_export_to_stdout_and_to_a_file(names: list[str], tmp_path: Path) -> None:
    text = "# Where is Kelworth?\n\n*Be brief.*\n\n**You:** Where is Kelworth?\n\nOn the river.\nNorth of it.\n"
    assert history("export", names[0]).stdout == text
    file = tmp_path / "talk.json"
    result = history("export", names[0], "--format", "json", "-o", str(file))
    assert (result.stdout, result.stderr) == ("", f"(written: {file})\n")
    assert Talk.from_json(file.read_text(encoding="utf-8")).turns == [
        ("Where is Kelworth?", "On the river.\nNorth of it.")
    ]
    assert "there is such a file" in history("export", "last", "-o", str(file)).stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["show", "zzz"], "error: conversation: expected the id of one in the history, got 'zzz'\n"),
        (["export", "zzz"], "error: conversation: expected the id"),
        (["delete", "zzz", "--yes"], "error: conversation: expected the id"),
        (["delete"], "error: delete: expected IDs or --all, got neither\n"),
        (["delete", "last", "--all"], "error: delete: expected IDs or --all, got both\n"),
        (["list", "--limit", "0"], "error: Invalid value for '--limit'"),
        ([], "error: Missing command. Try: program history --help\n"),
    ],
)
def test_wrong_usage(words: list[str], complaint: str, names: list[str]) -> None:
    result = history(*words)
    assert result.exit_code == 2
    assert result.stderr.startswith(complaint)
    assert left() == names[::-1]


def test_last_of_an_empty_history() -> None:
    result = history("show", "last")
    assert result.exit_code == 2
    assert result.stderr == "error: history: expected a conversation, got none yet. Begin one: eftlite chat\n"
    assert history("list").stdout == ""


# --- deleting ---


def test_delete_asks(names: list[str]) -> None:
    result = history("delete", "last", stdin="n\n")
    assert result.exit_code == 130
    assert 'Delete "Who\tare you?"?' in result.stderr.replace("Who are", "Who\tare")
    assert left() == names[::-1]
    result = history("delete", "last", stdin="y\n")
    assert result.exit_code == 0
    assert result.stderr.endswith("(1 deleted)\n")
    assert left() == names[:1]


def test_delete_of_several_and_of_all(names: list[str]) -> None:
    assert history("delete", *names, names[0], "--yes").stderr == "(2 deleted)\n"
    assert left() == []
    assert history("delete", "--all").stderr == "(0 deleted)\n"


def test_delete_all_asks_once(names: list[str]) -> None:
    assert "Delete all 2 conversations?" in history("delete", "--all", stdin="y\n").stderr
    assert left() == []


def test_copies_from_before_an_upgrade_are_named(names: list[str], user_directories: Path) -> None:
    copy = user_directories / "state" / "history.db.v1.bak"
    copy.touch()
    assert str(copy) in history("delete", "last", "--yes").stderr


def test_damaged_history_is_told(user_directories: Path) -> None:
    file = user_directories / "state" / "history.db"
    file.parent.mkdir()
    file.write_text("no database" * 1000, encoding="utf-8")
    result = history("list")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: history.db: the file is damaged. It was left as it is.")
    assert str(file) in result.stderr
