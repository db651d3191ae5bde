"""An EFT and a reader without models or terminals, for the conversation's own logic."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from eftlite.cli.output import Output
from eftlite.cli.repl import Repl
from eftlite.errors import EFTError, InputError
from eftlite.events import Candidate, Statistics, TokenEvent
from eftlite.settings import Delta, Family, Knobs, Limits, Sampling

FAMILY = Family("fake", "base.gguf", (Delta("helpful", "t", "r"), Delta("harmless", "h", "r", 0.0)))


class FakeAnswer:
    """Words of a script as events."""

    def __init__(self, eft: FakeEFT, words: Sequence[str], limits: Limits, seed: int) -> None:
        self._eft, self._words, self._limits, self.seed = eft, words, limits, seed
        self.statistics = Statistics(n_prompt=7, prompt_s=0.25, decode_s=0.5, shift=0.5)

    def __iter__(self) -> Iterator[TokenEvent]:
        for index, word in enumerate(self._words):
            if self._eft.delay_s:
                time.sleep(self._eft.delay_s)
            if self._eft.stopped.is_set():
                self.statistics.finish_reason = "cancelled"
                yield TokenEvent(-1, "", finish_reason="cancelled")
                return
            if self._eft.fails_at == index:
                raise self._eft.error
            self.statistics.n_tokens += 1
            last = index == len(self._words) - 1
            length = self.statistics.n_tokens in {self._limits.max_tokens, self._eft.room}
            reason = "length" if length else "stop" if last else None
            self.statistics.finish_reason = reason
            top: dict[str, tuple[Candidate, ...]] | None = None
            if self._limits.n_top:
                top = {"eft": (Candidate(index, word, -0.1),)}
            yield TokenEvent(index, word, word.encode(), shift=index / 10, top=top, finish_reason=reason)
            if reason:
                return


class FakeEFT:
    """What a conversation needs of an EFT.

    Args:
        *answers: texts, given in turn; the last one again and again.

    Attributes:
        asked: every conversation it was asked to answer, with sampling and knobs.
        fails_at, error: at which word an answer fails (-1: before the first), and how.
        delay_s: seconds a word takes.
        room: words until the context is full.
    """

    def __init__(self, *answers: str, family: Family = FAMILY) -> None:
        self.family = family
        self.knobs = Knobs(tuple(delta.alpha for delta in family.deltas))
        self.n_ctx, self.notes = 64, ("a note",)
        self.template = SimpleNamespace(source="{{ messages }}")
        self.asked: list[tuple[list[dict[str, str]], Sampling, Knobs | None]] = []
        self.completed: list[list[int]] = []
        self.stopped = threading.Event()
        self.delay_s = 0.0
        self.room: int | None = None
        self.fails_at: int | None = None
        self.error: Exception = EFTError("broken", "mend it")
        self._answers = list(answers or ("Hello there.",))

    def chat(
        self, messages: Sequence[Mapping[str, str]], *, sampling: Sampling, limits: Limits, knobs: Knobs | None
    ) -> FakeAnswer:
        self.stopped.clear()
        if self.fails_at == -1:
            raise self.error
        self.asked.append(([dict(message) for message in messages], sampling, knobs))
        text = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        words = [word if i == 0 else f" {word}" for i, word in enumerate(text.split(" "))]
        return FakeAnswer(self, words, limits, 11 if sampling.seed is None else sampling.seed)

    def complete(self, ids: Sequence[int], *, limits: Limits, **_: Any) -> FakeAnswer:
        self.completed.append(list(ids))
        return FakeAnswer(self, ["word"], limits, 0)

    def knobs_for(self, mode: str) -> Knobs:
        if mode != "base" and not self.family.deltas:
            raise InputError(f"mode: expected base, got {mode!r}")
        return Knobs((0.0,) * len(self.family.deltas)) if mode == "base" else Knobs((1.0, 0.0), beta=0.0)

    def chat_prompts(self, messages: Sequence[Mapping[str, str]]) -> list[list[int]]:
        return [[100 + i for i in range(len(messages))]]

    def detokenize(self, tokens: Sequence[int], special: bool = False) -> bytes:
        return b"<|end|>"

    def stop(self) -> None:
        self.stopped.set()


class FakeReader:
    """Lines that were typed beforehand; an exception among them is raised."""

    def __init__(self, *lines: str | type[BaseException], interactive: bool = True) -> None:
        self.lines = list(lines)
        self.interactive = interactive
        self.multiline = self.forgiving = False
        self.prompts: list[tuple[str, str]] = []

    def read(self, prompt: str = "> ", default: str = "") -> str:
        self.prompts.append((prompt, default))
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if isinstance(line, str):
            return line
        raise line


def conversation(
    *lines: str | type[BaseException], eft: FakeEFT | None = None, interactive: bool = True, **settings: Any
) -> Repl:
    """A conversation in which these lines were typed."""
    engine: Any = eft or FakeEFT()
    options = {"sampling": Sampling(), "limits": Limits(), **settings}
    repl = Repl(engine, FakeReader(*lines, interactive=interactive), Output("never"), **options)
    repl.run()
    return repl
