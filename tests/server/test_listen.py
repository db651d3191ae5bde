"""The address, the socket, deadlines, and how the server stops; with real sockets and signals, ten seconds."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from eftlite.errors import InputError
from eftlite.server import deadlines, listen
from eftlite.server.guards import HEADERS, Rules
from eftlite.server.listen import _discreet, bind, url_of
from tests.server.wire import (
    Address,
    connected,
    exchange,
    head,
    read_all,
    read_until,
    running,
    running_server,
    status_of,
    trickling,
    until,
)

QUICK = Rules("127.0.0.1", head_s=0.3, body_s=0.3, drain_s=0.3)
SECRET = "the-prompt-nobody-may-see"
PART = b"x" * 4096


class Endless:
    """Responses that never end by themselves, and what became of them."""

    def __init__(self) -> None:
        self.n_parts, self.n_begun, self.n_ended = 0, 0, 0

    async def _parts(self) -> AsyncIterator[bytes]:
        self.n_begun += 1
        try:
            while True:
                self.n_parts += 1
                yield PART
                await asyncio.sleep(0)
        finally:
            self.n_ended += 1

    def is_held_up(self) -> bool:
        """Whether nothing was taken for a while."""
        n_parts = self.n_parts
        time.sleep(0.1)
        return n_parts == self.n_parts > 0

    async def stream(self, request: Request) -> Response:
        return StreamingResponse(self._parts())

    async def events(self, request: Request) -> Response:
        return EventSourceResponse({"data": part.decode()} async for part in self._parts())

    async def wait(self, request: Request) -> Response:
        """No byte at all, until the client leaves."""
        self.n_begun += 1
        while not await request.is_disconnected():
            await asyncio.sleep(0.01)
        self.n_ended += 1
        return Response()


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def large(request: Request) -> Response:
    return PlainTextResponse("x" * int(request.url.query))


def app_of(endless: Endless) -> Starlette:
    return Starlette(
        routes=[
            Route("/", hello, methods=["GET", "POST"]),
            Route("/large", large),
            Route("/stream", endless.stream),
            Route("/events", endless.events),
            Route("/wait", endless.wait),
        ]
    )


APP = app_of(Endless())


@pytest.fixture(scope="module")
def quick() -> Iterator[Address]:
    """A server with short deadlines, for tests that leave it as it was."""
    with running(APP, QUICK) as address:
        yield address


# ---- the address


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.3.2.1"])
def test_loopback_needs_no_key(host: str) -> None:
    with bind(host, 0) as listener:
        address, port = listener.getsockname()
        assert address.startswith("127.")
        assert url_of(listener) == f"http://{address}:{port}/"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "2001:db8::5", "8.8.8.8"])
def test_other_addresses_need_one(host: str) -> None:
    with pytest.raises(InputError, match="no key is set") as caught:
        bind(host, 0)
    assert caught.value.exit_code == 2
    assert "--api-key" in caught.value.hint


def test_with_a_key_all_addresses_may_be_listened_on() -> None:
    with bind("0.0.0.0", 0, ("key",)) as listener:
        port = listener.getsockname()[1]
        assert url_of(listener) == f"http://127.0.0.1:{port}/"
        with socket.create_connection(("127.0.0.1", port), 5):
            pass


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6() -> None:
    try:
        listener = bind("::1", 0)
    except InputError as error:
        pytest.skip(error.message)
    with listener:
        assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}/"
    if socket.has_dualstack_ipv6():
        with bind("::", 0, ("key",)) as listener:
            port = listener.getsockname()[1]
            assert url_of(listener) == f"http://[::1]:{port}/"
            for host in ("127.0.0.1", "::1"):
                with socket.create_connection((host, port), 5):
                    pass


def test_a_port_in_use_is_named() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        for host, keys in (("127.0.0.1", ()), ("0.0.0.0", ("key",))):
            with pytest.raises(InputError, match=f"{port} is in use") as caught:
                bind(host, port, keys)
            assert caught.value.exit_code == 2
    with bind("127.0.0.1", port):
        pass  # free again at once


@pytest.mark.parametrize("port", [-1, 65536, 1 << 70])
def test_ports_out_of_range(port: int) -> None:
    with pytest.raises(InputError, match="port: expected 0 to 65535"):
        bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["", "no such host", "a" * 70 + ".b", "nul\0", "127.0.0.1:80", "[::1]", "http://x"])
def test_hosts_that_are_none(host: str) -> None:
    with pytest.raises(InputError, match="host: expected a name or an address of this machine"):
        bind(host, 0, ("key",))


def test_addresses_of_other_machines() -> None:
    with pytest.raises(InputError, match="host: "):
        bind("192.0.2.1", 0, ("key",))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything is allowed here")
def test_ports_of_the_system() -> None:
    with pytest.raises(InputError, match="port: expected"):
        bind("127.0.0.1", 1)


# ---- heads


def closing_time(address: Address, first: bytes = b"", more: bytes = b"") -> tuple[bytes, float]:
    """What the server says to a client that sends ``first`` and then trickles ``more``, and when it has closed."""
    with connected(address) as client:
        begun = time.monotonic()
        client.sendall(first)
        with trickling([client], more, 0.05):
            response = read_all(client)
        return response, time.monotonic() - begun


@pytest.mark.parametrize("kind", ["nothing", "a part", "bytes that keep coming", "blank lines"])
def test_heads_have_a_deadline(quick: Address, kind: str) -> None:
    whole = head("GET", "/", quick, {"X": "a" * 1000})
    first, more = {
        "nothing": (b"", b""),
        "a part": (whole[:50], b""),
        "bytes that keep coming": (b"", whole),
        "blank lines": (b"\r\n", b"\r\n" * 500),
    }[kind]
    response, took = closing_time(quick, first, more)
    assert status_of(response) in {0, 400}
    assert took < 2.0


def test_the_next_head_has_a_deadline_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "KEEP_ALIVE_S", 1)
    with running(APP, QUICK) as address:
        whole = head("GET", "/", address)
        response, took = closing_time(address, whole + whole, whole[:-1] + b"X: " + b"a" * 1000)
        assert response.count(b"HTTP/1.1 200") == 2
        assert took < 4
        response, took = closing_time(address, whole)  # idle
        assert status_of(response) == 200
        assert 0.9 < took < 4


def test_requests_in_the_time_are_not_disturbed(quick: Address) -> None:
    """One connection, used for longer than any deadline."""
    with connected(quick) as client:
        for _ in range(8):
            client.sendall(head("GET", "/", quick)[:20])
            time.sleep(0.08)
            client.sendall(head("GET", "/", quick)[20:])
            assert read_until(client, b"hello").startswith(b"HTTP/1.1 200")


def test_a_head_may_come_together_with_another(quick: Address) -> None:
    pipelined = head("GET", "/", quick) * 3 + head("GET", "/", quick, {"Connection": "close"})
    assert exchange(quick, pipelined).count(b"HTTP/1.1 200") == 4


# ---- slow readers


@pytest.mark.parametrize("path", ["/stream", "/events"])
def test_an_answer_that_nobody_reads_is_stopped(path: str) -> None:
    endless = Endless()
    with running_server(app_of(endless), QUICK) as (server, address), connected(address, 10, 4096) as client:
        client.sendall(head("GET", path, address))
        read_until(client, b"200 OK")
        until(lambda: endless.n_ended == 1)
        until(lambda: not server.server_state.connections)
        assert endless.n_parts * len(PART) < 1 << 20


def test_an_answer_that_is_read_more_slowly_than_written_goes_on() -> None:
    """For two deadlines, the server being held up all the time."""
    endless = Endless()
    patient = replace(QUICK, drain_s=1.0)
    with running(app_of(endless), patient) as address, connected(address) as client:
        client.sendall(head("GET", "/stream", address))
        end = time.monotonic() + 2 * patient.drain_s
        while time.monotonic() < end:
            assert client.recv(65536)
            time.sleep(0.001)
        assert endless.n_ended == 0


def test_a_finished_answer_that_nobody_reads_frees_its_connection() -> None:
    """The app has ended long ago; sizes are such that anything from a byte to megabytes is left in the server."""
    sizes = [8 << 20, *range(64 << 10, 512 << 10, 16 << 10)]
    with running_server(APP, QUICK) as (server, address), ExitStack() as stack:
        for size in sizes:
            client = stack.enter_context(connected(address, 10, 4096))
            client.sendall(head("GET", f"/large?{size}", address, {"Connection": "close"}))
            read_until(client, b"200 OK")
        assert server.server_state.connections
        until(lambda: not server.server_state.connections, 3)


def test_the_app_learns_at_once_that_the_client_left() -> None:
    endless = Endless()
    with running(app_of(endless)) as address:
        for path in ("/wait", "/stream", "/events"):
            begun = endless.n_begun
            with connected(address) as client:
                client.sendall(head("GET", path, address))
                until(lambda begun=begun: endless.n_begun == begun + 1)  # type: ignore[misc]  # mypy infers no default
            until(lambda begun=begun: endless.n_ended == begun + 1, 2.0)  # type: ignore[misc]  # likewise


# ---- what is not HTTP, and too much of it

MALFORMED = [
    b"GARBAGE\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a browser that tries https
    b"GET / HTTP/1.1\r\nHost: localhost\r\nBad Header: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: \x00\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 2\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    b"GET /" + b"a" * 70_000,
    b"A: " * 30_000,
]


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_not_http(quick: Address, data: bytes) -> None:
    response = exchange(quick, data)
    fields, _, body = response.partition(b"\r\n\r\n")
    assert status_of(response) == 400
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert all(f"{name}: {value}".lower().encode() in fields.lower() for name, value in HEADERS.items())


def test_garbage_within_a_request_ends_it_quietly(caplog: pytest.LogCaptureFixture) -> None:
    endless = Endless()
    chunked = {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}
    with running(app_of(endless), QUICK) as address:
        assert status_of(exchange(address, head("POST", "/", address, chunked) + b"zz\r\n")) in {0, 400}
        with connected(address) as client:
            client.sendall(head("GET", "/stream", address) + b"GARBAGE\r\n\r\n")
            read_until(client, b"200 OK")
        until(lambda: endless.n_ended == 1)
    assert "Traceback" not in caplog.text


def test_two_lengths_of_one_body_are_no_way_in(quick: Address) -> None:
    """Content-Length and chunked together: whichever counts, nothing of the body is a second request."""
    fields = {"Content-Length": "4", "Transfer-Encoding": "chunked", "Content-Type": "application/json"}
    body = b"2\r\n{}\r\n0\r\n\r\n"
    response = exchange(quick, head("POST", "/", quick, {**fields, "Connection": "close"}) + body)
    assert response.count(b"HTTP/1.1") == 1


def test_upgrades_are_not_made(quick: Address) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x", "Sec-WebSocket-Version": "13"}
    with connected(quick) as client:
        client.sendall(head("GET", "/", quick, upgrade))
        assert status_of(read_until(client, b"hello")) == 200


def test_expecting_clients_are_told_before_they_send(quick: Address) -> None:
    fields = {"Content-Type": "application/json", "Expect": "100-continue", "Connection": "close"}
    with connected(quick) as client:
        client.sendall(head("POST", "/", quick, {**fields, "Content-Length": "2"}))
        read_until(client, b"100 Continue\r\n\r\n")
        client.sendall(b"{}")
        assert status_of(read_all(client)) == 200
    refused = exchange(quick, head("POST", "/", quick, {**fields, "Content-Length": str(1 << 30)}))
    assert status_of(refused) == 413


def test_one_connection_too_many_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "MAX_CONNECTIONS", 5)
    with running(APP) as address, ExitStack() as stack:
        clients = [stack.enter_context(connected(address)) for _ in range(5)]
        response = exchange(address, b"")
        assert status_of(response) == 503
        assert b"retry-after: 1" in response.lower()
        clients.pop().close()
        until(lambda: status_of(exchange(address, head("GET", "/", address, {"Connection": "close"}))) == 200)


def test_responses_tell_the_date_and_not_the_program(quick: Address) -> None:
    reply = httpx.get(f"http://127.0.0.1:{quick[1]}/")
    assert "date" in reply.headers
    assert "server" not in reply.headers


# ---- stopping


def test_stopping_ends_what_is_running() -> None:
    endless = Endless()
    with running_server(app_of(endless)) as (server, address), ExitStack() as stack:
        clients = [stack.enter_context(connected(address)) for _ in range(4)]
        for client, path in zip(clients, ("/stream", "/events", "/wait"), strict=False):
            client.sendall(head("GET", path, address))
        until(lambda: endless.n_begun == 3)
        server.should_exit = True
        begun = time.monotonic()
        streamed, events, waited, idle = (read_all(client) for client in clients)
        took = time.monotonic() - begun
        with pytest.raises(ConnectionError):
            socket.create_connection(address, 5).close()
    assert status_of(streamed) == status_of(events) == 200
    assert not streamed.endswith(b"0\r\n\r\n")
    assert status_of(waited) == 503
    assert idle == b""
    assert endless.n_ended == 3
    assert took < 2


def test_an_answer_that_comes_just_when_it_stops_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """Between the last word and the end of the connection the app may still send."""
    found: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def late(request: Request) -> Response:
        found.append((asyncio.get_running_loop(), asyncio.Event()))
        await found[0][1].wait()
        return PlainTextResponse("late")

    with running_server(Starlette(routes=[Route("/", late)])) as (server, address), connected(address) as client:
        client.sendall(head("GET", "/", address))
        until(lambda: found)
        loop, event = found[0]

        def stop() -> None:
            event.set()
            for connection in list(server.server_state.connections):
                connection.shutdown()

        loop.call_soon_threadsafe(stop)
        response = read_all(client)
    assert status_of(response) == 503
    assert b"late" not in response
    assert not caplog.messages


def test_stopping_does_not_wait_for_clients_that_do_not_read() -> None:
    endless = Endless()
    with running_server(app_of(endless)) as (server, address), connected(address, 10, 4096) as client:
        client.sendall(head("GET", "/stream", address))
        until(lambda: len(server.server_state.connections) == 1 and endless.is_held_up())
        server.should_exit = True
        until(lambda: endless.n_ended == 1 and not server.server_state.connections, 1.5)


PROGRAM = """
import asyncio, contextlib, signal, sys, time
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from eftlite.server.guards import Rules
from eftlite.server.replies import exception_handlers
from eftlite.server import listen
from eftlite.server.listen import bind, serve, url_of

