r"""Families: which models belong together, read from a TOML file or taken from the bundled one.

name = "my-family"
base = "large-base.gguf"           # a path relative to this file, or an absolute one
real = "large-tuned.gguf"          # optional, for comparison only
stop = ["\nUser:"]                 # optional
template = "chatml"                # optional: a built-in template's name or its text

[[delta]]
name = "helpful"
tuned = "small-tuned.gguf"
reference = "small-base.gguf"
alpha = 1.0
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from eftlite.errors import InputError
from eftlite.settings import Delta, Family

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_KEYS = {"name", "base", "real", "stop", "template", "delta"}
_DELTA_KEYS = {"name", "tuned", "reference", "alpha"}
BUNDLED_NAME = "demo"


def load_family(path: str | os.PathLike[str]) -> Family:
    """Read a family file; InputError names what is wrong with it."""
    file = Path(path)
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"family file {file.name}: {error.strerror or error}", "Give the path of a .toml file"
        ) from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, a path with a NUL, brackets without end
        raise InputError(f"family file {file.name}: expected TOML, got {error}") from None
    return parse_family(table, file.name, file.parent)


def bundled_family() -> Family:
    """The family that comes with eftlite."""
    return load_family(str(files("eftlite.demo").joinpath("family.toml")))


def parse_family(table: Mapping[str, Any], where: str, folder: Path) -> Family:
    """A family from a parsed table; relative paths are taken from ``folder``."""
    _check_keys(table, _KEYS, where)
    base = _text(table, "base", where)
    entries = table.get("delta", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{where}: delta: expected tables, each under [[delta]], got {entries!r}")
    deltas = tuple(_delta(entry, f"{where}, delta {i + 1}", folder) for i, entry in enumerate(entries))
    names = [delta.name for delta in deltas]
    if len(set(names)) != len(names):
        raise InputError(f"{where}: expected a different name for each delta, got {', '.join(names)}")
    real = table.get("real")
    return Family(
        name=_word(table, "name", where) or Path(where).stem,
        base=_place(base, folder),
        deltas=deltas,
        real=_place(_text(table, "real", where), folder) if real is not None else None,
        template=_word(table, "template", where),
        stop=_stop(table, where),
    )


def _delta(entry: Mapping[str, Any], where: str, folder: Path) -> Delta:
    _check_keys(entry, _DELTA_KEYS, where)
    alpha = entry.get("alpha", 1.0)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise InputError(f"{where}: alpha: expected a number, got {alpha!r}")
    return Delta(
        name=_word(entry, "name", where) or "tuned",
        tuned=_place(_text(entry, "tuned", where), folder),
        reference=_place(_text(entry, "reference", where), folder),
        alpha=float(alpha),
    )


def _check_keys(table: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise InputError(f"{where}: unknown key {unknown[0]!r}", f"Known keys: {', '.join(sorted(known))}")


def _text(table: Mapping[str, Any], key: str, where: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}: {key}: expected a path, got {value!r}")
    return value


def _word(table: Mapping[str, Any], key: str, where: str) -> str | None:
    value = table.get(key)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: {key}: expected a string, got {value!r}")
    return value


def _stop(table: Mapping[str, Any], where: str) -> tuple[str, ...]:
    value = table.get("stop", [])
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise InputError(f"{where}: stop: expected a list of strings, got {value!r}")
    return tuple(value)


def _place(reference: str, folder: Path) -> str:
    """A path seen from ``folder``."""
    return str(folder / Path(reference).expanduser())
