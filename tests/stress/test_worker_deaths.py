"""The engine's process killed, frozen and left alone in every phase, with the bundled family: what clients see of it.

Duration: about 6 minutes on two quiet cores, ``pytest -m stress tests/stress/test_worker_deaths.py -s``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from eftlite import EFT
from eftlite.errors import WorkerError
from eftlite.server.asking import Ask
from eftlite.server.engine import WorkerEngine
from eftlite.server.protocol import LoadRequest
from eftlite.server.running import RunningAnswer
from eftlite.settings import Knobs, Limits, ModelSettings, Sampling, Speculation
from tests.fakes import assert_same_text
from tests.server import fake_worker

pytestmark = pytest.mark.stress

PLAIN = Speculation(enabled=False)
KNOBS = Knobs((1.0, 0.0))
N_TRIALS = 10
N_STOPS = 200
N_RESTARTS = 50
HANG_S = 1.5
TOLD_S, READY_S = 2.0, 5.0
FREE_S = 0.25
TOWNS = ("Cresshurst", "Oakford", "Milbury", "Ashwick", "Thornby")


def ask(prompt: Any = "The river", seed: int = 1, n: int = 24) -> Ask:
    return Ask(KNOBS, prompt=prompt, sampling=Sampling(seed=seed), limits=Limits(n), speculation=PLAIN)


def long_prompt(number: int) -> str:
    """About 700 tokens that no cache holds."""
    return f"{number} {TOWNS[number % 5]}. " + "The river runs through the town. " * 85


@asynccontextmanager
async def loaded(n_slots: int = 2, **options: Any) -> AsyncIterator[WorkerEngine]:
    """The bundled family behind a pipe; afterwards no process is left, not even a dead one."""
    before = psutil.Process().children()
    engine = WorkerEngine(LoadRequest(n_slots=n_slots, settings=ModelSettings(n_threads=1)), **options)
    await engine.start()
    try:
        await engine.ready(60)
        yield engine
    finally:
        await engine.close()
        assert psutil.Process().children() == before


async def ids(engine: WorkerEngine, asked: Ask) -> list[int]:
    async with await engine.answer(asked) as running:
        return [event.id async for event in running]


async def until(condition: Callable[[], Any], seconds: float = 60.0) -> float:
    """Seconds until the condition holds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it never came"
        await asyncio.sleep(0.001)
    return time.monotonic() - began


def child(engine: WorkerEngine) -> int:
    assert engine._child is not None
    return engine._child.pid


# ---- row 18


class Trial:
    """One death.

    Attributes:
        waiting: answers that were queued before it.
        told_s: from the signal to the client's error; 0 in loading, when nobody is being answered.
        ready_s: from the signal until the engine is ready again.
    """

    def __init__(self, engine: WorkerEngine, number: signal.Signals, seed: str) -> None:
        self.engine, self.number, self.rng = engine, number, random.Random(seed)
        self.waiting: list[asyncio.Task[list[int]]] = []
        self.told_s = self.ready_s = 0.0

    def queue(self) -> None:
        self.waiting = [asyncio.ensure_future(ids(self.engine, ask())) for _ in range(3)]

    async def in_load(self) -> None:
        """Its modules are there when it dies: before that it may be slow, and a hang is found later."""
        engine = self.engine
        while True:
            os.kill(child(engine), signal.SIGKILL)
            await until(lambda: engine.state == "restarting")
            engine.progress = ("", 0.0)
            await until(lambda: engine.progress != ("", 0.0))
            await asyncio.sleep(self.rng.uniform(0.0, 0.2))
            if engine.state == "restarting":
                break
            await ids(engine, ask())  # it was loaded already
        self.queue()
        n_restarts, began = engine.n_restarts, time.monotonic()
        (process,) = psutil.Process().children()
        process.send_signal(self.number)
        await until(lambda: engine.n_restarts > n_restarts)
        await engine.ready(60)
        self.ready_s = time.monotonic() - began

    async def in_answer(self, asked: Ask, n_events: int, delay_s: float) -> None:
        """After so many events and seconds."""
        async with await self.engine.answer(asked) as running:
            self.queue()
            for _ in range(n_events):
                await running.__anext__()
            await asyncio.sleep(delay_s)
            assert self.engine.n_running == 1, "it was answered too fast"
            began = time.monotonic()
            os.kill(child(self.engine), self.number)
            with pytest.raises(WorkerError, match="in the middle of this request") as caught:
                async for _ in running:
                    pass
            self.told_s = time.monotonic() - began
            assert "/" not in str(caught.value)
        await self.engine.ready(60)
        self.ready_s = time.monotonic() - began

    async def run(self, phase: str, number: int) -> None:
        if phase == "load":
            await self.in_load()
        elif phase == "prompt":
            await self.in_answer(ask(long_prompt(number)), 0, self.rng.uniform(0.0, 0.2))
        else:
            await self.in_answer(ask(n=900), self.rng.randrange(1, 40), self.rng.uniform(0.0, 0.01))


