"""A worker whose EFT plays what its prompt says: the real process, threads and pipe, without models.

As a program: ``fake_worker.py PLAN``, a file with a line for each life, the last one for all that follow: how the
loading goes. Every life adds a byte to the file PLAN.lives.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[2]))

from eftlite.errors import ContextError, EngineError, ModelFileError, UnavailableError
from eftlite.events import Statistics, TokenEvent
from eftlite.server import worker
from eftlite.server.asking import About, MemberAbout
from eftlite.server.protocol import LoadFailed, LoadRequest, Progress
from eftlite.server.wire import encode
from eftlite.settings import Knobs, Limits, Sampling, Speculation

AWAY = UnavailableError("RPC worker 10.0.0.7:50052: it cannot be reached", "Start it", retry_after_s=1)
OUT: list[Any] = []  # the pipe to the server, for prompts that misuse it


def event(text: str, **fields: Any) -> TokenEvent:
    """A token that is its text."""
    return TokenEvent(len(text), text, text.encode(), -0.5, **fields)


class FakeAnswer:
    """Plays a prompt: a word with a number.

    ``early`` fails before it begins. ``count 5`` gives five tokens; ``round 3`` gives three accepted ones and a bonus
    at a time; ``forever`` never ends; ``alpha`` says the first alpha until it is 0; ``wait`` does nothing until it is
    stopped; ``kill 11`` ends the process by that signal after two tokens, ``exit 3`` by that code; ``stuck`` never gets
    on; ``lost`` has lost another machine; the rest are faults.
    """

    def __init__(self, prompt: str, knobs: Knobs, seed: int) -> None:
        self.prompt, self.knobs, self.seed = prompt, knobs, seed
        self.statistics = Statistics(n_prompt=len(prompt))
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True

    def __iter__(self) -> Iterator[TokenEvent]:
        word, _, number = self.prompt.partition(" ")
        for one in getattr(self, f"play_{word}")(int(number or 0)):
            if self.stopped:
                break
            self.statistics.n_tokens += 1
            yield one
            if one.finish_reason:
                self.statistics.finish_reason = one.finish_reason
                return
        if self.stopped:
            self.statistics.finish_reason = "cancelled"
            yield TokenEvent(-1, "", finish_reason="cancelled")

    def play_count(self, n: int) -> Iterator[TokenEvent]:
        for i in range(n - 1):
            yield event(f"{i} ")
        yield event("end", finish_reason="stop")

    def play_round(self, n: int) -> Iterator[TokenEvent]:
        for _ in range(4):
            for i in range(n):
                yield event(f"{i}", origin="accepted")
            yield event("b ", origin="bonus")
        yield event("last", origin="accepted", finish_reason="length")

    def play_forever(self, _: int) -> Iterator[TokenEvent]:
        while True:
            yield event("on ")

    def play_slowly(self, n: int) -> Iterator[TokenEvent]:
        for one in self.play_count(n):
            time.sleep(0.01)
            yield one

    def play_alpha(self, _: int) -> Iterator[TokenEvent]:
        while self.knobs.alphas[0]:
            time.sleep(0.001)
            yield event(f"{self.knobs.alphas[0]:g} ")
        yield event("0", finish_reason="stop")

    def play_wait(self, _: int) -> Iterator[TokenEvent]:
        while not self.stopped:
            time.sleep(0.001)
        yield event("never")

    def play_kill(self, number: int) -> Iterator[TokenEvent]:
        yield event("a")
        yield event("b")
        os.kill(os.getpid(), number)
        time.sleep(60)

    def play_exit(self, code: int) -> Iterator[TokenEvent]:
        yield event("a")
        os._exit(code)

    def play_lost(self, _: int) -> Iterator[TokenEvent]:
        yield event("a")
        write(encode(LoadFailed(AWAY)))
        os._exit(1)

    def play_stuck(self, _: int) -> Iterator[TokenEvent]:
        yield event("a")
        time.sleep(60)

    def play_garbage(self, _: int) -> Iterator[TokenEvent]:
        write(b'{"$":"Popen","args":["true"]}\n')
        time.sleep(60)
        yield event("never")

    def play_unknown(self, _: int) -> Iterator[TokenEvent]:
        write(b'{"$":"Began","id":9999,"seed":1}\n')
        time.sleep(60)
        yield event("never")

    def play_print(self, _: int) -> Iterator[TokenEvent]:
        print("noise on stdout", flush=True)
        os.write(1, b"noise on descriptor 1\n")
        yield event("printed", finish_reason="stop")

    def play_refuse(self, n: int) -> Iterator[TokenEvent]:
        yield event("a")
        raise ContextError("prompt: too long", "Shorten it", n_prompt=n, n_ctx=7)

    def play_bug(self, _: int) -> Iterator[TokenEvent]:
        yield event("a")
        raise ZeroDivisionError("secret detail")


def write(data: bytes) -> None:
    """Write into the pipe behind the worker's back."""
    OUT[0].write(data)
    OUT[0].flush()


