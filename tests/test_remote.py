"""llama.cpp's RPC backend: what is said without it, and with it the bundled family on two workers.

Without the backend about 3 s; with it about 30 s, for workers are started and programs that lose them.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from eftlite import EFT, remote
from eftlite.errors import EngineError, InputError, UnavailableError
from eftlite.family import bundled_family
from eftlite.ggml import local_gpus
from eftlite.llama import BINDING_VERSION, supports_gpu
from eftlite.rpc import greet
from eftlite.settings import Family, Limits, ModelSettings, Sampling
from tests.rpc_workers import Lender, ctrl_c_heard, lenders, needs_rpc

QUESTION = [{"role": "user", "content": "Which river runs through Cresshurst?"}]

# --- without the backend ---


def test_a_build_without_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_cpp.llama_supports_rpc", lambda: False)
    with pytest.raises(EngineError) as caught:
        remote.on_workers(ModelSettings(), ["127.0.0.1:50052"])
    version = BINDING_VERSION
    assert f"CMAKE_ARGS=-DGGML_RPC=on pip install --force-reinstall --no-cache-dir llama-cpp-python=={version}" in (
        caught.value.hint
    )


def test_nothing_is_asked_of_a_build_when_there_are_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "require", lambda: pytest.fail("asked"))
    settings = ModelSettings()
    assert remote.on_workers(settings, ()) is settings


def test_unknown_devices_are_named() -> None:
    with pytest.raises(InputError, match=r"devices: expected some of .*CPU.*, got 'RPC77'"):
        remote.device_list(["RPC77"])
    with pytest.raises(InputError, match="got 'RPC77'"):
        EFT(devices=("RPC77",))


def test_no_devices_is_a_list_of_none() -> None:
    assert list(remote.device_list([])) == [None]


def test_the_backend_alone_is_no_gpu() -> None:
    """llama.cpp itself says so of every build with RPC."""
    assert supports_gpu() == bool(local_gpus())
    assert remote.lent_by_default(), "there is always the CPU"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not list a process's connections")
def test_connections_are_found_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp's own look the same: sockets of this process. Others are left as they are."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as ours,
        socket.create_server(("127.0.0.1", 0)) as elsewhere,
        socket.create_connection(elsewhere.getsockname()) as other,
    ):
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setattr(remote._remotes, "addresses", {"worker": address})
        monkeypatch.setattr(remote, "SILENCE_S", 7)
        remote.limit_silence()
        limits = [
            struct.unpack("@ll", end.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))[0] for end in (ours, other)
        ]
        assert limits == [7, 0]
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert ours.fileno() != -1, "only copies of it are closed"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="whether it is inherited differs by system")
def test_a_worker_misses_programs_that_are_gone_without_a_word() -> None:
    assert not remote.watch_clients("127.0.0.1", 9)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert remote.watch_clients(*listener.getsockname())
        with socket.create_connection(listener.getsockname()) as ours:
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert not ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


# --- with it ---


@pytest.fixture(scope="module")
def two() -> Iterator[list[Lender]]:
    with lenders(2) as workers:
        yield workers


def on(workers: list[Lender]) -> Family:
    return replace(bundled_family(), rpc=tuple(worker.endpoint for worker in workers))


def text(eft: EFT, seed: int) -> str:
    answer = eft.chat(QUESTION, sampling=Sampling(seed=seed), limits=Limits(max_tokens=60))
    return "".join(event.text for event in answer)


@needs_rpc
def test_the_base_on_two_workers_gives_the_same_text(two: list[Lender], demo_eft: EFT) -> None:
    with EFT(family=on(two), n_threads=1) as eft:
        assert [text(eft, seed) for seed in range(3)] == [text(demo_eft, seed) for seed in range(3)]
        base, *small = eft._engine.models
        assert base.settings.n_gpu_layers == -1
        assert base.settings.devices is not None
        assert len(base.settings.devices) == 2
        assert all(model.settings.devices is None for model in small), "they stay on this machine"
        assert "RPC" not in str([device["name"] for device in remote_free_devices()])


def remote_free_devices() -> list[dict[str, object]]:
    """What every model may use; a worker's devices must not be among them."""
    from eftlite.llama import devices

    return devices()