@pytest.mark.parametrize("phase", ["load", "prompt", "decode"])
@pytest.mark.parametrize(
    "number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL, signal.SIGSTOP], ids=lambda n: n.name
)
def test_deaths_are_told_and_mended(number: signal.Signals, phase: str) -> None:
    """Row 18: ten deaths each; the client is told, those who wait are answered, and rightly."""

    async def main() -> list[Trial]:
        trials = []
        async with loaded(n_slots=1, hang_s=HANG_S) as engine:
            right = await ids(engine, ask())
            for i in range(N_TRIALS):
                trial = Trial(engine, number, f"{number} {phase} {i}")
                await trial.run(phase, i)
                assert await asyncio.gather(*trial.waiting) == [right] * 3
                assert await ids(engine, ask()) == right
                trials.append(trial)
            assert engine.n_restarts >= N_TRIALS
        return trials

    trials = asyncio.run(main())
    told, ready = [trial.told_s for trial in trials], [trial.ready_s for trial in trials]
    print(f"{number.name} in {phase}: told after {worst(told)}, ready after {worst(ready)}")
    hang_s = HANG_S if number == signal.SIGSTOP else 0.0
    assert max(told) < TOLD_S + hang_s
    assert max(ready) < READY_S + hang_s


def worst(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f} s, {max(seconds):.3f} s at most"


# ---- row 14, the engine's part


async def left_at_random(engine: WorkerEngine, running: RunningAnswer, rng: random.Random) -> None:
    """Read for a while, then stop, leave, or be cancelled."""
    how = rng.choice(["stop", "leave", "cancel"])

    async def read() -> None:
        async with running:
            async for _ in running:
                pass

    reading = asyncio.ensure_future(read())
    await asyncio.sleep(rng.expovariate(1 / 0.08))
    if how == "stop":
        await running.stop()
    elif how == "cancel":
        reading.cancel()
    else:
        await running.__aexit__()
        reading.cancel()


def test_stops_free_the_engine() -> None:
    """200 clients leave at random moments, in the line, in the prompt phase and later."""

    async def main() -> list[float]:
        rng, seconds = random.Random(14), []
        async with loaded(n_slots=2) as engine:
            right = await ids(engine, ask())
            for trial in range(N_STOPS):
                asked = ask(long_prompt(trial)) if trial % 2 else ask(n=900, seed=trial)
                running = [await engine.answer(asked) for _ in range(rng.choice([1, 2, 4]))]
                await asyncio.gather(*(left_at_random(engine, one, rng) for one in running))
                seconds.append(await until(lambda: not engine.n_running and not engine.n_waiting))
                if trial % 5 == 0:
                    assert await ids(engine, ask()) == right
            assert engine.n_restarts == 0
            assert await ids(engine, ask()) == right
        return seconds

    seconds = asyncio.run(main())
    print(f"{N_STOPS} stops: free after {worst(seconds)}")
    assert max(seconds) < FREE_S


# ---- answers at the same time


def test_a_hundred_answers_do_not_mix() -> None:
    """Through four slots; each is the answer that its seed gives alone, or parts from it at a numerical tie."""
    asks = [ask(f"The river at {TOWNS[i % 5]}", seed=i, n=40) for i in range(100)]

    async def main() -> list[list[int]]:
        async with loaded(n_slots=4, max_waiting=100) as engine:
            return await asyncio.gather(*(ids(engine, asked) for asked in asks))

    found = asyncio.run(main())
    n_different = 0
    with EFT(n_slots=4, n_threads=1) as eft:
        for asked, got in zip(asks, found, strict=True):
            assert isinstance(asked.prompt, str)
            alone = eft.complete(
                asked.prompt, sampling=asked.sampling, limits=asked.limits, knobs=KNOBS, speculation=PLAIN
            )
            expected = [event.id for event in alone]
            n_different += got != expected
            prompts = [eft._text_ids(asked.prompt)] * len(eft.members)
            assert_same_text(eft, prompts, expected, got, asked.sampling, KNOBS)
    print(f"100 answers through 4 slots: {n_different} part from their solo run at a tie")


# ---- what is left


def test_nothing_is_left_of_fifty_processes(tmp_path: Path) -> None:
    """No zombie, no descriptor, no growth: 50 deaths of the fake worker, by every way to die."""
    plan = tmp_path / "plan"
    plan.write_text("ok")
    deaths = ("exit 1", "garbage", "unknown", f"kill {int(signal.SIGSEGV)}", f"kill {int(signal.SIGKILL)}")

    async def main() -> None:
        command = [sys.executable, str(Path(fake_worker.__file__)), str(plan)]
        engine = WorkerEngine(LoadRequest(n_slots=2), command=command)
        await engine.start()
        figures = []
        me = psutil.Process()
        for n in range(N_RESTARTS + 1):
            assert await ids(engine, Ask(KNOBS, prompt="count 3"))
            figures.append((me.num_fds(), len(me.children()), me.num_threads(), len(asyncio.all_tasks())))
            with contextlib.suppress(WorkerError):
                await ids(engine, Ask(KNOBS, prompt=deaths[n % len(deaths)]))
        await engine.close()
        print(f"descriptors, processes, threads, tasks: {figures[0]} at first, {figures[-1]} after {N_RESTARTS}")
        assert figures[-1] == figures[0]
        assert me.children() == []

    asyncio.run(main())
