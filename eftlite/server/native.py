"""llama-server's own routes, with its shapes, and the interface's description.

Knows requests and replies; answers are openai.py's.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from eftlite import __version__
from eftlite.server import metrics
from eftlite.server.asks import messages_of, models, tools_of
from eftlite.server.bodies import read_json
from eftlite.server.openai import about_of
from eftlite.server.openapi import document
from eftlite.server.requests import DetokenizeRequest, TemplateRequest, TokenizeRequest
from eftlite.server.schema import FieldError, parse
from eftlite.settings import Sampling

if TYPE_CHECKING:
    from starlette.requests import Request

    from eftlite.server.asking import About, Engine
    from eftlite.server.metrics import Totals

MAX_PIECES = 4096  # each is a question to the engine's process
STATES = {
    "loading": "Loading model",
    "restarting": "Loading model again",
    "failed": "The model cannot be loaded",
    "closed": "The server is ending",
}


def routes(engine: Engine, totals: Totals) -> list[Route]:
    """The routes; ``totals`` is what openai.py counts."""
    api = _API(engine, totals)
    return [
        Route("/health", api.health),
        Route("/v1/health", api.health),
        Route("/metrics", api.metrics),
        Route("/props", api.props),
        Route("/tokenize", api.tokenize, methods=["POST"]),
        Route("/tokenizer_info", api.tokenizer_info),
        Route("/detokenize", api.detokenize, methods=["POST"]),
        Route("/apply-template", api.apply_template, methods=["POST"]),
        Route("/openapi.json", api.openapi),
    ]


class _API:
    def __init__(self, engine: Engine, totals: Totals) -> None:
        self._engine, self._totals = engine, totals

    async def health(self, _: Request) -> Response:
        """Whether answers can be made now."""
        if self._engine.state == "ready":
            return JSONResponse({"status": "ok"})
        message = STATES.get(self._engine.state, "Not ready")
        return JSONResponse({"error": {"code": 503, "message": message, "type": "unavailable_error"}}, 503)

    async def metrics(self, _: Request) -> Response:
        """Figures for Prometheus."""
        figures = await metrics.exposition(self._engine, self._totals)
        return Response(figures, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def props(self, _: Request) -> Response:
        """What is loaded, and what holds where a request says nothing."""
        return JSONResponse(props(await about_of(self._engine)))

    async def tokenize(self, request: Request) -> Response:
        """Token ids of a text, with their pieces if wanted: texts, or bytes where they are no text by themselves."""
        wanted = parse(TokenizeRequest, read_json(await request.body()))
        ids = await self._engine.tokenize(wanted.content, wanted.add_special, wanted.parse_special)
        if not wanted.with_pieces:
            return JSONResponse({"tokens": ids})
        if len(ids) > MAX_PIECES:
            raise FieldError(f"content: expected at most {MAX_PIECES} tokens beside with_pieces", "content")
        pieces = [await self._engine.detokenize([token], special=True) for token in ids]
        tokens = [{"id": token, "piece": _piece(piece)} for token, piece in zip(ids, pieces, strict=True)]
        return JSONResponse({"tokens": tokens})

    async def detokenize(self, request: Request) -> Response:
        """The text of token ids; ``prompt`` is vLLM's name for ``content``."""
        wanted = parse(DetokenizeRequest, read_json(await request.body()))
        n_vocab = (await about_of(self._engine)).n_vocab
        if any(token >= n_vocab for token in wanted.tokens):
            raise FieldError(f"tokens: expected token ids from 0 to {n_vocab - 1}, got one outside", "tokens")
        text = (await self._engine.detokenize(wanted.tokens, special=True)).decode("utf-8", "replace")
        return JSONResponse({"content": text, "prompt": text})

    async def tokenizer_info(self, _: Request) -> Response:
        """What vLLM tells of a tokenizer; lm-evaluation-harness asks for it before it uses ``/tokenize``."""
        about = await about_of(self._engine)
        return JSONResponse({"eos_token": about.eos, "bos_token": about.bos or None, "chat_template": about.template})

    async def apply_template(self, request: Request) -> Response:
        """The prompt that a conversation becomes."""
        wanted = parse(TemplateRequest, read_json(await request.body()))
        prompt = await self._engine.render(messages_of(wanted.messages), tools_of(wanted.tools or []))
        return JSONResponse({"prompt": prompt})

    async def openapi(self, _: Request) -> Response:
        """The interface, described."""
        return JSONResponse(document())


def _piece(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def props(about: About) -> dict[str, Any]:
    """``/props``: llama-server's fields, and what makes the family in ``eft``; files without their folders."""
    sampling = {name: value for name, value in asdict(Sampling()).items() if name not in ("logit_bias", "grammar")}
    settings = {
        "id": 0,
        "n_ctx": about.n_ctx,
        "speculative": about.speculation.enabled,
        "is_processing": False,
        "params": {**sampling, "repeat_last_n": sampling["penalty_last_n"], "n_predict": -1, "max_tokens": -1},
    }
    return {
        "default_generation_settings": settings,
        "total_slots": about.n_slots,
        "model_alias": about.family,
        "model_path": about.members[0].file,
        "chat_template": about.template,
        "bos_token": about.bos,
        "eos_token": about.eos,
        "modalities": {"vision": False, "audio": False},
        "build_info": f"eftlite {__version__}",
        "eft": {
            "members": [asdict(member) for member in about.members],
            "models": models(about),
            "deltas": list(about.deltas),
            "knobs": asdict(about.knobs),
            "speculation": asdict(about.speculation),
            "n_vocab": about.n_vocab,
            "notes": list(about.notes),
            "build": dict(about.build),
        },
    }
