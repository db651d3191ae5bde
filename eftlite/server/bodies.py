"""Requests' bodies: how large, how slow and of which kind they may be, and how they become JSON.

A body is read before any route runs, so a client that takes its time for it occupies nothing but its own connection.
Knows bytes and JSON; never what a request means.
"""

from __future__ import annotations

import json
import math
import re
from email.message import Message as Fields
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
from starlette.datastructures import Headers

from eftlite.errors import EFTError, InputError
from eftlite.server.refusals import BodyTooLargeError, MediaTypeError, TooSlowError, refusal

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_DEPTH = 100
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NOT_BRACKETS = bytes(set(range(256)) - set(_STEPS))
# Each matches wherever it starts, the second even without an end, so that neither ever searches twice.
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_STRING = re.compile(rb'"[^"]*"?')


class Bodies:
    """Passes a request on to ``app`` once its body is complete.

    Args:
        app: sees the whole body at its first ``receive``.
        max_bytes: of a body, declared or counted.
        seconds: from the head to the end of the body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float) -> None:
        self._app, self._max_bytes, self._seconds = app, max_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if "transfer-encoding" not in headers and headers.get("content-length", "0") == "0":
            await self._app(scope, receive, send)
            return
        try:
            self._check_head(headers)
            body = await self._read(receive)
        except EFTError as error:
            await refusal(error)(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replayed(body, receive), send)

    def _check_head(self, headers: Headers) -> None:
        """Refuse what need not be read at all."""
        length = headers.get("content-length", "0")
        if not re.fullmatch(r"[0-9]{1,20}", length):
            raise InputError("Content-Length: expected a number of bytes, got something else")
        self._check_size(int(length))
        _check_kind(headers)

    def _check_size(self, n_bytes: int) -> None:
        if n_bytes > self._max_bytes:
            raise BodyTooLargeError(f"body: expected at most {self._max_bytes} bytes, got more")

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body, or None if the client has left."""
        body = bytearray()
        try:
            with anyio.fail_after(self._seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    self._check_size(len(body))
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise TooSlowError(f"body: expected all of it within {self._seconds:g} s") from None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives the body and then what else happens: the client's leaving."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _check_kind(headers: Headers) -> None:
    """Refuse a body that is not plain UTF-8 JSON by its headers.

    A page can send other types to a foreign server without asking it first, JSON it cannot.
    """
    encodings, types = headers.getlist("content-encoding"), headers.getlist("content-type")
    if any(encoding.strip().lower() != "identity" for encoding in encodings):
        raise MediaTypeError("Content-Encoding: expected none", "Send the body uncompressed")
    fields = Fields()
    fields["content-type"] = types[0] if len(types) == 1 else ""
    if fields.get_content_type() != "application/json" or (fields.get_content_charset() or "utf-8") != "utf-8":
        raise MediaTypeError(
            f"Content-Type: expected application/json in UTF-8, got {', '.join(types)[:100]!r}",
            "Send the header Content-Type: application/json",
        )


def read_json(body: bytes) -> Any:
    """A body's value: what JSON can say exactly, and nothing that later steps would trip over.

    Raises:
        InputError: it is not UTF-8 or not JSON, nests deeper than 100, gives a key twice, has a number that is not
            finite or too long, or half of a surrogate pair.
    """
    if _depth(body) > MAX_DEPTH:  # before the parser, which would recurse
        raise InputError(f"body: expected nesting of at most {MAX_DEPTH}, got more")
    try:
        value = json.loads(body.decode(), object_pairs_hook=_object, parse_float=_finite, parse_constant=_no_constant)
        if rb"\ud" in body.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise InputError("body: expected UTF-8, got other bytes") from None
    except UnicodeEncodeError:
        raise InputError("body: expected whole characters, got half of a surrogate pair") from None
    except json.JSONDecodeError as error:
        raise InputError(f"body: expected JSON, got an error at line {error.lineno} column {error.colno}") from None
    except ValueError:
        raise InputError("body: expected shorter numbers") from None
    return value


def _depth(body: bytes) -> int:
    """How deep brackets nest outside strings, up to the first thing that is not JSON."""
    outside = _STRING.sub(b"", _ESCAPE.sub(b"", body))
    return max(accumulate(map(_STEPS.__getitem__, outside.translate(None, _NOT_BRACKETS))), default=0)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different; parsers disagree on which of two equal ones counts."""
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise InputError(f"body: expected each key once, got {name[:40]!r} twice")
        result[name] = value
    return result


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise InputError("body: expected numbers of at most 1.8e308")
    return number


def _no_constant(name: str) -> NoReturn:
    raise InputError(f"body: expected JSON, got {name}")
