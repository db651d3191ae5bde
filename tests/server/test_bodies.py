"""Bodies too large, too slow, too deep, of the wrong kind; and what of them still is JSON."""

from __future__ import annotations

import gc
import json
import math
import threading
import time
from contextlib import ExitStack, suppress
from typing import Any

import anyio
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from eftlite.errors import InputError
from eftlite.server.bodies import MAX_DEPTH, _depth, read_json
from eftlite.server.guards import Rules, guard
from tests.server.wire import (
    Address,
    Reply,
    connected,
    exchange,
    head,
    local,
    read_all,
    request,
    running,
    status_of,
    trickling,
)

MIB = 1 << 20
JSON = ("Content-Type", "application/json")
RULES = Rules("127.0.0.1")
QUICK = Rules("127.0.0.1", head_s=0.5, body_s=1.0)


async def length(request: Request) -> Response:
    return JSONResponse({"length": len(await request.body())})


APP = Starlette(routes=[Route("/", length, methods=["GET", "POST"])])


def post(body: bytes, *headers: tuple[str, str], rules: Rules = RULES) -> Reply:
    """POST with a truthful Content-Length unless the headers have one."""
    names = {name.lower() for name, _ in headers}
    sized = () if names & {"content-length", "transfer-encoding"} else (("Content-Length", str(len(body))),)
    return request(guard(APP, rules), "POST", "/", local(*sized, *headers), body)


def text_of(size: int) -> bytes:
    """JSON of so many bytes."""
    return b'"' + b"a" * (size - 2) + b'"'


# ---- size


def test_a_body_may_have_the_limit_and_not_one_byte_more() -> None:
    whole = post(text_of(MIB), JSON)
    assert (whole.status, json.loads(whole.body)) == (200, {"length": MIB})
    for headers in ((JSON,), (JSON, ("Transfer-Encoding", "chunked"))):
        reply = post(text_of(MIB + 1), *headers)
        assert (reply.status, reply.error["type"]) == (413, "invalid_request_error")
        assert reply.headers["connection"] == "close"


def test_a_body_declared_too_large_is_not_read() -> None:
    with running(APP, RULES) as address, connected(address) as client:
        client.sendall(head("POST", "/", address, {"Content-Length": str(MIB + 1), "Content-Type": "application/json"}))
        assert status_of(read_all(client)) == 413


def test_a_declared_length_is_a_number() -> None:
    for wrong in ("-1", "+1", "1.0", "1e3", "0x1", "\u00b2", "", " ", "1" * 30, "1,1"):
        assert post(b"{}", JSON, ("Content-Length", wrong)).status in {400, 413}


def test_a_body_without_end_is_cut() -> None:
    """Chunked, with a client that never stops: the answer comes after the limit, and then the connection ends."""
    chunk = b"10000\r\n" + b"1" * 0x10000 + b"\r\n"
    with running(APP, RULES) as address, connected(address) as client:
        client.sendall(head("POST", "/", address, {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}))
        received: list[bytes] = []
        reader = threading.Thread(target=lambda: received.append(read_all(client)))
        reader.start()
        with pytest.raises(ConnectionError):
            client.sendall(chunk * 1000)
        reader.join(10)
    assert status_of(received[0]) == 413


def test_requests_without_a_body_pass_untouched() -> None:
    for headers in ((), (("Content-Length", "0"),), (("Content-Type", "text/plain"),)):
        assert request(guard(APP, RULES), "POST", "/", local(*headers)).status == 200


def test_the_app_still_learns_that_the_client_left() -> None:
    left = threading.Event()

    async def waits(request: Request) -> Response:
        await request.body()
        while not await request.is_disconnected():
            await anyio.sleep(0.01)
        left.set()
        return Response()

    app = Starlette(routes=[Route("/", waits, methods=["POST"])])
    with running(app) as address:
        with connected(address) as client:
            client.sendall(head("POST", "/", address, {"Content-Length": "2", "Content-Type": "application/json"}))
            client.sendall(b"{}")
        assert left.wait(5)


def test_a_client_that_leaves_within_its_body_reaches_no_route() -> None:
    called = threading.Event()

    async def route(request: Request) -> Response:
        called.set()
        return Response()

    app = Starlette(routes=[Route("/", route, methods=["POST", "GET"])])
    with running(app) as address:
        with connected(address) as client:
            client.sendall(head("POST", "/", address, {"Content-Length": "10", "Content-Type": "application/json"}))
            client.sendall(b"[1,")
        assert status_of(exchange(address, head("POST", "/x", address, {"Connection": "close"}))) == 404
    assert not called.is_set()


