"""The real worker: the bundled family in its process, behind the engine's pipe, compared with an EFT in this one.

About 9 s: the family is loaded three times, and answers are made twice.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from eftlite import EFT
from eftlite.errors import ContextError, InputError, UnavailableError, WorkerError
from eftlite.events import Statistics, TokenEvent
from eftlite.server.asking import Ask, Engine
from eftlite.server.child import worker_command
from eftlite.server.engine import WorkerEngine
from eftlite.server.protocol import LoadRequest
from eftlite.settings import Family, Knobs, Limits, ModelSettings, Sampling, Speculation

PLAIN = Speculation(enabled=False)
QUESTION = [{"role": "user", "content": "Which river runs through Cresshurst?"}]
LONG = "The river runs through the town. " * 100
Loaded = Callable[[Callable[[WorkerEngine], Coroutine[Any, Any, None]]], None]


@pytest.fixture(scope="module")
def loaded() -> Iterator[Loaded]:
    """Runs a test's coroutine with an engine that is loaded once for this file."""
    loop = asyncio.new_event_loop()
    engine: WorkerEngine = WorkerEngine(LoadRequest(n_slots=3, settings=ModelSettings(n_threads=1)), hang_s=60.0)
    conforms: Engine = engine  # for the type checker
    loop.run_until_complete(conforms.start())
    loop.run_until_complete(engine.ready(60))

    def run(test: Callable[[WorkerEngine], Coroutine[Any, Any, None]]) -> None:
        loop.run_until_complete(asyncio.wait_for(test(engine), 60))

    yield run
    loop.run_until_complete(engine.close())
    loop.close()


@pytest.fixture(scope="module")
def eft() -> Iterator[EFT]:
    with EFT(n_slots=3, n_threads=1) as made:
        yield made


def ask(messages: Any = None, prompt: Any = None, seed: int = 1, **fields: Any) -> Ask:
    fields = {"knobs": Knobs((1.0, 0.0)), "limits": Limits(max_tokens=40), "speculation": PLAIN, **fields}
    return Ask(messages=messages, prompt=prompt, sampling=Sampling(seed=seed), **fields)


async def answered(engine: WorkerEngine, asked: Ask) -> tuple[list[TokenEvent], Statistics]:
    async with await engine.answer(asked) as running:
        return [event async for event in running], running.statistics


def in_process(eft: EFT, asked: Ask) -> list[TokenEvent]:
    how: dict[str, Any] = {
        "sampling": asked.sampling, "limits": asked.limits, "knobs": asked.knobs, "speculation": asked.speculation,
    }  # fmt: skip
    if asked.messages is not None:
        return list(eft.chat(asked.messages, **how))
    assert asked.prompt is not None
    return list(eft.complete(asked.prompt, **how))


def n_candidates(event: TokenEvent) -> dict[str, int]:
    return {name: len(top) for name, top in (event.top or {}).items()}


def assert_alike(left: list[TokenEvent], right: list[TokenEvent]) -> None:
    """The same tokens; their numbers differ a little with what was in the cache before."""
    without: dict[str, Any] = {"logprob": 0.0, "shift": None, "top": None}
    assert [dataclasses.replace(e, **without) for e in left] == [dataclasses.replace(e, **without) for e in right]
    for a, b in zip(left, right, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=0.01)
        assert a.shift == (None if b.shift is None else pytest.approx(b.shift, abs=0.01))
        assert n_candidates(a) == n_candidates(b)


def test_it_tells_what_was_loaded(loaded: Loaded, eft: EFT) -> None:
    async def test(engine: WorkerEngine) -> None:
        about = await engine.ready(1)
        assert tuple(member.name for member in about.members) == eft.members
        assert (about.n_ctx, about.n_vocab, about.n_slots) == (eft.n_ctx, eft.n_vocab, 3)
        assert (about.family, about.deltas, about.knobs) == ("demo", ("helpful", "harmless"), eft.knobs)
        assert about.template == eft.template.source
        base = about.members[0]
        assert (base.file, base.n_ctx_train) == ("base-f16.gguf", 1024)
        assert base.size_bytes > base.n_params > 1_000_000
        assert {"eftlite", "llama.cpp", "llama-cpp-python", "devices"} == set(about.build)
        assert engine.progress[1] in {0.0, 1.0}

    loaded(test)


