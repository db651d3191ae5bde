"""OpenAI's routes: models, chat completions, completions. Clients of OpenAI work with them as they are.

Knows requests and replies; what is asked for is asks.py's, what comes of it choices.py's.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from eftlite.errors import EFTError
from eftlite.server.asks import Plan, chat_plan, completion_plan, mode_of, models
from eftlite.server.bodies import read_json
from eftlite.server.choices import Making
from eftlite.server.replies import streamed, whole
from eftlite.server.requests import ChatRequest, CompletionRequest
from eftlite.server.schema import parse

if TYPE_CHECKING:
    from starlette.requests import Request

    from eftlite.server.asking import About, Engine
    from eftlite.server.metrics import Totals

READY_S = 5.0  # an engine that died is back sooner


class UnsupportedError(EFTError):
    """OpenAI has it, EFT cannot do it."""

    http_status: ClassVar[int] = 501
    kind: ClassVar[str] = "not_supported_error"


def routes(engine: Engine, totals: Totals) -> list[Route]:
    """The routes below ``/v1``; ``totals`` counts what answers take."""
    api = _API(engine, totals)
    return [
        Route("/v1/models", api.models),
        Route("/v1/models/{model:path}", api.model),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/completions", api.complete, methods=["POST"]),
        Route("/v1/embeddings", api.embed, methods=["POST"]),
    ]


async def about_of(engine: Engine) -> About:
    """What is loaded; UnavailableError while nothing was loaded yet."""
    return engine.about or await engine.ready(READY_S)


class _API:
    def __init__(self, engine: Engine, totals: Totals) -> None:
        self._engine, self._totals = engine, totals
        self._created = int(time.time())

    async def models(self, _: Request) -> Response:
        """The family, and each member alone."""
        about = await about_of(self._engine)
        data = [self._card(about, name, mode) for name, mode in models(about).items()]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        """One of them."""
        about = await about_of(self._engine)
        name = request.path_params["model"]
        return JSONResponse(self._card(about, name, mode_of(about, name)))

    def _card(self, about: About, name: str, mode: str) -> dict[str, Any]:
        """OpenAI's model object with llama-server's ``meta``."""
        members = [member for member in about.members if mode in ("eft", member.name)] or about.members
        meta = {
            "n_vocab": about.n_vocab,
            "n_ctx": about.n_ctx,
            "n_ctx_train": min(member.n_ctx_train for member in members),
            "n_params": sum(member.n_params for member in members),
            "size": sum(member.size_bytes for member in members),
        }
        return {"id": name, "object": "model", "created": self._created, "owned_by": "eftlite", "meta": meta}

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        wanted = parse(ChatRequest, read_json(await request.body()))
        plan = chat_plan(await about_of(self._engine), wanted)
        return await self._answer(request, plan, stream=bool(wanted.stream))

    async def complete(self, request: Request) -> Response:
        """Continue texts."""
        wanted = parse(CompletionRequest, read_json(await request.body()))
        plan = completion_plan(await about_of(self._engine), wanted)
        return await self._answer(request, plan, stream=bool(wanted.stream))

    async def embed(self, _: Request) -> Response:
        """Refuse: a composite of models has no embeddings."""
        raise UnsupportedError("embeddings: this cannot be done with EFT", "Ask a server of embedding models")

    async def _answer(self, request: Request, plan: Plan, stream: bool) -> Response:
        client = request.client.host if request.client else ""
        making = Making(self._engine, self._totals, plan, client)
        if stream:
            return await streamed(request, making.chunks())
        return await whole(request, making.whole())
