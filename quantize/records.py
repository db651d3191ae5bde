"""What a quantized file says of its making: from which source, how, and that it is whole.

The record is metadata of the file itself, so it cannot be lost, left behind, or belong to another file:

    eftlite.quantize.source   SHA-256 of the source file; of its parts one after the other
    eftlite.quantize.recipe   SHA-256 of the parameters that decide the bytes
    eftlite.quantize.build    llama.cpp's version
    eftlite.quantize.sha256   SHA-256 of this file with 64 zeros in place of this value

Knows files and hashes, never models.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from eftlite.errors import InputError, ModelFileError
from eftlite.gguf import Header

PREFIX = "eftlite.quantize."
_SEAL = PREFIX + "sha256"
_SEAL_BYTES = 64
_ZEROS = "0" * _SEAL_BYTES
_STRING = 8  # GGUF's number for the type of a text
_BLOCK = 1 << 22
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Record:
    """How a file was made.

    Attributes:
        source, recipe: hashes in hexadecimal.
        build: llama.cpp's version.
    """

    source: str
    recipe: str
    build: str

    def metadata(self) -> dict[str, str | int]:
        """Keys for a file to be written, which ``seal`` has to complete."""
        values = {"source": self.source, "recipe": self.recipe, "build": self.build, "sha256": _ZEROS}
        return {PREFIX + name: value for name, value in values.items()}


def record_of(header: Header) -> Record | None:
    """What a file says of its making; None if it does not."""
    values = [header.metadata.get(PREFIX + name) for name in ("source", "recipe", "build")]
    return Record(*values) if all(isinstance(value, str) for value in values) else None  # type: ignore[arg-type]  # seen


def digest(value: Mapping[str, object]) -> str:
    """A hash of JSON-like values, whatever their order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_hash(*paths: Path, advance: Advance | None = None) -> str:
    """SHA-256 of files, one after the other; ``advance`` is told bytes as they are read.

    Raises:
        InputError: one cannot be read.
    """
    total = hashlib.sha256()
    try:
        for path in paths:
            with path.open("rb") as handle:
                while block := handle.read(_BLOCK):
                    total.update(block)
                    if advance:
                        advance(len(block))
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read: {error.strerror}") from None
    return total.hexdigest()


def seal(header: Header) -> None:
    """Complete a new file's record and bring the file to the disk.

    Raises:
        ModelFileError: it has no record.
        OSError: it cannot be written.
    """
    with header.path.open("r+b") as handle:
        at = _find_seal(handle, header)
        if at is None:
            raise ModelFileError(f"{header.path.name}: expected a record of its making, got none")
        value = _hash_around(handle, at)
        handle.seek(at)
        handle.write(value)
        handle.flush()
        os.fsync(handle.fileno())


def is_whole(header: Header) -> bool:
    """Whether a file is, byte for byte, what was sealed. Reads all of it."""
    with header.path.open("rb") as handle:
        at = _find_seal(handle, header)
        if at is None:
            return False
        handle.seek(at)
        return handle.read(_SEAL_BYTES) == _hash_around(handle, at)


def _find_seal(handle: BinaryIO, header: Header) -> int | None:
    """Where the hash stands: after its key, the number of its type, and its length."""
    handle.seek(0)
    start = handle.read(min(one.offset for one in header.tensors))
    head = struct.pack("<Q", len(_SEAL)) + _SEAL.encode() + struct.pack("<IQ", _STRING, _SEAL_BYTES)
    at = start.find(head)
    return None if at < 0 or at + len(head) + _SEAL_BYTES > len(start) else at + len(head)


def _hash_around(handle: BinaryIO, at: int) -> bytes:
    """The file's hash in hexadecimal, with zeros in place of the 64 bytes at ``at``."""
    handle.seek(0)
    total = hashlib.sha256(handle.read(at))
    total.update(_ZEROS.encode())
    handle.seek(at + _SEAL_BYTES)
    while block := handle.read(_BLOCK):
        total.update(block)
    return total.hexdigest().encode()
