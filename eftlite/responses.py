"""Events -> the dictionaries that ``llama_cpp.Llama`` returns, whole or streamed, with an ``eft`` block added.

Knows shapes and names of fields; never models.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from eftlite.events import Candidate, Statistics, TokenEvent

LOWEST = -9999.0  # OpenAI's log-probability of what cannot come; JSON has no infinity


class Shape:
    """What all chunks of one response have in common.

    Args:
        kind: "completion" or "chat".
        model: the name to report.
        n_logprobs: candidates per token to report; None reports no log-probabilities.
    """

    def __init__(self, kind: str, model: str, n_logprobs: int | None) -> None:
        self.kind, self.model, self.n_logprobs = kind, model, n_logprobs
        self.id = f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{uuid.uuid4()}"
        self.created = int(time.time())

    def envelope(self, choices: list[dict[str, Any]], streamed: bool) -> dict[str, Any]:
        """A response, or a chunk of a stream, with its choices."""
        chat_name = "chat.completion.chunk" if streamed else "chat.completion"
        return {
            "id": self.id,
            "object": chat_name if self.kind == "chat" else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def finish_reason(reason: str | None) -> str | None:
    """OpenAI's word for how an answer ended: a stop by the user is a stop."""
    return "stop" if reason == "cancelled" else reason


def usage(statistics: Statistics) -> dict[str, Any]:
    """Token counts; as in llama_cpp.Llama an end token does not count."""
    n_prompt, n_tokens = statistics.n_prompt, statistics.n_tokens - statistics.n_end_tokens
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_tokens,
        "total_tokens": n_prompt + n_tokens,
        "prompt_tokens_details": {"cached_tokens": statistics.n_reused},
    }


def eft_block(statistics: Statistics, seed: int) -> dict[str, Any]:
    """What only EFT can tell: shift, seconds by member, speculation and which part of its drafts was accepted."""
    drafts = statistics.drafts
    block = asdict(statistics)
    block["acceptance"] = drafts.n_accepted / drafts.n_drafted if drafts and drafts.n_drafted else None
    block["tokens_per_s"] = statistics.tokens_per_s
    block["seed"] = seed
    return block


# ---- log-probabilities


def _completion_logprobs(events: Sequence[TokenEvent], n: int, offset: int) -> dict[str, list[Any]]:
    """The legacy form: parallel lists; ``top_logprobs`` holds the token itself, likely or not."""
    offsets = []
    for event in events:
        offsets.append(offset)
        offset += len(event.text)
    return {
        "tokens": [_text(event.piece) for event in events],
        "text_offset": offsets,
        "token_logprobs": [_number(event.logprob) for event in events],
        "top_logprobs": [_top_texts(event, n) for event in events],
    }


def _top_texts(event: TokenEvent, n: int) -> dict[str, float | None] | None:
    """Log-probabilities by text; of several tokens with one text the likeliest."""
    if math.isnan(event.logprob):
        return None
    by_text: dict[str, float | None] = {}
    for candidate in _top(event, n):
        by_text.setdefault(candidate.text, _number(candidate.logprob))
    by_text.setdefault(_text(event.piece), _number(event.logprob))
    return by_text


def _chat_logprobs(events: Sequence[TokenEvent], n: int) -> dict[str, Any]:
    """The chat form: one entry for each token."""

    def entry(piece: bytes, logprob: float) -> dict[str, Any]:
        return {"token": _text(piece), "logprob": _number(logprob), "bytes": list(piece)}

    content = [
        {**entry(event.piece, event.logprob), "top_logprobs": [entry(c.piece, c.logprob) for c in _top(event, n)]}
        for event in events
    ]
    return {"content": content, "refusal": None}


def _top(event: TokenEvent, n: int) -> tuple[Candidate, ...]:
    return event.top["eft"][:n] if event.top else ()


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")


def _number(logprob: float) -> float | None:
    """What JSON can hold: nothing stands before a text's first token, and some tokens cannot come."""
    return None if math.isnan(logprob) else max(logprob, LOWEST)


