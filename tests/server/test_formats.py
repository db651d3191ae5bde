"""Formats of answers: one at a time, of bounded size; a call that must be made is one too."""

from __future__ import annotations

from typing import Any

import pytest

from eftlite.arguments import format_grammar
from tests.server.test_asks import SCHEMA, TIME, WEATHER, ask_of, chat, refused

WITH_SCHEMA = {"type": "json_object", "schema": SCHEMA}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, {"type": "json_object"}),
        ({"response_format": WITH_SCHEMA}, WITH_SCHEMA),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, WITH_SCHEMA),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, WITH_SCHEMA),
        ({"json_schema": SCHEMA}, WITH_SCHEMA),
        ({"json_schema": {}}, {"type": "json_object"}),
        ({"grammar": "x", "response_format": {"type": "text"}}, None),
    ],
)
def test_formats(fields: dict[str, Any], expected: object) -> None:
    assert ask_of(**fields).response_format == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"grammar": "x", "json_schema": SCHEMA}, "grammar"),
        ({"response_format": WITH_SCHEMA, "json_schema": SCHEMA}, "response_format"),
        ({"response_format": WITH_SCHEMA, "grammar": "x"}, "grammar"),
    ],
)
def test_one_format_at_a_time(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields) == param


@pytest.mark.parametrize(
    "node",
    [
        {"type": "array", "minItems": 10**9},
        {"type": "array", "maxItems": 1e30},
        {"type": "string", "minLength": 1001},
        {"type": "string", "maxLength": 10**12},
        {"type": "string", "pattern": "^a{1000000000}$"},
        {"type": "string", "pattern": "^a{1, 1001}$"},
        {"type": "string", "pattern": f"^a{{{'9' * 9999}}}$"},
    ],
)
def test_schemas_that_would_take_all_memory_are_refused(node: dict[str, Any]) -> None:
    """llama-cpp-python's converter writes every repetition out."""
    assert refused(json_schema={"anyOf": [{"properties": {"a": node}}]}) == "json_schema"


def test_schemas_of_any_size_are_not_taken() -> None:
    many = {"properties": {f"p{i}": {"type": "integer"} for i in range(500)}}
    assert refused(response_format={"type": "json_object", "schema": many}) == "response_format"
    del many["properties"]["p0"], many["properties"]["p1"]
    assert ask_of(json_schema=many).response_format


def test_properties_may_be_called_like_repetitions() -> None:
    assert ask_of(json_schema={"properties": {"minItems": {"type": "integer", "maximum": 10**9}}}).response_format


def test_numbers_in_patterns_may_be_large() -> None:
    assert ask_of(json_schema={"type": "string", "pattern": "^2026-[0-9]{2}$"}).response_format


# ---- calls that must be made


def named(name: str) -> dict[str, Any]:
    """The choice of one function."""
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    ("choice", "names"), [("required", ["weather", "time"]), (named("time"), ["time"]), (named("weather"), ["weather"])]
)
def test_a_forced_call_is_a_format(choice: Any, names: list[str]) -> None:
    """So the answer is a call of that tool whatever the model would say."""
    (ask,) = chat(tools=[WEATHER, TIME], tool_choice=choice).asks
    assert ask.response_format is not None
    calls = ask.response_format["schema"]["anyOf"]
    assert [call["properties"]["name"]["const"] for call in calls] == names
    grammar = format_grammar(ask.response_format)
    assert grammar
    assert all(name in grammar for name in names)


def test_definitions_of_parameters_stay_within_reach() -> None:
    parameters = {"properties": {"a": {"$ref": "#/$defs/A"}}, "required": ["a"], "$defs": {"A": {"const": "deep"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    grammar = format_grammar(ask_of(tools=[tool], tool_choice="required").response_format)
    assert grammar
    assert "deep" in grammar
    other = {"type": "function", "function": {"name": "g", "parameters": {"$defs": {"A": {"const": "other"}}}}}
    assert refused(tools=[tool, other], tool_choice="required") == "tools"
    assert (
        refused(tools=[{**tool, "function": {"name": "f", "parameters": {"$defs": 5}}}], tool_choice="required")
        == "tools"
    )
    assert ask_of(tools=[tool]).tools == [tool]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [TIME], "tool_choice": named("weather")}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TIME], "tool_choice": "required", "json_schema": SCHEMA}, "json_schema"),
    ],
)
def test_calls_that_cannot_be_forced_are_refused(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields) == param
