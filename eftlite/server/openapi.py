"""The interface of the clients' routes, described as OpenAPI 3.1, from the same models that read the requests.

Knows routes' names and models; never engines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic.json_schema import models_json_schema

from eftlite import __version__
from eftlite.server.requests import ChatRequest, CompletionRequest, DetokenizeRequest, TemplateRequest, TokenizeRequest
from eftlite.server.schema import Body

REF = "#/components/schemas/{model}"
JSON, EVENTS, TEXT = "application/json", "text/event-stream", "text/plain"


@dataclass(frozen=True)
class Operation:
    """One route with one method.

    Attributes:
        body: the model that reads the request; None where it has none.
        parameter: the variable part of the path.
        types: of the reply.
        statuses: with which it may refuse.
    """

    method: str
    path: str
    summary: str
    body: type[Body] | None = None
    parameter: str = ""
    types: tuple[str, ...] = (JSON,)
    statuses: tuple[int, ...] = (503,)


_POSTED = (400, 408, 413, 415, 429, 503)
OPERATIONS = (
    Operation("get", "/v1/models", "Models that can be asked"),
    Operation("get", "/v1/models/{model}", "One of them", parameter="model", statuses=(404, 503)),
    Operation(
        *("post", "/v1/chat/completions", "Answer a conversation", ChatRequest),
        types=(JSON, EVENTS),
        statuses=(*_POSTED, 404),
    ),
    Operation(
        *("post", "/v1/completions", "Continue texts", CompletionRequest),
        types=(JSON, EVENTS),
        statuses=(*_POSTED, 404),
    ),
    Operation("get", "/health", "Whether answers can be made now"),
    Operation("get", "/v1/health", "Whether answers can be made now"),
    Operation("get", "/metrics", "Figures for Prometheus", types=(TEXT,)),
    Operation("get", "/props", "What is loaded"),
    Operation("post", "/tokenize", "Token ids of a text", TokenizeRequest, statuses=_POSTED),
    Operation("get", "/tokenizer_info", "Texts of special tokens"),
    Operation("post", "/detokenize", "Text of token ids", DetokenizeRequest, statuses=_POSTED),
    Operation("post", "/apply-template", "The prompt of a conversation", TemplateRequest, statuses=_POSTED),
    Operation("get", "/openapi.json", "This description", statuses=()),
)

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}},
        }
    },
}


def document() -> dict[str, Any]:
    """The whole description."""
    bodies = [operation.body for operation in OPERATIONS if operation.body]
    _, schemas = models_json_schema([(body, "validation") for body in bodies], ref_template=REF)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "eftlite", "version": __version__},
        "paths": paths,
        "components": {"schemas": {**schemas["$defs"], "Error": _ERROR}},
    }


def _described(operation: Operation) -> dict[str, Any]:
    error = {"description": "Refused", "content": {JSON: {"schema": {"$ref": REF.format(model="Error")}}}}
    content = {kind: {"schema": {"type": "object"} if kind == JSON else {}} for kind in operation.types}
    made: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {
            "200": {"description": "Done", "content": content},
            **{str(status): error for status in operation.statuses},
        },
    }
    if operation.body:
        schema = {"$ref": REF.format(model=operation.body.__name__)}
        made["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    if operation.parameter:
        parameter = {"name": operation.parameter, "in": "path", "required": True, "schema": {"type": "string"}}
        made["parameters"] = [parameter]
    return made
