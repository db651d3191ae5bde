"""The engine through real processes, pipes and deaths; what answers is the fake EFT of fake_worker.py.

About 12 s: some 60 processes are started, and hangs take the time they are given.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from eftlite.errors import BusyError, ContextError, EFTError, EngineError, InputError, UnavailableError, WorkerError
from eftlite.events import TokenEvent
from eftlite.server import keeper
from eftlite.server.asking import Ask, Engine, Running
from eftlite.server.engine import WorkerEngine
from eftlite.server.protocol import WINDOW, Begin, LoadRequest
from eftlite.server.wire import encode
from eftlite.settings import Knobs, Sampling
from tests.server import fake_worker

KNOBS = Knobs()
FATAL = {
    f"kill {int(signal.SIGABRT)}": "died (SIGABRT)",
    f"kill {int(signal.SIGSEGV)}": "died (SIGSEGV)",
    f"kill {int(signal.SIGKILL)}": "died (SIGKILL)",
    f"kill {int(signal.SIGSTOP)}": "did not answer for 0.75 s",
    "exit 3": "ended (exit code 3)",
    "stuck": "did not get on for 0.75 s",
    "garbage": "wrote what is no message",
    "unknown": "wrote of a request that there is not",
}


def ask(prompt: str, **fields: Any) -> Ask:
    return Ask(KNOBS, prompt=prompt, **fields)


def command(folder: Path, *plan: str) -> list[str]:
    path = folder / "plan"
    path.write_text("\n".join(plan or ("ok",)))
    return [sys.executable, str(Path(fake_worker.__file__)), str(path)]


def folder(parent: Path, name: str) -> Path:
    made = parent / name.replace(" ", "-")
    made.mkdir()
    return made


def n_lives(folder: Path) -> int:
    return len((folder / "plan.lives").read_bytes())


@asynccontextmanager
async def engine(folder: Path, *plan: str, n_slots: int = 2, **options: Any) -> AsyncIterator[WorkerEngine]:
    """A started engine; nothing of it may be left afterwards."""
    options = {"hang_s": 10.0, **options}
    made = WorkerEngine(LoadRequest(n_slots=n_slots), command=command(folder, *plan), **options)
    await made.start()
    try:
        yield made
    finally:
        await made.close()
        assert (made.n_running, made.n_waiting, made.state) == (0, 0, "closed")


def run(*mains: Coroutine[Any, Any, None]) -> None:
    """All at the same time; no process and no task may be left of them."""

    async def together() -> None:
        before = len(asyncio.all_tasks()), len(psutil.Process().children())
        await asyncio.wait_for(asyncio.gather(*mains), 30)
        await asyncio.sleep(0)  # tasks that were cancelled end now
        assert (len(asyncio.all_tasks()), len(psutil.Process().children())) == before

    asyncio.run(together())


class Shared:
    """One engine for all tests that do it no harm, in a loop of its own."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self._made = engine(folder)
        self.engine = self.loop.run_until_complete(self._made.__aenter__())
        self.loop.run_until_complete(self.engine.ready(10))

    def run(self, test: Callable[[WorkerEngine], Coroutine[Any, Any, None]]) -> None:
        self.loop.run_until_complete(asyncio.wait_for(test(self.engine), 30))
        made = self.engine
        self.loop.run_until_complete(asyncio.wait_for(until(lambda: made.n_running == 0), 5))
        assert (made.state, made.n_restarts, made.n_waiting) == ("ready", 0, 0)

    def close(self) -> None:
        self.loop.run_until_complete(self._made.__aexit__(None, None, None))
        self.loop.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    made = Shared(tmp_path_factory.mktemp("shared"))
    yield made
    made.close()


@asynccontextmanager
async def busy(made: WorkerEngine) -> AsyncIterator[None]:
    """Both slots taken."""
    async with await made.answer(ask("forever")) as first, await made.answer(ask("forever")) as second:
        await asyncio.gather(first_event(first), first_event(second))
        yield


