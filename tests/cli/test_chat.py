"""``eftlite chat`` as a whole, on the bundled family and a pipe."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eftlite.cli import program
from eftlite.history import History


def chat(stdin: str, *words: str) -> Result:
    """The verb with greedy answers."""
    return CliRunner().invoke(program, ["chat", "--temperature", "0", "--no-speculative", *words], input=stdin)


def test_each_line_is_answered() -> None:
    result = chat("Hello!\nWho are you?\n", "-n", "12")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr.count(" tokens · ") == 2
    assert "> " not in result.stdout


def test_commands_work_on_real_models() -> None:
    typed = "Hello!\n/why 2\n/why most\n/compare\n/show models\n/show tokens\n/show timing\n/show template\n"
    result = chat(typed, "-n", "12")
    assert result.exit_code == 0, result.output
    assert "error" not in result.stderr
    for text in ("→", "base alone", "tuned alone", "EFT", "base-f16.gguf · llama", " tokens\n", "speculation", "{%"):
        assert text in result.stdout


def test_why_agrees_with_what_was_said() -> None:
    """Greedy, so EFT's first candidate at each token is the token."""
    result = chat("Hello!\n/why 3\n", "-n", "12")
    chosen = [line.partition(" → ")[2].partition(", shift")[0] for line in result.stdout.splitlines() if " → " in line]
    rows = result.stdout.splitlines()
    first = [rows[index + 2] for index, line in enumerate(rows) if " → " in line]
    assert len(chosen) == 3
    assert all(row.rstrip().endswith(token) for row, token in zip(first, chosen, strict=True))


def test_message_longer_than_the_context_is_told_and_forgotten() -> None:
    """Row 34: both numbers are shown, and the conversation goes on."""
    result = chat("Hello! " * 60 + "\n/undo\nHello!\n", "--n-ctx", "64", "-n", "5")
    assert result.exit_code == 0
    assert "error: prompt: expected fewer than 64 tokens" in result.stderr
    assert len(result.stdout.splitlines()) == 1


def test_conversation_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    chat(f"Hello!\n/save {file}\n", "-n", "8", "--system", "Be brief.")
    saved = json.loads(file.read_text(encoding="utf-8"))["messages"]
    assert [message["role"] for message in saved] == ["system", "user", "assistant"]
    again = tmp_path / "again.json"
    chat(f"/save {again}\n", "--load", str(file))
    assert json.loads(again.read_text(encoding="utf-8"))["messages"] == saved


def test_file_that_is_no_conversation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]", encoding="utf-8")
    result = chat("", "--load", str(tmp_path / "x.json"))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: conversation: expected JSON")


# --- the history ---


def kept(*words: str) -> list[dict[str, str]]:
    """The last conversation's messages, as ``eftlite history show`` has them."""
    result = CliRunner().invoke(program, ["history", "show", *(words or ("last",)), "--json"])
    messages: list[dict[str, str]] = json.loads(result.stdout)["messages"] if result.exit_code == 0 else []
    return messages


def test_conversation_is_kept_and_goes_on() -> None:
    chat("Hello!\n", "-n", "8", "--system", "Be brief.")
    first = kept()
    assert [message["role"] for message in first] == ["system", "user", "assistant"]
    result = chat("Who are you?\n", "--continue", "-n", "8")
    assert result.stderr.startswith('Going on with "Hello!", 1 question with answers.\n')
    assert kept()[:3] == first
    assert [message["content"] for message in kept()[3:4]] == ["Who are you?"]


def test_continued_conversation_is_named_by_the_beginning_of_its_id() -> None:
    chat("Hello!\n", "-n", "4")
    with History() as history:
        name = history.latest() or ""
    chat("Bye.\n", "-n", "4")
    for named in ([f"--continue={name[:11]}"], ["--continue", name], ["-c", name]):
        chat("Again.\n", *named, "-n", "4")
    assert [message["content"] for message in kept(name) if message["role"] == "user"] == ["Hello!", *["Again."] * 3]


def test_continued_conversation_takes_a_new_system_message() -> None:
    chat("Hello!\n", "-n", "4", "--system", "Be brief.")
    chat("", "-c", "--system", "Be long.")
    assert kept()[0]["content"] == "Be long."


def test_continuing_without_a_conversation_is_refused() -> None:
    result = chat("", "--continue")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: history: expected a conversation, got none yet")
    assert chat("", "--continue", "abc").stderr.startswith("error: conversation: expected the id")
    for other in (["--no-history"], ["--load", "x.json"]):
        result = chat("", "--continue", "last", *other)
        assert result.exit_code == 2
        assert f"--continue: expected no {other[0]} beside it" in result.stderr


def test_no_history_keeps_nothing(user_directories: Path) -> None:
    chat("Hello!\n", "-n", "4", "--no-history")
    assert not (user_directories / "state" / "history.db").exists()


def test_history_that_cannot_be_opened_stops_nobody(user_directories: Path) -> None:
    file = user_directories / "state" / "history.db"
    file.parent.mkdir()
    file.write_text("no database" * 1000, encoding="utf-8")
    result = chat("Hello!\n", "-n", "4")
    assert result.exit_code == 0
    assert result.stderr.startswith("error: history.db: the file is damaged")
    assert result.stderr.splitlines()[1] == "This conversation will not be kept."
    assert len(result.stdout.splitlines()) == 1
    assert chat("", "--continue").exit_code == 1


def test_python_without_sqlite_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "eftlite.history", None)
    result = chat("Hello!\n", "-n", "4")
    assert result.exit_code == 0
    assert "This conversation will not be kept." in result.stderr
