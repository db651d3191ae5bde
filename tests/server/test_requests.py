"""The fields of requests: what clients send is taken, what is out of bounds is refused by its name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from eftlite.server.requests import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from eftlite.server.schema import Body, FieldError, parse
from eftlite.settings import MAX_SEED, Limits, Sampling, from_options
from tests.server.asgi import HELLO

# Every number of a request with the least and the largest that is taken.
NUMBERS: dict[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "top_k": (-1, 1 << 30),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "repeat_penalty": (0.01, 100),
    "repeat_last_n": (-1, 1 << 20),
    "frequency_penalty": (-100, 100),
    "presence_penalty": (-100, 100),
    "dry_multiplier": (0, 100),
    "dry_base": (0, 100),
    "dry_allowed_length": (0, 1 << 20),
    "mirostat": (0, 2),
    "mirostat_tau": (0, 100),
    "mirostat_eta": (0, 100),
    "seed": (0, MAX_SEED),
    "n": (1, 8),
    "max_tokens": (1, 1 << 30),
    "max_completion_tokens": (1, 1 << 30),
    "top_logprobs": (0, 20),
    "eft.alpha": (-100, 100),
    "eft.beta": (0, 100),
    "eft.conservative_p": (0, 1),
    "eft.deltas.tuned": (-100, 100),
    "eft.speculative.n_draft": (1, 64),
    "logit_bias.5": (-100, 100),
}
OUT_OF_RANGE = [math.nan, math.inf, -math.inf, 1e308, -1e308, 2**64, -(2**63), "1", "", True, False, [1], {}]


def body(path: str, value: Any) -> dict[str, Any]:
    """A chat request with one field."""
    *outer, name = path.split(".")
    data: Any = {name: value}
    for step in reversed(outer):
        data = {step: data}
    return {"messages": HELLO, **data}


@pytest.mark.parametrize("path", NUMBERS)
def test_every_number_is_bounded(path: str) -> None:
    low, high = NUMBERS[path]
    step = 1 if isinstance(high, int) and high > 1 else 0.5
    for value in (low, high):
        parse(ChatRequest, body(path, value))
    for wrong in (low - step, high + step, *OUT_OF_RANGE):
        with pytest.raises(FieldError) as caught:
            parse(ChatRequest, body(path, wrong))
        assert caught.value.param == path, wrong


def test_no_number_is_forgotten() -> None:
    """Whatever takes a number in the models stands in the table above."""
    listed = {path.split(".")[0] for path in NUMBERS}
    for name, field in (ChatRequest.model_fields | CompletionRequest.model_fields).items():
        if "int" in str(field.annotation) or "float" in str(field.annotation):
            assert (field.alias or name) in {*listed, "prompt", "logprobs", "best_of"}, name


@pytest.mark.parametrize(("name", "low", "high"), [("max_tokens", 0, 1 << 30), ("logprobs", 0, 20), ("best_of", 1, 8)])
def test_numbers_of_completions(name: str, low: int, high: int) -> None:
    for value in (low, high):
        parse(CompletionRequest, {"prompt": "a", name: value})
    for wrong in (low - 1, high + 1, *OUT_OF_RANGE):
        with pytest.raises(FieldError) as caught:
            parse(CompletionRequest, {"prompt": "a", name: wrong})
        assert caught.value.param == name


def test_bounds_are_those_of_the_settings() -> None:
    """What the schema lets through never fails later, where nobody could name the field."""
    for path, bounds in NUMBERS.items():
        name = "penalty_last_n" if path == "repeat_last_n" else path
        if name in Sampling.__dataclass_fields__:
            for value in bounds:
                from_options(Sampling, {name: value})
    Limits(max_tokens=1 << 30, n_top=20)


CALLED = {"name": "f", "arguments": "{}"}
FULL = {
    "model": "m", "messages": HELLO, "n": 2, "stop": ["\n"], "seed": 1, "stream": True,
    "stream_options": {"include_usage": True}, "logit_bias": {"5": -100}, "temperature": 0, "top_p": 1,
    "logprobs": True, "top_logprobs": 5, "presence_penalty": 0.5, "frequency_penalty": -0.5, "max_completion_tokens": 9,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": True}},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}, "strict": True}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": True,
    "store": False, "reasoning_effort": "low", "service_tier": "auto", "metadata": {}, "user": "me",
}  # fmt: skip  # as a client sends it


def test_all_that_openai_has_is_taken() -> None:
    parse(ChatRequest, FULL)


def test_nulls_are_no_values() -> None:
    """Clients send them for what they leave out."""
    parse(ChatRequest, dict.fromkeys(FULL, None) | {"messages": HELLO})


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages[0]"),
        ({"role": "assistant", "content": None}, "messages[0]"),
        ({"role": "wizard", "content": "x"}, "messages[0].role"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "assistant", "tool_calls": [{"function": 5}]}, "messages[0].tool_calls[0].function"),
    ],
)  # fmt: skip  # a table
def test_messages_that_say_nothing_are_refused(message: dict[str, Any], param: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse(ChatRequest, {"messages": [message]})
    assert caught.value.param == param


@pytest.mark.parametrize(
    "message",
    [
        {"role": "developer", "content": "x"},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": CALLED}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": CALLED}]},
        {"role": "tool", "content": "x", "tool_call_id": "1"},
    ],
)  # fmt: skip  # a table
def test_messages_of_every_role_are_taken(message: dict[str, Any]) -> None:
    parse(ChatRequest, {"messages": [message]})


@pytest.mark.parametrize("prompt", ["a", "", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_prompts_of_every_form_are_taken(prompt: Any) -> None:
    assert parse(CompletionRequest, {"prompt": prompt}).prompt == prompt


@pytest.mark.parametrize("prompt", [[], [[]], ["a", 1], [1, "a"], [1.5], [True], [-1], [2**63], 5, None, {}])
def test_other_prompts_are_refused(prompt: Any) -> None:
    with pytest.raises(FieldError) as caught:
        parse(CompletionRequest, {"prompt": prompt})
    assert str(caught.value.param).startswith("prompt")


@pytest.mark.parametrize(
    ("eft", "param"),
    [
        ({"gamma": 1}, "eft.gamma"),
        ({"speculative": {"rule": "magic"}}, "eft.speculative.rule"),
        ({"speculative": {"n_drafts": 2}}, "eft.speculative.n_drafts"),
        ({"speculative": 1}, "eft.speculative"),
        ("strong", "eft"),
    ],
)
def test_nothing_unknown_is_ignored_inside_eft(eft: Any, param: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse(ChatRequest, {"messages": HELLO, "eft": eft})
    assert caught.value.param == param


@pytest.mark.parametrize("stop", ["", [""], ["a"] * 17, ["a" * 1001], [1], 1])
def test_stop_strings_are_bounded(stop: Any) -> None:
    with pytest.raises(FieldError) as caught:
        parse(ChatRequest, {"messages": HELLO, "stop": stop})
    assert str(caught.value.param).startswith("stop")


def test_tokenizing_goes_by_two_names() -> None:
    theirs = parse(TokenizeRequest, {"prompt": "a", "add_special_tokens": True})
    assert theirs == parse(TokenizeRequest, {"content": "a", "add_special": True})


@pytest.mark.parametrize(
    ("model", "data"),
    [(TokenizeRequest, {}), (TokenizeRequest, {"content": 5}), (DetokenizeRequest, {"tokens": [-1]})],
)
def test_native_bodies_are_checked_too(model: type[Body], data: Any) -> None:
    with pytest.raises(FieldError):
        parse(model, data)
