"""Clients that send or read one byte a second, with the deadlines that users have; about a minute.

The server runs in a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from eftlite.server.guards import Rules
from eftlite.server.listen import bind, serve
from tests.server.wire import Address, connected, exchange, head, read_until, status_of, trickling, until

pytestmark = pytest.mark.stress

N_SENDERS = 50
N_READERS = 10
MIB = 1 << 20
RULES = Rules("127.0.0.1")
JSON = {"Content-Length": "1000", "Content-Type": "application/json"}


def main() -> None:
    """The server: ``POST /`` takes a body, ``GET /stream`` never ends, ``GET /running`` counts the streams."""
    n_running = 0

    async def parts() -> AsyncIterator[bytes]:
        nonlocal n_running
        n_running += 1
        try:
            while True:
                yield b"x" * 4096
                await asyncio.sleep(0.001)
        finally:
            n_running -= 1

    async def take(request: Request) -> Response:
        return JSONResponse(len(await request.body()))

    async def stream(request: Request) -> Response:
        return StreamingResponse(parts())

    async def running(request: Request) -> Response:
        return JSONResponse(n_running)

    routes = [Route("/", take, methods=["POST"]), Route("/stream", stream), Route("/running", running)]
    with bind("127.0.0.1", 0) as listener:
        serve(Starlette(routes=routes), listener, RULES, lambda: print(listener.getsockname()[1], flush=True))


@pytest.fixture
def server() -> Iterator[tuple[psutil.Process, Address]]:
    """The process and its address."""
    command = [sys.executable, "-c", "from tests.stress.test_slow_clients import main; main()"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield psutil.Process(process.pid), ("127.0.0.1", int(process.stdout.readline()))
        finally:
            process.kill()


def seconds_of_a_request(address: Address) -> float:
    """An ordinary client's request and its answer."""
    begun = time.monotonic()
    whole = head("POST", "/", address, {**JSON, "Connection": "close"}) + b'"' + b"a" * 998 + b'"'
    assert status_of(exchange(address, whole)) == 200
    return time.monotonic() - begun


def test_fifty_slow_senders(server: tuple[psutil.Process, Address]) -> None:
    """Half of them send their heads, half their bodies; both end at their deadlines, and others notice nothing."""
    _, address = server
    whole = head("POST", "/", address, JSON)
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(address)) for _ in range(N_SENDERS)]
        for client in clients:
            client.setblocking(False)
        for client in clients[N_SENDERS // 2 :]:
            client.sendall(whole)
        begun, slowest = time.monotonic(), 0.0
        ends: dict[socket.socket, tuple[int, float]] = {}
        with trickling(clients, whole, 1.0):
            while len(ends) < N_SENDERS:
                slowest = max(slowest, seconds_of_a_request(address))
                for client in set(clients) - set(ends):
                    if (status := status_at_the_end(client)) is not None:
                        ends[client] = status, time.monotonic() - begun
                assert time.monotonic() - begun < 40
                time.sleep(0.1)
    statuses, times = zip(*(ends[client] for client in clients), strict=True)
    heads, bodies = times[: N_SENDERS // 2], times[N_SENDERS // 2 :]
    print(f"heads closed after {max(heads):.1f} s, bodies after {max(bodies):.1f} s; others waited {slowest:.3f} s")
    assert statuses == (0,) * len(heads) + (408,) * len(bodies)
    assert 9.5 < min(heads) <= max(heads) < 11.5
    assert 29.5 < min(bodies) <= max(bodies) < 31.5
    assert slowest < 1.0


def status_at_the_end(client: socket.socket) -> int | None:
    """What a non-blocking client was answered, 0 for nothing; None while the connection is open."""
    try:
        return status_of(client.recv(65536))
    except BlockingIOError:
        return None
    except ConnectionError:
        return 0


def test_ten_slow_readers(server: tuple[psutil.Process, Address]) -> None:
    """Each takes one byte a second of a stream: it is cut at the deadline and costs less than 1 MiB meanwhile."""
    process, address = server
    for _ in range(20):
        seconds_of_a_request(address)
    before = process.memory_info().rss
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(address, receive_buffer=4096)) for _ in range(N_READERS)]
        for client in clients:
            client.sendall(head("GET", "/stream", address))
            read_until(client, b"200 OK")
        assert n_running(address) == N_READERS
        begun, most, slowest = time.monotonic(), 0, 0.0
        while n_running(address):
            for client in clients:
                with suppress(ConnectionError):
                    client.recv(1)
            slowest = max(slowest, seconds_of_a_request(address))
            most = max(most, process.memory_info().rss - before)
            assert time.monotonic() - begun < 45
            time.sleep(1.0)
        took = time.monotonic() - begun
        until(lambda: len(process.net_connections()) <= 1)
    print(f"cut after {took:.1f} s; {most / N_READERS / MIB:.2f} MiB each; others waited at most {slowest:.3f} s")
    assert 28 < took < 40
    assert most < N_READERS * MIB
    assert slowest < 1.0


def n_running(address: Address) -> int:
    """Streams that the server is writing."""
    response = exchange(address, head("GET", "/running", address, {"Connection": "close"}))
    return int(response.rpartition(b"\r\n")[2])
