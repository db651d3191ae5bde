"""Calls in an answer's text: both forms, at any borders between pieces, and what only looks like one."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlite.server.toolcalls import Call, CallReader

NAMES = frozenset({"weather", "time"})
HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
LLAMA = '{"name": "weather", "parameters": {"city": "Oslo"}}'


def read(pieces: Sequence[str], names: frozenset[str] = NAMES) -> tuple[str, list[tuple[str, object]]]:
    """The text and the calls of an answer."""
    reader = CallReader(names)
    parts = [part for piece in pieces for part in reader.push(piece)] + reader.finish()
    calls = [(part.name, json.loads(part.arguments)) for part in parts if isinstance(part, Call)]
    return "".join(part for part in parts if isinstance(part, str)), calls


WEATHER = ("weather", {"city": "Oslo"})
ANSWERS = [
    ("Hello.", ("Hello.", [])),
    ("", ("", [])),
    (HERMES, ("", [WEATHER])),
    (f"{HERMES}\n{HERMES}", ("", [WEATHER, WEATHER])),
    (f"I shall look.\n{HERMES}", ("I shall look.", [WEATHER])),
    (f"{HERMES}\nDone.", ("Done.", [WEATHER])),
    (HERMES.removesuffix("</tool_call>"), ("", [WEATHER])),
    (LLAMA, ("", [WEATHER])),
    (f"\n {LLAMA} \n", ("", [WEATHER])),
    (LLAMA.replace("parameters", "arguments"), ("", [WEATHER])),
    ('{"type": "function", "name": "time", "parameters": {}}', ("", [("time", {})])),
    ('{"name": "time"}', ("", [("time", {})])),
    # what only looks like a call
    ("a < b and <tool_shed>", ("a < b and <tool_shed>", [])),
    ("see <tool_call", ("see <tool_call", [])),
    ("<tool_call>soon</tool_call> really", ("<tool_call>soon</tool_call> really", [])),
    ("<tool_call>soon", ("<tool_call>soon", [])),
    (HERMES.replace("weather", "rm"), (HERMES.replace("weather", "rm"), [])),
    (LLAMA.replace("weather", "rm"), (LLAMA.replace("weather", "rm"), [])),
    ('{"name": "weather", "arguments": "none"}', ('{"name": "weather", "arguments": "none"}', [])),
    ('{"name": ["weather"]}', ('{"name": ["weather"]}', [])),
    ('{"city": "Oslo"}', ('{"city": "Oslo"}', [])),
    (f"So: {LLAMA}", (f"So: {LLAMA}", [])),
    (f"{LLAMA} as I said", (f"{LLAMA} as I said", [])),
    ("trailing \n", ("trailing \n", [])),
    ("[" * 5000, ("[" * 5000, [])),
]  # fmt: skip  # a table


@pytest.mark.parametrize(("text", "expected"), ANSWERS)
def test_text_and_calls_are_told_apart(text: str, expected: object) -> None:
    assert read([text]) == expected


@pytest.mark.parametrize(("text", "expected"), [answer for answer in ANSWERS if len(answer[0]) < 200])
def test_borders_between_pieces_change_nothing(text: str, expected: object) -> None:
    assert read(list(text)) == expected
    for i in range(len(text)):
        assert read([text[:i], text[i:]]) == expected


@given(st.lists(st.sampled_from(["<tool_call>", "</tool_call>", LLAMA, "<", "tool", "{", " ", "\n", "so"]), max_size=9))
def test_nothing_is_lost_that_is_no_call(pieces: list[str]) -> None:
    """With no tool to call, the text is what was pushed."""
    text, calls = read(pieces, names=frozenset())
    assert (text, calls) == ("".join(pieces), [])


def test_text_is_shown_as_soon_as_it_is_certain() -> None:
    reader = CallReader(NAMES)
    assert reader.push("I shall") == ["I shall"]
    assert reader.push(" look <tool") == [" look"]
    assert reader.push("box>") == [" <toolbox>"]
    assert reader.push(f" {HERMES[:20]}") == []
    (call,) = reader.push(HERMES[20:])
    assert isinstance(call, Call)
    assert call.name == "weather"


def test_json_that_is_no_call_is_shown_at_once() -> None:
    reader = CallReader(NAMES)
    assert reader.push('{"na') == []
    assert reader.push('tion": ') == ['{"nation":']


def test_every_call_has_a_name_of_its_own() -> None:
    first, second = Call("time", "{}"), Call("time", "{}")
    assert first.id != second.id
    assert first.as_json() == {"id": first.id, "type": "function", "function": {"name": "time", "arguments": "{}"}}
