"""Errors in one shape, streams that end as they should, and work that ends when its client leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from eftlite import errors
from eftlite.errors import BusyError, ContextError, EFTError, EngineError, InputError, UnavailableError, WorkerError
from eftlite.server import replies
from eftlite.server.replies import error_object, error_response, exception_handlers, streamed, whole
from eftlite.server.schema import FieldError
from tests.server.asgi import Visitor, events_of, run, until

# ---- errors


def test_an_error_in_openais_shape() -> None:
    assert error_object(FieldError("n: expected 1", "n", "Change it", "too_many")) == {
        "message": "n: expected 1. Change it", "type": "invalid_request_error", "param": "n", "code": "too_many",
    }  # fmt: skip  # a record


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (InputError("x"), 400, "invalid_request_error", None),
        (BusyError("x"), 429, "rate_limit_error", "rate_limit_exceeded"),
        (UnavailableError("x"), 503, "unavailable_error", None),
        (WorkerError("x"), 503, "server_error", None),
        (EngineError("x", code=-3), 500, "server_error", None),
        (ContextError("x"), 400, "exceed_context_size_error", "context_length_exceeded"),
    ],
)
def test_statuses_and_types(error: EFTError, status: int, kind: str, code: str | None) -> None:
    response = error_response(error)
    made = json.loads(bytes(response.body))["error"]
    assert (response.status_code, made["type"], made["code"]) == (status, kind, code)


def test_every_error_has_a_status_of_an_error() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EFTError)]
    assert len(kinds) > 10
    for kind in kinds:
        assert 400 <= error_response(kind("x")).status_code < 600


def test_an_overflow_of_the_context_has_both_numbers() -> None:
    made = error_object(ContextError("prompt: expected at most 9 tokens, got 12", n_prompt=12, n_ctx=9))
    assert (made["n_prompt_tokens"], made["n_ctx"]) == (12, 9)


def test_when_to_ask_again() -> None:
    assert error_response(BusyError("x", retry_after_s=3)).headers["retry-after"] == "3"
    assert "retry-after" not in error_response(UnavailableError("x")).headers
    assert "retry-after" not in error_response(InputError("x")).headers


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("/srv/models/a.gguf: expected GGUF", "a.gguf: expected GGUF"),
        ("cannot read '/srv/ann b/my models/a.gguf'", "cannot read 'a.gguf'"),
        ("C:\\Users\\ann\\a.gguf: damaged", "a.gguf: damaged"),
        ("d:/models/a.gguf", "a.gguf"),
        ("~/models/a.gguf", "a.gguf"),
        ("\\\\host\\share\\a.gguf", "a.gguf"),
        ("expected tokens/s and 1/2 or application/json", "expected tokens/s and 1/2 or application/json"),
        (
            "temperature: expected a number from 0 to 100, got -1",
            "temperature: expected a number from 0 to 100, got -1",
        ),
    ],
)
def test_folders_are_not_told(message: str, shown: str) -> None:
    assert error_object(EFTError(message))["message"] == shown


def test_messages_are_not_endless() -> None:
    assert len(error_object(InputError("x" * 10_000))["message"]) == replies.MAX_MESSAGE


def test_half_a_character_in_a_message_breaks_nothing() -> None:
    assert json.loads(bytes(error_response(InputError("\ud800")).body))["error"]["message"] == "\ud800"


# ---- exceptions of an app


def failing(error: Exception) -> TestClient:
    """An app whose one route fails."""

    async def fail(_: Request) -> Response:
        raise error

    app = Starlette(routes=[Route("/", fail)], exception_handlers=exception_handlers())
    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("method", "path", "status", "kind", "code"),
    [
        ("GET", "/", 400, "invalid_request_error", None),
        ("POST", "/", 405, "invalid_request_error", "method_not_supported"),
        ("GET", "/nowhere/secret", 404, "not_found_error", "unknown_url"),
    ],
)
def test_every_refusal_has_the_same_shape(method: str, path: str, status: int, kind: str, code: str | None) -> None:
    response = failing(InputError("x")).request(method, path)
    made = response.json()["error"]
    assert (response.status_code, made["type"], made["code"], set(made)) == (
        status, kind, code, {"message", "type", "param", "code"},
    )  # fmt: skip  # a record
    assert "secret" not in response.text


def test_a_method_that_is_not_allowed_says_which_are() -> None:
    assert set(failing(InputError("x")).post("/").headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_a_bug_tells_nothing() -> None:
    response = failing(RuntimeError("prompt of a stranger")).get("/")
    assert response.status_code == 500
    assert response.json()["error"] == {
        "message": "server: internal error", "type": "server_error", "param": None, "code": None,
    }  # fmt: skip  # a record


# ---- streams


class Script:
    """An app whose one route streams what a test says, and notes what becomes of it."""

    def __init__(self, *steps: Any) -> None:
        self.go_on = asyncio.Event()
        self.closed = False
        self.n_sent = 0
        self._steps = steps

    async def _chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        try:
            for step in self._steps:
                if isinstance(step, Exception):
                    raise step
                if step == "wait":
                    await self.go_on.wait()
                    continue
                self.n_sent += 1
                yield {"step": step}
        finally:
            self.closed = True

    async def _respond(self, request: Request) -> Response:
        await request.body()
        return await streamed(request, self._chunks())

    def visitor(self) -> Visitor:
        """Somebody who asks for it."""
        routes = [Route("/", self._respond, methods=["POST"])]
        return Visitor(Starlette(routes=routes, exception_handlers=exception_handlers()), "/", {})


def test_chunks_then_done() -> None:
    async def main() -> None:
        visitor = (script := Script(1, 2)).visitor()
        await visitor.visit()
        assert events_of(visitor.text) == [{"step": 1}, {"step": 2}, "[DONE]"]
        assert visitor.text == 'data: {"step":1}\n\ndata: {"step":2}\n\ndata: [DONE]\n\n'
        assert dict(visitor.messages[0]["headers"])[b"content-type"].startswith(b"text/event-stream")
        assert script.closed

    run(main())


def test_an_early_error_is_a_status() -> None:
    async def main() -> None:
        visitor = (script := Script(BusyError("x", retry_after_s=2))).visitor()
        await visitor.visit()
        assert visitor.status == 429
        assert json.loads(visitor.text)["error"]["type"] == "rate_limit_error"
        assert script.closed

    run(main())


def test_a_late_error_is_an_event_and_the_end() -> None:
    async def main() -> None:
        visitor = (script := Script(1, WorkerError("engine: died"))).visitor()
        await visitor.visit()
        first, error = events_of(visitor.text)
        assert (visitor.status, first) == (200, {"step": 1})
        assert error["error"]["message"] == "engine: died"
        assert visitor.messages[-1]["more_body"] is False
        assert script.closed

    run(main())


def test_headers_do_not_wait_for_a_long_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its pings keep the connection alive; an error is then an event."""
    monkeypatch.setattr(replies, "FIRST_S", 0.01)
    monkeypatch.setattr(replies, "PING_S", 0.01)

    async def main() -> None:
        script = Script("wait", ContextError("x"))
        visitor = script.visitor()
        visit = asyncio.ensure_future(visitor.visit())
        await until(lambda: ": ping" in visitor.text)
        assert visitor.status == 200
        script.go_on.set()
        await visit
        assert events_of(visitor.text)[0]["error"]["code"] == "context_length_exceeded"
        assert script.closed

    run(main())


