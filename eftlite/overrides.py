"""Settings of single members: from a family's tables, or written MEMBER.NAME=VALUE on the command line.

Knows names and values; what they mean is settings.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from eftlite.errors import InputError
from eftlite.settings import ModelSettings

_EXAMPLE = "For example --set base.n_gpu_layers=20 or --set tuned.type_k=q8_0"
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "none": None}
_LISTS = ("devices", "tensor_split")
Tables = Mapping[str, Mapping[str, Any]]


def parse_overrides(texts: Iterable[str], tables: Tables | None = None) -> dict[str, dict[str, Any]]:
    """Tables of fields by member, as in a family file, from MEMBER.NAME=VALUE; ``tables`` are gone over.

    Raises:
        InputError: one is not of that form, or there is no such setting.
    """
    found = {member: dict(fields) for member, fields in (tables or {}).items()}
    for text in texts:
        target, equals, value = text.partition("=")
        member, dot, name = target.strip().rpartition(".")
        if not (equals and dot and member and name):
            raise InputError(f"--set: expected MEMBER.NAME=VALUE, got {text!r}", _EXAMPLE)
        found.setdefault(member, {})[name] = _value(name, value.strip())
    for member, fields in found.items():
        with_fields(ModelSettings(), member, fields)
    return found


def with_tables(settings: Mapping[str, ModelSettings], tables: Tables) -> dict[str, ModelSettings]:
    """Settings of each member, changed by the fields that are set for its role or, going before, for its name.

    Raises:
        InputError: a member that there is not, a field that there is not, or a value that cannot be used.
    """
    known = {part for name in settings for part in (name, _role(name))}
    unknown = sorted(set(tables) - known)
    if unknown:
        raise InputError(f"settings: expected {', '.join(sorted(known))}, got {unknown[0]!r}")
    return {
        name: with_fields(own, name, {**tables.get(_role(name), {}), **tables.get(name, {})})
        for name, own in settings.items()
    }


def with_fields(settings: ModelSettings, member: str, fields: Mapping[str, Any]) -> ModelSettings:
    """The settings with some fields changed; InputError names the member."""
    known = ModelSettings.__dataclass_fields__
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise InputError(f"settings of {member}: unknown name {unknown[0]!r}", f"Known: {', '.join(known)}")
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    try:
        changed: ModelSettings = replace(settings, **plain)
    except InputError as error:
        raise InputError(f"settings of {member}: {error.message}", error.hint) from None
    return changed


def _role(name: str) -> str:
    return name.split(":", maxsplit=1)[0]


def _value(name: str, text: str) -> Any:
    """A value as TOML would have it; what is no number or truth value is a word."""
    if name in _LISTS:
        return tuple(_scalar(part.strip()) for part in text.split(",") if part.strip())
    return _scalar(text)


def _scalar(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return float(text) if any(sign in text.lower() for sign in ".en") else int(text)
    except ValueError:
        return text