@pytest.fixture(autouse=True)
def short_back_off(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many fruitless lives there were each time, in place of the wait for them."""
    asked: list[int] = []

    def back_off_s(n_fruitless: int) -> float:
        asked.append(n_fruitless)
        return 0.0

    monkeypatch.setattr(keeper, "back_off_s", back_off_s)
    return asked


def pid(made: WorkerEngine) -> int:
    assert made._child is not None
    return made._child.pid


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        await asyncio.sleep(0.005)


async def events(running: Running) -> list[TokenEvent]:
    async with running:
        return [event async for event in running]


async def text(made: Engine, prompt: str, client: str = "") -> str:
    return "".join(event.text for event in await events(await made.answer(ask(prompt), client)))


async def first_event(running: Running) -> TokenEvent:
    return await running.__aiter__().__anext__()


# ---- answers


def test_an_answer_with_all_it_tells(shared: Shared) -> None:
    async def main(made: WorkerEngine) -> None:
        about = await made.ready(10)
        assert (about.family, about.n_slots, made.state) == ("fake", 2, "ready")
        async with await made.answer(ask("count 3", sampling=Sampling(seed=99))) as running:
            found = [event async for event in running]
            assert [event.text for event in found] == ["0 ", "1 ", "end"]
            assert found[0] == fake_worker.event("0 ")
            assert running.seed == 99
            assert (running.statistics.n_tokens, running.statistics.finish_reason) == (3, "stop")
        assert await made.tokenize("ab", True, False) == [1, 97, 98]
        assert await made.detokenize([104, 105]) == b"hi"
        assert await made.render([{"role": "user", "content": "x"}]) == "1 None"
        assert [event.text for event in await made.score("xyz", KNOBS, 0)] == ["x", "y", "z"]
        assert (await made.memory())["resident"] > 1 << 20

    shared.run(main)


def test_what_a_library_prints_is_no_message(shared: Shared) -> None:
    async def main(made: WorkerEngine) -> None:
        assert await text(made, "print") == "printed"

    shared.run(main)


@pytest.mark.parametrize(
    ("prompt", "kind"), [("refuse 9", ContextError), ("early", ContextError), ("bug", EngineError)]
)
def test_an_error_ends_one_request_alone(prompt: str, kind: type[EFTError], shared: Shared) -> None:
    async def main(made: WorkerEngine) -> None:
        other = asyncio.ensure_future(text(made, "slowly 9"))
        with pytest.raises(kind) as caught:
            await text(made, prompt)
        assert "secret" not in str(caught.value)
        if prompt == "refuse 9":
            assert vars(caught.value) == vars(ContextError("prompt: too long", "Shorten it", 9, 7))
        assert (await other).endswith("end")

    shared.run(main)


def test_data_nested_too_deeply_are_refused_and_harm_nobody(shared: Shared) -> None:
    nested: Any = "x"
    for _ in range(5000):
        nested = [nested]

    async def main(made: WorkerEngine) -> None:
        with pytest.raises(InputError, match="nested too deeply"):
            await made.answer(Ask(KNOBS, messages=[{"role": "user", "content": nested}]))
        with pytest.raises(InputError, match="nested too deeply"):
            await made.render([{"role": "user", "content": nested}])
        assert await text(made, "count 1") == "end"

    shared.run(main)


# ---- knobs and stops


def test_knobs_act_while_it_answers(shared: Shared) -> None:
    async def main(made: WorkerEngine) -> None:
        async with await made.answer(ask("alpha")) as running:
            seen = []
            async for event in running:
                seen.append(event.text)
                if len(seen) == 3:
                    await running.set_knobs(Knobs((2.5,)))
                if event.text == "2.5 ":
                    with pytest.raises(InputError, match="expected 1, got 2"):
                        await running.set_knobs(Knobs((1.0, 1.0)))
                    await running.set_knobs(Knobs((0.0,)))
            assert (seen[0], "2.5 " in seen, seen[-1]) == ("1 ", True, "0")
            assert running.knobs == Knobs((0.0,))

    shared.run(main)


def test_knobs_of_an_answer_that_waits(shared: Shared) -> None:
    async def main(made: WorkerEngine) -> None:
        async with busy(made):
            running = await made.answer(ask("alpha"))
            await running.set_knobs(Knobs((3.0,)))
            assert made.n_waiting == 1
        assert (await first_event(running)).text == "3 "
        await running.set_knobs(Knobs((0.0,)))
        assert (await events(running))[-1].text == "0"

    shared.run(main)


@pytest.mark.parametrize("prompt", ["forever", "wait", "slowly 1000"])
def test_a_stop_gives_a_cancelled_end(prompt: str, shared: Shared) -> None:
    async def main(made: WorkerEngine) -> None:
        async with await made.answer(ask(prompt)) as running:
            await asyncio.sleep(0.02)
            began = time.monotonic()
            await running.stop()
            found = [event async for event in running]
            assert time.monotonic() - began < 0.25
            assert found[-1].finish_reason == running.statistics.finish_reason == "cancelled"
            await running.stop()
            await running.set_knobs(KNOBS)

    shared.run(main)


def test_a_waiting_answer_that_is_stopped_or_left_never_runs(shared: Shared) -> None:
    async def main(made: WorkerEngine) -> None:
        async with busy(made):
            stopped, left, kept = [await made.answer(ask("count 1")) for _ in range(3)]
            assert (made.n_running, made.n_waiting) == (2, 3)
            await stopped.stop()
            assert [event.finish_reason async for event in stopped] == ["cancelled"]
            assert stopped.statistics.finish_reason == "cancelled"
            async with left:
                pass
            assert (made.n_running, made.n_waiting) == (2, 1)
        assert [event.text for event in await events(kept)] == ["end"]
        assert (stopped.seed, left.seed) == (-1, -1)

    shared.run(main)


@pytest.mark.parametrize("prompt", ["forever", "wait"])
def test_leaving_frees_the_slots(prompt: str, shared: Shared) -> None:
    async def main(made: WorkerEngine) -> None:
        async with await made.answer(ask(prompt)), await made.answer(ask(prompt)):
            await asyncio.sleep(0.02)
        began = time.monotonic()
        assert await text(made, "count 1") == "end"
        assert time.monotonic() - began < 0.25

    shared.run(main)


@pytest.mark.parametrize("delay_s", [0.0, 0.02])
def test_cancelling_frees_the_slot(delay_s: float, shared: Shared) -> None:
    """Whatever was being awaited: an answer, a score, a call, being ready."""

    async def main(made: WorkerEngine) -> None:
        waits: list[Coroutine[Any, Any, Any]] = [
            *(text(made, "forever") for _ in range(3)),
            made.score("x" * 100_000, KNOBS, 0),
            made.tokenize("x" * 10_000, False, False),
            made.ready(10),
        ]
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        await asyncio.sleep(delay_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert made.n_waiting == 0
        assert await text(made, "count 1") == "end"

    shared.run(main)


def test_a_client_that_takes_nothing_holds_up_nobody(shared: Shared) -> None:
    async def main(made: WorkerEngine) -> None:
        async with await made.answer(ask("forever")) as slow:
            await first_event(slow)
            for _ in range(3):
                assert (await text(made, "count 300")).endswith("298 end")
            assert len(slow._events) <= WINDOW
            for _ in range(3 * WINDOW):  # and it goes on as soon as it is listened to
                await first_event(slow)

    shared.run(main)


# ---- the line


def test_requests_that_come_while_it_is_loaded_wait(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path, f"until {tmp_path / 'go'}") as made:
            texts = asyncio.gather(text(made, "count 1"), text(made, "count 2"))
            ids = asyncio.ensure_future(made.tokenize("a", False, False))
            await until(lambda: made.progress[1] == 0.5)
            assert (made.state, made.n_waiting, made.n_running, ids.done()) == ("loading", 2, 0, False)
            (tmp_path / "go").touch()
            assert list(await texts) == ["end", "0 end"]
            assert await ids == [97]

    run(main())


def test_sixteen_wait_and_ten_more_are_refused(tmp_path: Path) -> None:
    """Row 12, without HTTP."""

    async def main() -> None:
        async with engine(tmp_path, n_slots=2, max_waiting=16) as made:
            await made.ready(10)
            async with busy(made):
                waiting = [await made.answer(ask(f"count {i + 1}")) for i in range(16)]
                for _ in range(10):
                    began = time.monotonic()
                    with pytest.raises(BusyError) as caught:
                        await made.answer(ask("count 1"))
                    assert time.monotonic() - began < 0.1
                    assert caught.value.retry_after_s >= 1
            for i, running in enumerate(waiting):
                assert len(await events(running)) == i + 1

    run(main())


def test_clients_take_turns(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path, n_slots=1) as made:
            await made.ready(10)
            order: list[str] = []

            async def note(client: str) -> None:
                await text(made, "count 3", client)
                order.append(client)

            async with await made.answer(ask("forever"), "greedy") as first:
                await first_event(first)
                tasks = [asyncio.ensure_future(note(client)) for client in ("greedy",) * 3 + ("modest",) * 2]
                await until(lambda: made.n_waiting == 5)
            await asyncio.gather(*tasks)
            assert order == ["greedy", "modest", "greedy", "modest", "greedy"]

    run(main())


# ---- deaths


def test_deaths_are_told_and_mended(tmp_path: Path) -> None:
    """Who was being answered is told why; who waited is answered by the next process."""

    async def main(prompt: str) -> None:
        async with engine(folder(tmp_path, prompt), n_slots=2, hang_s=0.75, step_limit_s=0.75) as made:
            await made.ready(10)
            killer, beside = await made.answer(ask(prompt)), await made.answer(ask("forever"))
            waiting = [asyncio.ensure_future(text(made, f"count {n}")) for n in (1, 2, 3)]
            for running in (killer, beside):
                with pytest.raises(WorkerError) as caught:
                    await events(running)
                assert caught.value.message == f"engine: its process {FATAL[prompt]} in the middle of this request"
                assert (caught.value.http_status, caught.value.retry_after_s) == (503, 1)
            assert made.state == "restarting"
            assert await asyncio.gather(*waiting) == ["end", "0 end", "0 1 end"]
            assert (made.n_restarts, made.state) == (1, "ready")

    run(*map(main, FATAL))


def test_calls_are_told_of_a_death_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as made:
            await made.ready(10)
            os.kill(pid(made), signal.SIGSTOP)
            call = asyncio.ensure_future(made.tokenize("a", False, False))
            await asyncio.sleep(0)
            os.kill(pid(made), signal.SIGKILL)
            with pytest.raises(WorkerError, match="SIGKILL"):
                await call
            assert await made.tokenize("a", False, False) == [97]

    run(main())


def test_a_death_while_idle_is_mended(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as made:
            await made.ready(10)
            os.kill(pid(made), signal.SIGKILL)
            await until(lambda: made.n_restarts == 1)
            assert await text(made, "count 1") == "end"

    run(main())


def test_a_reply_that_nobody_waits_for_harms_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as made:
            await made.ready(10)
            os.kill(pid(made), signal.SIGSTOP)
            call = asyncio.ensure_future(made.tokenize("a", False, False))
            await asyncio.sleep(0.01)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            os.kill(pid(made), signal.SIGCONT)
            assert await made.tokenize("b", False, False) == [98]
            assert (made.n_restarts, made.state) == (0, "ready")

    run(main())


def test_ctrl_c_does_not_reach_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as made:
            await made.ready(10)
            async with await made.answer(ask("slowly 10")) as running:
                await first_event(running)
                os.kill(pid(made), signal.SIGINT)
                assert [event async for event in running][-1].text == "end"
            assert made.n_restarts == 0

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # else it is ignored from the start, by nohup say
    try:
        run(main())
    finally:
        signal.signal(signal.SIGINT, before)


def test_loading_is_tried_again(tmp_path: Path) -> None:
    async def main(how: str) -> None:
        place = folder(tmp_path, how)
        async with engine(place, how, how, "ok", hang_s=0.5) as made:
            assert await text(made, "count 1") == "end"
            assert (n_lives(place), made.n_restarts, made.failure) == (3, 2, "")

    run(main("kill 9"), main("fail"), main(f"kill {int(signal.SIGSTOP)}"))


def test_what_cannot_be_loaded_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is no model stays one; anything else is tried three times. The operator's log says why."""

    async def main(how: str, lives: int, reason: str) -> None:
        place = folder(tmp_path, how)
        async with engine(place, how) as made:
            waiting = await made.answer(ask("count 1"))
            with pytest.raises(UnavailableError, match="could not be loaded") as caught:
                await events(waiting)
            assert caught.value.retry_after_s == 0
            assert reason not in str(caught.value), "it may name what clients need not know"
            assert (made.state, n_lives(place)) == ("failed", lives)
            assert reason in made.failure
            began = time.monotonic()
            for wait in (made.answer(ask("count 1")), made.tokenize("a", True, False), made.ready(10)):
                with pytest.raises(UnavailableError):
                    await wait
            assert time.monotonic() - began < 0.1

    run(
        main("kill 9", 3, "its process died (SIGKILL) 3 times while loading"),
        main("fail", 3, "base: no memory. Take less"),
        main("refuse", 1, "base.gguf: not a model. Take another"),
    )
    told = [record.getMessage() for record in caplog.records]
    assert [sum(reason in line for line in told) for reason in ("no memory. Take less", "not a model")] == [3, 1]


def test_a_machine_that_is_away_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, short_back_off: list[int]
) -> None:
    """However long; clients are not told its name, the operator is, and only once."""
    seconds = keeper.away_s
    monkeypatch.setattr(keeper, "away_s", lambda error: seconds(error) / 100)

    async def main() -> None:
        async with engine(tmp_path, "ok", *["away"] * 5, "ok") as made:
            await made.ready(10)
            with pytest.raises(WorkerError) as caught:
                await text(made, "lost")
            assert "10.0.0.7" not in str(caught.value)
            assert await text(made, "count 1") == "end"
            assert (n_lives(tmp_path), made.state, made.failure) == (7, "ready", "")

    run(main())
    assert not short_back_off
    assert len([record for record in caplog.records if "10.0.0.7:50052" in record.getMessage()]) == 1


