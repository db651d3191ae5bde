"""Presets: families by name, from the catalogue that comes with eftlite, plugins, and the user's own folder.

A preset is written as a family file; a plugin gives such a table, or a function that makes one of the preset's name.
Three keys more, which any family file may have, say what is no part of a family:

about = "why these models"          # for people
quants = ["Q4_K_M", "Q8_0"]         # types of the base that make sense, for `--preset NAME:TYPE`
ends = ["<|im_end|>"]               # tokens that must end answers, for `eftlite presets verify`

Knows names and facts: nothing is asked of the hub, no model is opened.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from eftlite.errors import InputError
from eftlite.facts import MARKS, Facts, File, read_marks
from eftlite.family import PRESET_KEYS, parse_family, read_table
from eftlite.hub.reference import parse
from eftlite.places import config_folder
from eftlite.plugins import Entry, Registry
from eftlite.settings import Family


@dataclass(frozen=True)
class Preset:
    """A family with a name, and what is known of it.

    Attributes:
        family: as written, without revisions.
        files: what is known of each of its files, the base's first; each once.
        source: the user's file it was read from, the distribution whose plugin it is, or "catalogue".
        verified: the day on which `presets verify` found that these files are one family, or None.
        vocabulary: tokens that they share, where that was found.
    """

    name: str
    family: Family
    about: str = ""
    quants: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    source: str = "catalogue"
    verified: str | None = None
    vocabulary: int | None = None

    @property
    def pinned(self) -> Family:
        """The family with every revision that is known."""
        known = {file.reference: file.revision for file in self.files if file.revision}
        return self.family.renamed({text: _at(text, revision) for text, revision in known.items()})

    @property
    def n_bytes(self) -> int | None:
        """Bytes to fetch, estimated where a size is not known; None where nothing is known of a file."""
        sizes = [file.n_bytes for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size)

    @property
    def measured(self) -> bool:
        """Whether ``n_bytes`` is made of known sizes only."""
        return all(file.size for file in self.files)

    def as_json(self) -> dict[str, Any]:
        """Stable keys, values that JSON takes."""
        family = self.family
        return {
            "name": self.name,
            "about": self.about,
            "source": self.source,
            "base": family.base,
            "deltas": [
                {"name": d.name, "tuned": d.tuned, "reference": d.reference, "adapter": d.adapter, "alpha": d.alpha}
                for d in family.deltas
            ],
            "template": family.template,
            "stop": list(family.stop),
            "ends": list(self.ends),
            "quants": list(self.quants),
            "size": self.n_bytes if self.measured else None,
            "estimated_size": None if self.measured else self.n_bytes,
            "verified": self.verified,
            "vocabulary": self.vocabulary,
            "files": [file.as_json() for file in self.files],
        }


# ---- finding


class Catalogue:
    """Every preset there is; where names are the same, those in the user's folder, then eftlite's, then plugins'.

    Args:
        folder: where the user's files are, in ``presets/``, and the user's verified.toml; by default the user's own.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = config_folder() if folder is None else folder

    @property
    def names(self) -> list[str]:
        """All names: eftlite's, plugins', the user's."""
        return list(dict.fromkeys([*self.registry.built_in, *self.registry.plugins(), *self._files]))

    @cached_property
    def registry(self) -> Registry:
        """Those that are not the user's."""
        return Registry("preset", dict.fromkeys(_shipped(), ("eftlite.presets:shipped", "")))

    def find(self, text: str) -> Preset:
        """The preset called NAME, or NAME:TYPE with another type of the base.

        Raises:
            InputError: there is none, its file or plugin is wrong, or its base does not come in this type.
        """
        name, _, quant = text.partition(":")
        preset = self._read(name)
        return self._with_type(preset, quant) if quant else self._known(preset)

    def _read(self, name: str) -> Preset:
        path = self._files.get(name)
        if path is not None:
            return _preset(name, read_table(path), path.name, path.parent, str(path))
        entry = self.registry.find(name)
        if entry is not None:
            return preset_of(entry)
        close = difflib.get_close_matches(name, self.names, 3, 0.5)
        hint = f"Perhaps {' or '.join(close)}; " if close else ""
        raise InputError(f"preset: there is none called {name!r}", f"{hint}eftlite presets list shows all")

    def _with_type(self, preset: Preset, quant: str) -> Preset:
        """The preset with another type of the base."""
        reference = parse(preset.family.base)
        if reference is None or reference.file is not None:
            hint = "Leave the type out, or name the base by org/repo:TYPE in the preset"
            raise InputError(f"preset {preset.name}: expected a base named by its type, got a file", hint)
        types = {one.upper(): one for one in preset.quants}
        if types and quant.upper() not in types:
            raise InputError(f"preset {preset.name}: expected one of {', '.join(preset.quants)}, got {quant}")
        base = str(replace(reference, quant=types.get(quant.upper(), quant)))
        return self._known(replace(preset, family=replace(preset.family, base=base)))

    @cached_property
    def _files(self) -> dict[str, Path]:
        return {path.stem: path for path in sorted(self.folder.joinpath("presets").glob("*.toml"))}

    @cached_property
    def _facts(self) -> Facts:
        places = (Path(str(files("eftlite").joinpath(MARKS))), self.folder / MARKS)
        return Facts(_document(), [read_marks(path) for path in places])

    def _known(self, preset: Preset) -> Preset:
        """The preset with what is known of its files, and of it."""
        names = list(references(preset.family))
        day, vocabulary = self._facts.preset(preset.name, names)
        known = tuple(self._facts.file(name) for name in names)
        return replace(preset, files=known, verified=day, vocabulary=vocabulary)