# ---- kind


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([JSON], 200),
        ([("Content-Type", "application/json; charset=utf-8")], 200),
        ([("Content-Type", 'Application/JSON;charset="UTF-8"')], 200),
        ([JSON, ("Content-Encoding", "identity")], 200),
        ([], 415),
        ([("Content-Type", "")], 415),
        ([("Content-Type", "text/plain")], 415),
        ([("Content-Type", "text/json")], 415),
        ([("Content-Type", "application/x-www-form-urlencoded")], 415),
        ([("Content-Type", "multipart/form-data; boundary=application/json")], 415),
        ([("Content-Type", "application/json, text/plain")], 415),
        ([("Content-Type", "text/plain; application/json")], 415),
        ([("Content-Type", "application/jsonp")], 415),
        ([("Content-Type", "application/json; charset=latin-1")], 415),
        ([("Content-Type", "application/json; charset=utf-16")], 415),
        ([("Content-Type", "application/json;;;=;\u00ff")], 200),
        ([JSON, JSON], 415),
        ([JSON, ("Content-Type", "text/plain")], 415),
        ([JSON, ("Content-Encoding", "gzip")], 415),
        ([JSON, ("Content-Encoding", "identity, gzip")], 415),
        ([JSON, ("Content-Encoding", "")], 415),
    ],
)
def test_only_plain_json_is_read(headers: list[tuple[str, str]], status: int) -> None:
    reply = post(b"{}", *headers)
    assert reply.status == status
    if status == 415:
        assert reply.error["type"] == "invalid_request_error"


# ---- time


def test_slow_bodies_end_at_their_deadline() -> None:
    with running(APP, QUICK) as address, connected(address) as client:
        client.sendall(head("POST", "/", address, {"Content-Length": "1000", "Content-Type": "application/json"}))
        begun = time.monotonic()
        with trickling([client], b"1" * 1000, 0.05):
            response = read_all(client)
        took = time.monotonic() - begun
    assert status_of(response) == 408
    assert 0.9 <= took < 4.0


def serve_normal_clients(address: Address, n: int) -> float:
    """Seconds of the slowest of some ordinary requests."""
    slowest = 0.0
    for _ in range(n):
        begun = time.monotonic()
        body = text_of(1000)
        fields = {"Content-Length": "1000", "Content-Type": "application/json", "Connection": "close"}
        assert status_of(exchange(address, head("POST", "/", address, fields) + body)) == 200
        slowest = max(slowest, time.monotonic() - begun)
    return slowest


def test_fifty_slow_clients_hold_nobody_up() -> None:
    """Half send a head, half a body, a byte now and then; everyone else is served as if they were not there."""
    with running(APP, QUICK) as address, ExitStack() as stack:
        clients = [stack.enter_context(connected(address)) for _ in range(50)]
        whole = head("POST", "/", address, {"Content-Length": "1000", "Content-Type": "application/json"})
        for client in clients[25:]:
            client.sendall(whole)
        begun = time.monotonic()
        with trickling(clients, whole, 0.05):
            slowest = serve_normal_clients(address, 10)
            ends = [(status_of(read_all(client)), time.monotonic() - begun) for client in clients]
    assert slowest < 1.0
    assert [status for status, _ in ends] == [0] * 25 + [408] * 25
    assert max(end for _, end in ends) < 5.0


def test_bad_bodies_cost_little_memory() -> None:
    """All kinds together, several times over."""
    process = psutil.Process()
    nested = b"[" * 10_000 + b"]" * 10_000
    twice = b'{"a": 1, "a": 2}'

    async def parse(request: Request) -> Response:
        try:
            return JSONResponse(len(str(read_json(await request.body()))))
        except InputError:
            return JSONResponse(None, 400)

    with running(Starlette(routes=[Route("/", parse, methods=["POST"])]), RULES) as address:

        def attack() -> list[int]:
            fields = {"Content-Type": "application/json", "Connection": "close"}
            sized = [
                head("POST", "/", address, {**fields, "Content-Length": str(len(body))}) + body
                for body in (text_of(MIB + 1), nested, twice, b"\xff\xfe[\x00", text_of(MIB))
            ]
            endless = head("POST", "/", address, {**fields, "Transfer-Encoding": "chunked"})
            endless += (b"10000\r\n" + b"1" * 0x10000 + b"\r\n") * 20
            return [status_of(exchange(address, data)) for data in (*sized, endless)]

        attack()
        gc.collect()
        before = process.memory_info().rss
        for _ in range(10):
            assert attack() == [413, 400, 400, 400, 200, 413]
        gc.collect()
        assert process.memory_info().rss - before < 8 * MIB