def test_events_are_those_of_an_eft_in_this_process(loaded: Loaded, eft: EFT) -> None:
    asks = [
        ask(QUESTION, limits=Limits(30, n_top=3)),
        ask(prompt="The river", seed=5),
        ask(prompt=eft.tokenize(b"The river"), seed=6),
        ask(QUESTION, knobs=Knobs.alone("base", 2)),
        ask(QUESTION, knobs=Knobs((0.5, 0.5), 1.5, 0.9)),
        ask(QUESTION, speculation=Speculation(n_draft=3)),
        ask(QUESTION, limits=Limits(30, stop=("river",))),
        ask(prompt="The river", limits=Limits(max_tokens=0)),
    ]

    async def test(engine: WorkerEngine) -> None:
        for asked in asks:
            events, statistics = await answered(engine, asked)
            assert_alike(events, in_process(eft, asked))
            assert statistics.n_tokens == len(events)

    loaded(test)


def test_answers_at_the_same_time_do_not_mix(loaded: Loaded, eft: EFT) -> None:
    asks = [ask(QUESTION, seed=seed, limits=Limits(20)) for seed in range(9)]

    async def test(engine: WorkerEngine) -> None:
        found = await asyncio.gather(*(answered(engine, asked) for asked in asks))
        for (events, _), asked in zip(found, asks, strict=True):
            assert_alike(events, in_process(eft, asked))

    loaded(test)


def test_a_conversation_finds_its_cache_again(loaded: Loaded) -> None:
    """Though others were answered meanwhile, in other slots."""

    async def test(engine: WorkerEngine) -> None:
        events, first = await answered(engine, ask(QUESTION))
        answer = {"role": "assistant", "content": "".join(event.text for event in events)}
        for other in ("Hello", "What is the capital?"):
            await answered(engine, ask([{"role": "user", "content": other}]))
        turns = [*QUESTION, answer, {"role": "user", "content": "And where does it end?"}]
        _, second = await answered(engine, ask(turns))
        assert second.n_reused >= first.n_prompt
        assert second.n_prompt > second.n_reused

    loaded(test)


def test_scores_are_those_of_an_eft_in_this_process(loaded: Loaded, eft: EFT) -> None:
    text = LONG[:500]
    knobs = Knobs((0.7, 0.0))

    async def test(engine: WorkerEngine) -> None:
        found = await engine.score(text, knobs, 2)
        expected = list(eft.score(text, knobs=knobs, n_top=2))
        assert len(found) > 64, "several batches"
        assert repr(found[0]) == repr(expected[0]), "NaN is not equal to itself"
        assert_alike(found[1:], expected[1:])

    loaded(test)


def test_a_schema_binds_the_answer(loaded: Loaded) -> None:
    schema = {"type": "object", "properties": {"river": {"type": "string", "maxLength": 8}}, "required": ["river"]}
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}

    async def test(engine: WorkerEngine) -> None:
        events, _ = await answered(engine, ask(QUESTION, response_format=wanted, limits=Limits(200)))
        assert set(json.loads("".join(event.text for event in events))) == {"river"}

    loaded(test)


def test_mistakes_are_told_and_harm_nobody(loaded: Loaded) -> None:
    async def test(engine: WorkerEngine) -> None:
        with pytest.raises(ContextError) as caught:
            await answered(engine, ask(prompt=LONG * 3))
        assert caught.value.n_prompt > caught.value.n_ctx == 1024
        wrong: list[dict[str, Any]] = [
            {"messages": [{"role": "nobody", "content": "x"}]},
            {"prompt": [5, 99999]},
            {"prompt": "x", "response_format": {"type": "yaml"}},
            {"prompt": "x", "knobs": Knobs((1.0,))},
            {"prompt": "x", "speculation": Speculation(drafter="nobody")},
        ]
        for fields in wrong:
            with pytest.raises(InputError):
                await answered(engine, ask(**fields))
        with pytest.raises(InputError):
            await engine.detokenize([99999])
        with pytest.raises(InputError):
            await engine.render([])
        assert len((await answered(engine, ask(QUESTION)))[0]) > 1
        assert engine.n_restarts == 0

    loaded(test)


