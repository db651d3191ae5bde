"""Where lines come from: pipes, and the editor driven by keys through prompt_toolkit's own test input."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from eftlite.cli.reader import PipeReader, TerminalReader, state_dir

CTRL_C, CTRL_D, ALT_ENTER, UP, TAB, ENTER = "\x03", "\x04", "\x1b\r", "\x1b[A", "\t", "\r"


def test_pipe_gives_lines_and_then_the_end() -> None:
    reader = PipeReader(io.StringIO("one\r\n\ntwo"))
    assert [reader.read(), reader.read(), reader.read()] == ["one", "", "two"]
    with pytest.raises(EOFError):
        reader.read()


def test_pipe_in_multiline_mode_gives_paragraphs() -> None:
    reader = PipeReader(io.StringIO("one\ntwo\n\nthree\n"))
    reader.multiline = True
    assert [reader.read(), reader.read()] == ["one\ntwo", "three"]
    with pytest.raises(EOFError):
        reader.read()


def test_state_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EFTLITE_STATE_DIR", str(tmp_path))
    assert state_dir() == tmp_path
    monkeypatch.delenv("EFTLITE_STATE_DIR")
    assert state_dir().name == "eftlite"


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What is typed."""
    monkeypatch.setattr("prompt_toolkit.output.create_output", lambda *_: DummyOutput())
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield pipe


def later(keys: Any, *texts: str) -> None:
    """Type one after the other: history and completions come from threads of their own."""

    def send() -> None:
        for text in texts:
            time.sleep(0.1)
            keys.send_text(text)

    threading.Thread(target=send).start()


def editor(folder: Path) -> TerminalReader:
    """An editor that keeps its history there and knows one command."""
    return TerminalReader(folder / "state" / "history", lambda line: ["/compare"] if line.startswith("/c") else [])


def test_editor_returns_what_was_typed(keys: Any, tmp_path: Path) -> None:
    keys.send_text("Hello" + ENTER)
    assert editor(tmp_path).read() == "Hello"


def test_history_outlives_the_editor(keys: Any, tmp_path: Path) -> None:
    keys.send_text("Hello" + ENTER)
    editor(tmp_path).read()
    assert "Hello" in (tmp_path / "state" / "history").read_text(encoding="utf-8")
    later(keys, UP, "!" + ENTER)
    assert editor(tmp_path).read() == "Hello!"


def test_history_that_cannot_be_kept_is_no_obstacle(keys: Any, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be", encoding="utf-8")
    keys.send_text("Hello" + ENTER)
    assert editor(tmp_path).read() == "Hello"


def test_ctrl_c_takes_back_the_line_and_up_restores_it(keys: Any, tmp_path: Path) -> None:
    later(keys, "half" + CTRL_C, UP, " and whole" + ENTER)
    assert editor(tmp_path).read() == "half and whole"


def test_ctrl_c_on_an_empty_line_leaves(keys: Any, tmp_path: Path) -> None:
    keys.send_text(CTRL_C)
    with pytest.raises(KeyboardInterrupt):
        editor(tmp_path).read()


def test_late_ctrl_c_was_meant_for_the_answer(keys: Any, tmp_path: Path) -> None:
    reader = editor(tmp_path)
    reader.forgiving = True
    keys.send_text(CTRL_C + "still here" + ENTER)
    assert reader.read() == "still here"


def test_ctrl_d_ends(keys: Any, tmp_path: Path) -> None:
    keys.send_text(CTRL_D)
    with pytest.raises(EOFError):
        editor(tmp_path).read()


def test_alt_enter_begins_a_line_or_sends(keys: Any, tmp_path: Path) -> None:
    reader = editor(tmp_path)
    keys.send_text("one" + ALT_ENTER + "two" + ENTER)
    assert reader.read() == "one\ntwo"
    reader.multiline = True
    keys.send_text("one" + ENTER + "two" + ALT_ENTER)
    assert reader.read() == "one\ntwo"


def test_default_can_be_changed(keys: Any, tmp_path: Path) -> None:
    keys.send_text("!" + ENTER)
    assert editor(tmp_path).read("edit> ", default="a\nb") == "a\nb!"


def test_tab_completes(keys: Any, tmp_path: Path) -> None:
    later(keys, "/c" + TAB, ENTER)
    assert editor(tmp_path).read() == "/compare"
