"""Makes a response: one ask of the engine after the other, and from their events whole choices or chunks.

Knows the engine's interface and shapes; never requests or HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eftlite import responses
from eftlite.events import Statistics, TokenEvent
from eftlite.server.asking import Ask, Engine
from eftlite.server.asks import Plan
from eftlite.server.figures import timings, total
from eftlite.server.metrics import Totals
from eftlite.server.toolcalls import Call, CallReader
from eftlite.text import visible_text

CALLED = "tool_calls"


@dataclass(frozen=True)
class Making:
    """A response that is being made.

    Attributes:
        engine: answers.
        totals: counts what answers take.
        plan: what is to be made.
        client: whose turn it is, see ``Engine.answer``.
    """

    engine: Engine
    totals: Totals
    plan: Plan
    client: str

    async def whole(self) -> dict[str, Any]:
        """The response with all its choices.

        Raises:
            EFTError: a choice cannot be made; the others are lost with it.
        """
        choices, taken, seeds = [], list[Statistics](), []
        for index, ask in enumerate(self.plan.asks):
            prompt, scored = await self._echoed(ask)
            async with await self.engine.answer(ask, self.client) as running:
                events = [self._shown(event) async for event in running]
            taken.append(running.statistics)
            seeds.append(running.seed)
            self.totals.count(running.statistics)
            reason = responses.finish_reason(running.statistics.finish_reason)
            made = responses.choice(self.plan.shape, events, reason, index, prompt, scored)
            choices.append(_with_calls(made, self.plan.tools) if self.plan.shape.kind == "chat" else made)
        sums = total(taken)
        return {**responses.response(self.plan.shape, choices, sums, seeds[0]), "timings": timings(sums)}

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """The response in chunks, choice after choice; the last that has a choice says what it all took.

        Raises:
            EFTError: a choice cannot be made, or not be finished.
        """
        plan = self.plan
        usage = {"usage": None} if plan.include_usage else {}
        taken, seeds = list[Statistics](), []
        for index, ask in enumerate(plan.asks):
            chunks = _CallChunks(plan.shape, index, plan.tools) if plan.tools else responses.Chunks(plan.shape, index)
            first = chunks.first(*await self._echoed(ask))
            async with await self.engine.answer(ask, self.client) as running:
                async for event in running:
                    for chunk in (*first, *chunks.of(self._shown(event))):  # the first only once
                        yield chunk | usage
            for chunk in first:  # of an answer without events
                yield chunk | usage
            taken.append(running.statistics)
            seeds.append(running.seed)
            self.totals.count(running.statistics)
            last = chunks.last(running.statistics.finish_reason) | usage
            yield last if index < len(plan.asks) - 1 else last | _summary(taken, seeds)
        if plan.include_usage:
            yield plan.shape.envelope([], streamed=True) | {"usage": responses.usage(total(taken))}

    async def _echoed(self, ask: Ask) -> tuple[str, Sequence[TokenEvent]]:
        """The prompt that is repeated before an answer, and its tokens where log-probabilities are asked for.

        A text's tokens are told as clients count them: without the token that begins every text.
        """
        prompt = ask.prompt
        if not self.plan.echo or prompt is None:
            return "", ()
        is_text = isinstance(prompt, str)
        text = visible_text(prompt) if isinstance(prompt, str) else await self.engine.detokenize(prompt)
        scored: Sequence[TokenEvent] = ()
        if self.plan.shape.n_logprobs is not None and prompt:
            scored = await self.engine.score(prompt, ask.knobs, self.plan.shape.n_logprobs, self.client)
            own = await self.engine.tokenize(text.decode(), add_bos=False, special=True) if is_text else scored
            scored = scored[len(scored) - len(own) :]
        return text.decode("utf-8", "replace"), scored

    def _shown(self, event: TokenEvent) -> TokenEvent:
        """After an echoed prompt an end token is reported too: whoever scores texts cuts the last token off."""
        return replace(event, is_end=False) if self.plan.echo and event.is_end else event


def _summary(taken: Sequence[Statistics], seeds: Sequence[int]) -> dict[str, Any]:
    sums = total(taken)
    return {"eft": responses.eft_block(sums, seeds[0]), "timings": timings(sums)}


# ---- calls of tools


def _with_calls(made: dict[str, Any], tools: Collection[str]) -> dict[str, Any]:
    """A chat's choice with the calls in its text apart."""
    message = {**made["message"], "refusal": None}
    reader = CallReader(tools)
    parts = [*reader.push(message["content"]), *reader.finish()] if tools else []
    calls = [part.as_json() for part in parts if isinstance(part, Call)]
    if not calls:
        return {**made, "message": message}
    text = "".join(part for part in parts if isinstance(part, str))
    message |= {"content": text or None, "tool_calls": calls}
    return {**made, "message": message, "finish_reason": CALLED}


class _CallChunks(responses.Chunks):
    """Chunks of a chat in which tools may be called; each call comes whole."""

    def __init__(self, shape: responses.Shape, index: int, tools: Collection[str]) -> None:
        super().__init__(shape, index)
        self._reader = CallReader(tools)
        self._n_calls = 0

    def of(self, event: TokenEvent) -> Iterator[dict[str, Any]]:
        """The chunks of an event's text, and of the calls that it completes."""
        parts = self._reader.push(event.text) + (self._reader.finish() if event.finish_reason else [])
        yield from super().of(replace(event, text="".join(part for part in parts if isinstance(part, str))))
        for call in (part for part in parts if isinstance(part, Call)):
            yield self.chunk({"tool_calls": [{"index": self._n_calls, **call.as_json()}]})
            self._n_calls += 1

    def last(self, reason: str | None) -> dict[str, Any]:
        """The finish reason."""
        return super().last(CALLED if self._n_calls else reason)
