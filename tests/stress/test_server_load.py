"""The server under load, over HTTP with the bundled models: many clients (row 11), clients that leave (row 14).

Duration: about 5 minutes on two cores, ``pytest -m stress tests/stress/test_server_load.py -s``.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest

from eftlite.demo.scoring import load_questions
from eftlite.history import History
from eftlite.server.app import make_app
from eftlite.server.engine import WorkerEngine
from eftlite.server.protocol import LoadRequest
from eftlite.settings import ModelSettings
from tests.server.wire import Address, connected, head, running, until
from tests.stress.serving import served

pytestmark = pytest.mark.stress

N_CLIENTS, N_REQUESTS, N_TOKENS = 100, 200, 32
N_LEAVING = 200
HUNG_S = 60.0
FREE_S = 0.25
WATCH_S = 0.3  # a request that had not begun when its client left might begin so much later
QUESTIONS = [question.text for question in load_questions()]
SETTINGS = ModelSettings(n_threads=1)

Json = dict[str, Any]


# ---- row 11


def chat(number: int, **more: Any) -> Json:
    """A request that no other is like."""
    return {
        "model": "demo",
        "messages": [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
        "max_tokens": N_TOKENS,
        "temperature": 1.0,
        "seed": number,
        "stream": True,
        **more,
    }


async def streamed_text(client: httpx.AsyncClient, body: Json) -> tuple[str, float]:
    """What a stream says, and the seconds from asking to its end; it must be whole and its own."""
    began, chunks, is_done = time.monotonic(), list[Json](), False
    async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        assert reply.status_code == 200, await reply.aread()
        async for line in reply.aiter_lines():
            is_done |= line == "data: [DONE]"
            if line.startswith("data: {"):
                chunks.append(json.loads(line.removeprefix("data: ")))
    assert is_done
    assert not any("error" in chunk for chunk in chunks), chunks[-1]
    assert len({chunk["id"] for chunk in chunks}) == 1
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]][-1] in {"stop", "length"}
    return "".join(choice["delta"].get("content") or "" for choice in choices), time.monotonic() - began


async def all_texts(url: str, n_clients: int) -> list[tuple[str, float]]:
    """Every request's text, asked by so many clients, each of which asks one after the other."""
    found: list[tuple[str, float]] = [("", 0.0)] * N_REQUESTS

    async def one(first: int) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=10 * HUNG_S, trust_env=False) as client:
            for number in range(first, N_REQUESTS, n_clients):
                found[number] = await streamed_text(client, chat(number))

    await asyncio.gather(*(one(first) for first in range(n_clients)))
    return found


def test_a_hundred_clients(user_directories: Path) -> None:
    """Row 11: 100 clients, 200 streams of 32 tokens: none fails, none hangs, each is what it is alone."""
    with served() as server:
        server.wait_ready()
        began = time.monotonic()
        alone = asyncio.run(all_texts(server.url, 1))
        between = time.monotonic()
        together = asyncio.run(all_texts(server.url, N_CLIENTS))
        end = time.monotonic()
    n_mixed = sum(a[0] != b[0] for a, b in zip(alone, together, strict=True))
    seconds = sorted(took for _, took in together)
    print(
        f"\n{N_REQUESTS} streams by {N_CLIENTS} clients in {end - between:.1f} s, by one in {between - began:.1f} s: "
        f"0 failed, {n_mixed} mixed; a stream took {statistics.median(seconds):.1f} s, at most {seconds[-1]:.1f} s"
    )
    assert n_mixed == 0
    assert seconds[-1] < HUNG_S


# ---- row 14


@dataclass(frozen=True)
class Bench:
    """A server in this process, so that its engine can be watched."""

    engine: WorkerEngine
    history: History
    address: Address

    @property
    def is_free(self) -> bool:
        """Whether nothing is being made and nobody waits."""
        return self.engine.n_running == self.engine.n_waiting == 0

    def post(self, path: str, body: Json) -> Any:
        """A whole reply."""
        return httpx.post(
            f"http://{self.address[0]}:{self.address[1]}{path}", json=body, timeout=60, trust_env=False
        ).json()


