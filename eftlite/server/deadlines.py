"""HTTP/1.1 connections that end: uvicorn's own protocol, with the deadlines it lacks.

uvicorn bounds neither of these and recommends a proxy in front of it for slow clients; this server has none.

* A head may take for ever, since any byte cancels the only timer there is, that of an idle connection.
* A client that stops reading makes flow control wait for ever, and even a finished response keeps its connection.

Knows connections; requests and responses only where no app can answer.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from eftlite.errors import EFTError, InputError, UnavailableError
from eftlite.server.guards import HEADERS
from eftlite.server.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CONNECTIONS = 200  # macOS gives a process 256 files


class Deadline:
    """A timer that is set once and holds until it is cleared, whatever happens in between."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def set(self, end: Callable[[], object]) -> None:
        """Call ``end`` when the time is over; a deadline that is running stays as it is."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, end)

    def clear(self) -> None:
        """Forget it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class DeadlineProtocol(H11Protocol):
    """One client's connection.

    Args:
        head_s: from connecting, or from the first byte after a response, to the end of a request's head.
        drain_s: in which a client that is behind must take what lies ready for it: one message and a third of the
            system's buffer, which comes to 3 kB/s.
        uvicorn: what uvicorn gives every protocol.
    """

    def __init__(self, *, head_s: float, drain_s: float, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._head = Deadline(head_s)
        self._drain = Deadline(drain_s)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; one connection too many is told so."""
        super().connection_made(cast("asyncio.Transport", transport))
        # Any unsent byte counts as not taken: the last ones of a response too, and at most one message is held.
        self.transport.set_write_buffer_limits(high=0)
        self._head.set(self.timeout_keep_alive_handler)
        if len(self.connections) > MAX_CONNECTIONS:
            self._end(UnavailableError("server: too many connections", "Try again later", retry_after_s=1))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines; uvicorn tells the app."""
        self._head.clear()
        self._drain.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; unless it began a request, or goes on with one, it is part of a head."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._head.set(self.timeout_keep_alive_handler)
        else:
            self._head.clear()

    def pause_writing(self) -> None:
        """The client does not take what was sent."""
        super().pause_writing()
        self._drain.set(self.transport.abort)

    def resume_writing(self) -> None:
        """The client has taken everything."""
        self._drain.clear()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  uvicorn's text is replaced
        """Answer what is not HTTP."""
        self._end(InputError("request: expected HTTP/1.1, got something malformed"))

    def shutdown(self) -> None:
        """End the connection when the server stops, in the middle of an answer too."""
        if self.cycle is None or self.cycle.response_complete:
            super().shutdown()
        else:
            self._end(UnavailableError("server: it is being stopped"))

    def _end(self, error: EFTError) -> None:
        """Close, with an error as the last word where no response has begun."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # what the app still sends is dropped
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            reply = refusal(error)
            reply.headers.update(HEADERS)
            phrase = HTTPStatus(reply.status_code).phrase.encode()
            for event in (
                h11.Response(status_code=reply.status_code, headers=reply.raw_headers, reason=phrase),
                h11.Data(data=bytes(reply.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if self.flow.write_paused:  # nobody reads, not even a last word
            self.transport.abort()
        else:
            self.transport.close()
