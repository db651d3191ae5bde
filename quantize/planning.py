"""What quantizing a model would make: each tensor's type, what fell back to another, bytes; nothing is written.

llama.cpp itself is asked (its dry run), so that the answer is what it will do. Sizes are exact but for the header,
whose few hundred bytes of added keys are estimated.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eftlite.errors import EngineError
from eftlite.gguf import Header
from eftlite.gguf_types import DEFAULT_ALIGNMENT, shown
from eftlite_quantize.child import Child
from eftlite_quantize.names import BLOCKS, FLOATS, OUTPUT, TYPES, FileType, n_bytes
from eftlite_quantize.recipe import Recipe

_ADDED_KEYS = 512
_TIED = "token_embd.weight"
_SPLIT = re.compile(r"-00001-of-(\d{5})$")
_TYPE_AT_END = re.compile(rf"[-._]({'|'.join(TYPES)})$", re.IGNORECASE)


@dataclass(frozen=True)
class Fallback:
    """A tensor whose rows are no multiple of a type's block, so that llama.cpp takes another type."""

    tensor: str
    wanted: str
    got: str


@dataclass(frozen=True)
class Plan:
    """One file to be made.

    Attributes:
        types: of each tensor, by name.
        fallbacks: tensors of another type than the recipe wanted.
        tensor_bytes: of all tensors.
        n_bytes: of the file.
        bits_per_weight: of all tensors.
    """

    kind: FileType
    path: Path
    types: Mapping[str, str]
    fallbacks: tuple[Fallback, ...]
    tensor_bytes: int
    n_bytes: int
    bits_per_weight: float

    def type_counts(self) -> dict[str, int]:
        """How many tensors each type has, the commonest first."""
        return dict(Counter(self.types.values()).most_common())

    def fallback_counts(self) -> dict[str, int]:
        """How many tensors fell back to each type."""
        return dict(Counter(one.got for one in self.fallbacks).most_common())


def make_plan(child: Child, header: Header, kind: FileType, recipe: Recipe, path: Path) -> Plan:
    """What a file would be.

    Raises:
        InputError: the recipe cannot be followed for this model and type.
        EngineError: llama.cpp cannot say.
    """
    types, fallbacks = {one.name: one.type for one in header.tensors}, []
    try:
        for message in child.run(recipe.job(header.path, kind, None)):
            if "fallback" in message:
                fallbacks.append(Fallback(message["fallback"], message["wanted"], message["got"]))
            else:
                types[message["tensor"]] = message["type"]
    except EngineError as error:
        name = shown(header.path.name)
        raise EngineError(f"{kind.name}: llama.cpp cannot make it of {name}: {error.message}") from None
    recipe.check_types(header, kind, types)
    fallbacks += _unsaid(header, kind, recipe, types)
    sizes = [n_bytes(one.shape, types[one.name]) for one in header.tensors]
    total = sum(sizes)
    return Plan(
        kind=kind,
        path=path,
        types=types,
        fallbacks=tuple(fallbacks),
        tensor_bytes=total,
        n_bytes=_header_bytes(header) + sum(map(_padded, sizes)),
        bits_per_weight=8 * total / header.n_params,
    )


def _unsaid(header: Header, kind: FileType, recipe: Recipe, types: Mapping[str, str]) -> list[Fallback]:
    """The output of a model whose width the type does not divide: it becomes Q8_0, and llama.cpp's log is silent."""
    name = OUTPUT if OUTPUT in types else _TIED
    if kind.tensor_type in FLOATS or recipe.pure or recipe.names(name):
        return []
    rows = next((one.shape[0] for one in header.tensors if one.name == name and one.type != types[name]), 0)
    block = BLOCKS[kind.tensor_type].block_size
    return [Fallback(name, kind.tensor_type, "Q8_0")] if rows % block and types[name] == "Q8_0" else []


def _padded(size: int) -> int:
    return -(-size // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT


def _header_bytes(header: Header) -> int:
    """Everything before the weights, with the keys that are added."""
    return header.file_bytes - sum(_padded(one.n_bytes) for one in header.tensors) + _ADDED_KEYS


# ---- names


def part_paths(header: Header) -> list[Path]:
    """The files of a model, one unless it is split."""
    if header.split is None:
        return [header.path]
    stem, count = _SPLIT.sub("", header.path.stem), header.split[1]
    return [header.path.with_name(f"{stem}-{i + 1:05d}-of-{count:05d}.gguf") for i in range(count)]


def target_path(header: Header, kind: FileType, folder: Path) -> Path:
    """NAME-TYPE.gguf, where NAME is the source's without its own type."""
    stem = _SPLIT.sub("", header.path.stem)
    return folder / f"{_TYPE_AT_END.sub('', stem) or stem}-{kind.name}.gguf"
