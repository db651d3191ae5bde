"""Calls of tools in an answer's text: what may be shown as it comes, and what is a call.

Two forms are read, as llama.cpp's parsers know them: Hermes' ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``,
anywhere and repeatedly (Hermes, Qwen and others), and Llama 3's, where the whole answer is
``{"name": …, "parameters": {…}}``. Text that may become a call is held back until that is decided; what turns out to
be none is shown as it is. Knows text; never models or templates.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

OPEN, CLOSE = "<tool_call>", "</tool_call>"
# How a whole answer that is a call begins, without the spaces.
_BEGINNINGS = ('{"name":', '{"type":"function"')


def _fresh_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


@dataclass(frozen=True)
class Call:
    """A call of a tool; ``arguments`` is JSON in a string."""

    name: str
    arguments: str
    id: str = field(default_factory=_fresh_id)

    def as_json(self) -> dict[str, Any]:
        """OpenAI's ``tool_call``."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


class CallReader:
    """Reads one answer, piece by piece.

    Args:
        names: of the tools that may be called; anything else that looks like a call is text.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._held = ""
        self._n_parts = 0
        self._after_call = False

    def push(self, text: str) -> list[str | Call]:
        """Text that is certain to be text, and calls that are complete, in their order."""
        self._held += text
        if not self._n_parts and _may_begin(self._held):
            return []
        return self._take(final=False)

    def finish(self) -> list[str | Call]:
        """The rest."""
        if not self._n_parts and (call := self._call(self._held)):
            return [call]
        return self._take(final=True)

    def _take(self, final: bool) -> list[str | Call]:
        parts: list[str | Call] = []
        while (start := self._held.find(OPEN)) >= 0:
            end = self._held.find(CLOSE, start)
            if end < 0 and not final:
                break
            stop = len(self._held) if end < 0 else end + len(CLOSE)
            call = self._call(self._held[start:stop].removeprefix(OPEN).removesuffix(CLOSE))
            before = self._held[:start].rstrip() if call else self._held[:stop]
            parts += [part for part in (self._after(before), call) if part]
            self._held, self._after_call = self._held[stop:], call is not None
        self._held = self._after(self._held)
        n_certain = len(self._held) if final else _certain(self._held)
        if n_certain:
            parts.append(self._held[:n_certain])
            self._held, self._after_call = self._held[n_certain:], False
        self._n_parts += len(parts)
        return parts

    def _after(self, text: str) -> str:
        """Text without the space that only parts it from the call before it."""
        return text.lstrip() if self._after_call else text

    def _call(self, text: str) -> Call | None:
        """The call that a text is, if it is one."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            return None
        name = data.get("name") if isinstance(data, dict) else None
        if not isinstance(name, str) or name not in self._names:
            return None
        arguments = data.get("arguments", data.get("parameters", {}))
        return Call(name, json.dumps(arguments)) if isinstance(arguments, dict) else None


def _may_begin(text: str) -> bool:
    """Whether an answer that begins like this may be a call as a whole."""
    bare = re.sub(r"\s", "", text[:200])
    return any(bare.startswith(beginning) or beginning.startswith(bare) for beginning in _BEGINNINGS)


def _certain(text: str) -> int:
    """Length of the text before what may begin a call, and before the space that would go with it."""
    start = text.find(OPEN)
    if start < 0:
        start = next(i for i in range(max(len(text) - len(OPEN) + 1, 0), len(text) + 1) if OPEN.startswith(text[i:]))
    return len(text[:start].rstrip())
