"""The description says what the routes do, and describes every one of them."""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.routing import Route

from eftlite.server import native, openai
from eftlite.server.metrics import Totals
from eftlite.server.openapi import OPERATIONS, document
from tests.server.asgi import HELLO, client_of
from tests.server.fakes import FakeEngine

UNDESCRIBED = {"/v1/embeddings"}  # it only refuses


def test_every_route_is_described() -> None:
    routes = [*openai.routes(FakeEngine(), Totals()), *native.routes(FakeEngine(), Totals())]
    there = {
        (method.lower(), re.sub(r":\w+\}", "}", route.path))
        for route in routes
        if isinstance(route, Route) and route.path not in UNDESCRIBED
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert {(operation.method, operation.path) for operation in OPERATIONS} == there


def test_every_reference_leads_somewhere() -> None:
    made = document()
    references = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(made)))
    assert references
    assert references <= set(made["components"]["schemas"])


def test_fields_go_by_the_names_that_are_read() -> None:
    made = document()
    schemas = made["components"]["schemas"]
    assert made["paths"]["/tokenize"]["post"]["requestBody"]["required"] is True
    assert "repeat_last_n" in schemas["ChatRequest"]["properties"]
    assert schemas["TokenizeRequest"]["required"] == ["content"]
    assert schemas["EFTFields"]["additionalProperties"] is False


def test_routes_answer_as_described() -> None:
    """With a status and a type that the description has."""
    client = client_of(FakeEngine())
    bodies: dict[str, Any] = {"messages": HELLO, "prompt": "a", "content": "a", "tokens": [1]}
    for operation in OPERATIONS:
        path = operation.path.replace("{model}", "fake")
        response = client.request(operation.method, path, json=bodies if operation.body else None)
        assert response.status_code == 200
        assert response.headers["content-type"].split(";")[0] in operation.types
