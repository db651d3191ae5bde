from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from eftlite.errors import InputError, WorkerError
from eftlite.events import Statistics, TokenEvent
from eftlite.server.asking import Ask, Running
from eftlite.server.protocol import WINDOW, Begin, Credit, SetKnobs, Stop
from eftlite.server.running import RunningAnswer
from eftlite.server.wire import decode
from eftlite.settings import Knobs

EVENTS = [TokenEvent(i, f"{i} ") for i in range(500)]


class Made:
    """An answer, and what it sent and asked for."""

    def __init__(self, begun: bool = True) -> None:
        self.sent: list[Any] = []
        self.withdrawn: list[RunningAnswer] = []
        self.running = RunningAnswer(7, Ask(Knobs(), prompt="x"), self.withdrawn.append)
        if begun:
            self.running.begin(self.sent.append)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 5))


async def take(running: Running, n: int) -> list[TokenEvent]:
    events = running.__aiter__()
    return [await events.__anext__() for _ in range(n)]


def test_credit_follows_what_is_taken() -> None:
    async def main() -> None:
        made = Made()
        made.running.put(EVENTS)
        await take(made.running, WINDOW // 2 - 1)
        assert made.sent == []
        await take(made.running, 1)
        assert made.sent == [Credit(7, WINDOW // 2)]
        await take(made.running, WINDOW)
        assert made.sent == [Credit(7, WINDOW // 2)] * 3

    run(main())


def test_an_answer_that_is_over_needs_no_credit() -> None:
    async def main() -> None:
        made = Made()
        made.running.put(EVENTS)
        made.running.end(Statistics(n_tokens=500))
        assert len([event async for event in made.running]) == 500
        assert made.sent == []
        assert made.running.statistics.n_tokens == 500

    run(main())


def test_an_error_comes_after_the_events_that_came_before_it() -> None:
    async def main() -> None:
        made = Made()
        made.running.put(EVENTS[:2])
        made.running.end(error=WorkerError("died"))
        assert await take(made.running, 2) == EVENTS[:2]
        for _ in range(2):
            with pytest.raises(WorkerError):
                await take(made.running, 1)

    run(main())


def test_waiting_for_an_event_may_be_cancelled() -> None:
    async def main() -> None:
        made = Made()
        first = asyncio.ensure_future(take(made.running, 1))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        second = asyncio.ensure_future(take(made.running, 1))
        await asyncio.sleep(0)
        made.running.put(EVENTS[:1])
        assert await second == EVENTS[:1]

    run(main())


def test_knobs_go_with_the_beginning_or_after_it() -> None:
    """Never beside it: the first token would be drawn with the old ones, now and then."""

    async def main() -> None:
        made = Made(begun=False)
        await made.running.set_knobs(Knobs((3.0,)))
        begin = decode(made.running.message)
        assert begin == Begin(7, Ask(Knobs((3.0,)), prompt="x"))
        made.running.begin(made.sent.append)
        assert made.sent == []
        await made.running.set_knobs(Knobs((4.0,)))
        assert made.sent == [SetKnobs(7, Knobs((4.0,)))]
        assert made.running.knobs == Knobs((4.0,))
        with pytest.raises(InputError):
            await made.running.set_knobs(Knobs((4.0, 1.0)))
        made.running.end()
        await made.running.set_knobs(Knobs((5.0,)))
        assert len(made.sent) == 1

    run(main())


def test_leaving_stops_it_and_forgets_its_events() -> None:
    async def main() -> None:
        made = Made()
        async with made.running:
            made.running.put(EVENTS)
        made.running.put(EVENTS)
        assert made.sent == [Stop(7)]
        assert not made.running._events
        made.running.end(Statistics())
        async with made.running:
            pass
        assert made.sent == [Stop(7)], "it is over"

    run(main())


def test_leaving_one_that_waits_takes_it_out_of_the_line() -> None:
    async def main() -> None:
        made = Made(begun=False)
        async with made.running:
            pass
        assert made.withdrawn == [made.running]
        assert made.sent == []

    run(main())


def test_stopping_one_that_waits_ends_it_as_cancelled() -> None:
    async def main() -> None:
        made = Made(begun=False)
        await made.running.stop()
        await made.running.stop()
        assert [event.finish_reason async for event in made.running] == ["cancelled"]
        assert made.running.statistics.finish_reason == "cancelled"
        assert made.withdrawn == [made.running]

    run(main())
