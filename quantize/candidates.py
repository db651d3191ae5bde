"""Models before they are loaded: their names, whether they go together, and how many fit into memory at a time.

Knows files' headers and sizes, never weights or texts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from eftlite.errors import VocabularyError
from eftlite.gguf import Header, check
from eftlite.gguf_types import shown
from eftlite.inspection import vocabulary
from eftlite.llama import devices
from eftlite.settings import ModelSettings
from eftlite.vocab import share

# Weights may take this share of the memory that is free; caches, buffers and rows need the rest.
ROOM = 0.85


@dataclass(frozen=True)
class Candidate:
    """A model file.

    Attributes:
        name: as messages, tables and plots call it.
    """

    name: str
    header: Header

    @property
    def bits_per_weight(self) -> float:
        """Bits of all tensors over numbers in them."""
        return 8 * self.header.n_bytes / self.header.n_params


def candidates(paths: Sequence[str | os.PathLike[str]]) -> list[Candidate]:
    """Files with their names: the file's without its ending, or the path where two would have the same.

    Raises:
        ModelFileError: a file is not a model that can be loaded.
    """
    stems = [Path(path).stem for path in paths]
    names = [stem if stems.count(stem) == 1 else str(path) for stem, path in zip(stems, paths, strict=True)]
    return [Candidate(shown(name, 200), check(path)) for name, path in zip(names, paths, strict=True)]


def check_vocabularies(own: Candidate, others: Sequence[Candidate]) -> None:
    """Every id must mean the same to all, and all must have the same ids.

    Raises:
        VocabularyError: with the first differing id.
    """
    ours = vocabulary(own.header, own.name)
    for other in others:
        theirs = vocabulary(other.header, other.name)
        share([ours, theirs])
        n, m = len(ours.texts), len(theirs.texts)
        if n != m:
            more = f"{own.name} has {n} tokens and {other.name} {m}"
            raise VocabularyError(f"{own.name} and {other.name} do not share a vocabulary: {more}", "", min(n, m))


def groups(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Indices of models that fit into ``room`` bytes together, in their order; at least one in each group.

    No models are one empty group.
    """
    found: list[list[int]] = [[]]
    left = room
    for index, size in enumerate(sizes):
        if found[-1] and size > left:
            found.append([])
            left = room
        found[-1].append(index)
        left -= size
    return found


def room(settings: ModelSettings) -> int:
    """Bytes that weights may take: on the devices if layers go there, else in main memory."""
    free = sum(one["free_bytes"] for one in devices() if one["name"] != "CPU") if settings.n_gpu_layers else 0
    return round(ROOM * (free or psutil.virtual_memory().available))
