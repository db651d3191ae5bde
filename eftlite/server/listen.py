"""Where the server listens and how it runs: the address, the socket, uvicorn's settings, starting and stopping.

Knows sockets and signals; never what is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from eftlite.errors import InputError
from eftlite.server.deadlines import DeadlineProtocol
from eftlite.server.guards import MAX_HEAD_BYTES, Rules, guard
from eftlite.server.hosts import is_loopback

if TYPE_CHECKING:
    from types import FrameType

    from starlette.types import ASGIApp

HOST = "127.0.0.1"
PORT = 8484  # none of the ports that other programs of this kind use
KEEP_ALIVE_S = 5
SEND_BUFFER = 128 << 10  # bytes the system may hold for a client; its own choice is megabytes
STOP_S = 4.0
ANSWERS_STOP_S = 2


def bind(host: str, port: int, keys: Sequence[str] = ()) -> socket.socket:
    """A listening socket; connections wait in it until ``serve``.

    Args:
        host: a name or an address of this machine.
        port: 0 takes any free one.
        keys: without one only loopback is allowed.

    Raises:
        InputError: the address is open to others without a key, is not this machine's, or is taken.
    """
    if not 0 <= port < 1 << 16:
        raise InputError(f"port: expected 0 to 65535, got {port}")
    family, address = _resolved(host, port)
    if not keys and not is_loopback(address[0]):
        raise InputError(
            f"host: expected a loopback address, since no key is set, got {host}",
            "Set one with --api-key or EFTLITE_API_KEY, or listen on 127.0.0.1",
        )
    both = address[0] == "::" and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server(address, family=family, dualstack_ipv6=both)
    except OSError as error:
        raise _unbindable(error, host, port) from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # connections inherit it
    return listener


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """Family and address of a host; IPv4 where it has both, as most clients expect of localhost."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM) if host else []
    except (OSError, ValueError):
        found = []
    if not found:
        raise InputError(f"host: expected a name or an address of this machine, got {host!r}")
    family, *_, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    return family, address


def _unbindable(error: OSError, host: str, port: int) -> InputError:
    if error.errno == errno.EADDRINUSE:
        return InputError(f"port: expected a free one, {port} is in use", "Choose another with --port; 0 takes any")
    if error.errno == errno.EACCES:
        return InputError(f"port: expected one that may be used, {port} may not", "Choose one above 1023 with --port")
    if error.errno == errno.EADDRNOTAVAIL:
        return InputError(f"host: expected an address of this machine, got {host}")
    return InputError(f"host: cannot listen on {host}: {error.strerror}")


def url_of(listener: socket.socket) -> str:
    """Where a person opens the page; for a socket on all addresses the loopback one."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)  # noqa: S104  nothing is bound here
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(app: ASGIApp, listener: socket.socket, rules: Rules, on_ready: Callable[[], object] | None = None) -> None:
    """Serve an app behind its guards until a signal.

    The first Ctrl+C stops listening, cuts the answers that are being sent, and lets the app close; the second does not
    wait for that.

    Args:
        app: its lifespan is run too.
        listener: from ``bind``; closed at the end.
        rules: for the guards.
        on_ready: called when the app has started and requests are answered.

    Raises:
        KeyboardInterrupt: after Ctrl+C.
        SystemExit: after SIGTERM, with 143, so that what the caller holds is closed as well.
    """
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(_discreet)
    before = signal.signal(signal.SIGTERM, _terminate)  # uvicorn stops in order first, then hands the signal on
    try:
        make_server(app, rules, on_ready).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)


def make_server(app: ASGIApp, rules: Rules, on_ready: Callable[[], object] | None = None) -> Server:
    """A server that is not running yet; ``serve`` without its effects on the process."""
    protocol = partial(DeadlineProtocol, head_s=rules.head_s, drain_s=rules.drain_s)
    config = uvicorn.Config(
        guard(app, rules),
        interface="asgi3",
        http=cast("type[asyncio.Protocol]", protocol),  # uvicorn only calls it
        ws="none",
        loop="asyncio",
        lifespan="on",
        workers=1,  # the environment may say otherwise
        log_config=None,
        access_log=False,  # its lines hold paths and queries
        proxy_headers=False,  # nobody else may say who the client is
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=ANSWERS_STOP_S,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    return Server(config, on_ready)


class Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready and stops in bounded time."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], object] | None) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app, then listen."""
        await super().startup(sockets)
        if self._on_ready:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, end connections, let the app close; whoever takes longer is left behind."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(super().shutdown(sockets), STOP_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop in order at the first signal, at once at the second."""
        if self.should_exit:
            raise KeyboardInterrupt
        super().handle_exit(sig, frame)


def _terminate(sig: int, _: FrameType | None) -> None:
    sys.exit(128 + sig)


def _discreet(record: logging.LogRecord) -> bool:
    """Reduce a library's record of an exception to its first line and the class, unless debugging.

    Exceptions quote values and tracebacks name folders: neither belongs into a server's log.
    """
    if record.exc_info and record.exc_info[0] and not logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
        first, *_ = record.getMessage().splitlines()
        record.msg, record.args = f"{first}: {record.exc_info[0].__name__}", None
        record.exc_info = record.exc_text = None
    return True
