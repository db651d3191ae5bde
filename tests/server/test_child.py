from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from eftlite.server import child as child_module
from eftlite.server.child import Child
from eftlite.server.protocol import Beat, Progress, Stop
from eftlite.server.wire import encode

TELL = """
import sys, time, os, signal
def tell(text):
    sys.stdout.write(text + chr(10))
    sys.stdout.flush()
def beat(n, seconds=0.0, doing="answering"):
    tell('{"$":"Beat","n_steps":%d,"decode_s":%r,"doing":"%s"}' % (n, seconds, doing))
"""
LOADING = 'beat(0, 0.0, "loading")\n'


async def started(code: str, hang_s: float = 30.0, step_limit_s: float = 30.0) -> Child:
    return await Child.start([sys.executable, "-S", "-c", TELL + code], hang_s, step_limit_s)


def with_child(
    code: str, use: Callable[[Child], Awaitable[Any]], hang_s: float = 30.0, step_limit_s: float = 30.0
) -> tuple[Any, str, Child]:
    """What ``use`` gives, why the program ended, and the child itself."""

    async def run() -> tuple[Any, str, Child]:
        child = await started(code, hang_s, step_limit_s)
        try:
            result = await asyncio.wait_for(use(child), 20)
        finally:
            cause = await child.end()
        return result, cause, child

    return asyncio.run(run())


async def to_the_end(child: Child) -> list[Any]:
    messages = []
    while (message := await child.receive()) is not None:
        messages.append(message)
    return messages


def line(message: Any) -> str:
    return f"tell({encode(message).decode().strip()!r})\n"


def test_messages_come_in_order_and_beats_are_kept_back() -> None:
    sent = [Progress("base", 0.5), Progress("base", 1.0)]
    messages, cause, _ = with_child(LOADING + line(sent[0]) + "beat(1)\n" + line(sent[1]), to_the_end)
    assert messages == sent
    assert cause == "ended (exit code 0)"


def test_messages_reach_it() -> None:
    async def ask(child: Child) -> Any:
        child.send(Stop(7))
        return await child.receive()

    code = "assert sys.stdin.readline() == " + repr(encode(Stop(7)).decode()) + "\n" + line(Progress("heard", 1.0))
    assert with_child(code, ask)[0] == Progress("heard", 1.0)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("sys.exit(3)", "ended (exit code 3)"),
        ("os.close(1); time.sleep(0.3); os._exit(4)", "ended (exit code 4)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "died (SIGSEGV)"),
        ("os.abort()", "died (SIGABRT)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "died (SIGKILL)"),
        ("os.kill(os.getpid(), signal.SIGRTMIN + 1)", "died (signal 35)"),
        ("os.close(1); time.sleep(60)", "died (SIGKILL)"),
        ("tell('no message'); time.sleep(60)", "wrote what is no message"),
        ("sys.stdout.write('torn'); sys.stdout.flush()", "ended (exit code 0)"),
    ],
)
def test_every_end_has_its_cause(code: str, cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "_DYING_LIMIT_S", 0.5)
    began = time.monotonic()
    messages, found, _ = with_child(code, to_the_end)
    assert (messages, found) == ([], cause)
    assert time.monotonic() - began < 5.0


def test_a_line_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "MAX_LINE_BYTES", 1 << 16)
    code = "while True: sys.stdout.write('x' * 65536)"
    assert with_child(code, to_the_end)[1] == "wrote what is no message"


# ---- hanging


def loop(step: str) -> str:
    """Ten times in a second."""
    return f"for i in range(10):\n    {step}\n    time.sleep(0.1)\n"


LIVES = "ended (exit code 0)"
LONG_LIVES = {
    LOADING + "time.sleep(60)": "did not answer for 0.5 s",
    LOADING + "os.kill(os.getpid(), signal.SIGSTOP)": "did not answer for 0.5 s",
    "while True: beat(3); time.sleep(0.1)": "did not get on for 0.5 s",
    "while True: beat(3, 1.5, 'loading'); time.sleep(0.1)": "did not get on for 0.5 s",
    loop("beat(i)"): LIVES,  # steps are finished
    loop("beat(3, i / 10)"): LIVES,  # a long prompt is being read, a batch at a time
    loop("beat(3, 0.0, 'idle')"): LIVES,
    "time.sleep(1.0)": LIVES,  # importing may take longer: libraries come from a disk that may be slow
}


def test_one_that_hangs_is_ended_and_others_live() -> None:
    async def run(code: str) -> str:
        child = await started(code, hang_s=0.5, step_limit_s=0.5)
        await asyncio.wait([asyncio.ensure_future(to_the_end(child))], timeout=5)
        return await child.end()

    async def run_all() -> list[str]:
        return await asyncio.gather(*map(run, LONG_LIVES))

    began = time.monotonic()
    found = asyncio.run(run_all())
    assert dict(zip(LONG_LIVES, found, strict=True)) == LONG_LIVES
    assert time.monotonic() - began < 3.0


def test_a_server_that_was_busy_blames_nobody() -> None:
    """Beats that could not be read while the loop was blocked were not missed."""

    async def block(child: Child) -> list[Any]:
        await asyncio.sleep(0.2)
        time.sleep(0.9)  # blocks the loop
        return await to_the_end(child)

    code = "for i in range(14): beat(i); time.sleep(0.1)"
    assert with_child(code, block, hang_s=0.6, step_limit_s=0.6)[1] == "ended (exit code 0)"


# ---- what it leaves


def test_the_last_lines_of_stderr_are_kept() -> None:
    code = "for i in range(1000): print(i, file=sys.stderr)\nsys.stderr.write('z' * 100_000)"
    _, _, child = with_child(code, to_the_end)
    assert list(child.stderr)[:-1] == [str(i) for i in range(951, 1000)]
    assert child.stderr[-1] == "z" * 500


def test_sending_to_one_that_is_dead_is_harmless() -> None:
    async def send(child: Child) -> None:
        await to_the_end(child)
        for _ in range(20):
            child.send(Stop(1))
            await asyncio.sleep(0)

    assert with_child("sys.exit(1)", send)[1] == "ended (exit code 1)"


def test_the_folder_it_is_started_in_is_not_searched(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(tmp_path)

    async def run() -> str:
        child = await Child.start(child_module.worker_command(), 30.0, 30.0)
        child.send_line(b"\n")
        assert await child.receive() is None
        await child.end()
        return "\n".join(child.stderr)

    stderr = asyncio.run(run())
    assert "ProtocolError" in stderr
    assert "working directory" not in stderr


def test_beats_are_what_they_were() -> None:
    """The programs above write them by hand."""
    assert encode(Beat(3, 1.5, "idle")).decode() == '{"$":"Beat","n_steps":3,"decode_s":1.5,"doing":"idle"}\n'
