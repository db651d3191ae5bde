"""What an answer must look like: the one format that a request asks for, as a schema of bounded size.

Knows fields and JSON schemas; the grammar is made by the engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eftlite.server.requests import ChatRequest, Sampled, Tool
from eftlite.server.schema import FieldError

# Repetitions in a schema are written out in its grammar, so a large one would take all memory; the time that a schema
# takes grows with the cube of its size.
MAX_REPETITIONS = 1000
MAX_NODES = 500
REPETITIONS = ("minItems", "maxItems", "minLength", "maxLength")


def format_of(request: Sampled, forced: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The one format that is asked for, as json_object with or without a schema."""
    asked = request.response_format
    formats: dict[str, Any] = {"tool_choice": forced, "json_schema": request.json_schema}
    if asked is not None and asked.type != "text":
        formats["response_format"] = (asked.json_schema.schema_ if asked.json_schema else asked.schema_) or {}
    names = [name for name, schema in formats.items() if schema is not None] + ["grammar"] * bool(request.grammar)
    if len(names) > 1:
        raise FieldError(f"{names[1]}: expected none beside {names[0]}", names[1])
    if not names or request.grammar:
        return None
    schema = formats[names[0]]
    _check_schema(schema, names[0])
    return {"type": "json_object", **({"schema": schema} if schema else {})}


def _check_schema(schema: Mapping[str, Any], param: str) -> None:
    """Refuse what would keep the engine busy with its grammar."""
    nodes = list(_nodes(schema))
    if len(nodes) > MAX_NODES:
        raise FieldError(f"{param}: expected a schema of at most {MAX_NODES} objects, got {len(nodes)}", param)
    if any(_repeats_too_often(node) for node in nodes):
        raise FieldError(f"{param}: expected repetitions of at most {MAX_REPETITIONS} in the schema", param)


def _nodes(data: Any) -> Iterator[dict[str, Any]]:
    """Every object inside JSON data."""
    if isinstance(data, dict):
        yield data
    for value in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from _nodes(value)


def _repeats_too_often(node: Mapping[str, Any]) -> bool:
    counts = [node[name] for name in REPETITIONS if isinstance(node.get(name), int | float)]
    pattern = node.get("pattern")
    if isinstance(pattern, str):
        counts += [
            int(count[:9]) for braces in re.findall(r"\{[0-9, ]+", pattern) for count in re.findall("[0-9]+", braces)
        ]
    return any(count > MAX_REPETITIONS for count in counts)


def forced_call(request: ChatRequest, tools: Sequence[Tool]) -> dict[str, Any] | None:
    """The schema of a call that must be made; None when the model may choose.

    Definitions that parameters refer to move to the top, where references find them.
    """
    choice = request.tool_choice
    if choice in (None, "none", "auto"):
        return None
    names = [tool.function.name for tool in tools]
    wanted = names if isinstance(choice, str) else [choice.function.name] if choice else []
    calls = []
    definitions: dict[str, dict[str, Any]] = {"$defs": {}, "definitions": {}}
    for function in (tool.function for tool in tools if tool.function.name in wanted):
        parameters = {"type": "object", **(function.parameters or {})}
        for key, known in definitions.items():
            own = parameters.pop(key, {})
            if not isinstance(own, dict) or any(known.get(name, own[name]) != own[name] for name in own):
                raise FieldError(f"tools: expected {key} to be an object whose names differ from tool to tool", "tools")
            known.update(own)
        properties = {"name": {"const": function.name}, "arguments": parameters}
        calls.append({"type": "object", "properties": properties, "required": list(properties)})
    if not calls:
        raise FieldError("tool_choice: expected the name of one of the tools", "tool_choice")
    return {"anyOf": calls, **definitions}
