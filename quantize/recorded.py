"""A folder of recordings of one text: each member of a family, and variants of it, a file each; an index says which.

    recordings.json    members, their recordings (the original first), deltas, special tokens
    base-F16.rec …     one model each, see recording.py

A variant is added by recording it alone. Knows files and roles, never models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eftlite.composite import Roles
from eftlite.errors import InputError
from eftlite.gguf_types import shown
from eftlite_quantize.newfile import write_text
from eftlite_quantize.recording import Recording

INDEX = "recordings.json"
_FORMAT = 1
_HINT = "Make one with `eftlite quantize record`"


@dataclass(frozen=True)
class Entry:
    """A recording in the folder.

    Attributes:
        file: its name.
        path: the model's.
        kind: the model's quantization, such as "Q4_K_M"; the name that combinations are given by.
        n_bytes: of the model's tensors.
        sha256: of the model's file.
    """

    file: str
    path: str
    kind: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class DeltaEntry:
    """A delta, by names of members."""

    name: str
    tuned: str
    reference: str
    alpha: float


@dataclass(frozen=True)
class Index:
    """What is in a folder.

    Attributes:
        family: its name.
        digest: SHA-256 of the text's tokens, the same in every recording.
        members: recordings of each member, the base's first; the original first of each.
        deltas: which member plays which part.
        control, masked: ids that the composite's rules cover, and those that never occur.
        template, stop: the family's, so that a family file can be written.
    """

    family: str
    digest: str
    members: Mapping[str, tuple[Entry, ...]]
    deltas: tuple[DeltaEntry, ...]
    control: tuple[int, ...]
    masked: tuple[int, ...]
    template: str | None = None
    stop: tuple[str, ...] = ()

    @property
    def roles(self) -> Roles:
        """Members by position."""
        names = list(self.members)
        deltas = tuple((names.index(one.tuned), names.index(one.reference)) for one in self.deltas)
        return Roles(len(names), 0, deltas)

    def added(self, member: str, entry: Entry) -> Index:
        """With one more recording of a member, in place of one of the same file."""
        kept = tuple(one for one in self.members.get(member, ()) if one.file != entry.file)
        first = self.members.get(member, ())[:1]
        entries = (entry, *kept) if first and first[0].file == entry.file else (*kept, entry)
        return replace(self, members={**self.members, member: entries})

    def find(self, member: str, kind: str) -> Entry:
        """A member's recording by its type; InputError if there is none."""
        for one in self.members[member]:
            if one.kind.upper() == kind.upper():
                return one
        known = ", ".join(one.kind for one in self.members[member])
        raise InputError(f"{member}: expected a recorded type, got {kind!r}", f"Recorded: {known}")


def load_index(folder: Path) -> Index:
    """A folder's index; InputError when there is none, or none that can be used."""
    try:
        table = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if table.pop("format") != _FORMAT:
            raise InputError(f"{shown(folder.name)}: expected recordings of format {_FORMAT}", _HINT)
        return _index(table)
    except OSError as error:
        message = f"{shown(folder.name)}: expected a folder of recordings with {INDEX}: {error.strerror}"
        raise InputError(message, _HINT) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{shown(folder.name)}: {INDEX} is damaged", _HINT) from None


def _index(table: dict[str, Any]) -> Index:
    members = {name: tuple(Entry(**one) for one in entries) for name, entries in table.pop("members").items()}
    deltas = tuple(DeltaEntry(**one) for one in table.pop("deltas"))
    control, masked, stop = (tuple(table.pop(name)) for name in ("control", "masked", "stop"))
    index = Index(members=members, deltas=deltas, control=control, masked=masked, stop=stop, **table)
    if not all(members.values()) or not {part for d in deltas for part in (d.tuned, d.reference)} <= set(members):
        raise ValueError
    return index


def save_index(folder: Path, index: Index) -> None:
    """Write a folder's index as a whole; EFTError when it cannot be written."""
    write_text(folder / INDEX, json.dumps({"format": _FORMAT, **asdict(index)}, indent=1))


def open_recording(folder: Path, index: Index, entry: Entry) -> Recording:
    """One of the folder's recordings; InputError when it is damaged, or not what the index says."""
    found = Recording(folder / entry.file)
    if found.head.digest != index.digest or found.head.sha256 != entry.sha256:
        found.close()
        raise InputError(f"{entry.file}: expected the recording that {INDEX} names, got another", _HINT)
    if max((*index.control, *index.masked), default=0) >= found.head.n_vocab or found.tokens.max() >= np.int32(
        found.head.n_vocab
    ):
        found.close()
        raise InputError(f"{entry.file}: expected the family's vocabulary, got {found.head.n_vocab} tokens", _HINT)
    return found
