"""Who is asked, and what becomes of whatever answers; real connections to this machine, no llama.cpp."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from eftlite.errors import EngineError, InputError, UnavailableError
from eftlite.rpc import Worker, check_endpoints, greet, is_private, parse_endpoints
from tests.fake_rpc import Play, closes, listening, web, worker

# --- names ---


def test_workers_are_named_by_host_and_port() -> None:
    assert parse_endpoints("10.0.0.7:50052, desk.lan:9") == ("10.0.0.7:50052", "desk.lan:9")
    assert parse_endpoints("desk.lan") == ("desk.lan:50052",)
    assert parse_endpoints(" ") == ()  # takes a family file's workers away


@pytest.mark.parametrize(
    "text", ["host:", ":50052", "host:0", "host:65536", "host:x", "host:1:2", "[::1]:50052", "host:-1", "host:²"]
)
def test_names_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected HOST:PORT"):
        parse_endpoints(text)


def test_a_worker_cannot_be_used_twice() -> None:
    with pytest.raises(InputError, match="RPC worker a:50052: expected each worker once"):
        check_endpoints(["a", "b:1", "a:50052"])


# --- addresses ---


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.1.20", "169.254.7.7", "100.64.0.1", "100.127.9.9"]
)
def test_private_addresses(address: str) -> None:
    assert is_private(address)


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "8.8.8.8", "172.32.0.1", "100.128.0.1", "192.169.0.1", "224.0.0.1", "255.255.255.255"]
)
def test_addresses_that_anybody_may_reach(address: str) -> None:
    assert not is_private(address)


@pytest.mark.parametrize("text", ["::1", "localhost", "127.1", "", "1.2.3.4.5", "0177.0.0.1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InputError, match="expected an IPv4 address"):
        is_private(text)


def test_a_public_worker_is_not_even_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a name says: its address decides. The fixture without network would fail the test."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("203.0.113.9", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    with pytest.raises(InputError, match=r"private network, got 203\.0\.113\.9.*ssh -N -L"):
        greet("friendly.lan:50052")


# --- greetings ---


def test_a_worker_says_what_it_has() -> None:
    memory = ((1 << 33, 1 << 34), (0, 5))
    with listening(worker(memory=memory)) as endpoint:
        assert greet(endpoint) == Worker(endpoint, endpoint, memory)
        assert greet(endpoint).memory == memory  # the first connection was closed, so there is room for a second


def test_llama_cpp_is_given_the_address_that_was_checked() -> None:
    with listening(worker()) as endpoint:
        port = endpoint.partition(":")[2]
        assert greet(f"localhost:{port}") == Worker(f"localhost:{port}", endpoint, ((3 << 30, 4 << 30),))


@pytest.mark.parametrize(
    ("play", "got"),
    [
        (worker((6, 9, 9)), "6.9.9"),
        (worker((8, 0, 0)), "8.0.0"),
        (worker((7, 1, 0)), "7.1.0"),
        (worker(memory=()), "one with 0 devices"),
        (closes, "something else"),
        (web, "something else"),
    ],
)
def test_other_versions_and_other_servers(play: Play, got: str) -> None:
    with listening(play) as endpoint, pytest.raises(EngineError) as caught:
        greet(endpoint)
    assert caught.value.message == f"RPC worker {endpoint}: expected llama.cpp's RPC protocol 7.0, got {got}"
    assert "same release" in caught.value.hint


def test_the_patch_of_a_version_does_not_matter() -> None:
    with listening(worker((7, 0, 5))) as endpoint:
        assert greet(endpoint).endpoint == endpoint


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UnavailableError, match=rf"127\.0\.0\.1:{port}: it cannot be reached") as caught:
        greet(f"127.0.0.1:{port}")
    assert caught.value.retry_after_s > 0  # so that the server waits for it
    assert "eftlite worker" in caught.value.hint


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UnavailableError, match=r"nowhere\.lan:50052: it cannot be reached \(Name or service"):
        greet("nowhere.lan:50052")


def drips(connection: socket.socket) -> None:
    """A byte at a time, each within the limit, for longer than the limit."""
    connection.sendall(b"\x1c")
    for _ in range(40):
        time.sleep(0.05)
        connection.sendall(b"\x00")


@pytest.mark.parametrize("play", [None, drips], ids=["silent", "drips"])
def test_a_worker_that_is_busy_or_stopped_is_given_up(play: Play | None) -> None:
    began = time.monotonic()
    with listening(play) as endpoint, pytest.raises(UnavailableError, match=r"no answer within 0\.3 s"):
        greet(endpoint, timeout_s=0.3)
    assert time.monotonic() - began < 1.0
