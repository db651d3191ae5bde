"""
title: eftlite
author: eftlite contributors
description: The models of a running eftlite server, with EFT's knobs as valves, and base, tuned and EFT in one answer.
version: 0.1.0
license: MIT
required_open_webui_version: 0.6.0
requirements: openai
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from openai import APIConnectionError, AsyncOpenAI, OpenAIError
from pydantic import BaseModel, Field, TypeAdapter, field_validator

COMPARE = ":compare"
LIST_S = 3.0  # Open WebUI waits for all pipes before it shows any model
OURS = {"model", "messages", "stream", "eft"}  # fields of a request that are not handed on as they are
Messages = Sequence[Mapping[str, Any]]


class Knobs(BaseModel):
    """EFT's knobs as Open WebUI's forms show them. What is left empty stays as the server has it."""

    alpha: float | None = Field(default=None, description="Strength of the tuned model's behaviour: of the first delta")
    beta: float | None = Field(default=None, description="Weight of what the base knows beyond the reference")
    conservative_p: float | None = Field(
        default=None, description="The base only chooses within this top-p of the tuned model; 0 is off"
    )
    deltas: str = Field(default="", description='Strengths of deltas by name: {"harmless": 0.5}')

    @field_validator("deltas")
    @classmethod
    def _is_json(cls, text: str) -> str:
        if text.strip():
            TypeAdapter(dict[str, float]).validate_json(text)
        return text

    def fields(self) -> dict[str, Any]:
        """Those that are set, as the server's ``eft`` takes them."""
        given = self.model_dump(exclude_none=True, include={"alpha", "beta", "conservative_p"})
        return {**given, "deltas": json.loads(self.deltas)} if self.deltas.strip() else given


class Pipe:
    """What Open WebUI loads: one model for each of the server's, and one that compares."""

    class Valves(Knobs):
        """Set by the administrator, for all."""

        base_url: str = Field(default="http://127.0.0.1:8484/v1", description="Where `eftlite serve` is")
        api_key: str = Field(default="", description="Its key", json_schema_extra={"input": {"type": "password"}})

    class UserValves(Knobs):
        """Set by each user, in place of the administrator's."""

    def __init__(self) -> None:
        self.name = "eftlite/"  # stands before every model's name
        self.valves = self.Valves()

    async def pipes(self) -> list[dict[str, str]]:
        """The models to choose from; what is wrong in their place if the server does not answer."""
        try:
            async with self._client(timeout=LIST_S) as client:
                names = [model.id async for model in client.models.list()]
        except OpenAIError as error:
            return [{"id": "unreachable", "name": _said(error)}]
        compared = [names[0] + COMPARE] if len(names) > 1 else []
        return [{"id": name, "name": name} for name in names + compared]

    async def pipe(
        self, body: dict[str, Any], __user__: dict[str, Any] | None = None, __task__: str | None = None
    ) -> str | dict[str, Any] | AsyncGenerator[str | dict[str, Any], None]:
        """Answer a conversation.

        Args:
            body: OpenAI's request; the model is named ``FUNCTION.NAME``.
            __user__: with the user's valves.
            __task__: what Open WebUI asks for itself, such as a title. Only EFT answers then.

        Returns:
            The text, or its pieces if the body asks for a stream. An error is a dict, in either.
        """
        name = body["model"].partition(".")[2]
        family = name.removesuffix(COMPARE)
        names = [name]
        if family != name:
            names = [family] if __task__ else [f"{family}:base", f"{family}:tuned", family]
        answers = self._answers(names, body, self._knobs(body, __user__ or {}))
        if body.get("stream"):
            return _streamed(answers)
        try:
            return "".join([piece async for piece in answers])
        except OpenAIError as error:
            return _error(error)

    def _client(self, **options: Any) -> AsyncOpenAI:
        return AsyncOpenAI(
            base_url=self.valves.base_url, api_key=self.valves.api_key or "none", max_retries=0, **options
        )

    def _knobs(self, body: Mapping[str, Any], user: Mapping[str, Any]) -> dict[str, Any]:
        """Knobs of the request's own, then the user's, then the administrator's."""
        own = user.get("valves")
        return {**self.valves.fields(), **(own.fields() if own else {}), **(body.get("eft") or {})}

    async def _answers(
        self, names: Sequence[str], body: Mapping[str, Any], knobs: Mapping[str, Any]
    ) -> AsyncGenerator[str, None]:
        """One model's answer, or the answers of several below each other."""
        handed_on = {field: value for field, value in body.items() if field not in OURS}
        async with self._client() as client:
            for number, name in enumerate(names):
                if len(names) > 1:
                    yield "\n\n" * bool(number) + f"#### {name}\n\n"
                alone = name.endswith((":base", ":tuned", ":reference"))  # a member alone has no knobs
                stream = await client.chat.completions.create(
                    model=name,
                    messages=_seen_by(name, names, body["messages"]),
                    stream=True,
                    extra_body=handed_on if alone else {**handed_on, "eft": knobs},
                )
                async for chunk in stream:
                    if chunk.choices and (text := chunk.choices[0].delta.content):
                        yield text


def _seen_by(name: str, names: Sequence[str], messages: Messages) -> Any:
    """A conversation as one of those compared had it: of each comparison its own answer alone."""
    if len(names) == 1:
        return messages
    headings = re.compile(rf"^#### ({'|'.join(map(re.escape, names))})$", re.MULTILINE)

    def own(message: Mapping[str, Any]) -> Mapping[str, Any]:
        if message["role"] != "assistant" or not isinstance(message["content"], str):
            return message
        whole, *parts = headings.split(message["content"])
        answers = dict(zip(parts[::2], parts[1::2], strict=True))
        return {**message, "content": answers.get(name, whole).strip()}

    return [own(message) for message in messages]


async def _streamed(answers: AsyncGenerator[str, None]) -> AsyncGenerator[str | dict[str, Any], None]:
    """Pieces as they come; an error becomes the chunk that Open WebUI shows as one."""
    try:
        async with aclosing(answers):  # who stops reading stops the server
            async for piece in answers:
                yield piece
    except OpenAIError as error:
        yield _error(error)


def _error(error: OpenAIError) -> dict[str, Any]:
    """What Open WebUI shows as an error."""
    return {"error": {"detail": _said(error)}}


def _said(error: OpenAIError) -> str:
    """The server's own words, where it had any."""
    if isinstance(error, APIConnectionError):
        return f"no answer from {error.request.url}"
    body = getattr(error, "body", None)
    return str(body["message"]) if isinstance(body, dict) and body.get("message") else str(error)
