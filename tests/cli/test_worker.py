"""``eftlite worker``: where it may listen, and what it says before; what it then does is in tests/test_remote.py."""

from __future__ import annotations

import socket

import pytest
from click.testing import CliRunner

from eftlite.cli import program, worker


def fails(*words: str) -> str:
    """What is said of a worker that cannot be."""
    result = CliRunner().invoke(program, ["worker", *words])
    assert result.exit_code in {1, 2}, result.output
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


@pytest.fixture
def never_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build with the backend that ends where it would begin to serve."""

    def end(*_: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr("llama_cpp.llama_supports_rpc", lambda: True)
    monkeypatch.setattr(worker, "_serve", end)


@pytest.mark.parametrize("host", ["0.0.0.0", "8.8.8.8", "100.128.0.1"])
def test_addresses_that_anybody_may_reach_need_a_word(host: str) -> None:
    said = fails("--host", host)
    assert f"--host {host}: expected an address of this machine or of a private network" in said
    assert "--allow-public" in said


def test_names_are_no_addresses() -> None:
    assert "expected an IPv4 address" in fails("--host", "localhost")


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"worker: cannot listen on 127.0.0.1:{port} (Address already in use). Choose" in fails("-p", str(port))


def test_an_address_of_another_machine() -> None:
    assert "cannot listen on 10.255.255.254:50052 (" in fails("--host", "10.255.255.254")


def test_a_build_without_rpc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_cpp.llama_supports_rpc", lambda: False)
    assert "Build it again: CMAKE_ARGS=-DGGML_RPC=on pip install" in fails("--port", str(free_port()))


@pytest.mark.usefixtures("never_serves")
def test_unknown_devices() -> None:
    assert "devices: expected some of CPU" in fails("--port", str(free_port()), "--device", "CPU,GPU7")


@pytest.mark.usefixtures("never_serves")
def test_it_says_what_it_lends_and_what_to_mind() -> None:
    port = free_port()
    result = CliRunner().invoke(program, ["worker", "--port", str(port), "--cache", "--device", "CPU"])
    assert result.exit_code == 0
    assert not result.stdout
    lines = result.stderr.splitlines()
    assert lines[0].startswith("Lending CPU (")
    assert lines[0].endswith(f" GiB free) on 127.0.0.1:{port}.")
    assert "RPC protocol 7.0" in lines[1]
    assert lines[2].endswith("rpc.")
    assert "Not authenticated, not encrypted" in lines[3]


@pytest.mark.usefixtures("never_serves")
def test_all_addresses_with_a_word() -> None:
    result = CliRunner().invoke(program, ["worker", "--host", "0.0.0.0", "--port", str(free_port()), "--allow-public"])
    assert result.exit_code == 0, result.output


def free_port() -> int:
    """A port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