def _logprobs(shape: Shape, events: Sequence[TokenEvent], offset: int = 0) -> dict[str, Any] | None:
    if shape.n_logprobs is None:
        return None
    tokens = [event for event in events if event.id >= 0 and not event.is_end]
    if shape.kind == "chat":
        return _chat_logprobs(tokens, shape.n_logprobs)
    return _completion_logprobs(tokens, shape.n_logprobs, offset)


# ---- whole responses


def whole(
    shape: Shape, events: Sequence[TokenEvent], statistics: Statistics, seed: int, prompt: str = ""
) -> dict[str, Any]:
    """One response with one choice made from all events; ``prompt`` is echoed before a completion's text."""
    made = choice(shape, events, finish_reason(statistics.finish_reason), prompt=prompt)
    return response(shape, [made], statistics, seed)


def choice(
    shape: Shape,
    events: Sequence[TokenEvent],
    reason: str | None,
    index: int = 0,
    prompt: str = "",
    scored: Sequence[TokenEvent] = (),
) -> dict[str, Any]:
    """One choice of a response.

    Args:
        reason: OpenAI's word for how it ended.
        index: which of several.
        prompt: echoed before a completion's text.
        scored: the prompt's tokens, reported before a completion's own.
    """
    text = prompt + "".join(event.text for event in events)
    logprobs = _logprobs(shape, events, len(prompt))
    if logprobs and scored:
        before = _completion_logprobs(scored, shape.n_logprobs or 0, 0)
        logprobs = {name: before[name] + logprobs[name] for name in before}
    content = {"message": {"role": "assistant", "content": text}} if shape.kind == "chat" else {"text": text}
    return {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}


def response(shape: Shape, choices: list[dict[str, Any]], statistics: Statistics, seed: int) -> dict[str, Any]:
    """A whole response; ``statistics`` are of all its choices."""
    return {
        **shape.envelope(choices, streamed=False),
        "usage": usage(statistics),
        "eft": eft_block(statistics, seed),
    }


# ---- streams


def stream(shape: Shape, events: Iterator[TokenEvent], prompt: str = "") -> Iterator[dict[str, Any]]:
    """Chunks as llama_cpp.Llama streams them: the role first in a chat, the finish reason last and alone."""
    chunks = Chunks(shape)
    yield from chunks.first(prompt)
    reason = None
    for event in events:
        reason = event.finish_reason
        yield from chunks.of(event)
    yield chunks.last(reason)


class Chunks:
    """Makes the chunks of one choice, an event at a time.

    Args:
        index: which of several choices.
    """

    def __init__(self, shape: Shape, index: int = 0) -> None:
        self._shape, self._index, self._offset = shape, index, 0

    def first(self, prompt: str = "", scored: Sequence[TokenEvent] = ()) -> Iterator[dict[str, Any]]:
        """The role of a chat; the echoed prompt of a completion, if there is one, with its tokens where scored."""
        if self._shape.kind == "chat":
            yield self.chunk({"role": "assistant"})
        elif prompt or scored:
            yield self.chunk(prompt, _logprobs(self._shape, scored) if scored else None)
        self._offset = len(prompt)

    def of(self, event: TokenEvent) -> Iterator[dict[str, Any]]:
        """An event's chunk, if it shows anything."""
        is_token = event.id >= 0 and not event.is_end
        logprobs = _logprobs(self._shape, [event], self._offset) if is_token else None
        self._offset += len(event.text)
        if event.text or logprobs:
            yield self.chunk({"content": event.text} if self._shape.kind == "chat" else event.text, logprobs)

    def last(self, reason: str | None) -> dict[str, Any]:
        """The finish reason, which stands alone."""
        return self.chunk({} if self._shape.kind == "chat" else "", None, finish_reason(reason) or "length")

    def chunk(self, content: Any, logprobs: dict[str, Any] | None = None, reason: str | None = None) -> dict[str, Any]:
        """A chunk with any content: the ``delta`` of a chat, the ``text`` of a completion."""
        name = "delta" if self._shape.kind == "chat" else "text"
        made = {"index": self._index, name: content, "logprobs": logprobs, "finish_reason": reason}
        return self._shape.envelope([made], streamed=True)