class FakeEFT:
    """As much of an EFT as a worker uses; every slot's cache is the last prompt it was given."""

    members = ("base", "tuned", "reference")

    def __init__(self, n_slots: int) -> None:
        self.n_slots = n_slots
        self.template = SimpleNamespace(render=lambda messages, tools: f"{len(messages)} {tools}")
        self.cached: list[list[int]] = [[] for _ in range(n_slots)]
        self._engine = SimpleNamespace(ensemble=SimpleNamespace(members=[SimpleNamespace(seconds=0.0)]))

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        return [1] * add_bos + list(text)

    def detokenize(self, tokens: Sequence[int], special: bool = False) -> bytes:
        return bytes(tokens)

    def chat_prompts(self, messages: Any, tools: Any = None) -> list[list[int]]:
        return [self.tokenize(messages[-1]["content"].encode())] * 3

    def n_cached(self, prompts: Sequence[Sequence[int]], slot: int) -> int:
        pairs = zip(prompts[0], self.cached[slot], strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def chat(self, messages: Any, tools: Any = None, **how: Any) -> FakeAnswer:
        return self.complete(messages[-1]["content"], **how)

    def complete(
        self, prompt: str, *, sampling: Sampling, limits: Limits, knobs: Knobs, speculation: Any, slot: int
    ) -> FakeAnswer:
        if prompt == "early":
            raise ContextError("prompt: too long before it began")
        self.cached[slot] = self.tokenize(prompt.encode())
        return FakeAnswer(prompt, knobs, 7 if sampling.seed is None else sampling.seed)

    def score(self, prompt: str, *, knobs: Knobs, n_top: int, slot: int) -> Iterator[TokenEvent]:
        for letter in prompt:
            yield event(letter, top=None)


def about(eft: Any) -> About:
    """What the fake is."""
    member = MemberAbout("base", "base.gguf", "fake", 1, 2, 3)
    return About("fake", (member,), ("tuned",), Knobs(), Speculation(), 64, 256, eft.n_slots, "{{ messages }}")


def load(request: LoadRequest, send: Any, pulse: Any) -> FakeEFT:
    """Do what the plan says for this life."""
    path = Path(sys.argv[1])
    lives = path.with_suffix(".lives")
    with lives.open("ab") as file:
        file.write(b".")
    plan = path.read_text().splitlines()
    how = plan[min(lives.stat().st_size, len(plan)) - 1]
    pulse.loading()
    send(Progress("base", 0.5))
    if how.startswith("kill"):
        os.kill(os.getpid(), int(how.split()[1]))
        time.sleep(60)
    if how.startswith("until"):
        while not Path(how.split(maxsplit=1)[1]).exists():
            pulse.loading()
            time.sleep(0.01)
    if how == "refuse":
        raise ModelFileError("base.gguf: not a model", "Take another")
    if how == "away":
        raise AWAY
    if how == "fail":
        raise EngineError("base: no memory", "Take less")
    return FakeEFT(request.n_slots)


def main() -> None:
    """Be a worker."""
    real = worker._own_stdout

    def own_stdout() -> Any:
        OUT.append(real())
        return OUT[0]

    for name, fake in (("load", load), ("about", about), ("_own_stdout", own_stdout)):
        setattr(worker, name, fake)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(120)  # whatever a test forgets, this process does not stay
    worker.main()


if __name__ == "__main__":
    main()