def test_a_crash_loop_is_slowed_down(tmp_path: Path, short_back_off: list[int]) -> None:
    """By the deaths in a row between which nobody got an answer."""

    async def main() -> None:
        async with engine(tmp_path) as made:
            for prompt in ("exit 1", "exit 1", "exit 1", "count 1", "exit 1", "exit 1"):
                with contextlib.suppress(WorkerError):
                    await text(made, prompt)
            await made.ready(10)
            assert short_back_off == [1, 2, 3, 0, 1]

    run(main())


def test_one_that_was_loaded_before_may_fail_later(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path, "ok", "kill 9") as made:
            await made.ready(10)
            with pytest.raises(WorkerError):
                await text(made, "exit 1")
            with pytest.raises(UnavailableError):
                await text(made, "count 1")
            assert (made.state, n_lives(tmp_path)) == ("failed", 4)
            assert made.about is not None

    run(main())


def test_a_program_that_cannot_be_started_fails() -> None:
    async def main() -> None:
        made = WorkerEngine(LoadRequest(), command=["/nonexistent/python"])
        await made.start()
        with pytest.raises(UnavailableError):
            await made.ready(10)
        assert "cannot be started (No such file or directory)" in made.failure
        await made.close()

    run(main())


def test_patience_ends_and_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path, f"until {tmp_path / 'go'}", patience_s=0.2) as made:
            began = time.monotonic()
            with pytest.raises(UnavailableError, match="still being loaded") as caught:
                await text(made, "count 1")
            assert 0.15 < time.monotonic() - began < 2.0
            assert caught.value.retry_after_s >= 1
            with pytest.raises(UnavailableError):
                await made.answer(ask("count 1"))
            with pytest.raises(UnavailableError):
                await made.ready(0.0)
            (tmp_path / "go").touch()
            await made.ready(10)
            assert await text(made, "count 1") == "end"

    run(main())


