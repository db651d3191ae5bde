"""Tables of the GGUF format: value types, tensor types, file types, and the bounds that a header must keep.

Knows numbers and names, never files. Numbers are those of ggml.h, gguf.h and llama.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from eftlite.errors import ModelFileError

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
CPU_ALIGNMENT = 32
MAX_DIMS = 4
MAX_TENSOR_NAME = 63

MAX_KEYS = 65_536
# llama.cpp looks every tensor up in a list: 16,384 cost it seconds, 400,000 would cost hours.
MAX_TENSORS = 16_384
MAX_KEY_BYTES = 1_024
MAX_TEXT_BYTES = 65_536
MAX_LONG_TEXT_BYTES = 64 << 20
MAX_STRINGS = 1 << 21
MAX_HEADER_BYTES = 1 << 30
MAX_VOCABULARY = 1 << 20
MAX_KEPT_BYTES = 8 << 20
SHORT_ARRAY = 1_024
MAX_TRAILING_BYTES = 65_536


class TensorType(NamedTuple):
    """One ggml type: a block of ``block_size`` numbers takes ``block_bytes`` bytes."""

    name: str
    block_size: int
    block_bytes: int


TENSOR_TYPES = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    9: TensorType("Q8_1", 32, 36),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    15: TensorType("Q8_K", 256, 292),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    24: TensorType("I8", 1, 1),
    25: TensorType("I16", 1, 2),
    26: TensorType("I32", 1, 4),
    27: TensorType("I64", 1, 8),
    28: TensorType("F64", 1, 8),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
    39: TensorType("MXFP4", 32, 17),
    40: TensorType("NVFP4", 64, 36),
    41: TensorType("Q1_0", 128, 18),
    42: TensorType("Q2_0", 64, 18),
}

# llama.cpp has no matrix product for these: integers, doubles, and the two types of intermediate results.
NOT_WEIGHTS = frozenset({"I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"})

FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS",
    20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M",
    28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
    39: "NVFP4", 40: "Q1_0", 41: "Q2_0",
}  # fmt: skip  # a table that reads across

STRING, ARRAY, BOOL = 8, 9, 7


class ValueType(NamedTuple):
    """One type of a metadata value with a fixed size; ``code`` is struct's letter."""

    name: str
    code: str
    n_bytes: int


VALUE_TYPES = {
    number: ValueType(name, code, struct.calcsize(f"<{code}"))
    for number, name, code in (
        (0, "uint8", "B"),
        (1, "int8", "b"),
        (2, "uint16", "H"),
        (3, "int16", "h"),
        (4, "uint32", "I"),
        (5, "int32", "i"),
        (6, "float32", "f"),
        (BOOL, "bool", "B"),
        (10, "uint64", "Q"),
        (11, "int64", "q"),
        (12, "float64", "d"),
    )
}


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """A long value left in the file.

    Attributes:
        type: type of the elements; "text" for one string too long to keep, whose length counts bytes.
        length: number of elements.
        offset: where they begin, in bytes from the beginning of the file.
    """

    type: str
    length: int
    offset: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the header describes it.

    Attributes:
        shape: ggml's order, the row length first.
        type: name of the ggml type, such as "Q4_K".
        offset: where its data begin, in bytes from the beginning of its file.
        n_bytes: bytes of its data.
        part: which file of a split model holds it, from 0.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    n_bytes: int
    part: int = 0

    @property
    def n_elements(self) -> int:
        """How many numbers it holds."""
        product = 1
        for size in self.shape:
            product *= size
        return product


Value = int | float | bool | str | tuple[int, ...] | tuple[float, ...] | tuple[bool, ...] | tuple[str, ...] | ArrayInfo


def shown(text: str | bytes, limit: int = 60) -> str:
    """The text as one printable line of bounded length, whatever a hostile file or file name has put into it."""
    plain = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text
    cut = plain if len(plain) <= limit else plain[: limit - 1] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


def bad(message: str, hint: str = "") -> ModelFileError:
    """The error of a file whose name the caller will put in front."""
    return ModelFileError(message, hint)
