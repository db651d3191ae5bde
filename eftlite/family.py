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
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"family file {file.name}: expected TOML, got {error}") from None
    return parse_family(table, file.name, file.parent)


def bundled_family() -> Family:
    """The family that comes with eftlite."""
    return load_family(str(files("eftlite.demo").joinpath("family.toml")))


def parse_family(table: Mapping[str, Any], where: str, folder: Path) -> Family:
    """A family from a parsed table; relative paths are taken from ``folder``."""
    _check_keys(table, _KEYS, where)
    base = _text(table, "base", where)
    deltas = tuple(_delta(entry, f"{where}, delta {i + 1}", folder) for i, entry in enumerate(table.get("delta", [])))
    names = [delta.name for delta in deltas]
    if len(set(names)) != len(names):
        raise InputError(f"{where}: expected a different name for each delta, got {', '.join(names)}")
    real = table.get("real")
    return Family(
        name=str(table.get("name", Path(where).stem)),
        base=_place(base, folder),
        deltas=deltas,
        real=_place(_text(table, "real", where), folder) if real is not None else None,
        template=table.get("template"),
        stop=tuple(table.get("stop", ())),
    )


def _delta(entry: Mapping[str, Any], where: str, folder: Path) -> Delta:
    _check_keys(entry, _DELTA_KEYS, where)
    alpha = entry.get("alpha", 1.0)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise InputError(f"{where}: alpha: expected a number, got {alpha!r}")
    return Delta(
        name=str(entry.get("name", "tuned")),
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


def _place(reference: str, folder: Path) -> str:
    """A path seen from ``folder``."""
    return str(folder / Path(reference).expanduser())