@pytest.mark.parametrize("delay_s", [0.0, 0.005, 0.02])
def test_a_stop_ends_the_prompt_phase(delay_s: float, loaded: Loaded, eft: EFT) -> None:
    """900 tokens would take longer; the answer that follows is right, so the caches are."""
    prompt = eft.tokenize(f"{delay_s} {LONG * 2}".encode())[:900]

    async def test(engine: WorkerEngine) -> None:
        async with await engine.answer(ask(prompt=prompt)) as running:
            await asyncio.sleep(delay_s)
            began = time.monotonic()
            await running.stop()
            events = [event async for event in running]
            assert time.monotonic() - began < 0.25
        assert [event.finish_reason for event in events] == ["cancelled"]
        asked = ask(prompt=prompt, limits=Limits(5))
        assert_alike((await answered(engine, asked))[0], in_process(eft, asked))

    loaded(test)


def test_knobs_change_in_the_middle(loaded: Loaded) -> None:
    async def test(engine: WorkerEngine) -> None:
        async with await engine.answer(ask(QUESTION, limits=Limits(60))) as running:
            n = 0
            async for event in running:
                n += 1
                if n == 3:
                    await running.set_knobs(Knobs.alone("base", 2))
                if n > 40:
                    assert event.shift is None, "the tuned model is not asked any more"

    loaded(test)


@pytest.mark.bench
@pytest.mark.parametrize("n_top", [0, 5])
def test_the_pipe_costs_little(n_top: int, loaded: Loaded, eft: EFT) -> None:
    """Microseconds a token, by turns here and there: 3 % of 20 ms are 600. Needs two quiet cores; 15 s."""
    asks = [ask(prompt="The river", seed=seed, limits=Limits(200, n_top=n_top)) for seed in range(20)]
    here: list[float] = []
    there: list[float] = []

    async def test(engine: WorkerEngine) -> None:
        for asked in asks:
            began = time.perf_counter()
            n_here = len(in_process(eft, asked))
            between = time.perf_counter()
            n_there = len((await answered(engine, asked))[0])
            there.append((time.perf_counter() - between) / n_there * 1e6)
            here.append((between - began) / n_here * 1e6)

    loaded(test)
    costs = sorted(b - a for a, b in zip(here, there, strict=True))
    print(
        f"n_top {n_top}: {statistics.median(here):.0f} us a token here, {statistics.median(there):.0f} behind the pipe"
    )
    print(f"difference {statistics.median(costs):.0f}, from {costs[0]:.0f} to {costs[-1]:.0f}")
    assert statistics.median(costs) < 600


# ---- the process alone


def test_a_model_that_is_missing_fails_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        engine = WorkerEngine(LoadRequest(Family("f", str(tmp_path / "missing.gguf"))))
        await engine.start()
        with pytest.raises(UnavailableError):
            await engine.ready(60)
        assert engine.n_restarts == 0
        assert "missing.gguf" in engine.failure
        assert str(tmp_path) not in engine.failure
        await engine.close()

    asyncio.run(main())


@pytest.mark.parametrize("line", ["", "no message\n"])
def test_it_ends_when_nobody_tells_it_what_to_load(line: str) -> None:
    done = subprocess.run(worker_command(), input=line.encode(), capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


def test_it_is_found_wherever_python_runs(tmp_path: Path) -> None:
    command = worker_command()
    assert command[0] == sys.executable
    done = subprocess.run(command, stdin=subprocess.DEVNULL, cwd=tmp_path, capture_output=True, timeout=30, check=False)
    assert b"ModuleNotFoundError" not in done.stderr


def test_a_kill_is_mended_and_the_text_is_the_same(loaded: Loaded, eft: EFT) -> None:
    """The last of this file: it replaces the process that the others share."""
    asked = ask(QUESTION, seed=3)

    async def test(engine: WorkerEngine) -> None:
        assert engine._child is not None
        running = await engine.answer(ask(prompt="The", limits=Limits(500)))
        async with running:
            await running.__anext__()
            os.kill(engine._child.pid, signal.SIGKILL)
            with pytest.raises(WorkerError):
                async for _ in running:
                    pass
        assert_alike((await answered(engine, asked))[0], in_process(eft, asked))
        assert engine.n_restarts == 1

    loaded(test)
