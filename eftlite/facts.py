"""Facts: what is known of published model files, and the marks of those that were checked.

presets.toml says what others have written down, verified.toml what `eftlite presets verify` found: eftlite's own, then
the user's. What is read later counts. Knows names and numbers: nothing is asked of the hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eftlite.errors import InputError
from eftlite.family import read_table
from eftlite.hub.reference import parse

SEEN = ("repository", "file", "size", "hash")
MARKS = "verified.toml"
_MARKED: dict[str, dict[str, type]] = {
    "file": {"reference": str, "size": int, "sha256": list, "revision": str, "verified": str},
    "preset": {"name": str, "files": list, "vocabulary": int, "verified": str},
}
# Bits per weight of Llama 3.1 8B, as llama.cpp's documentation of its quantizer lists them; others differ a little.
_BITS = {"Q8_0": 8.5, "Q6_K": 6.56, "Q5_K_M": 5.7, "Q4_K_M": 4.89, "Q3_K_M": 4.0, "Q2_K": 3.16}


@dataclass(frozen=True)
class File:
    """What is known of one published model file, or of all files of a split one.

    Attributes:
        reference: repository and type, without a revision.
        params: numbers in it, in billions, as its publisher counts them; 0 where unknown.
        seen: what others have written down of it, one of SEEN; empty for nothing. Not a check.
        size: bytes.
        sha256: of each part, in order.
        revision: of the repository, in which the file is this one.
        verified: the day on which `presets verify` found it so, or None.
    """

    reference: str
    params: float = 0.0
    seen: str = ""
    size: int | None = None
    sha256: tuple[str, ...] = ()
    revision: str | None = None
    verified: str | None = None

    @property
    def n_bytes(self) -> int | None:
        """The size, or what parameters and type make of it."""
        found = parse(self.reference)
        bits = _BITS.get((found.quant or "").upper()) if found else None
        return self.size or (int(self.params * 1e9 * bits / 8) if bits and self.params else None)

    def as_json(self) -> dict[str, Any]:
        """Stable keys; ``estimated_size`` stands in for a size that is not known."""
        names = ("reference", "size", "sha256", "revision", "seen", "verified")
        about = {name: getattr(self, name) or None for name in names}
        return {**about, "sha256": list(self.sha256), "estimated_size": None if self.size else self.n_bytes}


class Facts:
    """Everything that is known.

    Args:
        written: the table of presets.toml.
        marks: tables of files of marks; the last counts most.
    """

    def __init__(self, written: Mapping[str, Any], marks: Sequence[Mapping[str, Any]]) -> None:
        self._files: dict[str, File] = {}
        for document in (written, *marks):
            for table in document.get("file", []):
                key = table["reference"].lower()
                known = self._files.get(key, File(table["reference"]))
                self._files[key] = replace(known, **{**table, "sha256": tuple(table.get("sha256", known.sha256))})
        self._presets = [mark for document in reversed(marks) for mark in document.get("preset", [])]
        named = ((parse(file.reference), file.params) for file in self._files.values() if file.params)
        self._params = {reference.repo.lower(): params for reference, params in named if reference}

    def file(self, text: str) -> File:
        """What is known of a file; of another type of a known model at least how large it is."""
        found, reference = self._files.get(text.lower()), parse(text)
        if found is not None:
            return replace(found, reference=text)
        return File(text, self._params.get(reference.repo.lower(), 0.0) if reference else 0.0)

    def preset(self, name: str, files: Sequence[str]) -> tuple[str | None, int | None]:
        """The day on which a preset of these very files was verified, and its vocabulary; (None, None) if never."""
        marks = (mark for mark in self._presets if mark["name"] == name and mark["files"] == list(files))
        mark = next(marks, None)
        return (mark["verified"], mark["vocabulary"]) if mark else (None, None)


def read_marks(path: Path) -> dict[str, Any]:
    """A file of marks, empty if there is none; InputError says what is no mark in it."""
    document = read_table(path, "marks") if path.exists() else {}
    for kind, types in _MARKED.items():
        tables = document.get(kind, [])
        if not isinstance(tables, list) or not all(_is_mark(table, types) for table in tables):
            hint = "Write it anew: eftlite presets verify --write FILE"
            raise InputError(f"marks {path.name}: expected [[{kind}]] with {', '.join(types)}, got others", hint)
    return document


def _is_mark(table: object, types: Mapping[str, type]) -> bool:
    return (
        isinstance(table, dict)
        and table.keys() == types.keys()
        and all(isinstance(table[name], kind) for name, kind in types.items())
    )