@pytest.mark.parametrize("steps", [("wait",), (1, "wait"), (1, 2, 3, "wait")])
@pytest.mark.parametrize("first_s", [0.0, 5.0])
def test_a_client_that_leaves_ends_its_stream(
    steps: tuple[Any, ...], first_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first chunk is awaited, before and after the headers, and later."""
    monkeypatch.setattr(replies, "FIRST_S", first_s)

    async def main() -> None:
        script = Script(*steps)
        visitor = script.visitor()
        visit = asyncio.ensure_future(visitor.visit())
        await until(lambda: visitor.status or steps[0] == "wait")
        visitor.leave.set()
        await visit
        assert script.closed

    run(main())


def test_a_client_that_leaves_with_the_headers_ends_its_stream() -> None:
    """Before the first event is asked for, nobody else would close the chunks."""

    async def main() -> None:
        script = Script(1, 2, "wait")
        visitor = script.visitor()
        visitor.stuck.set()
        visit = asyncio.ensure_future(visitor.visit())
        await until(lambda: script.n_sent == 1)
        visitor.leave.set()
        await visit
        assert script.closed

    run(main())


def test_a_client_that_stops_reading_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replies, "SEND_S", 0.01)

    async def main() -> None:
        script = Script(1, "wait", 2, "wait")
        visitor = script.visitor()
        visit = asyncio.ensure_future(visitor.visit())
        await until(lambda: events_of(visitor.text))
        visitor.stuck.set()
        script.go_on.set()
        await visit
        assert script.closed
        assert visitor.messages[-1]["more_body"] is True  # so the connection is closed

    run(main())
    assert "stopped reading" in caplog.text


# ---- whole answers


class Work:
    """An app whose one route works until it may go on, and notes that it ended."""

    def __init__(self) -> None:
        self.began, self.go_on = asyncio.Event(), asyncio.Event()
        self.ended = False

    async def _work(self) -> dict[str, Any]:
        self.began.set()
        try:
            await self.go_on.wait()
            return {"done": True}
        finally:
            self.ended = True

    async def _respond(self, request: Request) -> Response:
        await request.body()
        return await whole(request, self._work())

    def visitor(self) -> Visitor:
        """Somebody who asks for it."""
        return Visitor(Starlette(routes=[Route("/", self._respond, methods=["POST"])]), "/", {})


@pytest.mark.parametrize("leaves", [True, False])
def test_a_client_that_leaves_ends_its_work(leaves: bool) -> None:
    async def main() -> None:
        visitor = (work := Work()).visitor()
        visit = asyncio.ensure_future(visitor.visit())
        await work.began.wait()
        (visitor.leave if leaves else work.go_on).set()
        await visit
        assert work.ended
        assert visitor.status == (499 if leaves else 200)

    run(main())


def test_work_ends_with_the_server() -> None:
    async def main() -> None:
        work = Work()
        visit = asyncio.ensure_future(work.visitor().visit())
        await work.began.wait()
        visit.cancel()
        await asyncio.wait([visit])
        assert work.ended

    run(main())
