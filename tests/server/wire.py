"""Clients that no library would be: requests byte for byte, slowly, or past the network; and a server to bear them."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.routing import BaseRoute, Mount, Route

from eftlite.server.guards import Rules, guard
from eftlite.server.listen import Server, bind, make_server

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Message

Address = tuple[str, int]
HeaderList = Sequence[tuple[str, str]]
LOCAL = "127.0.0.1:8484"
KEY = "a-key-that-nobody-has"


# ---- without a network


@dataclass(frozen=True)
class Reply:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


def request(
    app: ASGIApp, method: str = "GET", path: str = "/", headers: HeaderList = (), body: bytes = b"", **scope: Any
) -> Reply:
    """Ask an ASGI app directly. ``headers`` are sent as they are, a Host only if it is among them."""
    messages: list[Message] = []
    parts = [body]

    async def receive() -> Message:
        return (
            {"type": "http.request", "body": parts.pop(), "more_body": False} if parts else {"type": "http.disconnect"}
        )

    async def send(message: Message) -> None:
        messages.append(message)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": raw,
        "client": ("127.0.0.1", 1),
        "scheme": "http",
        **scope,
    }

    async def call() -> None:
        await app(scope, receive, send)

    asyncio.run(call())
    assert messages, "nobody answered"
    start, *rest = messages
    answered = {name.decode().lower(): value.decode("latin-1") for name, value in start["headers"]}
    return Reply(start["status"], answered, b"".join(message.get("body", b"") for message in rest))


def local(*headers: tuple[str, str], host: str = LOCAL) -> list[tuple[str, str]]:
    """Headers with a Host."""
    return [("Host", host), *headers]


# ---- every route of an app


def endpoints(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(method, path) of every route, parameters filled in; a mounted app without routes counts as one path."""
    for route in routes:
        if isinstance(route, Mount):
            inner = list(endpoints(route.routes, prefix + route.path))
            yield from inner or [("GET", f"{prefix}{route.path}/anything")]
        elif isinstance(route, Route):
            path = prefix + re.sub(r"\{[^}]*\}", "1", route.path)
            yield from ((method, path) for method in sorted(route.methods or {"GET", "POST"}))
        else:
            raise TypeError(f"{route!r}: how is it guarded?")


def open_endpoints(app: Starlette, pages: frozenset[str] = frozenset({"/"})) -> set[tuple[str, str]]:
    """Those that answer without a key although one is set, as (method, path)."""
    guarded = guard(app, Rules("127.0.0.1", keys=(KEY,), pages=pages))
    return {(method, path) for method, path in endpoints(app.routes) if not _asks_for_key(guarded, method, path)}


def _asks_for_key(app: ASGIApp, method: str, path: str) -> bool:
    reply = request(app, method, path, local())
    return reply.status == 401 and reply.error["type"] == "authentication_error"


# ---- over sockets


@contextmanager
def running(app: ASGIApp, rules: Rules | None = None, host: str = "127.0.0.1") -> Iterator[Address]:
    """A server in a thread; gives its address."""
    with running_server(app, rules, host) as (_, address):
        yield address


@contextmanager
def running_server(
    app: ASGIApp, rules: Rules | None = None, host: str = "127.0.0.1"
) -> Iterator[tuple[Server, Address]]:
    """The same with the server itself."""
    rules = rules or Rules(host)
    listener = bind(host, 0, rules.keys)
    address = listener.getsockname()[:2]
    ready = threading.Event()
    server = make_server(app, rules, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert ready.wait(10)
        yield server, address
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def connected(address: Address, timeout_s: float = 10.0, receive_buffer: int = 0) -> Iterator[socket.socket]:
    """A connection; a small receive buffer shows early that nobody reads."""
    with socket.socket() as client:
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(timeout_s)
        client.connect(address)
        yield client


def head(
    method: str, path: str, address: Address, headers: Mapping[str, str] | None = None, version: str = "1.1"
) -> bytes:
    """A request's head."""
    lines = {"Host": f"{address[0]}:{address[1]}", **(headers or {})}
    fields = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/{version}\r\n{fields}\r\n".encode()


def exchange(address: Address, data: bytes, timeout_s: float = 10.0) -> bytes:
    """Send bytes and read until the server closes."""
    with connected(address, timeout_s) as client:
        with suppress(ConnectionError):  # the server may answer and close before everything is sent
            client.sendall(data)
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    """Everything until the server closes, also when it closes rudely."""
    received = b""
    with suppress(ConnectionError):
        while data := client.recv(65536):
            received += data
    return received


def read_until(client: socket.socket, end: bytes) -> bytes:
    """Everything up to and with ``end``."""
    received = b""
    while end not in received:
        data = client.recv(65536)
        assert data, f"closed after {received!r}"
        received += data
    return received


@contextmanager
def trickling(clients: Sequence[socket.socket], data: bytes, pause_s: float) -> Iterator[None]:
    """Clients that send ``data`` one byte at a time, all of them in step, until the block ends."""
    over = threading.Event()

    def send() -> None:
        left = set(clients)
        for byte in data:
            left = {client for client in left if _accepts(client, byte)}
            if over.wait(pause_s):
                return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _accepts(client: socket.socket, byte: int) -> bool:
    """Send a byte; False if the server has closed the connection."""
    try:
        return client.send(bytes([byte])) == 1
    except OSError:
        return False


def status_of(response: bytes) -> int:
    """A raw response's status; 0 if there is none."""
    match = re.match(rb"HTTP/1\.1 (\d{3})", response)
    return int(match[1]) if match else 0


def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Wait for a condition; it must come."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
