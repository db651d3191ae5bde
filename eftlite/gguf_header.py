"""Reads a GGUF header: every count, size, type, shape and offset within bounds, or one clear error.

Knows the format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), never what makes a model plausible.
Allocates nothing that the file merely claims. Errors carry no file name; gguf.py puts it in front.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass, field
from io import RawIOBase

from eftlite.errors import ModelFileError
from eftlite.gguf_reader import AGAIN, DAMAGED, Reader
from eftlite.gguf_types import (
    ARRAY,
    BOOL,
    CPU_ALIGNMENT,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_DIMS,
    MAX_HEADER_BYTES,
    MAX_KEPT_BYTES,
    MAX_KEY_BYTES,
    MAX_KEYS,
    MAX_LONG_TEXT_BYTES,
    MAX_STRINGS,
    MAX_TENSOR_NAME,
    MAX_TENSORS,
    MAX_TEXT_BYTES,
    MAX_TRAILING_BYTES,
    SHORT_ARRAY,
    STRING,
    TENSOR_TYPES,
    VALUE_TYPES,
    ArrayInfo,
    TensorInfo,
    Value,
    bad,
    shown,
)

TOKENS = "tokenizer.ggml.tokens"
# llama.cpp reads these without asking for their type, and aborts or refuses when it is another.
_REQUIRED_TYPES = {
    "general.alignment": 4, "split.no": 2, "split.count": 2, "split.tensors.count": 5, "adapter.lora.alpha": 6,
}  # fmt: skip  # numbers of VALUE_TYPES
_FOREIGN = (
    (b"version https://git-lfs", "a git-lfs pointer", "Run: git lfs pull"),
    (b"PK\x03\x04", "a zip archive, perhaps PyTorch weights", "Convert the model to GGUF, or fetch a GGUF file of it"),
    (b"\x80\x02", "a Python pickle, perhaps PyTorch weights", "Convert the model to GGUF, or fetch a GGUF file of it"),
    (b"\x1f\x8b", "a gzip archive", "Unpack it first"),
    (b"lmgg", "an old ggml model", "llama.cpp dropped this format in 2023; fetch a GGUF file of the model"),
    (b"fmgg", "an old ggmf model", "llama.cpp dropped this format in 2023; fetch a GGUF file of the model"),
    (b"tjgg", "an old ggjt model", "llama.cpp dropped this format in 2023; fetch a GGUF file of the model"),
    (b"algg", "an old ggla adapter", "llama.cpp dropped this format; fetch a GGUF file of the model"),
    (b"FUGG", "a GGUF file with its bytes swapped", DAMAGED),
)


@dataclass(frozen=True)
class RawHeader:
    """What one file says, before anyone asks whether it makes sense.

    ``token_hashes`` are Python hashes of the token texts up to a NUL, in order (array of int64), empty without any.
    """

    version: int
    metadata: dict[str, Value]
    tensors: tuple[TensorInfo, ...]
    file_bytes: int
    token_hashes: array[int] = field(default_factory=lambda: array("q"))


def read_header(handle: RawIOBase, n_bytes: int) -> RawHeader:
    """Everything before the weights, with every count, size, type, shape and offset checked.

    Raises:
        ModelFileError: the first thing that is not as the format wants it.
    """
    reader = Reader(handle, n_bytes)
    version, n_tensors, n_keys = _read_counts(reader)
    metadata, hashes = _Metadata(reader).read(n_keys)
    alignment = _alignment(metadata)
    described = [_read_tensor(reader) for _ in range(n_tensors)]
    tensors = _place(described, -(-reader.position // alignment) * alignment, alignment, n_bytes)
    return RawHeader(version, metadata, tensors, n_bytes, hashes)


def _read_counts(reader: Reader) -> tuple[int, int, int]:
    """Version, number of tensors, number of keys."""
    start = reader.peek(512)
    if start[:4] != MAGIC:
        raise _foreign(start)
    reader.skip(4, "magic")
    version = reader.number("I", "the version")
    if version & 0xFFFF == 0 and version:
        raise bad(
            f"expected a little-endian GGUF file, got a big-endian one (version {version >> 24})",
            "Convert it with gguf-py's gguf_convert_endian.py",
        )
    if version not in (2, 3):
        raise bad(f"expected GGUF version 2 or 3, got {version}", "" if version > 3 else DAMAGED)
    n_tensors = reader.number("Q", "the number of tensors")
    n_keys = reader.number("Q", "the number of keys")
    if n_tensors > MAX_TENSORS:
        raise bad(f"expected at most {MAX_TENSORS:,} tensors, got {n_tensors:,}", DAMAGED)
    if n_keys > MAX_KEYS:
        raise bad(f"expected at most {MAX_KEYS:,} keys, got {n_keys:,}", DAMAGED)
    return version, n_tensors, n_keys


def _foreign(start: bytes) -> ModelFileError:
    """The error for a file that does not begin as GGUF does, with its kind where it can be told."""
    for magic, kind, hint in _FOREIGN:
        if start.startswith(magic):
            return bad(f"expected a GGUF file, got {kind}", hint)
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")):
        hint = "The download was answered by a page; fetch the file itself, not the page about it"
        return bad("expected a GGUF file, got an HTML or XML page", hint)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return bad("expected a GGUF file, got safetensors weights", "Convert the model to GGUF, or fetch a GGUF file")
    if text.startswith((b"{", b"[")):
        return bad("expected a GGUF file, got JSON text", "The download was answered by an error message, perhaps")
    if not start.strip(b"\0"):
        return bad("expected a GGUF file, got one that begins with zeros", AGAIN)
    return bad(f"expected a GGUF file (it begins with GGUF), got one that begins with '{shown(start[:8])}'", AGAIN)


class _Metadata:
    """Reads the key-value section; short values are kept, long ones described."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._room = MAX_KEPT_BYTES
        self._strings_left = MAX_STRINGS
        self._hashes: array[int] = array("q")

    def read(self, n_keys: int) -> tuple[dict[str, Value], array[int]]:
        """All keys with their values, and the hashes of the token texts."""
        metadata: dict[str, Value] = {}
        for _ in range(n_keys):
            key = self._key()
            if key in metadata:
                raise bad(f"expected each key once, got {shown(key)} twice", DAMAGED)
            metadata[key] = self._value(key)
            if self._reader.position > MAX_HEADER_BYTES:
                raise bad(f"expected metadata of at most {MAX_HEADER_BYTES:,} bytes, got more by {shown(key)}", DAMAGED)
        return metadata, self._hashes

    def _key(self) -> str:
        name = self._reader.text(MAX_KEY_BYTES, "a key's name")
        if not name or not self._keep(len(name)):
            raise bad(f"expected a key's name, got {'an empty one' if not name else 'too many long ones'}", DAMAGED)
        try:
            return name.decode("utf-8")
        except UnicodeDecodeError:
            raise bad(f"expected a key's name in UTF-8, got {shown(name)}", DAMAGED) from None

    def _keep(self, n_bytes: int) -> bool:
        """Whether a value of this size may stay in memory; a header full of them may not."""
        if n_bytes > self._room:
            return False
        self._room -= n_bytes
        return True

    def _value(self, key: str) -> Value:
        number = self._reader.number("I", f"the type of {shown(key)}")
        if number != _REQUIRED_TYPES.get(key, number):
            want = VALUE_TYPES[_REQUIRED_TYPES[key]].name
            raise bad(f"expected {key} to be {want}, got the value type {number}", DAMAGED)
        if number == STRING:
            return self._string(key)
        if number == ARRAY:
            return self._array(key)
        kind = VALUE_TYPES.get(number)
        if kind is None:
            raise bad(f"expected a value type from 0 to 12 for {shown(key)}, got {number}", DAMAGED)
        value: int | float = struct.unpack("<" + kind.code, self._reader.take(kind.n_bytes, shown(key)))[0]
        if number != BOOL:
            return value
        if value > 1:
            raise bad(f"expected 0 or 1 for {shown(key)}, got {value}", DAMAGED)
        return bool(value)

    def _string(self, key: str) -> Value:
        n = self._reader.number("Q", f"the length of {shown(key)}")
        if n > MAX_LONG_TEXT_BYTES:
            raise bad(f"expected {shown(key)} of at most {MAX_LONG_TEXT_BYTES:,} bytes, got {n:,}", DAMAGED)
        if n <= MAX_TEXT_BYTES and self._keep(n):
            return self._reader.take(n, shown(key)).decode("utf-8", "surrogateescape")
        info = ArrayInfo("text", n, self._reader.position)
        self._reader.skip(n, shown(key))
        return info

    def _array(self, key: str) -> Value:
        number = self._reader.number("I", f"the element type of {shown(key)}")
        count = self._reader.number("Q", f"the length of {shown(key)}")
        if number == STRING:
            return self._string_array(key, count)
        kind = VALUE_TYPES.get(number)
        if kind is None:
            what = "an array of arrays" if number == ARRAY else f"type {number}"
            raise bad(f"expected numbers or strings in the array {shown(key)}, got {what}", DAMAGED)
        info = ArrayInfo(kind.name, count, self._reader.position)
        self._reader.skip(count * kind.n_bytes, shown(key))
        if key.startswith("tokenizer.") or count > SHORT_ARRAY or not self._keep(40 * count):
            return info
        end, self._reader.position = self._reader.position, info.offset
        values = struct.unpack(f"<{count}{kind.code}", self._reader.take(end - info.offset, shown(key)))
        return tuple(map(bool, values)) if number == BOOL else values

    def _string_array(self, key: str, count: int) -> Value:
        reader = self._reader
        if count * 8 > reader.left:
            raise bad(f"expected {count:,} strings in {shown(key)}, got room for {reader.left // 8:,}", AGAIN)
        if count > self._strings_left:
            raise bad(f"expected at most {MAX_STRINGS:,} strings in all, got {count:,} in {shown(key)}", DAMAGED)
        self._strings_left -= count
        info = ArrayInfo("string", count, reader.position)
        kept: list[str] | None = [] if count <= SHORT_ARRAY and not key.startswith("tokenizer.") else None
        for pieces in reader.strings(count, f"a string in {shown(key)}"):
            if key == TOKENS:
                self._hashes.extend(map(hash, _as_c_strings(pieces)))
            if kept is not None and self._keep(sum(map(len, pieces)) + 50 * len(pieces)):
                kept += [piece.decode("utf-8", "surrogateescape") for piece in pieces]
            else:
                kept = None
        return info if kept is None else tuple(kept)


