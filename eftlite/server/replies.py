"""Replies: errors as OpenAI words them, streams of server-sent events, and an end to work that nobody waits for.

Knows errors, chunks and when a client leaves; never what a chunk says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any

import anyio
from sse_starlette import EventSourceResponse, JSONServerSentEvent, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from eftlite.errors import BusyError, ContextError, EFTError, UnavailableError
from eftlite.server.schema import FieldError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ExceptionHandler, Receive, Scope, Send

PING_S = 15
SEND_S = 30  # a client that takes longer for one event has stopped reading
# An error before the first chunk is still a status; a prompt that takes longer gets its headers, and pings, meanwhile.
FIRST_S = 5.0
MAX_MESSAGE = 2000  # characters; a schema's error quotes the schema
GONE = 499  # nginx's status for a client that left; nobody reads it

# Folders of whoever runs the server are nobody else's business: of a path only the file's name is told.
_FOLDERS = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:[\\/]|[\\/]+|~[\\/])(?:[^\\/'\"<>|:,;\n]+[\\/])+")
_CODES = {ContextError: "context_length_exceeded", BusyError: "rate_limit_exceeded"}

log = logging.getLogger("eftlite.server.replies")
log.addHandler(logging.NullHandler())  # quiet unless an application asks


# ---- errors


def error_object(error: EFTError) -> dict[str, Any]:
    """``{"message", "type", "param", "code"}``; an overflow of the context has both numbers too, as llama-server."""
    made: dict[str, Any] = {
        "message": _FOLDERS.sub("", str(error)[:MAX_MESSAGE]),
        "type": error.kind,
        "param": error.param if isinstance(error, FieldError) else None,
        "code": error.code if isinstance(error, FieldError) else _CODES.get(type(error)),
    }
    if isinstance(error, ContextError):
        made |= {"n_prompt_tokens": error.n_prompt, "n_ctx": error.n_ctx}
    return made


def error_response(error: EFTError) -> Response:
    """An error with its status, and when to ask again if it says so."""
    headers = {}
    if isinstance(error, UnavailableError) and error.retry_after_s:
        headers["Retry-After"] = str(error.retry_after_s)
    return _reply(error_object(error), error.http_status, headers)


def exception_handlers() -> dict[Any, ExceptionHandler]:
    """What an application does with exceptions: every one becomes an error of the same shape."""
    return {EFTError: _refused, HTTPException: _no_route, Exception: _internal}


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, EFTError)
    return error_response(error)


async def _no_route(_: Request, error: Exception) -> Response:
    """No such path, or not with this method."""
    assert isinstance(error, HTTPException)
    kind, code = {
        404: ("not_found_error", "unknown_url"),
        405: ("invalid_request_error", "method_not_supported"),
    }.get(error.status_code, ("invalid_request_error", None))
    made = {"message": f"request: {error.detail}", "type": kind, "param": None, "code": code}
    return _reply(made, error.status_code, error.headers)


async def _internal(_: Request, error: Exception) -> Response:  # noqa: ARG001  # a handler's signature
    """A bug; Starlette raises it once more, so that what it was stands in the log, and not in the reply."""
    made = {"message": "server: internal error", "type": "server_error", "param": None, "code": None}
    return _reply(made, 500)


def _reply(made: dict[str, Any], status: int, headers: Any = None) -> Response:
    # Escaped to ASCII: a message may quote half a surrogate pair, which cannot be encoded otherwise.
    return Response(json.dumps({"error": made}), status, headers, "application/json")


# ---- answers


async def whole(request: Request, work: Coroutine[Any, Any, dict[str, Any]]) -> Response:
    """What ``work`` gives, as JSON; it is cancelled when the client leaves before."""
    task = asyncio.ensure_future(work)
    await _finished(task, request)
    return JSONResponse(task.result()) if task.done() and not task.cancelled() else Response(status_code=GONE)


async def streamed(request: Request, chunks: AsyncGenerator[dict[str, Any], None]) -> Response:
    """Chunks as events, then ``[DONE]``; what fails after the headers is an event with the error.

    The chunks are closed when all were sent, when the client leaves, and when it stops reading.

    Raises:
        EFTError: it failed before the first chunk, soon enough for a status.
    """
    first = asyncio.ensure_future(anext(chunks))
    await _finished(first, request, FIRST_S)
    if first.cancelled():
        return Response(status_code=GONE)
    if first.done():
        first.result()
    return _Stream(first, chunks)


async def _finished(task: asyncio.Future[Any], request: Request, timeout_s: float | None = None) -> None:
    """Wait for a task, but not longer than its client or the time; without a client it is cancelled."""
    gone = asyncio.ensure_future(_left(request))
    try:
        done, _ = await asyncio.wait({task, gone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        await _end(task)
        raise
    finally:
        gone.cancel()
    if gone in done and task not in done:
        await _end(task)


async def _left(request: Request) -> None:
    """Returns when the client has left; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait for its end, however it ends."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class _Stream(EventSourceResponse):
    """A response from chunks, the first of which is on its way."""

    def __init__(self, first: asyncio.Future[dict[str, Any]], chunks: AsyncGenerator[dict[str, Any], None]) -> None:
        self._first, self._chunks = first, chunks
        super().__init__(self._events(), ping=PING_S, send_timeout=SEND_S, sep="\n")

    async def _events(self) -> AsyncIterator[ServerSentEvent]:
        try:
            yield self._event(await self._first)
            async for chunk in self._chunks:
                yield self._event(chunk)
            yield ServerSentEvent("[DONE]", sep=self.sep)
        except EFTError as error:
            yield self._event({"error": error_object(error)})

    def _event(self, data: dict[str, Any]) -> ServerSentEvent:
        return JSONServerSentEvent(data, sep=self.sep)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            log.warning("a client stopped reading; its answer was ended")
        finally:
            with anyio.CancelScope(shield=True):
                await _end(self._first)
                with contextlib.suppress(EFTError):
                    await self._chunks.aclose()
