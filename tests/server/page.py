"""A page without a browser: asks an app over a fake engine and a real history, reads events as they come, leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette

from eftlite.history import History, Message
from eftlite.server import answers, conversations
from eftlite.server.metrics import Totals
from eftlite.server.replies import exception_handlers
from tests.server.fakes import FakeEngine

Event = tuple[str, dict[str, Any]]
TEXT = "Hello there, friend."
GOOD: dict[str, Any] = {"content": "Hi", "modes": ["eft"]}
FEW_S = 10.0


def make_app(engine: FakeEngine, history: History, totals: Totals | None = None) -> Starlette:
    routes = [*conversations.routes(engine, history), *answers.routes(engine, history, totals or Totals())]
    return Starlette(routes=routes, exception_handlers=exception_handlers())


class Page:
    """A page without a browser: an app over a fake engine and a real history."""

    def __init__(self, history: History, engine: FakeEngine | None = None) -> None:
        self.engine, self.history, self.totals = engine or FakeEngine(), history, Totals()
        self.app = make_app(self.engine, history, self.totals)
        self.conversation = history.create()
        self.path = f"/api/conversations/{self.conversation}/answers"

    async def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
            return await client.request(method, path, json=body)

    @asynccontextmanager
    async def asking(self, **question: Any) -> AsyncIterator[Stream]:
        """An answer that is read as it comes; leaving it is the client's leaving."""
        stream = Stream(self.app, self.path, {"modes": ["eft"], **question})
        try:
            yield stream
        finally:
            await stream.leave()

    async def ask(self, **question: Any) -> list[Event]:
        """A whole answer."""
        async with self.asking(**question) as stream:
            return [event async for event in stream]

    def messages(self) -> list[Message]:
        return list(self.history.get(self.conversation).messages)

    def last(self) -> Message:
        return self.messages()[-1]


class Stream:
    """A request whose events are read one by one, each once it was sent."""

    def __init__(self, app: Starlette, path: str, body: Mapping[str, Any]) -> None:
        self.status = 0
        self._body = json.dumps(body).encode()
        self._left = asyncio.Event()
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
        self._task = asyncio.ensure_future(self._run(app))

    async def _run(self, app: Starlette) -> None:
        try:
            await app(self.scope, self._receive, self._send)
        finally:
            self._parts.put_nowait(None)

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            body, self._body = self._body, b""
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        self._parts.put_nowait(message.get("body") or b"")

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Event:
        while (part := await asyncio.wait_for(self._parts.get(), FEW_S)) is not None:
            if part.startswith(b"event: "):
                name, data, *_ = part.decode().split("\n")
                return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))
        await self._task
        raise StopAsyncIteration

    async def until(self, name: str, n: int = 1) -> list[Event]:
        """Events up to the n-th of a name."""
        found: list[Event] = []
        while sum(event[0] == name for event in found) < n:
            found.append(await anext(self))
        return found

    async def leave(self) -> None:
        """The client goes away."""
        self._left.set()
        await asyncio.wait_for(asyncio.gather(self._task, return_exceptions=True), FEW_S)


def text_of(events: list[Event], mode: str = "eft") -> str:
    return "".join(
        token["t"] for name, data in events if name == "tokens" and data["mode"] == mode for token in data["tokens"]
    )


def named(events: list[Event], name: str) -> list[dict[str, Any]]:
    return [data for found, data in events if found == name]


def run(test: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))