def _as_c_strings(texts: list[bytes]) -> list[bytes]:
    """Texts as llama.cpp sees them, which ends them at a NUL; looking into each would cost more than reading it."""
    return [text.partition(b"\0")[0] for text in texts] if b"\0" in b"".join(texts) else texts


def _alignment(metadata: dict[str, Value]) -> int:
    """The alignment of the weights in bytes, a power of two."""
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or isinstance(value, bool) or not 8 <= value <= 1 << 20 or value & (value - 1):
        shape = value if isinstance(value, int | float) else "something else"
        raise bad(f"expected general.alignment to be a power of two from 8 to 1,048,576, got {shape}", DAMAGED)
    return value


def _read_tensor(reader: Reader) -> TensorInfo:
    """One tensor's description; its offset still counts from the beginning of the weights."""
    text = reader.text(MAX_TENSOR_NAME, "a tensor's name")
    name = text.decode("ascii", "replace")
    if not name.isprintable() or not name.isascii() or not name:
        raise bad(f"expected a tensor's name in printable ASCII, got '{shown(text)}'", DAMAGED)
    n_dims = reader.number("I", f"the number of dimensions of {name}")
    if not 1 <= n_dims <= MAX_DIMS:
        raise bad(f"expected {name} to have 1 to {MAX_DIMS} dimensions, got {n_dims:,}", DAMAGED)
    shape: tuple[int, ...] = struct.unpack(f"<{n_dims}Q", reader.take(8 * n_dims, f"the shape of {name}"))
    number = reader.number("I", f"the type of {name}")
    offset = reader.number("Q", f"the offset of {name}")
    kind = TENSOR_TYPES.get(number)
    if kind is None:
        raise bad(f"expected a known tensor type for {name}, got {number}", "Written by a newer llama.cpp, or damaged")
    described = TensorInfo(name, shape, kind.name, offset, 0)
    n_elements = described.n_elements
    if not 0 < n_elements < 1 << 63:
        raise bad(f"expected {name} to have from 1 to 2^63 - 1 elements, got the shape {shape}", DAMAGED)
    if shape[0] % kind.block_size:
        want = f"a multiple of {kind.block_size} ({kind.name})"
        raise bad(f"expected rows of {name} to be {want} elements long, got {shape[0]:,}", DAMAGED)
    return TensorInfo(name, shape, kind.name, offset, n_elements // kind.block_size * kind.block_bytes)


def _place(described: list[TensorInfo], start: int, alignment: int, n_bytes: int) -> tuple[TensorInfo, ...]:
    """Tensors with absolute offsets: each where the one before it ends, all within the file, none beyond.

    llama.cpp wants them without gaps; ggml's CPU buffers abort on a first tensor that is not aligned for them.
    """
    if not described:
        return ()
    if start % CPU_ALIGNMENT:
        raise bad(f"expected the weights at a multiple of {CPU_ALIGNMENT} bytes, got byte {start:,}", DAMAGED)
    expected, end, names, placed = 0, start, set(), []
    for one in described:
        if one.name in names:
            raise bad(f"expected each tensor once, got {one.name} twice", DAMAGED)
        names.add(one.name)
        if one.offset != expected:
            raise bad(f"expected {one.name} at byte {expected:,} of the weights, got byte {one.offset:,}", DAMAGED)
        end = start + one.offset + one.n_bytes
        placed.append(TensorInfo(one.name, one.shape, one.type, start + one.offset, one.n_bytes))
        expected += -(-one.n_bytes // alignment) * alignment
    if end > n_bytes:
        raise bad(f"expected {end:,} bytes for {len(placed):,} tensors, got a file of {n_bytes:,} bytes", AGAIN)
    if n_bytes - end > max(MAX_TRAILING_BYTES, alignment):
        hint = "Header and weights are of different files, or something was appended"
        raise bad(f"expected {end:,} bytes for {len(placed):,} tensors, got a file of {n_bytes:,} bytes", hint)
    return tuple(placed)
