"""A call of one function that must be made: the format that forces it, and the answer's text as OpenAI's tool call.

Knows JSON and shapes of responses; never models. Calls that a model makes of its own accord are text here; the server
reads them (server/toolcalls.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eftlite.errors import InputError
from eftlite.events import TokenEvent
from eftlite.responses import Chunks, Shape

Json = dict[str, Any]


def forced_format(tools: Sequence[Mapping[str, Any]] | None, tool_choice: Any) -> Json | None:
    """The ``response_format`` that forces a call of the function that ``tool_choice`` names; None where it is free.

    Raises:
        InputError: ``tool_choice`` is neither "auto" nor "none" nor the name of one of the tools.
    """
    if tool_choice in (None, "auto", "none"):
        return None
    chosen = tool_choice.get("function") if isinstance(tool_choice, Mapping) else None
    name = chosen.get("name") if isinstance(chosen, Mapping) else None
    function = next((one for one in map(_function, tools or ()) if name is not None and one.get("name") == name), None)
    if function is None:
        raise InputError(f"tool_choice: expected auto, none or one of the tools' functions, got {tool_choice!r}")
    parameters = {"type": "object", **(function.get("parameters") or {})}
    # Where references find them.
    definitions = {key: parameters.pop(key) for key in ("$defs", "definitions") if key in parameters}
    properties = {"name": {"const": name}, "arguments": parameters}
    schema = {"type": "object", "properties": properties, "required": list(properties), **definitions}
    return {"type": "json_object", "schema": schema}


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    return function if isinstance(function, Mapping) else {}


def with_call(response: Json) -> Json:
    """A whole chat response whose text, if it is a call, is one; a call that was cut off stays text."""
    (choice,) = response["choices"]
    call = _call(choice["message"]["content"], response["id"])
    if call is None:
        return response
    message = {"role": "assistant", "content": None, "function_call": call["function"], "tool_calls": [call]}
    return {**response, "choices": [{**choice, "message": message, "finish_reason": "tool_calls"}]}


def stream_call(shape: Shape, events: Iterator[TokenEvent]) -> Iterator[Json]:
    """The chunks of a chat whose answer is a call: the call comes whole, since half of one is of no use."""
    chunks, text, reason = Chunks(shape), "", None
    yield from chunks.first()
    for event in events:
        text, reason = text + event.text, event.finish_reason
    call = _call(text, shape.id)
    delta = (
        {"content": text} if call is None else {"function_call": call["function"], "tool_calls": [{"index": 0, **call}]}
    )
    yield chunks.chunk(delta)
    yield chunks.last(reason if call is None else "tool_calls")


def _call(text: str, response_id: str) -> Json | None:
    try:
        data = json.loads(text)
    except ValueError:  # cut off by max_tokens or a stop string
        return None
    function = {"name": data["name"], "arguments": json.dumps(data["arguments"], ensure_ascii=False)}
    return {"id": f"call__0_{data['name']}_{response_id}", "type": "function", "function": function}
