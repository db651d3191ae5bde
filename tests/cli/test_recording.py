"""What a conversation in the terminal leaves in the history, on a fake EFT and a real file."""

from __future__ import annotations

import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eftlite.cli.conversation import Conversation as Talk
from eftlite.cli.output import Output
from eftlite.cli.recording import Recording
from eftlite.cli.repl import Repl
from eftlite.errors import HistoryError
from eftlite.history import Conversation, History, Recorder
from tests.cli.fakes import FakeAnswer, FakeEFT, conversation

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "history.db") as history:
        yield history


def said(history: History, *lines: str | type[BaseException], eft: FakeEFT | None = None, **settings: Any) -> Repl:
    """A recorded conversation in which these lines were typed."""
    recording = Recording(history, "fake", Output("never").error)
    return conversation(*lines, eft=eft, recording=recording, **settings)


def last(history: History) -> Conversation:
    return history.get(history.latest() or "")


def path(kept: Conversation) -> list[str]:
    return [message.content for message in kept.path()]


def tree(kept: Conversation) -> dict[str, list[str]]:
    """What follows each text; what begins stands under "/"."""
    texts: dict[int | None, str] = {message.id: message.content for message in kept.messages}
    found: dict[str, list[str]] = {}
    for message in kept.messages:
        found.setdefault(texts.get(message.parent, "/"), []).append(message.content)
    return found


def test_turns_are_kept_with_what_they_took(history: History) -> None:
    said(history, "a", "b", eft=FakeEFT("One.", "Two."), conversation=Talk("Be brief."))
    kept = last(history)
    assert path(kept) == ["a", "One.", "b", "Two."]
    assert (kept.title, kept.system, kept.family) == ("a", "Be brief.", "fake")
    answer = kept.messages[-1]
    assert (answer.state, answer.mode) == ("complete", "eft")
    assert answer.settings["deltas"] == {"helpful": 1.0, "harmless": 0.0}
    assert answer.settings["temperature"] == 0.8
    assert (answer.result["finish_reason"], answer.result["n_tokens"], answer.result["seed"]) == ("stop", 1, 11)


def test_nothing_is_kept_before_the_first_question(history: History) -> None:
    said(history, "/system Be brief.", "/undo", "/clear", "/show params")
    assert history.list() == []


def test_question_is_kept_before_it_is_answered(history: History) -> None:
    seen = []

    class Looking(FakeEFT):
        def chat(self, *words: Any, **named: Any) -> FakeAnswer:
            seen.append(path(last(history)))
            return super().chat(*words, **named)

    said(history, "a", eft=Looking())
    assert seen == [["a", ""]]