@contextmanager
def bench(path: Path) -> Iterator[Bench]:
    """The server, ready."""
    engine = WorkerEngine(LoadRequest(settings=SETTINGS))
    with History(path) as history, running(make_app(engine, history)) as address:
        until(lambda: engine.state == "ready", 120)
        yield Bench(engine, history, address)


def kinds(server: Bench) -> dict[str, Callable[[str], tuple[str, Json]]]:
    """Ways to ask, by name: path and body for a question."""
    conversation = server.history.create()
    path = f"/api/conversations/{conversation}/answers"

    def messages(text: str) -> list[Json]:
        return [{"role": "user", "content": text}]

    return {
        "page": lambda text: (path, {"content": text, "modes": ["eft"], "n_top": 5}),
        "page, three modes": lambda text: (path, {"content": text, "modes": ["eft", "base", "tuned"]}),
        "chat stream": lambda text: ("/v1/chat/completions", {"messages": messages(text), "stream": True}),
        "chat": lambda text: ("/v1/chat/completions", {"messages": messages(text)}),
        "completion stream": lambda text: ("/v1/completions", {"prompt": text, "stream": True, "max_tokens": 64}),
        "completion": lambda text: ("/v1/completions", {"prompt": text, "max_tokens": 64}),
    }


def leave(server: Bench, path: str, body: Json, delay_s: float, rudely: bool) -> tuple[float, bool] | None:
    """Ask, go away after a while; seconds until the engine was free, and whether it was before the first token.

    None when the engine was not at work then: the answer was complete, or had not begun and did not begin since.
    """
    data = json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(data))}
    with connected(server.address) as client:
        client.sendall(head("POST", path, server.address, headers) + data)
        time.sleep(delay_s)  # the moment of leaving is what is drawn by lot
        client.setblocking(False)
        received = b""
        with suppress(BlockingIOError):
            received = client.recv(1 << 20)
        if rudely:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    began = time.monotonic()
    while server.is_free:
        if time.monotonic() - began > WATCH_S:
            return None
        time.sleep(0.0005)
    began = time.monotonic()
    while not server.is_free:
        assert time.monotonic() - began < 10, "the engine works on for nobody"
        time.sleep(0.0005)
    return time.monotonic() - began, b'"content"' not in received and b'"tokens"' not in received


def test_clients_that_leave(tmp_path: Path) -> None:
    """Row 14: 200 clients leave in the middle, in all phases; the engine is free at once and the next answer right."""
    lot, taken, n_early = random.Random(14), list[float](), 0
    with bench(tmp_path / "history.db") as server:
        before = server.post("/v1/chat/completions", chat(1, stream=False))["choices"][0]["message"]
        ways = kinds(server)
        n_tries = 0
        for name in cycle(ways):
            n_tries += 1
            # A text that nearly fills the context takes long to read; a new one each time, or it would be cached.
            is_long = lot.random() < 0.5
            text = " ".join(lot.choices(QUESTIONS, k=10 if is_long else 1))[: 1200 if is_long else 200]
            left = leave(server, *ways[name](text), lot.uniform(0.0, 0.15), lot.random() < 0.5)
            if left is not None:
                taken.append(left[0])
                n_early += left[1]
            if len(taken) == N_LEAVING:
                break
        after = server.post("/v1/chat/completions", chat(1, stream=False))["choices"][0]["message"]
        n_running_on = sum(
            message.state == "streaming"
            for summary in server.history.list()
            for message in server.history.get(summary.id).messages
        )
    taken.sort()
    print(
        f"\n{N_LEAVING} clients left, {n_early} before the first token ({n_tries - N_LEAVING} more too early or late): "
        f"free after {statistics.median(taken) * 1e3:.0f} ms, p99 {taken[int(0.99 * N_LEAVING)] * 1e3:.0f} ms, "
        f"at most {taken[-1] * 1e3:.0f} ms"
    )
    assert before == after
    assert n_running_on == 0
    assert taken[-1] <= FREE_S
