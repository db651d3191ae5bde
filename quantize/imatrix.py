"""Importance matrices: what each column of a weight matrix was multiplied with, squared and summed over a text.

Reads llama-imatrix's files, GGUF and the legacy format, within bounds; writes GGUF as llama-imatrix does. Knows names
and numbers, never models: whether a matrix fits one is the caller's to ask.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eftlite.errors import InputError, ModelFileError
from eftlite.gguf_header import RawHeader, read_header
from eftlite.gguf_reader import open_regular
from eftlite.gguf_types import MAGIC, MAX_TENSOR_NAME, MAX_TENSORS, TensorInfo, shown
from eftlite_quantize.newfile import NewFile

DATASETS, CHUNK_COUNT, CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
SUMS, COUNTS = ".in_sum2", ".counts"
_HINT = "Give a file that llama-imatrix or `eftlite quantize imatrix` has written"
_MAX_DATASET = 1 << 16


class Entry(NamedTuple):
    """Of one tensor.

    Attributes:
        sums: of squares, (n_matrices, n_columns) float32; a matrix for each expert of a mixture, else one.
        counts: of what was summed, (n_matrices,) float32.
    """

    sums: NDArray[np.float32]
    counts: NDArray[np.float32]


@dataclass(frozen=True)
class ImportanceMatrix:
    """A whole file.

    Attributes:
        entries: by the tensor's name.
        datasets: the texts that it was computed on, as their files were called.
        n_chunks: how many chunks of text; 0 if the file does not say.
        chunk_size: tokens of a chunk; 0 in legacy files.
    """

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...]
    n_chunks: int
    chunk_size: int

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """What the quantizer takes: mean squares (n_matrices * n_columns,) float32, 1 where nothing was seen."""
        found = {}
        for name, (sums, counts) in self.entries.items():
            seen = counts[:, None] > 0
            means = np.divide(sums, counts[:, None], out=np.ones_like(sums), where=seen)
            found[name] = means.ravel()
        return found


def read_imatrix(path: str | os.PathLike[str]) -> ImportanceMatrix:
    """A file of either format.

    Raises:
        InputError: it is none, damaged, or holds numbers that cannot be.
    """
    with _named(Path(path)), open_regular(Path(path)) as (handle, n_bytes):
        if handle.read(len(MAGIC)) == MAGIC:
            handle.seek(0)
            header = read_header(handle, n_bytes)
            data = np.memmap(path, np.uint8, "r")  # (n_bytes,)
            found = _from_gguf(header, data)
        else:
            handle.seek(0)
            found = _from_legacy(handle.readall())
        _check_numbers(found)
    return found


def write_imatrix(path: str | os.PathLike[str], matrix: ImportanceMatrix) -> None:
    """Write a GGUF file as llama-imatrix does; it appears when it is whole.

    Raises:
        InputError: the gguf package is not installed, or the file cannot be begun.
        EFTError: it cannot be written.
    """
    with NewFile(path, hint="Choose another place with -o") as new:
        with new.explained():
            _write(new.part, matrix)
        new.keep()


def _write(path: Path, matrix: ImportanceMatrix) -> None:
    gguf = gguf_package()

    class Writer(gguf.GGUFWriter):  # type: ignore[misc,name-defined]  # the package is not always there
        """Without an architecture, which these files do not have."""

        def add_architecture(self) -> None:
            """Called when it is made."""

    writer = Writer(path, "")
    writer.add_type("imatrix")
    writer.add_array(DATASETS, list(matrix.datasets))
    writer.add_uint32(CHUNK_COUNT, matrix.n_chunks)
    writer.add_uint32(CHUNK_SIZE, matrix.chunk_size)
    for name, (sums, counts) in matrix.entries.items():
        writer.add_tensor(name + SUMS, sums if len(sums) > 1 else sums[0])
        writer.add_tensor(name + COUNTS, counts[:, None] if len(counts) > 1 else counts)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def gguf_package() -> Any:
    """The package that writes GGUF files; InputError when it is not installed."""
    try:
        import gguf
    except ImportError:
        message = "gguf: expected this package, which writes GGUF files, got none"
        raise InputError(message, "pip install gguf") from None
    return gguf


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the file's name in front of errors."""
    try:
        yield
    except ModelFileError as error:
        message = error.message.replace("expected a GGUF file", "expected an importance matrix")
        raise InputError(f"{shown(path.name)}: {message}", error.hint) from None
    except InputError as error:
        raise InputError(f"{shown(path.name)}: {error.message}", error.hint or _HINT) from None