def test_every_piece_is_kept_before_it_is_shown(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = ""

    def answer(self: Output, text: str, newline: bool = False) -> None:
        nonlocal shown
        shown += text
        with closing(sqlite3.connect(history.path)) as other:
            kept = "".join(text for (text,) in other.execute("SELECT text FROM pieces ORDER BY seq"))
        assert kept == shown

    monkeypatch.setattr(Output, "answer", answer)
    said(history, "a", eft=FakeEFT("one two three"))
    assert shown == "one two three"


def test_regenerated_answer_is_a_sibling(history: History) -> None:
    said(history, "a", "/regen", "b", eft=FakeEFT("One.", "Two.", "Three."))
    kept = last(history)
    assert path(kept) == ["a", "Two.", "b", "Three."]
    assert tree(kept) == {"/": ["a"], "a": ["One.", "Two."], "Two.": ["b"], "b": ["Three."]}


def test_edited_question_is_a_sibling(history: History) -> None:
    said(history, "a", "b", "/edit c", eft=FakeEFT("One.", "Two.", "Three."))
    kept = last(history)
    assert path(kept) == ["a", "One.", "c", "Three."]
    assert tree(kept)["One."] == ["b", "c"]


def test_undone_turns_stay_in_the_tree(history: History) -> None:
    said(history, "a", "b", "/undo", eft=FakeEFT("One.", "Two."))
    assert path(last(history)) == ["a", "One."]
    assert len(last(history).messages) == 4
    said(history, "a", "/undo")
    assert path(last(history)) == []
    said(history, "a", "b", "/undo", "/undo", "a", eft=FakeEFT("One.", "Two.", "Three."))
    assert tree(last(history)) == {"/": ["a"], "a": ["One.", "Three."], "One.": ["b"], "b": ["Two."]}


def test_cleared_conversation_is_another(history: History) -> None:
    said(history, "a", "/clear", "b")
    assert [summary.title for summary in history.list()] == ["b", "a"]


def test_system_message_is_kept(history: History) -> None:
    said(history, "a", "/system Be brief.")
    assert last(history).system == "Be brief."


def test_question_that_failed_is_kept_and_another_takes_its_place(history: History, capsys: Capture) -> None:
    eft = FakeEFT("One.")
    eft.fails_at = -1
    repl = said(history, "a", eft=eft)
    kept = last(history)
    assert [(message.content, message.state) for message in kept.path()] == [("a", "complete"), ("", "failed")]
    eft.fails_at = None
    repl.handle("b")
    assert tree(last(history)) == {"/": ["a", "b"], "a": [""], "b": ["One."]}
    assert "kept no further" not in capsys.readouterr().err


def test_question_that_failed_is_sent_again(history: History) -> None:
    eft = FakeEFT("One.")
    eft.fails_at = -1
    repl = said(history, "a", eft=eft)
    eft.fails_at = None
    repl.handle("/regen")
    assert tree(last(history)) == {"/": ["a"], "a": ["", "One."]}


def test_answer_that_breaks_off_is_kept(history: History) -> None:
    eft = FakeEFT("one two three")
    eft.fails_at = 2
    said(history, "a", eft=eft)
    answer = last(history).messages[-1]
    assert (answer.content, answer.state) == ("one two", "failed")


def test_stopped_answer_is_kept(history: History) -> None:
    eft = FakeEFT("word " * 500)
    eft.delay_s = 0.01
    threading.Timer(0.15, signal.raise_signal, (signal.SIGINT,)).start()
    repl = said(history, "a", eft=eft)
    answer = last(history).messages[-1]
    assert (answer.content, answer.state) == (repl.conversation.turns[0][1], "stopped")


def test_answer_that_was_left_is_kept(history: History) -> None:
    """By Ctrl+C twice within a second."""
    eft = FakeEFT("one two three")
    interrupt: Any = KeyboardInterrupt()
    eft.fails_at, eft.error = 2, interrupt
    with pytest.raises(KeyboardInterrupt):
        said(history, "a", eft=eft)
    answer = last(history).messages[-1]
    assert (answer.content, answer.state) == ("one two", "stopped")


def test_compared_answers_stand_beside_the_first(history: History) -> None:
    said(history, "a", "/compare", "b", eft=FakeEFT("One.", "Large.", "Small.", "Both.", "Two."))
    kept = last(history)
    assert path(kept) == ["a", "One.", "b", "Two."]
    beside = [(message.content, message.mode) for message in kept.messages if message.parent == kept.path()[0].id]
    assert beside == [("One.", "eft"), ("Large.", "base"), ("Small.", "tuned"), ("Both.", "eft")]


def test_question_to_compare_is_kept_aside(history: History) -> None:
    said(history, "a", "/compare Why?", "/compare", "b", eft=FakeEFT("One.", "1", "2", "3", "4", "5", "6", "Two."))
    kept = last(history)
    assert path(kept) == ["a", "One.", "b", "Two."]
    assert tree(kept)["One."] == ["Why?", "b"]
    assert tree(kept)["Why?"] == ["1", "2", "3"]
    assert tree(kept)["a"] == ["One.", "4", "5", "6"]


def test_conversation_of_nothing_but_a_comparison_is_kept(history: History) -> None:
    repl = said(history, "/compare Why?", eft=FakeEFT("1", "2", "3", "One."))
    assert tree(last(history)) == {"/": ["Why?"], "Why?": ["1", "2", "3"]}
    assert path(last(history)) == ["Why?"]
    repl.handle("a")
    assert path(last(history)) == ["a", "One."]


def test_conversation_from_elsewhere_is_kept_with_its_beginning(history: History) -> None:
    said(history, "/compare Why?", "c", conversation=Talk("S", [("a", "A"), ("b", "B")]), eft=FakeEFT("C"))
    kept = last(history)
    assert path(kept) == ["a", "A", "b", "B", "c", "C"]
    assert (kept.title, kept.system) == ("a", "S")


def test_loaded_conversation_is_another(history: History, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    file.write_text(Talk("", [("a", "A")], unsent="b").to_json("fake"), encoding="utf-8")
    said(history, "x", f"/load {file}", "/regen", eft=FakeEFT("X", "B"))
    assert path(last(history)) == ["a", "A", "b", "B"]
    assert len(history.list()) == 2


def test_kept_conversation_goes_on(history: History) -> None:
    said(history, "a", "b", "/regen", eft=FakeEFT("One.", "Two.", "Three."))
    kept = last(history)
    recording = Recording(history, "fake")
    recording.resume(kept)
    talk = Talk.from_messages((turn.role, turn.content) for turn in kept.turns())
    conversation(
        "/regen", "c", "/undo", "/undo", "d", conversation=talk, recording=recording, eft=FakeEFT("4", "5", "6")
    )
    kept = last(history)
    assert path(kept) == ["a", "One.", "d", "6"]
    assert tree(kept)["b"] == ["Two.", "Three.", "4"]
    assert len(history.list()) == 1


# --- a history that fails ---


def test_failing_history_is_told_once_and_the_conversation_goes_on(
    history: History, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    added = Recorder.add

    def add(self: Recorder, text: str) -> None:
        if text == " two":
            raise HistoryError("history.db: there is no room on its disk")
        added(self, text)

    monkeypatch.setattr(Recorder, "add", add)
    repl = said(
        history, "a", "/regen", "/undo", "/system S", "b", "/compare c", "/compare", eft=FakeEFT("one two three")
    )
    out, err = capsys.readouterr()
    assert out.startswith("one two three\n")
    assert err.startswith("error: this conversation is kept no further: history.db: there is no room on its disk\n")
    assert err.count("error") == 1
    assert repl.conversation.turns == [("b", "one two three")]
    assert last(history).messages[-1].content == "one"


@pytest.mark.parametrize("method", ["create", "add_user", "begin_answer"])
def test_history_that_fails_at_the_question(
    method: str, history: History, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(*words: object, **named: object) -> None:
        raise HistoryError("history.db: it cannot be written")

    monkeypatch.setattr(History, method, fail)
    repl = said(history, "a", "b")
    assert len(repl.conversation.turns) == 2
    assert capsys.readouterr().err.count("it cannot be written") == 1


def test_conversation_that_was_deleted_meanwhile_goes_on(history: History, capsys: Capture) -> None:
    repl = said(history, "a")
    history.delete(history.latest() or "")
    repl.handle("b")
    assert len(repl.conversation.turns) == 2
    assert "kept no further: conversation: expected the id" in capsys.readouterr().err
