"""Conversations as data, and their files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eftlite.cli.conversation import Conversation, read_text, write_new
from eftlite.errors import InputError


def test_messages_hold_system_turns_and_question() -> None:
    conversation = Conversation("Be brief.", [("a", "b")])
    assert conversation.messages("c") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


def test_question_without_answer_is_kept_unsent() -> None:
    conversation = Conversation()
    conversation.add("a", "")
    assert (conversation.turns, conversation.unsent) == ([], "a")
    assert conversation.take_back() == "a"
    assert conversation.take_back() == ""


def test_take_back_prefers_what_was_not_sent() -> None:
    conversation = Conversation("", [("a", "b")], unsent="c")
    assert [conversation.take_back() for _ in range(3)] == ["c", "a", ""]


def test_files_go_before_the_next_question_once() -> None:
    conversation = Conversation(attached=["one", "two"])
    assert conversation.compose("What is this?") == "one\n\ntwo\n\nWhat is this?"
    assert conversation.compose("And now?") == "And now?"


def test_json_is_read_again_as_it_was() -> None:
    before = Conversation("S", [("a\n", '"b"'), ("c", "d €")], unsent="e")
    after = Conversation.from_json(before.to_json("demo"))
    assert (after.system, after.turns, after.unsent) == (before.system, before.turns, before.unsent)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"messages": 1}',
        '{"messages": [{"role": "user"}]}',
        '{"messages": ["x"]}',
        json.dumps({"messages": [{"role": "assistant", "content": "x"}]}),
        json.dumps({"messages": [{"role": "user", "content": "x"}] * 2}),
        json.dumps({"messages": [{"role": "tool", "content": "x"}]}),
        json.dumps({"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "x"}]}),
        "[" * 100_000,
    ],
)
def test_foreign_json_is_refused_in_words(text: str) -> None:
    with pytest.raises(InputError, match="conversation: expected"):
        Conversation.from_json(text)


def test_markdown_shows_both_sides() -> None:
    assert Conversation("Be brief.", [("Why?", "Because.")]).markdown() == (
        "# Conversation\n\n*Be brief.*\n\n**You:** Why?\n\nBecause.\n"
    )


def test_written_files_are_not_replaced_unless_allowed(tmp_path: Path) -> None:
    name = str(tmp_path / "notes.txt")
    write_new(name, "one", may_replace=False)
    with pytest.raises(InputError, match=r"notes\.txt: there is such a file"):
        write_new(name, "two", may_replace=False)
    assert read_text(name) == "one"
    write_new(name, "two", may_replace=True)
    assert read_text(name) == "two"


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, words in (("missing", "No such file"), ("binary", "expected UTF-8"), (".", "directory|Permission")):
        with pytest.raises(InputError, match=words):
            read_text(str(tmp_path / name))
    with pytest.raises(InputError, match="nowhere"):
        write_new(str(tmp_path / "no" / "nowhere"), "", may_replace=False)
