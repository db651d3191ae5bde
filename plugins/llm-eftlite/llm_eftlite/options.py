"""Options of a prompt, ``-o NAME VALUE``: every knob, every way of drawing a token, where an answer ends, how to load.

Names are those of eftlite's settings, which check the values; what is left out keeps its default.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeVar

import llm
from pydantic import BeforeValidator, Field

from eftlite.errors import InputError
from eftlite.settings import Family, Knobs, Limits, Sampling, Speculation, from_options

_Settings = TypeVar("_Settings", Knobs, Sampling, Speculation)


def _strengths(value: object) -> object:
    """NAME=ALPHA,… taken apart; anything else is pydantic's to judge."""
    if not isinstance(value, str):
        return value
    pairs = (part.rpartition("=") for part in value.split(","))
    return {name.strip(): alpha for name, _, alpha in pairs}


def _from_json(value: object) -> object:
    """A text as JSON; anything else, and what is none, is pydantic's to judge."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _listed(value: object) -> object:
    """One text as a list of one."""
    return [value] if isinstance(value, str) else value


@dataclass(frozen=True)
class Loading:
    """How a family is loaded; another one means loading it again."""

    n_ctx: int | None = None
    n_gpu_layers: int | None = None
    n_threads: int | None = None
    prompt_style: str | None = None


class EFTOptions(llm.Options):
    """What may be said with one prompt."""

    mode: str | None = Field(None, description="Who answers: eft (default), or base, tuned or reference alone")
    alpha: float | None = Field(None, description="Strength of the first delta; the family's by default")
    delta: Annotated[dict[str, float] | None, BeforeValidator(_strengths)] = Field(
        None, description="Strengths of deltas by name: NAME=ALPHA,NAME=ALPHA"
    )
    beta: float | None = Field(None, description="Above 1 amplifies what the base knows; 1 by default")
    conservative_p: float | None = Field(None, description="Use the base only inside the tuned model's top-p set")
    control_tokens: bool | None = Field(None, description="Treat control tokens by the same rules; on by default")
    allow_negative: bool | None = Field(None, description="Allow alpha < 0, which reverses a tune")

    temperature: float | None = Field(None, description="0 takes the likeliest token; 0.8 by default")
    top_k: int | None = Field(None, description="Keep the k likeliest tokens, 0 all; 40 by default")
    top_p: float | None = Field(None, description="Keep the likeliest tokens up to this probability; 0.95 by default")
    min_p: float | None = Field(None, description="Drop tokens below this share of the likeliest; 0.05 by default")
    typical_p: float | None = Field(None, description="Locally typical sampling; 1, off, by default")
    repeat_penalty: float | None = Field(None, description="Above 1 discourages repetition; 1 by default")
    frequency_penalty: float | None = Field(None, description="Taken off for each time a token occurred")
    presence_penalty: float | None = Field(None, description="Taken off once a token occurred")
    penalty_last_n: int | None = Field(None, description="Tokens the penalties look back, -1 all; 64 by default")
    dry_multiplier: float | None = Field(None, description="Strength of the DRY penalty; 0, off, by default")
    dry_base: float | None = Field(None, description="How the DRY penalty grows with a repetition's length")
    dry_allowed_length: int | None = Field(None, description="Repetitions up to this length are not penalised by DRY")
    mirostat: int | None = Field(None, description="1 or 2 keeps the surprise constant, in place of the filters")
    mirostat_tau: float | None = Field(None, description="The surprise that mirostat aims at")
    mirostat_eta: float | None = Field(None, description="How fast mirostat learns")
    logit_bias: Annotated[dict[int, float] | None, BeforeValidator(_from_json)] = Field(
        None, description='Added to the scores of token ids: {"15": -2.5}'
    )
    grammar: str | None = Field(None, description="A grammar (GBNF) that the answer must follow")
    seed: int | None = Field(None, description="The same seed gives the same answer")

    max_tokens: int | None = Field(None, description="End the answer after so many tokens")
    stop: Annotated[list[str] | None, BeforeValidator(_listed)] = Field(None, description="End the answer at this text")

    speculative: bool | None = Field(None, description="Draft and verify; the text is the same. On by default")
    drafter: str | None = Field(None, description="Who drafts: auto (default), lookup, lookup+auto or a member")
    rule: str | None = Field(None, description="How drafts are verified: gumbel (default), block or token")
    n_draft: int | None = Field(None, description="Tokens to draft at a time; chosen by the pace by default")
    max_draft: int | None = Field(None, description="The most that the pace may choose; 16 by default")

    n_ctx: int | None = Field(None, description="Tokens of context; loads the models again when it changes")
    n_gpu_layers: int | None = Field(None, description="Layers on the GPU, -1 all; as many as fit by default")
    n_threads: int | None = Field(None, description="Threads; the physical cores by default")
    prompt_style: str | None = Field(None, description="What pre-trained members are shown: template or transcript")

    def loading(self) -> Loading:
        """How the family is to be loaded."""
        return Loading(self.n_ctx, self.n_gpu_layers, self.n_threads, self.prompt_style)

    def sampling(self, grammar: str | None) -> Sampling:
        """How tokens are drawn; ``grammar`` is that of the prompt's schema."""
        if grammar is not None and self.grammar is not None:
            raise InputError("grammar: expected either a grammar or a schema, got both")
        return self._settings(Sampling, grammar=grammar or self.grammar)

    def limits(self) -> Limits:
        """Where the answer ends."""
        return Limits(self.max_tokens, tuple(self.stop or ()))

    def speculation(self) -> Speculation:
        """How drafts are made."""
        return self._settings(Speculation, enabled=self.speculative)

    def knobs(self, family: Family) -> Knobs:
        """The family's knobs with what was said of them."""
        alphas: dict[str, float] = {delta.name: delta.alpha for delta in family.deltas}
        strengths = dict(self.delta or {})
        if self.alpha is not None:
            if not alphas:
                raise InputError("alpha: expected a family with a delta, got a base alone")
            strengths.setdefault(family.deltas[0].name, self.alpha)
        unknown = sorted(set(strengths) - set(alphas))
        if unknown:
            raise InputError(f"delta: none is called {unknown[0]!r}", f"Known: {', '.join(alphas) or 'none'}")
        if self.mode not in (None, "eft"):
            said = strengths or {self.beta, self.conservative_p} - {None}
            if said:
                raise InputError(f"mode {self.mode}: expected no knobs beside it", "Knobs need mode eft, the default")
            return Knobs.alone(self.mode, len(alphas))
        return self._settings(Knobs, alphas=tuple({**alphas, **strengths}.values()), temperature=None)

    def _settings(self, kind: type[_Settings], **others: Any) -> _Settings:
        """A settings object of the options that have its fields' names; ``others`` come first."""
        named = {field.name: getattr(self, field.name, None) for field in fields(kind)}
        made: _Settings = from_options(kind, {**named, **others})
        return made
