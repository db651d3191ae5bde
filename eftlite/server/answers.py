"""The page's questions: what may be asked, by whom it is answered, and what is changed or stopped meanwhile.

From requests to asks for the engine; streaming.py sends and keeps what comes of them. Knows no models and no files.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from eftlite import __version__
from eftlite.demo.scoring import load_questions
from eftlite.errors import EFTError, HistoryError, InputError, NotFoundError
from eftlite.history import Message
from eftlite.server.asking import MODES, Ask, knobs_of
from eftlite.server.bodies import read_json
from eftlite.server.conversations import PATH, Id, Own, conversation_of, kept
from eftlite.server.schema import Count, Strength, Unit, UpTo100, parse
from eftlite.server.streaming import Answers, Part, Stream
from eftlite.settings import MAX_SEED, Limits, Sampling

if TYPE_CHECKING:
    from starlette.requests import Request

    from eftlite.history import Conversation, History
    from eftlite.server.asking import About, Engine
    from eftlite.server.metrics import Totals

BUNDLED = "demo"
SHOWN = ("temperature", "top_k", "top_p", "min_p")
SUGGESTED = ("single", "describe", "compare", "harmful")  # kinds of the bundled questions, one of each
NEW = 0  # the id of a question that has none yet

Content = Annotated[str, Field(min_length=1, max_length=512 << 10)]


class SamplingFields(Own):
    """How tokens are drawn; what is not given stays as the server has it."""

    temperature: UpTo100 | None = None
    top_k: Annotated[int, Field(ge=-1, le=1 << 30)] | None = None
    top_p: Unit | None = None
    min_p: Unit | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None


class KnobFields(Own):
    """The knobs of emulated fine-tuning; what is not given stays as it is."""

    alpha: Strength | None = None
    beta: UpTo100 | None = None
    conservative_p: Unit | None = None
    deltas: Annotated[dict[str, Strength], Field(max_length=64)] | None = None
    temperature: UpTo100 | None = None


class Question(Own):
    """What to answer.

    Attributes:
        content: a new turn of the user's; None answers an old one again.
        parent: the message that the new turn follows, or the old turn.
        modes: who answers, all at the same time.
    """

    content: Content | None = None
    parent: Id | None = None
    modes: Annotated[list[str], Field(min_length=1, max_length=len(MODES))]
    sampling: SamplingFields = SamplingFields()
    knobs: KnobFields = KnobFields()
    max_tokens: Annotated[Count, Field(ge=1)] | None = None
    n_top: Annotated[int, Field(ge=0, le=10)] = 0


class Turned(Own):
    """Knobs for an answer that is being written."""

    knobs: KnobFields


def routes(engine: Engine, history: History, totals: Totals) -> list[Route]:
    """The routes of answers; ``totals`` counts what they take."""
    api = _API(Answers(engine, history, totals))
    one = "/api/answers/{answer}"
    return [
        Route("/api/about", api.about, methods=["GET"]),
        Route(f"{PATH}/{{conversation}}/answers", api.ask, methods=["POST"]),
        Route(one, api.turn, methods=["PATCH"]),
        Route(one, api.stop, methods=["DELETE"]),
    ]


class _API:
    """What the routes do."""

    def __init__(self, answers: Answers) -> None:
        self._answers, self._engine, self._history = answers, answers.engine, answers.history

    async def about(self, _: Request) -> Response:
        return JSONResponse(await told(self._engine))

    async def ask(self, request: Request) -> Response:
        """Stream the answer to a question, which is kept before anything else."""
        name, question = conversation_of(request), parse(Question, read_json(await request.body()))
        about = self._engine.about or await self._engine.ready(0)
        conversation, asked = with_question(await kept(self._history.get, name), question)
        parts = parts_of(question, about, conversation.chat_messages(asked))
        turn = await self._kept_turn(name, question) if asked == NEW else asked
        return Stream(self._answers, name, turn, parts).response()

    async def _kept_turn(self, conversation: str, question: Question) -> int | HistoryError:
        """The id of the new turn, on the disk now; or why it could not be kept, which keeps nobody from answering."""
        try:
            return await kept(self._history.add_user, conversation, question.content, question.parent)
        except HistoryError as error:
            return error

    async def turn(self, request: Request) -> Response:
        mode, running = self._answers.find(request.path_params["answer"])
        given = parse(Turned, read_json(await request.body())).knobs
        about = await self._engine.ready(0)
        await running.set_knobs(knobs_of(about, mode, start=running.knobs, **given.model_dump()))
        return Response(status_code=204)

    async def stop(self, request: Request) -> Response:
        _, running = self._answers.find(request.path_params["answer"])
        await running.stop()
        return Response(status_code=204)


# ---- what is asked


def with_question(conversation: Conversation, question: Question) -> tuple[Conversation, int]:
    """The conversation with the turn to answer in it, and that turn's id.

    Raises:
        NotFoundError: the parent is no message of the conversation.
        InputError: there is nothing to answer.
    """
    roles = {message.id: message.role for message in conversation.messages}
    if question.parent is not None and question.parent not in roles:
        raise NotFoundError(f"parent: expected a message of this conversation, got {question.parent}")
    if question.content is not None:
        turn = Message(NEW, question.parent, "user", question.content, "complete", "", time.time(), {}, {})
        return replace(conversation, messages=(*conversation.messages, turn)), NEW
    if question.parent is None or roles[question.parent] != "user":
        raise InputError("parent: expected a turn of the user's, since there is no content")
    return conversation, question.parent


def parts_of(question: Question, about: About, messages: Sequence[dict[str, str]]) -> list[Part]:
    """An answer to ask for in each mode, all with the same seed, which is made up where none is given.

    Raises:
        InputError: an unknown mode or one given twice, a knob that nobody has or out of its range.
    """
    modes = question.modes
    if len(set(modes)) < len(modes):
        raise InputError("modes: expected each once")
    seed = secrets.randbits(32)  # below 2**53, so that a browser can say it again
    sampling = Sampling(**{"seed": seed, **question.sampling.model_dump(exclude_none=True)})
    limits = Limits(max_tokens=question.max_tokens, n_top=question.n_top)
    leader = "eft" if "eft" in modes else modes[0]
    parts = []
    for mode in modes:
        given = question.knobs if mode == leader else KnobFields()
        knobs = knobs_of(about, mode, **given.model_dump())
        ask = Ask(knobs, messages=messages, sampling=sampling, limits=limits)
        parts.append(Part(mode, ask, settings_of(ask, mode, about), leads=mode == leader))
    return parts


def settings_of(ask: Ask, mode: str, about: About) -> dict[str, Any]:
    """An ask's settings as a question has them, to be kept with its answer."""
    settings: dict[str, Any] = {
        "sampling": {name: getattr(ask.sampling, name) for name in SamplingFields.model_fields},
        "max_tokens": ask.limits.max_tokens,
    }
    if mode == "eft":
        settings["knobs"] = {
            "beta": ask.knobs.beta,
            "conservative_p": ask.knobs.conservative_p or 0.0,
            "deltas": dict(zip(about.deltas, ask.knobs.alphas, strict=True)),
        }
    return settings


