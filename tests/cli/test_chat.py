"""``eftlite chat`` as a whole, on the bundled family and a pipe."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from eftlite.cli import program


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
