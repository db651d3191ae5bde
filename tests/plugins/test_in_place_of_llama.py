"""EFT in place of ``llama_cpp.Llama``: the examples of llama-cpp-python's README, but for their constructors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eftlite import EFT
from eftlite.errors import InputError


@pytest.fixture(scope="module")
def llm(demo_family: dict[str, Path]) -> Iterator[EFT]:
    """What the examples call it."""
    with EFT(
        model_path=str(demo_family["base"]),
        tuned=str(demo_family["tuned"]),
        reference=str(demo_family["reference"]),
        n_ctx=512,
        n_threads=1,
        verbose=False,
        seed=1337,
    ) as made:
        yield made


WORLD_SERIES = [
    {"role": "system", "content": "You are a helpful assistant that outputs in JSON."},
    {"role": "user", "content": "Who won the world series in 2020"},
]
JASON = [
    {
        "role": "system",
        "content": "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions. The assistant calls functions with appropriate "
        "input when necessary",
    },
    {"role": "user", "content": "Extract Jason is 25 years old"},
]
USER_DETAIL = {
    "type": "function",
    "function": {
        "name": "UserDetail",
        "parameters": {
            "type": "object",
            "title": "UserDetail",
            "properties": {
                "name": {"title": "Name", "type": "string"},
                "age": {"title": "Age", "type": "integer"},
            },
            "required": ["name", "age"],
        },
    },
}
CHOICE = {"type": "function", "function": {"name": "UserDetail"}}


def test_completion(llm: EFT) -> None:
    prompt = "Q: Name the planets in the solar system? A: "
    output: Any = llm(prompt, max_tokens=32, stop=["Q:", "\n"], echo=True)
    assert output["object"] == "text_completion"
    assert output["choices"][0]["text"].startswith(prompt)
    assert "Q:" not in output["choices"][0]["text"][len(prompt) :]


def test_chat(llm: EFT) -> None:
    output: Any = llm.create_chat_completion(
        messages=[
            {"role": "system", "content": "You are an assistant who perfectly describes images."},
            {"role": "user", "content": "Describe this image in detail please."},
        ],
        max_tokens=32,
    )
    assert output["choices"][0]["message"]["content"]


def test_stream(llm: EFT) -> None:
    options: dict[str, Any] = {"messages": WORLD_SERIES, "max_tokens": 16, "temperature": 0.0}
    chunks: Any = list(llm.create_chat_completion(stream=True, **options))
    whole: Any = llm.create_chat_completion(**options)
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]


def test_json_mode(llm: EFT) -> None:
    output: Any = llm.create_chat_completion(
        messages=WORLD_SERIES, response_format={"type": "json_object"}, temperature=0.7, max_tokens=200
    )
    content = output["choices"][0]["message"]["content"]
    assert content.lstrip().startswith("{")
    if output["choices"][0]["finish_reason"] == "stop":  # a model that was not made for JSON may never close it
        json.loads(content)


def test_json_schema_mode(llm: EFT) -> None:
    """As in the README, and with a short text: the bundled models were not made for JSON and never close a quote."""
    for bound in ({}, {"maxLength": 8}):
        team_name = {"type": "string", **bound}
        output: Any = llm.create_chat_completion(
            messages=WORLD_SERIES,
            response_format={
                "type": "json_object",
                "schema": {"type": "object", "properties": {"team_name": team_name}, "required": ["team_name"]},
            },
            temperature=0.7,
            max_tokens=40,
        )
        choice = output["choices"][0]
        assert re.match(r'\s*{\s*"team_name"\s*:\s*"', choice["message"]["content"])
    assert choice["finish_reason"] == "stop"
    assert isinstance(json.loads(choice["message"]["content"])["team_name"], str)


def test_function_calling(llm: EFT) -> None:
    options: dict[str, Any] = {"messages": JASON, "tool_choice": CHOICE, "max_tokens": 60, "temperature": 0.0}
    output: Any = llm.create_chat_completion(tools=[USER_DETAIL], **options)  # as in the README; see above
    assert re.match(r'\s*{\s*"name"\s*:\s*"UserDetail"', output["choices"][0]["message"]["content"])
    tools = json.loads(json.dumps([USER_DETAIL]))
    tools[0]["function"]["parameters"]["properties"] |= {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    }
    output = llm.create_chat_completion(tools=tools, **options)
    (choice,) = output["choices"]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    (call,) = message["tool_calls"]
    assert (message["content"], call["type"], call["function"]["name"]) == (None, "function", "UserDetail")
    assert message["function_call"] == call["function"]
    arguments = json.loads(call["function"]["arguments"])
    assert isinstance(arguments["name"], str)
    assert isinstance(arguments["age"], int)
    chunks: Any = list(llm.create_chat_completion(tools=tools, stream=True, **options))
    first, middle, last = (chunk["choices"][0] for chunk in chunks)
    assert first["delta"] == {"role": "assistant"}
    assert middle["delta"]["tool_calls"][0]["function"] == call["function"]
    assert last["finish_reason"] == "tool_calls"


def test_a_call_that_is_cut_off_stays_text(llm: EFT) -> None:
    options: dict[str, Any] = {"messages": JASON, "tools": [USER_DETAIL], "tool_choice": CHOICE, "max_tokens": 3}
    whole: Any = llm.create_chat_completion(**options, temperature=0.0)
    choice = whole["choices"][0]
    assert choice["finish_reason"] == "length"
    assert "tool_calls" not in choice["message"]
    chunks: Any = list(llm.create_chat_completion(**options, temperature=0.0, stream=True))
    assert chunks[1]["choices"][0]["delta"] == {"content": choice["message"]["content"]}
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("tool_choice", ["required", {"function": {"name": "Other"}}, {"function": 5}, 5, {}])
def test_a_choice_of_nothing_is_refused(llm: EFT, tool_choice: Any) -> None:
    with pytest.raises(InputError, match="tool_choice: expected auto, none or one of"):
        llm.create_chat_completion(messages=JASON, tools=[USER_DETAIL], tool_choice=tool_choice)


def test_one_format_at_a_time(llm: EFT) -> None:
    formats: tuple[dict[str, Any], ...] = ({"grammar": 'root ::= "a"'}, {"response_format": {"type": "json_object"}})
    for other in formats:
        with pytest.raises(InputError, match="tool_choice: expected neither"):
            llm.create_chat_completion(messages=JASON, tools=[USER_DETAIL], tool_choice=CHOICE, **other)


def test_definitions_of_parameters_are_found(llm: EFT) -> None:
    parameters = {
        "properties": {"sure": {"$ref": "#/$defs/answer"}},
        "required": ["sure"],
        "$defs": {"answer": {"type": "boolean"}},
    }
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    output: Any = llm.create_chat_completion(
        messages=JASON, tools=tools, tool_choice={"function": {"name": "f"}}, max_tokens=80
    )
    arguments = output["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments)["sure"] in {True, False}


def test_embeddings_are_refused(llm: EFT) -> None:
    for call in (llm.create_embedding, llm.embed):
        with pytest.raises(InputError, match="embeddings: this cannot be done with EFT"):
            call("Hello, world!", normalize=True)
    with pytest.raises(InputError, match="unknown option 'embedding'"):
        EFT(embedding=True)


def test_a_larger_context(llm: EFT) -> None:
    assert llm.n_ctx == 512