# ---- JSON


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "expected JSON"),
        (b"{", "line 1 column 2"),
        (b"nul", "expected JSON"),
        (b"{}{}", "expected JSON"),
        (b"{'a': 1}", "expected JSON"),
        (b"[1,]", "expected JSON"),
        (b'"\x01"', "expected JSON"),
        (b"\xef\xbb\xbf{}", "expected JSON"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' twice"),
        (b'{"a": 1, "\\u0061": 2}', "'a' twice"),
        (b"[" * 101 + b"]" * 101, "nesting"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "nesting"),
        (b"[" * 10_000, "nesting"),
        (b"[" * 1_000_000, "nesting"),
        (b'["\\"", ' + b"[" * 101, "nesting"),
        (b"NaN", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b'{"a": Infinity}', "Infinity"),
        (b"1e999", "1.8e308"),
        (b"-1e999", "1.8e308"),
        (b"9" * 5000, "shorter"),
        (b"\xff", "UTF-8"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        ('{"a": "ü"}'.encode("latin-1"), "UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "UTF-8"),
        (b'"\\ud83d"', "surrogate"),
        (b'{"\\uDE00": 1}', "surrogate"),
        (b'["\\ude00\\ud83d"]', "surrogate"),
    ],
)
def test_what_is_no_body(body: bytes, message: str) -> None:
    with pytest.raises(InputError, match=r"^body: ") as caught:
        read_json(body)
    assert message in caught.value.message
    assert (caught.value.http_status, caught.value.kind) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b' {"a": [1, 2.5, -0, 1e5, true], "b": {"a": ""}} ',
        b'"\\ud83d\\ude00 \\u0000 \\\\ud83d"',
        b'"' + b"[{" * 1000 + b'"',
        b'"\\"' + b"[" * 200 + b'\\\\"',
        b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
        b"[" + b"[[]]," * 50_000 + b"[]]",
        '"ü 🙂 \u2028"'.encode(),
    ],
)
def test_what_is(body: bytes) -> None:
    assert read_json(body) == json.loads(body)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
)


@given(JSON_VALUES, st.booleans())
@settings(deadline=None, max_examples=50)
def test_every_value_comes_back(value: Any, ascii_only: bool) -> None:
    try:
        body = json.dumps(value, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return
    if ascii_only and "\\ud" in json.dumps(value):
        return  # may be half a pair, too
    assert read_json(body) == value


@given(st.binary() | st.text('[]{}",:\\ud1aenrtls.', max_size=40).map(str.encode))
@settings(deadline=None, max_examples=50)
def test_no_bytes_do_anything_else(body: bytes) -> None:
    """A value or an InputError; a value that json.loads gives too."""
    try:
        value = read_json(body)
    except InputError:
        return
    assert value == json.loads(body)
    assert not isinstance(value, float) or math.isfinite(value)


def nesting(value: Any) -> int:
    """How deep a parsed value is."""
    if not isinstance(value, list | dict):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(nesting, inner), default=0)


@given(JSON_VALUES)
@settings(deadline=None, max_examples=50)
def test_depth_is_that_of_the_value(value: Any) -> None:
    assert _depth(json.dumps(value).encode()) == nesting(value)


@pytest.mark.parametrize(
    "body",
    [
        b'"' * MIB,
        b'"\\' * (MIB // 2),
        b'\\"' * (MIB // 2),
        b'"' + b'\\"' * (MIB // 2 - 1),
        b"[]" * (MIB // 2),
        b"[" * MIB,
        b"[" + b"[]," * (MIB // 3 - 1) + b"[]]",
        b"[" + b"{}," * (MIB // 3 - 1) + b"{}]",
        b"[" + b'"",' * (MIB // 3 - 1) + b'""]',
        b'{"a":' + b" " * (MIB - 10) + b"1}",
        b"{" + b",".join(b'"%d":0' % n for n in range(MIB // 10)) + b"}",
        b"\\ud" * (MIB // 4),
        b'"' + b"\\ud83d\\ude00" * (MIB // 12 - 1) + b'"',
        b"1" * MIB,
    ],
    ids=range(14),
)
def test_no_body_takes_long(body: bytes) -> None:
    """The worst that a megabyte can be; nobody else is served meanwhile.

    What other tests left in memory is kept from the garbage collector, which would go through all of it several times:
    a server has no such heap.
    """
    gc.collect()
    gc.freeze()
    try:
        begun = time.process_time()
        with suppress(InputError):
            read_json(body)
        assert time.process_time() - begun < 1.0
    finally:
        gc.unfreeze()
