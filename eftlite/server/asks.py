"""Requests -> what is asked of the engine: who answers, with which knobs, by which law, and where it ends.

What cannot be honoured is refused by its name, never ignored. Knows fields and settings; never HTTP, nor what comes of
an ask.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from eftlite.errors import InputError
from eftlite.responses import Shape
from eftlite.server.asking import About, Ask, knobs_of
from eftlite.server.formats import forced_call, format_of
from eftlite.server.requests import ChatRequest, CompletionRequest, EFTFields, Message, Sampled, Tool
from eftlite.server.schema import FieldError
from eftlite.settings import MAX_SEED, Limits, Sampling, Speculation, from_options

COMPLETION_TOKENS = 16  # OpenAI's default; chats go on to the context's end
_FROM_REQUEST = tuple(set(Sampling.__dataclass_fields__) - {"seed", "logit_bias", "grammar"})


class UnknownModelError(FieldError):
    """No model of this name is served."""

    http_status: ClassVar[int] = 404
    kind: ClassVar[str] = "not_found_error"


@dataclass(frozen=True)
class Plan:
    """One response, before it is made.

    Attributes:
        shape: what its parts have in common.
        asks: one for each choice.
        echo: whether each choice repeats its prompt.
        tools: names of those that may be called.
        include_usage: whether a stream ends with a chunk that counts tokens.
    """

    shape: Shape
    asks: Sequence[Ask]
    echo: bool = False
    tools: frozenset[str] = frozenset()
    include_usage: bool = False


# ---- models


def models(about: About) -> dict[str, str]:
    """Names that clients may choose from, with the mode that each stands for: the family, then each member alone."""
    first, *alone = about.modes
    return {about.family: first, **{f"{about.family}:{mode}": mode for mode in alone}}


def mode_of(about: About, model: str | None) -> str:
    """The mode that a model's name stands for; no name is the family.

    Raises:
        UnknownModelError: the names that are known are told.
    """
    known = models(about)
    if model is None:
        model = about.family
    if model not in known:
        message = f"model: expected one of {', '.join(known)}, got {model[:60]!r}"
        raise UnknownModelError(message, "model", code="model_not_found")
    return known[model]


# ---- the two kinds of requests


def chat_plan(about: About, request: ChatRequest) -> Plan:
    """What a chat request asks for.

    Raises:
        FieldError: a field that cannot be honoured.
    """
    for name in ("functions", "function_call"):
        if getattr(request, name) is not None:
            raise FieldError(f"{name}: expected tools in its place", name)
    if request.top_logprobs and not request.logprobs:
        raise FieldError("top_logprobs: expected logprobs to be true beside it", "top_logprobs")
    tools = _tools(about, request)
    ask = replace(
        _ask(about, request, forced_call(request, tools)),
        messages=messages_of(request.messages),
        tools=tools_of(tools),
    )
    n_logprobs = (request.top_logprobs or 0) if request.logprobs else None
    max_tokens = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    return Plan(
        Shape("chat", request.model or about.family, n_logprobs),
        _repeated(replace(ask, limits=_limits(request, max_tokens, n_logprobs)), request),
        tools=frozenset(tool.function.name for tool in tools),
        include_usage=_include_usage(request),
    )


def completion_plan(about: About, request: CompletionRequest) -> Plan:
    """What a completion request asks for.

    Raises:
        FieldError: a field that cannot be honoured.
    """
    if request.suffix:
        raise FieldError("suffix: this cannot be done with EFT", "suffix", "Leave it out")
    if request.best_of not in (None, request.n or 1):
        raise FieldError("best_of: expected the same as n", "best_of", "Leave it out")
    max_tokens = COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
    ask = replace(_ask(about, request), limits=_limits(request, max_tokens, request.logprobs))
    prompts = _prompts(request.prompt, about.n_vocab)
    return Plan(
        Shape("completion", request.model or about.family, request.logprobs),
        [repeated for prompt in prompts for repeated in _repeated(replace(ask, prompt=prompt), request)],
        echo=bool(request.echo),
        include_usage=_include_usage(request),
    )


def _ask(about: About, request: Sampled, forced: Mapping[str, Any] | None = None) -> Ask:
    """What both kinds have in common; ``forced`` is the schema of a call that must be made."""
    fields = request.eft or EFTFields()
    mode = mode_of(about, request.model)
    given = fields.model_dump(include={"alpha", "beta", "conservative_p", "deltas"})
    try:
        knobs = knobs_of(about, mode, **given)
    except InputError as error:
        raise FieldError(error.message, "eft", error.hint) from None
    response_format = format_of(request, forced)
    speculation = _speculation(about.speculation, fields, request)
    return Ask(knobs, sampling=_sampling(about, request), response_format=response_format, speculation=speculation)


def _repeated(ask: Ask, request: Sampled) -> list[Ask]:
    """``n`` asks with seeds that follow each other."""
    seed = request.seed
    seeds = [None if seed is None else (seed + i) % (MAX_SEED + 1) for i in range(request.n or 1)]
    return [replace(ask, sampling=replace(ask.sampling, seed=seed)) for seed in seeds]


def _include_usage(request: Sampled) -> bool:
    return bool(request.stream_options and request.stream_options.include_usage)


def _prompts(prompt: str | list[Any], n_vocab: int) -> list[str | list[int]]:
    """One or several prompts; a list of numbers is one."""
    if isinstance(prompt, str):
        return [prompt]
    prompts = [prompt] if isinstance(prompt[0], int) else prompt
    if any(token >= n_vocab for ids in prompts if isinstance(ids, list) for token in ids):
        raise FieldError(f"prompt: expected token ids from 0 to {n_vocab - 1}, got one outside", "prompt")
    return prompts


# ---- settings


def _limits(request: Sampled, max_tokens: int | None, n_logprobs: int | None) -> Limits:
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    return Limits(max_tokens, tuple(stop), n_logprobs or 0)


def _sampling(about: About, request: Sampled) -> Sampling:
    given = {name: getattr(request, name) for name in _FROM_REQUEST}
    biases = {int(token): bias for token, bias in (request.logit_bias or {}).items()}
    if any(token >= about.n_vocab for token in biases):
        raise FieldError(f"logit_bias: expected token ids from 0 to {about.n_vocab - 1}, got one outside", "logit_bias")
    sampling: Sampling = from_options(Sampling, {**given, "logit_bias": biases, "grammar": request.grammar or None})
    return sampling


def _speculation(speculation: Speculation, fields: EFTFields, request: Sampled) -> Speculation:
    wanted = fields.speculative
    if wanted is None or wanted is False:
        return speculation if wanted is None else replace(speculation, enabled=False)
    if request.mirostat and request.temperature != 0:
        raise FieldError("eft.speculative: expected false beside mirostat, which draws by itself", "eft.speculative")
    changes = {} if wanted is True else wanted.model_dump(exclude_none=True)
    return replace(speculation, enabled=True, **changes)


# ---- conversations and tools


def messages_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as a template reads them: arguments of earlier calls are data, not text."""
    plain = [message.model_dump(exclude_none=True) for message in messages]
    for call in (call for message in plain for call in message.get("tool_calls", ())):
        call["function"]["arguments"] = _data(call["function"]["arguments"])
    return plain


def tools_of(tools: Sequence[Tool]) -> list[dict[str, Any]] | None:
    """Tools as a template reads them."""
    return [tool.model_dump(exclude_none=True) for tool in tools] or None


def _data(arguments: str) -> Any:
    """The object that a call's arguments spell; a text that spells none stays what it is."""
    try:
        data = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return data if isinstance(data, dict) else arguments


def _tools(about: About, request: ChatRequest) -> list[Tool]:
    """The tools that may be called."""
    if not request.tools or request.tool_choice == "none":
        return []
    if "tools" not in about.template:
        raise FieldError("tools: expected none, since the model's chat template does not know tools", "tools")
    return request.tools
