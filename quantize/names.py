"""llama.cpp's types: file types as people name them, tensor types, their bits, and which need an importance matrix.

Knows names and numbers, never files. A file type is a recipe: most give some tensors more bits than the type that they
are named after, so a file's real bits per weight depend on the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple

from eftlite.errors import InputError
from eftlite.gguf_types import FILE_TYPES, NOT_WEIGHTS, TENSOR_TYPES

TENSOR_NUMBERS = {kind.name: number for number, kind in TENSOR_TYPES.items() if kind.name not in NOT_WEIGHTS}
BLOCKS = {kind.name: kind for kind in TENSOR_TYPES.values()}
FLOATS = frozenset({"F32", "F16", "BF16"})
# Meanings that llama-quantize gives to shorter names.
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

# The type of most tensors, where it is not the name itself without _S, _M or _L.
_MAIN_TYPES = {"IQ3_XS": "IQ3_S", "IQ3_M": "IQ3_S", "IQ2_M": "IQ2_S", "IQ2_S": "IQ2_XS", "MXFP4_MOE": "MXFP4"}
_IMATRIX_FILES = frozenset("IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M Q2_K_S IQ3_XXS IQ3_XS".split())
# Tensors of these types would be garbage without, and llama.cpp refuses; for the last three it ends the process,
# where it forgot to refuse.
_IMATRIX_TENSORS = frozenset("IQ3_XXS IQ2_S IQ1_M IQ2_XXS IQ2_XS IQ1_S".split())
_IMATRIX_ALWAYS = frozenset("IQ2_XXS IQ2_XS IQ1_S".split())
EMBEDDINGS = frozenset({"token_embd.weight", "per_layer_token_embd.weight"})
OUTPUT = "output.weight"


class FileType(NamedTuple):
    """A type of file.

    Attributes:
        name: as people write it, such as "Q4_K_M".
        number: llama.cpp's ``llama_ftype``.
        tensor_type: of most tensors, such as "Q4_K".
        needs_imatrix: whether most models cannot be made so without an importance matrix; a model with rows too short
            for the type can, since other types take its place.
    """

    name: str
    number: int
    tensor_type: str
    needs_imatrix: bool

    @property
    def bits(self) -> float:
        """Bits per weight of ``tensor_type``; the file's are more, mostly."""
        return bits(self.tensor_type)


def bits(tensor_type: str) -> float:
    """Bits per weight of a tensor type, the blocks' scales included."""
    kind = BLOCKS[tensor_type]
    return 8 * kind.block_bytes / kind.block_size


def _main_type(name: str) -> str:
    if name in _MAIN_TYPES:
        return _MAIN_TYPES[name]
    return name if name in BLOCKS else name.rpartition("_")[0]


def _file_types() -> Iterable[FileType]:
    for number, name in FILE_TYPES.items():
        if name != "NVFP4":  # known to llama.cpp's loader, not to its quantizer
            yield FileType(name, number, _main_type(name), name in _IMATRIX_FILES)


# All that llama.cpp makes, the smallest first.
TYPES = {one.name: one for one in sorted(_file_types(), key=lambda one: (one.bits, one.number))}


def file_type(name: str) -> FileType:
    """The type of a name in any case; InputError for an unknown one."""
    upper = name.strip().upper()
    return TYPES[_known(ALIASES.get(upper, upper), name, "quantization type", [*TYPES, *ALIASES])]


def file_types(text: str) -> tuple[FileType, ...]:
    """Types between commas, each once; InputError for an unknown one, or none at all."""
    found = tuple(dict.fromkeys(file_type(name) for name in text.split(",") if name.strip()))
    if not found:
        raise InputError("--types: expected names between commas, got none", "For example: --types Q4_K_M,Q8_0")
    return found


def tensor_type(name: str) -> str:
    """A tensor type's name as this project writes it; InputError for an unknown one."""
    return _known(name.strip().upper(), name, "tensor type", TENSOR_NUMBERS)


def _known(upper: str, name: str, what: str, known: Iterable[str]) -> str:
    names = list(known)
    if upper in names:
        return upper
    near = get_close_matches(upper, names, 3, 0.5) or names
    raise InputError(f"{name.strip()!r}: expected a {what}, got an unknown name", f"Known: {', '.join(near)}")


def requires_imatrix(tensor: str, tensor_type: str, file_type: str) -> bool:
    """Whether llama.cpp makes a tensor of this type only with its entry of an importance matrix."""
    if tensor == OUTPUT or tensor in EMBEDDINGS:
        return tensor_type in _IMATRIX_ALWAYS
    return tensor_type in _IMATRIX_TENSORS or (tensor_type, file_type) == ("Q2_K", "Q2_K_S")


def n_bytes(shape: tuple[int, ...], tensor_type: str) -> int:
    """Bytes of a tensor of that shape, row length first, which must be whole blocks."""
    kind = BLOCKS[tensor_type]
    n = 1
    for size in shape:
        n *= size
    return n // kind.block_size * kind.block_bytes
