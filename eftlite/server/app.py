"""The server put together: the engine, the history, and every route.

Knows which parts there are; what each does is its own file's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from eftlite.server import answers, conversations, native, openai, page_files
from eftlite.server.metrics import Totals
from eftlite.server.replies import exception_handlers

if TYPE_CHECKING:
    from eftlite.history import History
    from eftlite.server.asking import Engine


def make_app(engine: Engine, history: History) -> Starlette:
    """An app whose life is the engine's: it starts loading with the app, and ends with it."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await engine.start()
        try:
            yield
        finally:
            await engine.close()

    return Starlette(routes=all_routes(engine, history), lifespan=lifespan, exception_handlers=exception_handlers())


def all_routes(engine: Engine, history: History) -> Sequence[BaseRoute]:
    """Clients' routes, then those of the page."""
    totals = Totals()
    return [
        *openai.routes(engine, totals),
        *native.routes(engine, totals),
        *conversations.routes(engine, history),
        *answers.routes(engine, history, totals),
        *page_files.routes(),
    ]


def page_paths() -> frozenset[str]:
    """Where the page and its files are; they hold no data and load without a key."""
    return frozenset(route.path for route in page_files.routes())
