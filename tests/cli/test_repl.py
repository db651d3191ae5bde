"""The conversation's loop and its commands, on a fake EFT."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import pytest

from eftlite.cli.commands import COMMANDS, completions
from eftlite.cli.conversation import Conversation
from eftlite.errors import ContextError
from eftlite.settings import Family, Knobs, Limits, Sampling
from tests.cli.fakes import FakeEFT, FakeReader, conversation

Capture = pytest.CaptureFixture[str]


def test_answers_go_to_stdout_and_timing_to_stderr(capsys: Capture) -> None:
    repl = conversation("Hi", eft=FakeEFT("Hello there."))
    out, err = capsys.readouterr()
    assert out == "Hello there.\n"
    assert err == "2 tokens · 2.0 tokens/s · first after 0.25 s · shift 0.50\n"
    assert repl.conversation.turns == [("Hi", "Hello there.")]


def test_later_questions_carry_the_conversation() -> None:
    eft = FakeEFT("One.", "Two.")
    conversation("a", "  ", "b", eft=eft)
    assert [message["content"] for message in eft.asked[1][0]] == ["a", "One.", "b"]


def test_block_of_several_lines_is_one_message() -> None:
    eft = FakeEFT()
    conversation('"""one', "two", 'three"""', '"""four"""', '"""', "five", eft=eft)
    assert [asked[0][-1]["content"] for asked in eft.asked] == ["one\ntwo\nthree", "four", "five"]


def test_block_can_be_abandoned_where_someone_sits() -> None:
    eft = FakeEFT()
    conversation('"""one', KeyboardInterrupt, "two", eft=eft)
    assert [asked[0][-1]["content"] for asked in eft.asked] == ["two"]
    with pytest.raises(KeyboardInterrupt):
        conversation('"""one', KeyboardInterrupt, interactive=False)


def test_ctrl_c_where_nothing_is_typed_leaves() -> None:
    with pytest.raises(KeyboardInterrupt):
        conversation(KeyboardInterrupt)


@pytest.mark.parametrize("word", ["/exit", "/bye", "/quit"])
def test_leaving(word: str) -> None:
    eft = FakeEFT()
    assert conversation(word, "never sent", eft=eft).done
    assert eft.asked == []


def test_ctrl_c_in_an_answer_keeps_what_there_is(capsys: Capture) -> None:
    eft = FakeEFT("word " * 500)
    eft.delay_s = 0.01
    threading.Timer(0.15, signal.raise_signal, (signal.SIGINT,)).start()
    repl = conversation("Hi", "/show tokens", eft=eft)
    ((question, answer),) = repl.conversation.turns
    assert question == "Hi"
    assert 1 < len(answer.split()) < 100
    assert "stopped; /regen" in capsys.readouterr().err


def test_failure_before_an_answer_keeps_the_message(capsys: Capture) -> None:
    eft = FakeEFT()
    eft.fails_at, eft.error = -1, ContextError("prompt: expected fewer than 64 tokens, got 70", "Shorten it")
    repl = conversation("long", eft=eft)
    err = capsys.readouterr().err
    assert err.startswith("error: prompt: expected fewer than 64 tokens, got 70. Shorten it\n")
    assert "/regen" in err
    assert (repl.conversation.turns, repl.conversation.unsent) == ([], "long")
    eft.fails_at = None
    repl.handle("/regen")
    assert repl.conversation.turns == [("long", "Hello there.")]


def test_failure_inside_an_answer_keeps_what_there_is(capsys: Capture) -> None:
    eft = FakeEFT("one two three")
    eft.fails_at = 2
    repl = conversation("Hi", "/undo", "Again", eft=eft)
    assert repl.conversation.turns == [("Again", "one two")]
    assert capsys.readouterr().err.count("error: broken. mend it") == 2


def test_full_context_is_told_with_its_size(capsys: Capture) -> None:
    eft = FakeEFT("one two")
    eft.room = 1
    conversation("Hi", eft=eft)
    assert "the context of 64 tokens is full: /undo or /clear makes room" in capsys.readouterr().err


def test_token_limit_is_told(capsys: Capture) -> None:
    conversation("Hi", eft=FakeEFT("one two"), limits=Limits(max_tokens=1))
    assert "cut short by max_tokens" in capsys.readouterr().err


# --- seeds and modes ---


def test_seed_makes_the_whole_conversation_repeatable() -> None:
    runs = []
    for _ in range(2):
        eft = FakeEFT()
        conversation("a", "b", "/regen", "/set seed 5", "c", eft=eft, sampling=Sampling(seed=1))
        runs.append([sampling.seed for _, sampling, _ in eft.asked])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 4


def test_other_settings_do_not_repeat_the_seeds() -> None:
    eft = FakeEFT()
    conversation("a", "/set temperature 1", "b", eft=eft, sampling=Sampling(seed=1))
    assert eft.asked[0][1].seed != eft.asked[1][1].seed