listen.STOP_S = min(listen.STOP_S, LIMIT)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it

@contextlib.asynccontextmanager
async def lifespan(app):
    yield
    print("closing", flush=True)
    CLOSE
    print("closed", flush=True)

async def parts():
    while True:
        yield b"part"
        await asyncio.sleep(0.01)

async def stream(request):
    return StreamingResponse(parts())

async def fails(request):
    raise ValueError("SECRET")

app = Starlette(
    routes=[Route("/stream", stream), Route("/fails", fails)],
    lifespan=lifespan,
    exception_handlers=exception_handlers(),
)
try:
    with bind("127.0.0.1", 0) as listener:
        serve(app, listener, Rules("127.0.0.1"), lambda: print(listener.getsockname()[1], flush=True))
except KeyboardInterrupt:
    sys.exit(130)
finally:
    print("left", flush=True)
"""
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")


@contextmanager
def program(close: str = "pass", limit_s: float = 60.0) -> Iterator[tuple[subprocess.Popen[str], Address]]:
    """The program above in a process of its own, and its address."""
    source = PROGRAM.replace("CLOSE", close).replace("LIMIT", str(limit_s)).replace("SECRET", SECRET)
    command = [sys.executable, "-c", source]
    with subprocess.Popen(
        command, text=True, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout
            yield process, ("127.0.0.1", int(process.stdout.readline()))
        finally:
            process.kill()


@posix
@pytest.mark.parametrize(("sig", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_server_and_its_answers(sig: signal.Signals, code: int) -> None:
    with program() as (process, address), connected(address) as client:
        client.sendall(head("GET", "/stream", address))
        read_until(client, b"part")
        begun = time.monotonic()
        process.send_signal(sig)
        output, errors = process.communicate(timeout=10)
        assert time.monotonic() - begun < 3
        assert process.returncode == code
    assert output.split() == ["closing", "closed", "left"]
    assert errors == ""


@posix
def test_an_app_that_does_not_close_is_left_after_the_time() -> None:
    assert listen.STOP_S <= 4.5
    with program("await asyncio.sleep(60)", limit_s=0.5) as (process, _):
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=10)
        assert time.monotonic() - begun < 4
        assert process.returncode == 130
    assert output.split() == ["closing", "left"]


@posix
@pytest.mark.parametrize("close", ["await asyncio.sleep(60)", "time.sleep(60)"])
def test_the_second_signal_ends_it_at_once(close: str) -> None:
    with program(close) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.stdout
        assert process.stdout.readline() == "closing\n"
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=10)
        assert time.monotonic() - begun < 3
        assert process.returncode == 130
    assert output.split() == ["left"]


# ---- logs


@posix
def test_nothing_of_a_request_reaches_the_log() -> None:
    with program() as (process, address):
        for path in ("/fails", f"/fails?{SECRET}", f"/{SECRET}"):
            response = exchange(address, head("GET", path, address, {"Connection": "close", "X-Api-Key": SECRET}))
            assert SECRET.encode() not in response
        exchange(address, f"{SECRET}\r\n\r\n".encode())
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert "ValueError" in errors
    assert "Invalid HTTP request received." in errors
    for private in (SECRET, "Traceback", str(Path(__file__).parent)):
        assert private not in errors


def test_libraries_do_not_log_what_an_exception_says() -> None:
    logger = logging.getLogger("eftlite.test.discreet")
    error = ValueError(SECRET)
    details = (ValueError, error, None)
    text = "Task exception was never retrieved\nfuture: <Task exception=%r>"
    arguments = ("asyncio", logging.ERROR, "file.py", 1, text, (error,), details)
    record = logging.LogRecord(*arguments)
    assert _discreet(record)
    assert logging.Formatter().format(record) == "Task exception was never retrieved: ValueError"
    logger.setLevel(logging.DEBUG)
    debugged = logging.LogRecord(logger.name, *arguments[1:])
    assert _discreet(debugged)
    assert SECRET in logging.Formatter().format(debugged)
    plain = logging.LogRecord("asyncio", logging.ERROR, "file.py", 1, "%s", ("plain",), None)
    assert _discreet(plain)
    assert plain.getMessage() == "plain"
