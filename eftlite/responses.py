"""Events -> the dictionaries that ``llama_cpp.Llama`` returns, whole or streamed, with an ``eft`` block added.

Knows shapes and names of fields; never models.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from eftlite.events import Candidate, Statistics, TokenEvent


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

    def envelope(self, object_name: str, choice: dict[str, Any]) -> dict[str, Any]:
        """A response or chunk with its one choice."""
        return {
            "id": self.id,
            "object": object_name,
            "created": self.created,
            "model": self.model,
            "choices": [choice],
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
    """What only EFT can tell: shift, seconds by member, speculation."""
    block = asdict(statistics)
    block["tokens_per_s"] = statistics.tokens_per_s
    block["seed"] = seed
    return block


# ---- log-probabilities


def _completion_logprobs(events: list[TokenEvent], n: int, offset: int) -> dict[str, Any]:
    """The legacy form: parallel lists."""
    offsets = []
    for event in events:
        offsets.append(offset)
        offset += len(event.text)
    return {
        "tokens": [event.piece.decode("utf-8", "replace") for event in events],
        "text_offset": offsets,
        "token_logprobs": [event.logprob for event in events],
        "top_logprobs": [{c.text: c.logprob for c in _top(event, n)} for event in events],
    }


def _chat_logprobs(events: list[TokenEvent], n: int) -> dict[str, Any]:
    """The chat form: one entry for each token."""

    def entry(piece: bytes, logprob: float) -> dict[str, Any]:
        return {"token": piece.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(piece)}

    content = [
        {
            **entry(event.piece, event.logprob),
            "top_logprobs": [entry(c.piece, c.logprob) for c in _top(event, n)],
        }
        for event in events
    ]
    return {"content": content, "refusal": None}


def _top(event: TokenEvent, n: int) -> tuple[Candidate, ...]:
    return event.top["eft"][:n] if event.top else ()


def _logprobs(shape: Shape, events: list[TokenEvent], offset: int = 0) -> dict[str, Any] | None:
    if shape.n_logprobs is None:
        return None
    tokens = [event for event in events if event.id >= 0 and not event.is_end]
    if shape.kind == "chat":
        return _chat_logprobs(tokens, shape.n_logprobs)
    return _completion_logprobs(tokens, shape.n_logprobs, offset)


# ---- whole responses


def whole(
    shape: Shape, events: list[TokenEvent], statistics: Statistics, seed: int, prompt: str = ""
) -> dict[str, Any]:
    """One response from all events; ``prompt`` is echoed before a completion's text."""
    text = prompt + "".join(event.text for event in events)
    reason = finish_reason(statistics.finish_reason)
    logprobs = _logprobs(shape, events, len(prompt))
    if shape.kind == "chat":
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": reason}
        response = shape.envelope("chat.completion", choice)
    else:
        choice = {"text": text, "index": 0, "logprobs": logprobs, "finish_reason": reason}
        response = shape.envelope("text_completion", choice)
    response["usage"] = usage(statistics)
    response["eft"] = eft_block(statistics, seed)
    return response


# ---- streams


def stream(shape: Shape, events: Iterator[TokenEvent], prompt: str = "") -> Iterator[dict[str, Any]]:
    """Chunks as llama_cpp.Llama streams them: the role first in a chat, the finish reason last and alone."""
    offset = len(prompt)
    if shape.kind == "chat":
        yield _chunk(shape, {"role": "assistant"}, None, None)
    elif prompt:
        yield _chunk(shape, prompt, None, None)
    reason = None
    for event in events:
        logprobs = _logprobs(shape, [event], offset) if event.id >= 0 and not event.is_end else None
        offset += len(event.text)
        reason = event.finish_reason
        if event.text or logprobs:
            yield _chunk(shape, {"content": event.text} if shape.kind == "chat" else event.text, logprobs, None)
    yield _chunk(shape, {} if shape.kind == "chat" else "", None, finish_reason(reason) or "length")


def _chunk(shape: Shape, content: Any, logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
    field, name = ("delta", "chat.completion.chunk") if shape.kind == "chat" else ("text", "text_completion")
    return shape.envelope(name, {"index": 0, field: content, "logprobs": logprobs, "finish_reason": reason})