def test_no_seed_leaves_the_choice_to_the_engine() -> None:
    eft = FakeEFT()
    conversation("a", eft=eft)
    assert eft.asked[0][1].seed is None


def test_mode_decides_the_knobs() -> None:
    eft = FakeEFT()
    conversation("a", "/set mode base", "b", "/set mode eft", "c", eft=eft)
    assert [knobs for _, _, knobs in eft.asked] == [None, Knobs((0.0, 0.0)), None]


# --- commands ---


def test_regen_undo_clear() -> None:
    eft = FakeEFT("One.", "Two.", "Three.")
    repl = conversation("a", "/regen", eft=eft)
    assert repl.conversation.turns == [("a", "Two.")]
    repl.handle("/undo")
    assert repl.conversation.turns == []
    repl.handle("b")
    repl.handle("/clear")
    assert repl.conversation == Conversation()


@pytest.mark.parametrize("command", ["/regen", "/undo", "/edit", "/compare", "/why", "/show timing"])
def test_commands_without_anything_asked_say_so(command: str, capsys: Capture) -> None:
    conversation(command)
    assert f"error: {command}: nothing was a" in capsys.readouterr().err


def test_edit_offers_the_last_message() -> None:
    eft = FakeEFT()
    repl = conversation("a", "/edit", "a, changed", eft=eft)
    assert repl.conversation.turns == [("a, changed", "Hello there.")]
    assert isinstance(repl.reader, FakeReader)
    assert repl.reader.prompts[2] == ("edit> ", "a")
    assert conversation("a", "/edit b").conversation.turns == [("b", "Hello there.")]
    assert conversation("a", "/edit", KeyboardInterrupt).conversation.turns == [("a", "Hello there.")]


def test_edit_needs_text_where_no_terminal_is(capsys: Capture) -> None:
    conversation("a", "/edit", interactive=False)
    assert "error: /edit: expected the new text" in capsys.readouterr().err


def test_system_message() -> None:
    eft = FakeEFT()
    conversation('/system "Be brief."', "a", '/system ""', "b", eft=eft)
    assert eft.asked[0][0][0] == {"role": "system", "content": "Be brief."}
    assert eft.asked[1][0][0]["role"] == "user"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("/set temperature 0.5", "(temperature: 0.5)"),
        ("/set top-k 7", "(top_k: 7)"),
        ("/set max_tokens 9", "(max_tokens: 9)"),
        ("/set max_tokens off", "(max_tokens: off)"),
        (r"/set stop \n", r"(stop: '\n')"),
        ("/set conservative_p 0.9", "(conservative_p: 0.9)"),
        ("/set mode tuned", "(mode: tuned)"),
        ("/set alpha 0.5", "(alpha: helpful 0.5, harmless 0)"),
        ("/alpha", "(alpha: helpful 1, harmless 0)"),
        ("/alpha 2", "(alpha: helpful 2, harmless 0)"),
        ("/alpha harmless 1", "(alpha: helpful 1, harmless 1)"),
        ("/beta 1.5", "(beta: 1.5)"),
        ("/beta", "(beta: 1)"),
    ],
)
def test_settings_are_changed_and_shown(line: str, shown: str, capsys: Capture) -> None:
    conversation(line)
    assert capsys.readouterr().err == f"{shown}\n"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("/set temperature nan", "temperature: expected a number from 0 to 100, got nan"),
        ("/set temperature hot", "temperature: expected a number, got 'hot'"),
        ("/set top_k 1.5", "top_k: expected a whole number, got '1.5'"),
        ("/set top_p 2", "top_p: expected a number from 0 to 1, got 2"),
        ("/set seed -1", "seed: expected an integer"),
        ("/set colour red", "/set: expected one of temperature"),
        ("/set temperature", "for example: /set temperature 0.5"),
        ("/set mode loud", "mode: expected one of eft, base, tuned, reference, got 'loud'"),
        ("/alpha -1", "alpha: expected a number from 0 to 100, got -1"),
        ("/alpha inf", "alpha: expected a number"),
        ("/alpha nobody 1", "/alpha: expected a value, or one of helpful, harmless"),
        ("/beta -1", "beta: expected a number from 0 to 100, got -1"),
        ("/show shoes", "/show: expected one of params"),
        ("/why 0", "/why: expected [most] and a number of tokens from 1 to 50, got '0'"),
        ("/why many", "/why: expected"),
        ("/save", "/save: expected the name of a file"),
        ("/cler", "/cler: no such command. Did you mean /clear?"),
        ("/zzz", "/zzz: no such command. See /help"),
    ],
)
def test_wrong_commands_change_nothing(line: str, complaint: str, capsys: Capture) -> None:
    repl = conversation(line)
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1
    assert (repl.sampling, repl.limits, repl.mode) == (Sampling(), Limits(), "eft")
    assert repl.eft.knobs == Knobs((1.0, 0.0))


