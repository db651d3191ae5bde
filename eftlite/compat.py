"""The completion methods of ``llama_cpp.Llama`` over EFT's own answers: same arguments, same result shapes.

Knows arguments and shapes; what answers is the class that these methods are mixed into.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, Protocol

from eftlite import calls, responses
from eftlite.arguments import format_grammar, limits_of, refuse, sampling_of
from eftlite.errors import InputError
from eftlite.events import Statistics, TokenEvent
from eftlite.settings import Family, Knobs, Limits, Sampling

Messages = Sequence[Mapping[str, Any]]


class AnswerLike(Protocol):
    """Events, and what they took once they are exhausted."""

    seed: int
    statistics: Statistics

    def __iter__(self) -> Iterator[TokenEvent]:
        """The events."""


class Answering(Protocol):
    """What answers conversations and continues texts."""

    family: Family

    def chat(
        self,
        messages: Messages,
        *,
        sampling: Sampling | None = None,
        limits: Limits | None = None,
        knobs: Knobs | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> AnswerLike:
        """Answer a conversation."""

    def complete(
        self,
        prompt: str | Sequence[int],
        *,
        sampling: Sampling | None = None,
        limits: Limits | None = None,
        knobs: Knobs | None = None,
    ) -> AnswerLike:
        """Continue a text."""

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """Bytes of token ids."""


class LlamaMethods:
    """``create_completion``, ``create_chat_completion`` and ``__call__``."""

    def create_completion(
        self: Answering,
        prompt: str | Sequence[int],
        suffix: str | None = None,
        max_tokens: int | None = 16,
        temperature: float = 0.8,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        logprobs: int | None = None,
        echo: bool = False,
        stop: str | Sequence[str] | None = (),
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        top_k: int = 40,
        stream: bool = False,
        seed: int | None = None,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        model: str | None = None,
        stopping_criteria: None = None,
        logits_processor: None = None,
        grammar: Any = None,
        logit_bias: Mapping[int, float] | None = None,
        knobs: Knobs | None = None,
    ) -> dict[str, Any] | Iterator[dict[str, Any]]:
        """Continue a text; arguments and result as ``llama_cpp.Llama.create_completion``, plus ``knobs``.

        ``max_tokens`` None or below 1 goes on to the context's end. ``suffix``, ``stopping_criteria``,
        ``logits_processor`` and ``tfs_z`` cannot be honoured and are refused.
        """
        refuse(
            suffix=suffix,
            stopping_criteria=stopping_criteria,
            logits_processor=logits_processor,
            tfs_z=None if tfs_z == 1.0 else tfs_z,
        )
        sampling = sampling_of(locals())
        limits = limits_of(max_tokens, stop, logprobs)
        echoed = (
            (prompt if isinstance(prompt, str) else self.detokenize(prompt).decode("utf-8", "replace")) if echo else ""
        )
        shape = responses.Shape("completion", model or self.family.name, logprobs)
        answer = self.complete(prompt, sampling=sampling, limits=limits, knobs=knobs)
        return _respond(shape, answer, stream, echoed if echo else "")

    __call__ = create_completion

    def create_chat_completion(
        self: Answering,
        messages: Messages,
        functions: Sequence[Mapping[str, Any]] | None = None,
        function_call: str | Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        temperature: float = 0.2,
        top_p: float = 0.95,
        top_k: int = 40,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        stream: bool = False,
        stop: str | Sequence[str] | None = (),
        seed: int | None = None,
        response_format: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        model: str | None = None,
        logits_processor: None = None,
        grammar: Any = None,
        logit_bias: Mapping[int, float] | None = None,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
        knobs: Knobs | None = None,
    ) -> dict[str, Any] | Iterator[dict[str, Any]]:
        """Answer a conversation; arguments and result as ``llama_cpp.Llama.create_chat_completion``, plus ``knobs``.

        ``tools`` reach the template; a ``tool_choice`` that names one of their functions forces a call of it, which
        is then the answer's ``tool_calls``. ``functions``, ``function_call``, ``logits_processor`` and ``tfs_z`` cannot
        be honoured and are refused.
        """
        refuse(
            functions=functions,
            function_call=function_call,
            logits_processor=logits_processor,
            tfs_z=None if tfs_z == 1.0 else tfs_z,
        )
        forced = calls.forced_format(tools, tool_choice)
        if forced and (grammar or response_format):
            raise InputError("tool_choice: expected neither grammar nor response_format beside a forced call")
        grammar = grammar or format_grammar(forced or response_format)
        sampling = sampling_of(locals())
        n_logprobs = (top_logprobs or 0) if logprobs else None
        shape = responses.Shape("chat", model or self.family.name, n_logprobs)
        limits = limits_of(max_tokens, stop, n_logprobs)
        answer = self.chat(messages, sampling=sampling, limits=limits, knobs=knobs, tools=tools)
        if not forced:
            return _respond(shape, answer, stream)
        if stream:
            return calls.stream_call(shape, iter(answer))
        return calls.with_call(responses.whole(shape, list(answer), answer.statistics, answer.seed))

    def create_embedding(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: an embedding is no distribution of the next token, and nothing else is combined here."""
        raise InputError("embeddings: this cannot be done with EFT", "Load an embedding model in llama_cpp.Llama")

    embed = create_embedding


def _respond(
    shape: responses.Shape, answer: AnswerLike, stream: bool, prompt: str = ""
) -> dict[str, Any] | Iterator[dict[str, Any]]:
    if stream:
        return responses.stream(shape, iter(answer), prompt)
    events = list(answer)
    return responses.whole(shape, events, answer.statistics, answer.seed, prompt)
