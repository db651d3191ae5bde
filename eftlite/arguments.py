"""Arguments of the public object -> settings: llama_cpp.Llama's names, checked, none of them ignored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path
from typing import Any

from eftlite.errors import InputError
from eftlite.family import bundled_family, family_of_files, load_family
from eftlite.settings import Family, Limits, ModelSettings, Sampling


def family_of(
    base: str | None,
    tuned: str | None,
    reference: str | None,
    family: Family | str | Path | None,
    adapter: str | None = None,
) -> Family:
    """The family that the arguments name."""
    if base is None:
        if tuned or reference or adapter:
            raise InputError("base: expected a path beside the others, got none", "Name the large model as well")
        if isinstance(family, Family):
            return family
        return bundled_family() if family is None else load_family(family)
    if family is not None:
        raise InputError("family: expected either a family or a base, got both")
    if tuned is not None and adapter is not None:
        raise InputError("adapter: expected no tuned beside it, got both", "Reference and adapter are the tuned model")
    if adapter is None and (tuned is None) != (reference is None):
        missing = "tuned" if tuned is None else "reference"
        raise InputError(f"{missing}: expected tuned and reference together, got one", "EFT needs both small models")
    return family_of_files(base, tuned, reference, adapter)


def settings_of(
    settings: ModelSettings | Mapping[str, ModelSettings] | None, options: Mapping[str, Any]
) -> ModelSettings | Mapping[str, ModelSettings]:
    """Settings from either form; InputError names an unknown option, which llama_cpp.Llama would swallow."""
    if settings is not None and options:
        raise InputError(f"{next(iter(options))}: expected inside settings, since settings are given")
    if settings is not None:
        return settings
    unknown = sorted(set(options) - set(ModelSettings.__dataclass_fields__))
    if unknown:
        raise InputError(f"unknown option {unknown[0]!r}", "See eftlite.ModelSettings for those of a model")
    return ModelSettings(**options)


def refuse(**options: Any) -> None:
    """A knob that cannot be honoured is refused, never ignored."""
    for name, value in options.items():
        if value is not None:
            raise InputError(f"{name}: this cannot be done with EFT", "Leave it out")


def sampling_of(arguments: Mapping[str, Any]) -> Sampling:
    """Sampling from the arguments of a ``create_…`` method."""
    names = set(Sampling.__dataclass_fields__) & set(arguments) - {"grammar", "logit_bias"}
    options = {name: arguments[name] for name in names}
    grammar = arguments["grammar"]
    return Sampling(
        **options,
        mirostat=arguments["mirostat_mode"],
        grammar=getattr(grammar, "_grammar", grammar),  # a llama_cpp.LlamaGrammar keeps its text there
        logit_bias=_logit_bias(arguments["logit_bias"]),
    )


def _logit_bias(biases: Mapping[Any, Any] | None) -> dict[int, float]:
    """Biases by token id; JSON spells ids as strings."""
    if biases is not None and not isinstance(biases, Mapping):
        raise InputError(f"logit_bias: expected a bias for each token id, got {biases!r}")
    try:
        return {int(token): float(bias) for token, bias in (biases or {}).items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"logit_bias: expected a number for each token id: {error}") from None


def token_ids(prompt: Sequence[int], n_vocab: int) -> list[int]:
    """A prompt's token ids; bytes are no ids, although they are numbers."""
    if isinstance(prompt, bytes | bytearray | memoryview):
        raise InputError("prompt: expected a text or token ids, got bytes", "Decode them first")
    try:
        ids = [index(token) for token in prompt]
    except TypeError as error:
        raise InputError(f"prompt: expected a text or token ids, got {error}") from None
    if any(not 0 <= token < n_vocab for token in ids):
        raise InputError(f"prompt: expected token ids from 0 to {n_vocab - 1}, got one outside")
    return ids


def limits_of(max_tokens: int | None, stop: str | Sequence[str] | None, n_top: int | None) -> Limits:
    """Limits from llama_cpp.Llama's arguments; ``max_tokens`` None or below 1 means up to the context's end."""
    stops = (stop,) if isinstance(stop, str) else stop or ()
    unlimited = isinstance(max_tokens, int) and max_tokens < 1
    return Limits(None if unlimited else max_tokens, tuple(stops) if isinstance(stops, Sequence) else stops, n_top or 0)


def format_grammar(response_format: Mapping[str, Any] | None) -> str | None:
    """GBNF for ``{"type": "json_object"}``, with or without a schema, and for OpenAI's ``json_schema``."""
    kind = (response_format or {}).get("type", "text")
    if response_format is None or kind == "text":
        return None
    from llama_cpp.llama_grammar import JSON_GBNF, json_schema_to_gbnf

    schema = response_format.get("schema")
    if kind == "json_schema":
        schema = (response_format.get("json_schema") or {}).get("schema")
    elif kind != "json_object":
        raise InputError(f"response_format: expected text, json_object or json_schema, got {kind!r}")
    if schema is None:
        return str(JSON_GBNF)
    try:
        return str(json_schema_to_gbnf(json.dumps(schema)))
    except Exception as error:  # noqa: BLE001  # the converter raises whatever its parsing meets
        raise InputError(f"response_format: the schema cannot be turned into a grammar: {error}") from None