# ---- the end


def test_closing_tells_everybody(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path, n_slots=1) as made:
            await made.ready(10)
            async with await made.answer(ask("forever")) as running:
                await first_event(running)
                waiting = await made.answer(ask("count 1"))
                await made.close()
                for one in (running, waiting):
                    with pytest.raises(UnavailableError, match="closed"):
                        await events(one)
            with pytest.raises(UnavailableError, match="closed"):
                await made.answer(ask("count 1"))
            await made.close()

    run(main())


def test_closing_at_any_moment_of_a_start(tmp_path: Path) -> None:
    async def main(number: int, plan: str, n_steps: int, delay_s: float = 0.0) -> None:
        async with engine(folder(tmp_path, str(number)), plan) as made:
            for _ in range(n_steps):
                await asyncio.sleep(0)
            await asyncio.sleep(delay_s)
            await asyncio.wait_for(made.close(), 5)

    starting = [main(n_steps, "until /nonexistent", n_steps) for n_steps in range(12)]
    run(*starting, main(100, "until /nonexistent", 0, 0.3), main(101, "kill 19", 0, 0.5))


def test_closing_may_be_cancelled_or_come_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path) as made:
            await made.ready(10)
            closing = asyncio.ensure_future(made.close())
            await asyncio.sleep(0)
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)
        await WorkerEngine(LoadRequest()).close()

    run(main())


