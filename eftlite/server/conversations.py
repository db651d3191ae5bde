"""The page's conversations: listed, searched, read, renamed, exported, deleted.

Knows the history's interface and JSON, and of the engine only its family's name. The history is called in threads:
what it writes waits for the disk, and what it reads may wait for another program.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar
from urllib.parse import quote

from anyio import to_thread
from pydantic import BeforeValidator, ConfigDict, Field
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from eftlite.errors import HistoryError, InputError, NotFoundError
from eftlite.history import Conversation, History, export_json, export_markdown
from eftlite.server.bodies import read_json
from eftlite.server.schema import Body, parse

if TYPE_CHECKING:
    from starlette.requests import Request

    from eftlite.server.asking import Engine

MAX_ID = 2**63 - 1  # SQLite's largest
PATH = "/api/conversations"

Id = Annotated[int, Field(ge=1, le=MAX_ID)]
Title = Annotated[str, Field(max_length=200)]
System = Annotated[str, Field(max_length=64 << 10)]
T = TypeVar("T")

EXPORTS: dict[str, tuple[Callable[[Conversation], str], str]] = {
    "json": (export_json, "application/json"),
    "md": (export_markdown, "text/markdown; charset=utf-8"),
}


def _number(text: str) -> int | str:
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else text


class Own(Body):
    """Fields of the page's own API: one that is not known is refused, since nobody else sends any."""

    model_config = ConfigDict(extra="forbid")


class Begin(Own):
    """A new conversation."""

    title: Title = ""
    system: System = ""


class Change(Own):
    """What changes in a conversation; ``leaf`` is the message it goes on from, 0 before the first."""

    title: Title | None = None
    system: System | None = None
    leaf: Annotated[int, Field(ge=0, le=MAX_ID)] | None = None


class Wanted(Own):
    """Which conversations to list, the latest first; from a query, where everything is text."""

    query: Annotated[str, Field(max_length=200)] = ""
    limit: Annotated[int, BeforeValidator(_number), Field(ge=1, le=200)] = 50
    offset: Annotated[int, BeforeValidator(_number), Field(ge=0, le=1_000_000)] = 0


def routes(engine: Engine, history: History) -> list[Route]:
    """The routes of conversations."""
    api = _Conversations(engine, history)
    one = f"{PATH}/{{conversation}}"
    return [
        Route(PATH, api.list, methods=["GET"]),
        Route(PATH, api.begin, methods=["POST"]),
        Route(one, api.get, methods=["GET"]),
        Route(one, api.change, methods=["PATCH"]),
        Route(one, api.delete, methods=["DELETE"]),
        Route(f"{one}/export", api.export, methods=["GET"]),
        Route("/api/messages/{message}/tokens", api.tokens, methods=["GET"]),
    ]


class _Conversations:
    """What the routes do."""

    def __init__(self, engine: Engine, history: History) -> None:
        self._engine, self._history = engine, history

    async def list(self, request: Request) -> Response:
        wanted = parse(Wanted, dict(request.query_params))
        found = await kept(self._history.list, wanted.query, wanted.limit, wanted.offset)
        return JSONResponse({"conversations": [asdict(summary) for summary in found]})

    async def begin(self, request: Request) -> Response:
        begin = parse(Begin, read_json(await request.body()))
        family = self._engine.about.family if self._engine.about else ""
        create = partial(self._history.create, title=begin.title, system=begin.system, family=family)
        return JSONResponse({"id": await kept(create)}, 201)

    async def get(self, request: Request) -> Response:
        return JSONResponse(asdict(await kept(self._history.get, conversation_of(request))))

    async def change(self, request: Request) -> Response:
        change = parse(Change, read_json(await request.body()))
        await kept(partial(self._history.update, conversation_of(request), **change.model_dump()))
        return Response(status_code=204)

    async def delete(self, request: Request) -> Response:
        await kept(self._history.delete, conversation_of(request))
        return Response(status_code=204)

    async def export(self, request: Request) -> Response:
        """The conversation as a file to save, in the format asked for."""
        kind = request.query_params.get("format", "md")
        if kind not in EXPORTS:
            raise InputError(f"format: expected {' or '.join(EXPORTS)}, got {kind[:40]!r}")
        conversation = await kept(self._history.get, conversation_of(request))
        export, media_type = EXPORTS[kind]
        headers = {"Content-Disposition": disposition(conversation.title, kind)}
        return Response(export(conversation), headers=headers, media_type=media_type)

    async def tokens(self, request: Request) -> Response:
        given: str = request.path_params["message"]
        if not re.fullmatch("[1-9][0-9]{0,17}", given):
            raise NotFoundError(f"message: expected its number, got {given[:40]!r}")
        return JSONResponse({"tokens": await kept(self._history.tokens, int(given))})


def conversation_of(request: Request) -> str:
    """The conversation that a path names; NotFoundError unless it is spelt as ids are."""
    given: str = request.path_params["conversation"]
    if not re.fullmatch("[0-9a-f]{12}", given):
        raise NotFoundError(f"conversation: expected an id of 12 hexadecimal digits, got {given[:40]!r}")
    return given


async def kept(call: Callable[..., T], *args: object) -> T:
    """What a call of the history gives, made in a thread.

    Raises:
        HistoryError: its hint, which names a file, is left out.
        EFTError: as the call raised it.
    """
    try:
        return await to_thread.run_sync(call, *args)
    except HistoryError as error:
        raise HistoryError(error.message) from None


def disposition(title: str, ending: str) -> str:
    """A Content-Disposition that saves a file named by a title: letters and digits of any script, hyphens, no more."""
    name = "-".join(re.findall(r"\w+", title))[:60].rstrip("-") or "conversation"
    return f"attachment; filename=\"conversation.{ending}\"; filename*=UTF-8''{quote(f'{name}.{ending}')}"