@needs_rpc
def test_workers_are_used_again(two: list[Lender]) -> None:
    """After a close, and by two at a time in one process; the second must not ask a worker that is busy with us."""
    for _ in range(2):
        with EFT(family=on(two), n_threads=1) as first, EFT(family=on(two), n_threads=1) as second:
            assert text(first, 1) == text(second, 1)


@needs_rpc
def test_a_worker_in_use_is_busy_for_others(two: list[Lender]) -> None:
    with EFT(family=on(two), n_threads=1), pytest.raises(UnavailableError, match="no answer within"):
        greet(two[0].endpoint, timeout_s=0.3)


@needs_rpc
def test_settings_that_are_given_stand() -> None:
    with lenders(1) as (worker,):
        chosen = remote.on_workers(ModelSettings(n_gpu_layers=1, devices=("CPU",)), [worker.endpoint])
        assert (chosen.n_gpu_layers, chosen.devices) == (1, ("CPU",))


@needs_rpc
def test_a_worker_says_what_it_lends_and_ends_cleanly() -> None:
    worker = Lender()
    code, out, err = worker.interrupt()
    assert (code, out) == (0, "")
    assert re.search(rf"Lending CPU \(.*, [\d.]+ GiB free\) on {re.escape(worker.endpoint)}\.", err), err
    assert "Not authenticated, not encrypted" in err
    assert f"--rpc {worker.endpoint}" in err
    assert "Traceback" not in err


RUN = (sys.executable, "-m", "eftlite", "run")
# A program with a family on workers, which answers until it is ended; SILENCE_S is its argument.
ENDLESS = """
import sys
from dataclasses import replace
from eftlite import EFT, remote
from eftlite.family import bundled_family
from eftlite.settings import Limits, Speculation
remote.SILENCE_S = int(sys.argv[1])
eft = EFT(family=replace(bundled_family(), rpc=tuple(sys.argv[2:])), n_threads=1)
while True:
    for event in eft.complete("The river", limits=Limits(max_tokens=500), speculation=Speculation(enabled=False)):
        print(event.text, flush=True)
"""


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A program that answers by now; it does not outlive the test, whatever it waits for."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with ctrl_c_heard():
        program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    with program:
        try:
            assert program.stdout is not None
            assert program.stdout.read(1), program.communicate()[1]
            yield program
        finally:
            program.kill()


@needs_rpc
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_program_that_loses_a_worker_says_so_and_ends(number: signal.Signals) -> None:
    """One line and exit code 1, never a hang; a stopped worker is noticed by its silence, of 1 s here."""
    with lenders(2) as workers:
        command = [sys.executable, "-c", ENDLESS, "1", *(worker.endpoint for worker in workers)]
        with started(command) as program:
            workers[1].send(number)
            began = time.monotonic()
            _, err = program.communicate(timeout=20)
            took_s = time.monotonic() - began
    assert program.returncode == 1, err
    (line,) = err.split("\n")[1:-1]
    assert line.startswith("error: RPC worker ")
    assert workers[1].endpoint in line
    assert took_s < 5


@needs_rpc
def test_leaving_does_not_wait_for_a_stopped_worker() -> None:
    """Ctrl+C twice, and once more out of impatience."""
    with lenders(1) as (worker,):
        command = [*RUN, "--rpc", worker.endpoint, "--no-speculative", "--raw", "-n", "1000", "The river"]
        with started(command) as program:
            worker.send(signal.SIGSTOP)
            time.sleep(0.2)  # it waits for the worker now
            for _ in range(3):
                program.send_signal(signal.SIGINT)
                time.sleep(0.2)
            _, err = program.communicate(timeout=10)
    assert (program.returncode, err) == (130, "")