# ---- what answers


async def told(engine: Engine) -> dict[str, Any]:
    """What the page knows of the engine; while it was never loaded that is little."""
    found: dict[str, Any] = {
        "version": __version__,
        "state": engine.state,
        "sampling": {name: getattr(Sampling, name) for name in SHOWN},
    }
    if engine.state == "failed":
        try:
            await engine.ready(0)
        except EFTError as error:
            found["failure"] = error.message  # less than the engine's own, which may name folders
    if engine.about is not None:
        found |= family_of(engine.about) | {"memory": await engine.memory()}
    return found


def family_of(about: About) -> dict[str, Any]:
    """What was loaded."""
    members = [
        {name: getattr(member, name) for name in ("name", "file", "description", "n_params", "size_bytes")}
        for member in about.members
    ]
    deltas = [{"name": name, "alpha": alpha} for name, alpha in zip(about.deltas, about.knobs.alphas, strict=True)]
    return {
        "family": about.family,
        "modes": about.modes,
        "members": members,
        "deltas": deltas,
        "knobs": {"beta": about.knobs.beta, "conservative_p": about.knobs.conservative_p},
        "n_ctx": about.n_ctx,
        "suggestions": suggestions(about.family),
    }


def suggestions(family: str) -> list[str]:
    """Questions that show something with these models: for the bundled family one of each kind."""
    if family != BUNDLED:
        return []
    first = {question.kind: question.text for question in reversed(load_questions())}
    return [first[kind] for kind in SUGGESTED]
