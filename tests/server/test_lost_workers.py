"""The server's engine with the base on other machines' devices, and what becomes of a request when one is lost.

About 20 s where llama-cpp-python was built with RPC; skipped elsewhere. test_engine.py plays the same with fakes.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from eftlite.errors import UnavailableError, WorkerError
from eftlite.events import TokenEvent
from eftlite.family import bundled_family
from eftlite.server.asking import Ask
from eftlite.server.engine import WorkerEngine
from eftlite.server.protocol import LoadRequest
from eftlite.settings import Knobs, Limits, ModelSettings, Sampling, Speculation
from tests.rpc_workers import Lender, lenders, needs_rpc

pytestmark = needs_rpc
LIMIT_S = 5.0


def ask(n_tokens: int) -> Ask:
    return Ask(
        Knobs((1.0, 0.0)),
        prompt="The river",
        sampling=Sampling(seed=1),
        limits=Limits(max_tokens=n_tokens),
        speculation=Speculation(enabled=False),
    )


def engine(workers: list[Lender], step_limit_s: float) -> WorkerEngine:
    family = replace(bundled_family(), rpc=tuple(worker.endpoint for worker in workers))
    request = LoadRequest(family, n_slots=2, settings=ModelSettings(n_threads=1))
    return WorkerEngine(request, hang_s=30.0, step_limit_s=step_limit_s)


async def text(made: WorkerEngine) -> str:
    async with await made.answer(ask(40)) as running:
        return "".join([event.text async for event in running])


async def loses(made: WorkerEngine, worker: Lender, number: int) -> float:
    """Seconds from a worker's loss in the middle of an answer until the answer fails with a WorkerError."""
    async with await made.answer(ask(100_000)) as running:
        events = aiter(running)
        await anext(events)
        worker.send(number)
        began = time.monotonic()
        with pytest.raises(WorkerError) as caught:
            await drain(events)
    assert worker.endpoint not in str(caught.value), "clients need not know where it is"
    return time.monotonic() - began


async def drain(events: AsyncIterator[TokenEvent]) -> None:
    async for _ in events:
        pass


@pytest.mark.parametrize(
    ("number", "step_limit_s"), [(signal.SIGKILL, 300.0), (signal.SIGSTOP, 2.0)], ids=["killed", "stopped"]
)
def test_a_lost_worker_is_told_and_the_next_request_works(number: int, step_limit_s: float) -> None:
    async def main() -> None:
        made = engine(workers, step_limit_s)
        await made.start()
        try:
            await made.ready(60)
            before = await text(made)
            assert await loses(made, workers[1], number) < LIMIT_S
            if number == signal.SIGSTOP:
                workers[1].send(signal.SIGCONT)
            else:
                workers[1].kill()
                workers[1].start()
            assert await asyncio.wait_for(text(made), 60) == before
            assert made.n_restarts
        finally:
            await made.close()

    with lenders(2) as workers:
        asyncio.run(main())


def test_a_server_may_be_started_before_its_workers() -> None:
    async def main() -> None:
        made = engine([worker], 300.0)
        await made.start()
        try:
            with pytest.raises(UnavailableError, match="still being loaded"):
                await made.ready(3)
            worker.start()
            assert await asyncio.wait_for(text(made), 60)
        finally:
            await made.close()

    with lenders(1) as (worker,):
        worker.kill()
        asyncio.run(main())
