"""An engine that plays scripts: what the server is tested with where models would only be slow.

Its vocabulary is one token for each byte (ids 0 to 255) and ``END``. Nothing here sleeps unless a script says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from eftlite.errors import EFTError, InputError, UnavailableError
from eftlite.events import Candidate, DraftStatistics, Statistics, TokenEvent
from eftlite.server.asking import About, Ask, MemberAbout
from eftlite.settings import Knobs, Speculation

if TYPE_CHECKING:
    from typing_extensions import Self

END = 256
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if tools %}{{ tools }}{% endif %}"
ABOUT = About(
    family="fake",
    members=(
        MemberAbout("base", "base.gguf", "fake 7B Q4_0", 7_000_000, 4_000_000, 4096),
        MemberAbout("tuned", "tuned.gguf", "fake 1B Q8_0", 1_000_000, 1_000_000, 2048),
        MemberAbout("reference", "reference.gguf", "fake 1B Q8_0", 1_000_000, 1_000_000, 2048),
    ),
    deltas=("tuned",),
    knobs=Knobs(),
    speculation=Speculation(),
    n_ctx=2048,
    n_vocab=END + 1,
    n_slots=4,
    template=TEMPLATE,
    eos="<|end|>",
    build={"eftlite": "0", "llama.cpp": "b0"},
)
TWO_DELTAS = replace(ABOUT, deltas=("helpful", "harmless"), knobs=Knobs((1.0, 0.5)))


def words(text: str, finish_reason: str = "stop", n_top: int = 0, shift: float | None = 0.25) -> list[TokenEvent]:
    """Events for a text: one for each word with the space before it, then the end token when it stopped by itself."""
    pieces = [word if i == 0 else f" {word}" for i, word in enumerate(text.split(" "))]
    events = [
        TokenEvent(
            piece.encode()[-1] if piece else 0,
            piece,
            piece.encode(),
            -0.5 - i / 10,
            shift,
            "accepted" if i % 2 else "plain",
            candidates(piece, n_top) if n_top else None,
        )
        for i, piece in enumerate(pieces)
    ]
    if finish_reason == "stop":
        end = TokenEvent(END, "", b"<|end|>", -0.1, shift, finish_reason="stop", is_end=True)
        return [*events, replace(end, top=candidates("<|end|>", n_top)) if n_top else end]
    return [*events[:-1], replace(events[-1], finish_reason=finish_reason)]


def candidates(text: str, n_top: int) -> dict[str, tuple[Candidate, ...]]:
    """The same ``n_top`` likeliest tokens for each member and for EFT."""
    top = tuple(
        Candidate(65 + i, f"{text}{i or ''}", -0.5 - i, f"{text}{i or ''}".encode()) for i in range(min(n_top, 20))
    )
    return dict.fromkeys(("eft", "base", "tuned", "reference"), top)


@dataclass
class Script:
    """One answer.

    Attributes:
        text: what is answered, a word at a time, cut at the ask's ``max_tokens``.
        events: in place of ``text``, played as they are.
        delay_s: before each event.
        hold_at: before the event of this number it waits until it is stopped, left, or ``FakeEngine.release`` is set.
        error: raised after the events, in place of an end.
    """

    text: str = "Hello there, friend."
    events: Sequence[TokenEvent] | None = None
    delay_s: float = 0.0
    hold_at: int | None = None
    error: EFTError | None = None

    def play(self, ask: Ask) -> list[TokenEvent]:
        """The events for an ask."""
        if self.events is not None:
            return list(self.events)
        events, limit = words(self.text, n_top=ask.limits.n_top), ask.limits.max_tokens
        if limit is None or limit >= len(events):
            return events
        return [*events[: limit - 1], replace(events[limit - 1], finish_reason="length")] if limit else []


class FakeRunning:
    """An answer played from a script.

    Attributes:
        left: set when its ``async with`` was left.
        stopped: set when it was stopped or left.
        sent: events that were taken.
    """

    def __init__(self, engine: FakeEngine, ask: Ask, script: Script) -> None:
        self.seed = -1
        self.statistics = Statistics()
        self.knobs = ask.knobs
        self.ask = ask
        self.left = asyncio.Event()
        self.stopped = asyncio.Event()
        self.sent: list[TokenEvent] = []
        self._engine, self._script = engine, script

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        await self._wait(self._engine.prompt_s)
        self.seed = 7 if self.ask.sampling.seed is None else self.ask.sampling.seed
        for i, event in enumerate(self._script.play(self.ask)):
            if i == self._script.hold_at:
                await self._released()
            await self._wait(self._script.delay_s)
            if self.stopped.is_set():
                self.sent.append(TokenEvent(-1, "", finish_reason="cancelled"))
                yield self.sent[-1]
                break
            self.sent.append(event)
            yield event
        if self._script.error is not None:
            raise self._script.error
        self._count()

    async def _released(self) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self.stopped, self._engine.release)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.stopped.wait(), seconds)

    def _count(self) -> None:
        tokens = [event for event in self.sent if event.id >= 0]
        self.statistics = Statistics(
            n_prompt=len(self._engine.prompt_of(self.ask)),
            n_reused=2,
            n_tokens=len(tokens),
            n_end_tokens=sum(event.is_end for event in tokens),
            prompt_s=0.5,
            decode_s=0.25,
            member_s={"base": 0.4, "tuned": 0.2, "reference": 0.1},
            shift=0.25,
            finish_reason=(self.sent[-1].finish_reason if self.sent else None) or "length",
            speculation="tuned, gumbel",
            drafts=DraftStatistics(n_rounds=2, n_drafted=4, n_accepted=3, lengths={2: 2}),
        )

    async def set_knobs(self, knobs: Knobs) -> None:
        self.knobs = knobs

    async def stop(self) -> None:
        self.stopped.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *details: object) -> None:
        self.left.set()
        self.stopped.set()
        self._engine.n_running -= 1


@dataclass
class FakeEngine:
    """An engine without models.

    Attributes:
        scripts: of the next answers, one each; the last one stays.
        about: what it says of itself, once it is loaded.
        state, failure: as an engine has them; a test sets them.
        prompt_s: seconds before the first event of each answer.
        refusal: what ``answer`` raises, when set.
        release: lets scripts that hold go on.
        asks, clients, runnings: what was asked, by whom, and what came of it.
    """

    scripts: list[Script] = field(default_factory=lambda: [Script()])
    about: About | None = ABOUT
    state: str = "ready"
    failure: str = ""
    prompt_s: float = 0.0
    refusal: EFTError | None = None
    n_running: int = 0
    n_waiting: int = 0
    n_restarts: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)
    asks: list[Ask] = field(default_factory=list)
    clients: list[str] = field(default_factory=list)
    runnings: list[FakeRunning] = field(default_factory=list)

    async def start(self) -> None:
        self.state = "ready"

    async def close(self) -> None:
        self.state = "closed"

    async def ready(self, timeout_s: float) -> About:
        self._check_ready()
        assert self.about is not None
        return self.about

    async def answer(self, ask: Ask, client: str = "") -> FakeRunning:
        self._check_ready()
        if self.refusal is not None:
            raise self.refusal
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        self.asks.append(ask)
        self.clients.append(client)
        self.runnings.append(FakeRunning(self, ask, script))
        self.n_running += 1
        return self.runnings[-1]

    async def tokenize(self, text: str, add_bos: bool, special: bool) -> list[int]:
        self._check_ready()
        return [*([1] if add_bos else []), *text.encode("utf-8", "replace")]

    async def detokenize(self, tokens: Sequence[int], special: bool = False) -> bytes:
        self._check_ready()
        if any(not 0 <= token <= END for token in tokens):
            raise InputError(f"tokens: expected token ids from 0 to {END}, got one outside")
        return b"".join(bytes([token]) if token < END else b"<|end|>" * special for token in tokens)

    async def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> str:
        self._check_ready()
        return "".join(f"<|{message['role']}|>{message.get('content') or ''}" for message in messages) + "<|assistant|>"

    async def score(self, prompt: str | Sequence[int], knobs: Knobs, n_top: int, client: str = "") -> list[TokenEvent]:
        self._check_ready()
        ids = list(prompt.encode("utf-8", "replace")) if isinstance(prompt, str) else list(prompt)
        pieces = [await self.detokenize([token]) for token in ids]
        return [
            TokenEvent(
                token,
                piece.decode("utf-8", "replace"),
                piece,
                -i / 10 if i else math.nan,
                top={"eft": candidates(piece.decode("utf-8", "replace"), n_top)["eft"]},
            )
            for i, (token, piece) in enumerate(zip(ids, pieces, strict=True))
        ]

    async def memory(self) -> dict[str, int]:
        return {"resident": 123_456_789}

    def prompt_of(self, ask: Ask) -> Sequence[Any]:
        """What stands for the prompt's tokens."""
        if ask.messages is not None:
            return [letter for message in ask.messages for letter in str(message.get("content") or "")]
        return list(ask.prompt or ())

    def _check_ready(self) -> None:
        if self.state != "ready":
            raise UnavailableError(f"engine: {self.state}", self.failure, retry_after_s=int(self.state != "failed"))