# ---- reading


def preset_of(entry: Entry) -> Preset:
    """The preset of an entry; nothing is known of its files yet.

    Raises:
        InputError: a plugin cannot be imported, fails, or gives no family.
    """
    found = entry.load()
    with entry.blamed():
        table = found(entry.name) if callable(found) else found
        if not isinstance(table, Mapping):
            raise InputError(f"expected a table as in a family file, got {type(table).__name__}")
        return _preset(entry.name, table, "table", entry.folder, entry.distribution or "catalogue")


def shipped(name: str) -> Mapping[str, Any]:
    """The table of one of eftlite's own presets."""
    return _shipped()[name]


@cache
def _document() -> dict[str, Any]:
    return read_table(Path(str(files("eftlite").joinpath("presets.toml"))), "presets")


def _shipped() -> dict[str, dict[str, Any]]:
    return {table["name"]: table for table in _document()["preset"]}


def _preset(name: str, table: Mapping[str, Any], where: str, folder: Path, source: str) -> Preset:
    family = parse_family(table, where, folder)
    about, quants, ends = (table.get(key) for key in PRESET_KEYS)
    if about is not None and not isinstance(about, str):
        raise InputError(f"{where}: about: expected a string, got {about!r}")
    lists = (_texts(quants, f"{where}: quants"), _texts(ends, f"{where}: ends"))
    return Preset(name, replace(family, name=name), about or "", *lists, source=source)


def references(family: Family) -> Iterator[str]:
    """Every model a family names, the base first, each once."""
    texts = [family.base]
    for delta in family.deltas:
        texts += [delta.tuned, delta.reference]
    adapters = [family.adapter, family.real, *(delta.adapter for delta in family.deltas)]
    yield from dict.fromkeys([*texts, *(text for text in adapters if text)])


def _at(text: str, revision: str | None) -> str:
    """The reference at a revision, unless it names one itself."""
    reference = parse(text)
    return text if reference is None or reference.revision else str(replace(reference, revision=revision))


def _texts(value: object, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise InputError(f"{where}: expected a list of strings, got {value!r}")
    return tuple(value)


# ---- writing


def toml(values: Mapping[str, Any]) -> Iterable[str]:
    """Lines ``key = value`` of those that are not empty: strings, numbers, flags and lists of them."""
    for key, value in values.items():
        if value not in (None, "", [], ()):
            # A JSON value of these kinds is a TOML value, but for one character.
            text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
            yield f"{key} = {text.replace(chr(127), chr(92) + 'u007f')}"


def family_file(preset: Preset) -> str:
    """The preset as a family file, which may be changed and used by ``--family`` or put into the user's folder."""
    family = preset.family
    head = {"name": preset.name, "about": preset.about, "base": family.base, "adapter": family.adapter}
    rest = {"real": family.real, "template": family.template, "stop": family.stop, "rpc": family.rpc}
    lines = [*toml({**head, **rest, "quants": preset.quants, "ends": preset.ends})]
    for delta in family.deltas:
        tuned = {"adapter": delta.adapter} if delta.adapter else {"tuned": delta.tuned}
        names = {"name": delta.name, **tuned, "reference": delta.reference, "alpha": delta.alpha}
        lines += ["", "[[delta]]", *toml(names)]
    for member, settings in family.settings.items():
        lines += ["", f"[settings.{json.dumps(member)}]", *toml(settings)]
    return "\n".join(lines) + "\n"
