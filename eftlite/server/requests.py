"""The bodies of clients' requests: OpenAI's, llama-server's, and what both carry for EFT in ``eft``.

Knows fields; what they ask for is made in asks.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from eftlite.server.schema import Body, Count, Strength, TokenId, Unit, UpTo100
from eftlite.settings import MAX_SEED

StopText = Annotated[str, Field(min_length=1, max_length=1000)]
TokenIdText = Annotated[str, Field(pattern=r"^[0-9]{1,8}$")]
JSONObject = dict[str, Any]

# ---- conversations


class TextPart(Body):
    """A part of a message; images and sound cannot be read."""

    type: Literal["text"]
    text: str


class CalledFunction(Body):
    """The function of a call; ``arguments`` is JSON in a string."""

    name: str
    arguments: str


class ToolCall(Body):
    """A call that the assistant made."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


# Says in the description what Message._says_something checks.
_SAYS_SOMETHING: JSONObject = {
    "anyOf": [
        {"required": ["content"], "properties": {"content": {"type": ["string", "array"]}}},
        {
            "required": ["tool_calls"],
            "properties": {"role": {"const": "assistant"}, "tool_calls": {"type": "array", "minItems": 1}},
        },
    ]
}


class Message(Body):
    """A turn of a conversation."""

    model_config = ConfigDict(json_schema_extra=_SAYS_SOMETHING)

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise PydanticCustomError("content_missing", "no content")
        return self


Messages = Annotated[list[Message], Field(min_length=1)]


class Function(Body):
    """What a tool is called, what it does, and the JSON schema of its arguments."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: JSONObject | None = None


class Tool(Body):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class FunctionName(Body):
    """Which function."""

    name: str


class ChosenTool(Body):
    """The one tool that the model must call."""

    type: Literal["function"]
    function: FunctionName


Tools = Annotated[list[Tool], Field(max_length=128)]


# ---- what is common to all answers


class SpeculativeFields(Body):
    """How drafts are made and verified; what is not given stays as the server has it."""

    model_config = ConfigDict(extra="forbid")

    rule: Literal["gumbel", "block", "token"] | None = None
    drafter: Annotated[str, Field(max_length=200)] | None = None
    n_draft: Annotated[int, Field(ge=1, le=64)] | None = None


class EFTFields(Body):
    """The knobs of emulated fine-tuning; what is not given stays as the server has it."""

    model_config = ConfigDict(extra="forbid")

    alpha: Strength | None = None
    beta: UpTo100 | None = None
    deltas: Annotated[dict[str, Strength], Field(max_length=64)] | None = None
    conservative_p: Unit | None = None
    speculative: bool | SpeculativeFields | None = None


class NamedSchema(Body):
    """OpenAI's ``json_schema``."""

    name: str | None = None
    schema_: JSONObject | None = Field(None, alias="schema")


class ResponseFormat(Body):
    """What the answer must be; ``schema`` beside json_object is llama.cpp's."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    schema_: JSONObject | None = Field(None, alias="schema")


class StreamOptions(Body):
    """What a stream carries besides the answer."""

    include_usage: bool | None = None


class Sampled(Body):
    """How tokens are drawn: OpenAI's fields, llama.cpp's, and ours in ``eft``; defaults are llama.cpp's."""

    model: str | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logit_bias: Annotated[dict[TokenIdText, Strength], Field(max_length=1024)] | None = None

    temperature: UpTo100 | None = None
    top_k: Annotated[int, Field(ge=-1, le=1 << 30)] | None = None
    top_p: Unit | None = None
    min_p: Unit | None = None
    typical_p: Unit | None = None
    repeat_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    penalty_last_n: Annotated[int, Field(ge=-1, le=1 << 20)] | None = Field(None, alias="repeat_last_n")
    frequency_penalty: Strength | None = None
    presence_penalty: Strength | None = None
    dry_multiplier: UpTo100 | None = None
    dry_base: UpTo100 | None = None
    dry_allowed_length: Annotated[int, Field(ge=0, le=1 << 20)] | None = None
    mirostat: Annotated[int, Field(ge=0, le=2)] | None = None
    mirostat_tau: UpTo100 | None = None
    mirostat_eta: UpTo100 | None = None

    response_format: ResponseFormat | None = None
    json_schema: JSONObject | None = None
    grammar: str | None = None
    eft: EFTFields | None = None


# ---- bodies


class ChatRequest(Sampled):
    """``/v1/chat/completions``."""

    messages: Messages
    max_tokens: Annotated[Count, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[Count, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    functions: SkipJsonSchema[Any] = None  # only to be refused
    function_call: SkipJsonSchema[Any] = None


class CompletionRequest(Sampled):
    """``/v1/completions``."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=64)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=64)]
    )
    max_tokens: Count | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=8)] | None = None
    suffix: str | None = None


class TokenizeRequest(Body):
    """``/tokenize``, as llama-server has it; ``prompt`` and ``add_special_tokens`` are vLLM's names."""

    content: str = Field(validation_alias=AliasChoices("content", "prompt"))
    add_special: bool = Field(default=False, validation_alias=AliasChoices("add_special", "add_special_tokens"))
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeRequest(Body):
    """``/detokenize``."""

    tokens: list[TokenId]


class TemplateRequest(Body):
    """``/apply-template``."""

    messages: Messages
    tools: Tools | None = None
