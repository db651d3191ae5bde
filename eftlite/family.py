r"""Families: which models belong together, read from a TOML file or taken from the bundled one.

name = "my-family"
base = "large-base.gguf"           # a path relative to this file, or an absolute one
real = "large-tuned.gguf"          # optional, for comparison only
stop = ["\nUser:"]                 # optional
template = "chatml"                # optional: a built-in template's name or its text
rpc = ["192.168.1.20:50052"]       # optional: workers on other machines, for the base
adapter = "lora.gguf"              # optional: a LoRA adapter on the base

[[delta]]
name = "helpful"
tuned = "small-tuned.gguf"
reference = "small-base.gguf"
alpha = 1.0

[[delta]]
name = "brief"
reference = "small-base.gguf"
adapter = "brief-lora.gguf"        # in place of tuned: the reference with this LoRA adapter

[settings.base]                    # optional: fields of ModelSettings for a member or a role
n_gpu_layers = 20
type_k = "q8_0"
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
from eftlite.hub.reference import parse, title
from eftlite.overrides import parse_overrides
from eftlite.rpc import check_endpoints
from eftlite.settings import Delta, Family

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_KEYS = {"name", "base", "real", "stop", "template", "rpc", "adapter", "settings", "delta"}
_DELTA_KEYS = {"name", "tuned", "reference", "adapter", "alpha"}
# What presets say beside a family (presets.py); no part of it.
PRESET_KEYS = ("about", "quants", "ends")
BUNDLED_NAME = "demo"


def load_family(path: str | os.PathLike[str]) -> Family:
    """Read a family file; InputError names what is wrong with it."""
    file = Path(path)
    return parse_family(read_table(file), file.name, file.parent)


def read_table(file: Path, what: str = "family file") -> dict[str, Any]:
    """A TOML file; InputError calls it ``what``."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{what} {file.name}: {error.strerror or error}", "Give the path of a .toml file") from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, a path with a NUL, brackets without end
        raise InputError(f"{what} {file.name}: expected TOML, got {error}") from None


def bundled_family() -> Family:
    """The family that comes with eftlite."""
    return load_family(str(files("eftlite.demo").joinpath("family.toml")))


def family_of_files(base: str, tuned: str | None, reference: str | None, adapter: str | None) -> Family:
    """A family of one delta at most; an adapter makes the reference the tuned model, or is on a base without one."""
    if reference is None:
        return Family(name=title(base), base=base, adapter=adapter)
    delta = Delta("tuned", reference if tuned is None else tuned, reference, adapter=adapter)
    return Family(name=title(base), base=base, deltas=(delta,))


def parse_family(table: Mapping[str, Any], where: str, folder: Path) -> Family:
    """A family from a parsed table; relative paths are taken from ``folder``."""
    _check_keys(table, _KEYS.union(PRESET_KEYS), where)
    base = _text(table, "base", where)
    entries = table.get("delta", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{where}: delta: expected tables, each under [[delta]], got {entries!r}")
    deltas = tuple(_delta(entry, f"{where}, delta {i + 1}", folder) for i, entry in enumerate(entries))
    names = [delta.name for delta in deltas]
    if len(set(names)) != len(names):
        raise InputError(f"{where}: expected a different name for each delta, got {', '.join(names)}")
    return Family(
        name=_word(table, "name", where) or Path(where).stem,
        base=_place(base, folder),
        deltas=deltas,
        real=_optional_place(table, "real", where, folder),
        template=_word(table, "template", where),
        stop=_stop(table, where),
        rpc=_workers(table, where),
        adapter=_optional_place(table, "adapter", where, folder),
        settings=_settings(table, where),
    )


def _settings(table: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Settings of single members, each of them one that there is."""
    tables = table.get("settings", {})
    if not isinstance(tables, dict) or not all(isinstance(fields, dict) for fields in tables.values()):
        raise InputError(f"{where}: settings: expected tables, each under [settings.MEMBER], got {tables!r}")
    try:
        return parse_overrides((), tables)
    except InputError as error:
        raise InputError(f"{where}: {error.message}", error.hint) from None


def _delta(entry: Mapping[str, Any], where: str, folder: Path) -> Delta:
    _check_keys(entry, _DELTA_KEYS, where)
    alpha = entry.get("alpha", 1.0)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise InputError(f"{where}: alpha: expected a number, got {alpha!r}")
    reference = _place(_text(entry, "reference", where), folder)
    adapter = _optional_place(entry, "adapter", where, folder)
    if adapter is not None and "tuned" in entry:
        hint = "The reference with its adapter is the tuned model; leave tuned out"
        raise InputError(f"{where}: expected either tuned or adapter, got both", hint)
    return Delta(
        name=_word(entry, "name", where) or "tuned",
        tuned=reference if adapter is not None else _place(_text(entry, "tuned", where), folder),
        reference=reference,
        alpha=float(alpha),
        adapter=adapter,
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


def _workers(table: Mapping[str, Any], where: str) -> tuple[str, ...]:
    value = table.get("rpc", [])
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InputError(f'{where}: rpc: expected a list of "HOST:PORT", got {value!r}')
    return check_endpoints(value)


def _optional_place(table: Mapping[str, Any], key: str, where: str, folder: Path) -> str | None:
    return None if table.get(key) is None else _place(_text(table, key, where), folder)


def _place(reference: str, folder: Path) -> str:
    """A path seen from ``folder``; a reference of the hub as it is, unless ``folder`` holds a file of its name."""
    path = folder / Path(reference).expanduser()
    return reference if parse(reference) and not path.exists() else str(path)