PARENT = """
import asyncio, sys
from eftlite.server.asking import Ask
from eftlite.server.engine import WorkerEngine
from eftlite.server.protocol import LoadRequest
from eftlite.settings import Knobs

async def main():
    made = WorkerEngine(LoadRequest(n_slots=2), command=sys.argv[2:])
    await made.start()
    await made.ready(10)
    async with await made.answer(Ask(Knobs(), prompt=sys.argv[1])) as running:
        async for event in running:
            pass

asyncio.run(main())
"""


def test_it_does_not_outlive_the_server(tmp_path: Path) -> None:
    """The server is killed while a step is being made, or while events are on the pipe."""
    prompts = ("stuck", "forever", "wait")
    started = [subprocess.Popen([sys.executable, "-c", PARENT, p, *command(folder(tmp_path, p))]) for p in prompts]
    servers = [psutil.Process(server.pid) for server in started]
    deadline = time.monotonic() + 10
    while not all(len(server.children()) == 1 for server in servers) and time.monotonic() < deadline:
        time.sleep(0.01)
    children = [child for server in servers for child in server.children()]
    time.sleep(0.5)
    for server in started:
        server.kill()
        server.wait()
    _, alive = psutil.wait_procs(children, 2)
    assert (len(children), alive) == (3, [])


def test_it_ends_with_the_pipe_it_is_told_by(tmp_path: Path) -> None:
    """At once, even when somebody still reads what it says."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command(tmp_path), stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(encode(LoadRequest(n_slots=1)) + encode(Begin(1, ask("stuck"))))
        process.stdin.flush()
        while b'"Events"' not in process.stdout.readline():
            pass
        process.stdin.close()
        assert process.wait(2) == 0


def test_nothing_is_left_of_processes_that_died(tmp_path: Path) -> None:
    """No zombie, no descriptor, no task; 50 of them in tests/stress."""

    async def main() -> None:
        async with engine(tmp_path) as made:
            await made.ready(10)
            assert await text(made, "count 1") == "end"
            before = psutil.Process().num_fds()
            for n in range(3):
                with contextlib.suppress(WorkerError):
                    await text(made, "exit 1" if n % 2 else "garbage")
                assert await text(made, "count 1") == "end"
            assert psutil.Process().num_fds() == before

    run(main())