def _check_numbers(found: ImportanceMatrix) -> None:
    if not found.entries:
        raise InputError("expected an importance matrix, got a file without entries")
    for name, (sums, counts) in found.entries.items():
        if not np.isfinite(sums).all() or not np.isfinite(counts).all():
            raise InputError(f"expected finite numbers of {shown(name)}, got others", "It is damaged; compute it again")


# ---- GGUF


def _from_gguf(header: RawHeader, data: NDArray[np.uint8]) -> ImportanceMatrix:
    if header.metadata.get("general.type", "imatrix") != "imatrix" or CHUNK_SIZE not in header.metadata:
        raise InputError("expected an importance matrix, got another kind of GGUF file")
    tensors = {one.name: one for one in header.tensors}
    names = [name.removesuffix(SUMS) for name in tensors if name.endswith(SUMS)]
    if 2 * len(names) != len(tensors) or any(name + COUNTS not in tensors for name in names):
        raise InputError(f"expected a tensor *{COUNTS} beside each tensor *{SUMS}, got others")
    entries = {name: _entry(name, tensors[name + SUMS], tensors[name + COUNTS], data) for name in names}
    datasets = header.metadata.get(DATASETS, ())
    texts = tuple(str(one) for one in datasets) if isinstance(datasets, tuple) else ()
    return ImportanceMatrix(entries, texts, _whole(header, CHUNK_COUNT), _whole(header, CHUNK_SIZE))


def _whole(header: RawHeader, key: str) -> int:
    value = header.metadata.get(key)
    return value if isinstance(value, int) else 0


def _entry(name: str, sums: TensorInfo, counts: TensorInfo, data: NDArray[np.uint8]) -> Entry:
    if (sums.type, counts.type) != ("F32", "F32") or sums.n_elements % counts.n_elements:
        raise InputError(f"expected F32 sums of {shown(name)} in as many rows as counts, got others")
    squares, numbers = (data[one.offset : one.offset + one.n_bytes].view("<f4") for one in (sums, counts))
    return Entry(squares.reshape(counts.n_elements, -1).astype(np.float32), np.rint(numbers).astype(np.float32))


# ---- legacy: int32 n; n times (int32 length, name, int32 n_calls, int32 n_values, float32 …); int32 n_chunks; dataset


class _Legacy:
    """Reads little-endian values out of the whole file."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        """The next n bytes."""
        if not 0 <= n <= len(self.data) - self.at:
            raise InputError("expected an importance matrix, got a file that ends early, or another kind of file")
        self.at += n
        return self.data[self.at - n : self.at]

    def whole(self, low: int, high: int) -> int:
        """The next int32, within bounds."""
        value: int = struct.unpack("<i", self.take(4))[0]
        if not low <= value <= high:
            raise InputError("expected an importance matrix, got another kind of file")
        return value


def _from_legacy(data: bytes) -> ImportanceMatrix:
    reader = _Legacy(data)
    entries = {}
    for _ in range(reader.whole(1, MAX_TENSORS)):
        name = reader.take(reader.whole(1, MAX_TENSOR_NAME)).decode("utf-8", "replace")
        n_calls = reader.whole(0, 1 << 30)
        values = np.frombuffer(reader.take(4 * reader.whole(1, 1 << 28)), "<f4").astype(np.float32)
        # Its values are means times calls; a tensor that was never called holds them as they are.
        entries[name] = Entry(values[None], np.array([max(n_calls, 1)], np.float32))
    n_chunks = 0
    datasets: tuple[str, ...] = ()
    if reader.at < len(data):
        n_chunks = reader.whole(0, 1 << 30)
    if reader.at < len(data):
        text = reader.take(reader.whole(0, _MAX_DATASET)).decode("utf-8", "replace")
        datasets = (text,) if text else ()
    return ImportanceMatrix(entries, datasets, n_chunks, 0)