def test_base_alone_has_no_alpha_and_no_other_mode(capsys: Capture) -> None:
    alone = FakeEFT(family=Family("one", "base.gguf"))
    conversation("/alpha 1", "/set mode tuned", "a", "/compare", eft=alone)
    out, err = capsys.readouterr()
    assert "alpha: expected a family with a delta" in err
    assert "mode: expected base" in err
    assert out == "Hello there.\nbase alone\nHello there.\n"


def test_help_lists_every_command(capsys: Capture) -> None:
    conversation("/help")
    out = capsys.readouterr().out
    assert all(f"/{name}" in out for name in COMMANDS)


def test_show(capsys: Capture) -> None:
    conversation("Hi", "/show params", "/show tokens", "/show timing", "/show template")
    out = capsys.readouterr().out
    for text in (
        "temperature     0.8",
        "alpha harmless  0",
        "2 of 64 tokens",
        "7 tokens, 0 of them kept",
        "{{ messages }}",
    ):
        assert text in out


def test_compare_answers_the_same_with_each(capsys: Capture) -> None:
    eft = FakeEFT("Chosen.", "Large.", "Small.", "Both.")
    repl = conversation("Hi", "/compare", eft=eft)
    assert capsys.readouterr().out == "Chosen.\nbase alone\nLarge.\ntuned alone\nSmall.\nEFT\nBoth.\n"
    assert [messages for messages, _, _ in eft.asked] == [eft.asked[0][0]] * 4
    assert [sampling.seed for _, sampling, _ in eft.asked] == [None, 11, 11, 11]
    assert repl.conversation.turns == [("Hi", "Chosen.")]


def test_compare_takes_a_question_of_its_own() -> None:
    eft = FakeEFT()
    repl = conversation("/compare Why?", eft=eft)
    assert {asked[0][-1]["content"] for asked in eft.asked} == {"Why?"}
    assert [sampling.seed for _, sampling, _ in eft.asked] == [None, 11, 11]
    assert repl.conversation.turns == []


def test_why_looks_at_the_last_tokens_or_the_most_shifted(capsys: Capture) -> None:
    eft = FakeEFT("a b c d")
    conversation("Hi", "/why", "/why 2", "/why most", eft=eft)
    assert eft.completed == [[100, 0, 1, 2], [100, 0, 1], [100, 0, 1, 2], [100, 0, 1, 2]]
    out = capsys.readouterr().out
    assert "…a b → ' c', shift 0.00" in out
    assert "90% 'word'" in out


def test_why_can_be_stopped(capsys: Capture) -> None:
    eft = FakeEFT("a b c d")
    repl = conversation("Hi", eft=eft)
    eft.stopped.set()
    repl.handle("/why 4")
    assert len(eft.completed) == 1
    assert capsys.readouterr().err.endswith("(stopped)\n")


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    Path("note.txt").write_text("Facts.\n", encoding="utf-8")
    eft = FakeEFT()
    repl = conversation("/read note.txt", "What?", "/save a.json", "/export a.md", "/save a.json", "/clear", eft=eft)
    assert eft.asked[0][0][-1]["content"] == "Facts.\n\n\nWhat?"
    assert json.loads(Path("a.json").read_text(encoding="utf-8"))["family"] == "fake"
    assert Path("a.md").read_text(encoding="utf-8").startswith("# Conversation")
    repl.handle("/load a.json")
    assert repl.conversation.turns == [("Facts.\n\n\nWhat?", "Hello there.")]
    conversation("/save note.txt", "/load note.txt", "/read gone.txt")
    err = capsys.readouterr().err
    assert "error: note.txt: there is such a file. Give another name" in err
    assert "error: conversation: expected JSON" in err
    assert "error: gone.txt: No such file" in err


def test_multiline_toggles() -> None:
    repl = conversation("/multiline")
    assert repl.reader.multiline
    repl.handle("/multiline")
    assert not repl.reader.multiline


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("/com", ["/compare"]),
        ("/set temp", ["temperature"]),
        ("/set temperature ", []),
        ("/show t", ["template", "tokens", "timing"]),
        ("/alpha h", ["helpful", "harmless"]),
        ("/why m", ["most"]),
        ("/foo x", []),
        ("hello /com", []),
    ],
)
def test_completions(line: str, found: list[str]) -> None:
    assert list(completions(conversation(), line)) == found


def test_completion_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes").mkdir()
    Path("notes/a.json").touch()
    Path("notes/.hidden").touch()
    repl = conversation()
    assert list(completions(repl, "/load no")) == ["notes/"]
    assert list(completions(repl, "/load notes/")) == ["notes/a.json"]
    assert list(completions(repl, "/load gone/")) == []


def test_space_before_a_slash_sends_it() -> None:
    eft = FakeEFT()
    conversation(" /etc/hosts: what is it?", eft=eft)
    assert eft.asked[0][0][-1]["content"] == "/etc/hosts: what is it?"
