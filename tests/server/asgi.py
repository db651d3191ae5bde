"""Clients of the routes, without a network: an app around an engine, and a visitor that can leave or stop reading."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.testclient import TestClient

from eftlite.server import native, openai
from eftlite.server.metrics import Totals
from eftlite.server.replies import exception_handlers

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

    from eftlite.server.asking import Engine

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Hello"}]


def make_app(engine: Engine, totals: Totals | None = None) -> Starlette:
    """The clients' routes, without guards."""
    totals = totals or Totals()
    routes = [*openai.routes(engine, totals), *native.routes(engine, totals)]
    return Starlette(routes=routes, exception_handlers=exception_handlers())


def client_of(engine: Engine, totals: Totals | None = None) -> TestClient:
    """A client; a bug is an answer of 500."""
    return TestClient(make_app(engine, totals), raise_server_exceptions=False)


def events_of(body: str) -> list[Any]:
    """The data of a stream's events; "[DONE]" stays a text."""
    data = [event.removeprefix("data: ") for event in body.split("\n\n") if event.startswith("data: ")]
    return [text if text == "[DONE]" else json.loads(text) for text in data]


class Visitor:
    """One request, whose client leaves or stops reading when a test says so.

    Attributes:
        leave: set it, and the client has left.
        stuck: set it, and nothing is read any more.
        messages: what came.
    """

    def __init__(self, app: ASGIApp, path: str, body: object) -> None:
        self.leave, self.stuck = asyncio.Event(), asyncio.Event()
        self.messages: list[Message] = []
        self._app, self._path = app, path
        self._requests: list[Message] = [{"type": "http.request", "body": json.dumps(body).encode()}]

    async def visit(self) -> None:
        """Ask, and take the response until it ends."""
        scope = {
            "type": "http",
            "method": "POST",
            "path": self._path,
            "query_string": b"",
            "headers": [],
            "client": ("127.0.0.1", 1),
        }
        await self._app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if not self._requests:
            await self.leave.wait()
            return {"type": "http.disconnect"}
        return self._requests.pop()

    async def _send(self, message: Message) -> None:
        if self.stuck.is_set():
            await asyncio.Event().wait()
        self.messages.append(message)

    @property
    def status(self) -> int:
        """0 before the headers came."""
        return int(self.messages[0]["status"]) if self.messages else 0

    @property
    def text(self) -> str:
        """The body so far."""
        return b"".join(message.get("body", b"") for message in self.messages).decode()


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Wait for a condition; it must come."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come"
        await asyncio.sleep(0.001)


def run(work: Awaitable[None]) -> None:
    """Run a test's coroutine, for ten seconds at most."""

    async def limited() -> None:
        await asyncio.wait_for(work, 10)

    asyncio.run(limited())
