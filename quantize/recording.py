r"""One model's log-probabilities at the scored positions of a text, on disk: written once, read a piece at a time.

The file, little-endian: ``eftrec1\n``, bytes and CRC-32 of a JSON head (uint32 each), the head; the text's tokens
(n_chunks, n_ctx) int32 and their CRC-32; then for each chunk the CRC-32 of what follows, of each row its step and its
lowest log-probability (float32 each), and of each row n_vocab levels (uint16). A log-probability is ``lowest + step *
level``. Unlike llama-perplexity's, a row reaches down to its true minimum, at most ``DEPTH`` below its maximum: the
composite adds differences of small log-probabilities, which a cut at 16 would falsify.

Knows rows and tokens, never models.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eftlite.errors import EFTError, EngineError, InputError
from eftlite.gguf_types import shown
from eftlite.inspection import size
from eftlite_quantize.texts import MIN_CONTEXT, Tokens, scored

if TYPE_CHECKING:
    from typing_extensions import Self

MAGIC = b"eftrec1\n"
LEVELS = 65535
DEPTH = 64.0  # nats; e**-64 means nothing to any sum
PIECE = 64
_START = struct.Struct("<8sII")
_CRC = struct.Struct("<I")
_MOST_HEAD = 1 << 20
_HINT = "Record it again with `eftlite quantize record`"

Rows = NDArray[np.float32]  # (m, n_vocab)


@dataclass(frozen=True)
class Head:
    """What a recording says of itself.

    Attributes:
        model: the file's name.
        sha256: of the file.
        vocabulary: SHA-256 of its token texts.
        text: the text's file name.
        digest: SHA-256 of its tokens, those of all chunks.
        n_ctx, n_chunks, n_vocab: the shape.
        settings: how the model ran, as far as it may change its numbers.
    """

    model: str
    sha256: str
    vocabulary: str
    text: str
    digest: str
    n_ctx: int
    n_chunks: int
    n_vocab: int
    settings: Mapping[str, Any]

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk with its checksum."""
        return _CRC.size + scored(self.n_ctx) * (8 + 2 * self.n_vocab)

    @property
    def token_bytes(self) -> int:
        """Bytes of the tokens with their checksum."""
        return 4 * self.n_ctx * self.n_chunks + _CRC.size


def stored(rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Rows of logits (m, n) as steps and lowest log-probabilities (m, 2), and levels (m, n).

    Raises:
        EngineError: they are no numbers.
    """
    if not np.isfinite(rows).all():
        raise EngineError("recording: expected finite logits", "The file is damaged, or its type is too small for it")
    top = rows.max(axis=1, keepdims=True)
    low = np.maximum(rows.min(axis=1, keepdims=True), top - np.float32(DEPTH))
    total = np.log(np.exp(rows - top).sum(axis=1, keepdims=True, dtype=np.float64))
    step = np.maximum((top - low) / np.float32(LEVELS), np.float32(1e-30))
    heads = np.concatenate([step, (low - top - total).astype(np.float32)], axis=1)
    return heads, np.rint(np.maximum(rows - low, 0) / step).clip(0, LEVELS).astype(np.uint16)


class Recording:
    """A recording, opened to be read.

    Attributes:
        head: what it says of itself.
        tokens: (n_chunks, n_ctx) int32, the text as it was cut, without BOS.

    Raises:
        InputError: it is no recording, another version's, or damaged; the message says which.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._file = self.path.open("rb")
        except OSError as error:
            raise InputError(f"{shown(self.path.name)}: cannot be read: {error.strerror}", _HINT) from None
        try:
            self.head = self._read_head()
            self._check_size()
            self.tokens: Tokens = self._read_tokens()
            self._start = self._file.tell()
        except BaseException:
            self.close()
            raise

    def _read_head(self) -> Head:
        start = self._file.read(_START.size)
        if len(start) < _START.size or start[: len(MAGIC)] != MAGIC:
            expected = f"a recording, which begins with {MAGIC.decode().strip()}"
            raise self._bad(expected, repr(start[: len(MAGIC)]))
        _, length, checksum = _START.unpack(start)
        text = self._file.read(min(length, _MOST_HEAD))
        if len(text) < length or zlib.crc32(text) != checksum:
            raise self._bad("a whole head", "a damaged one")
        try:
            head = Head(**json.loads(text))
            numbers = (head.n_ctx - MIN_CONTEXT, head.n_chunks - 1, head.n_vocab - 1)
        except (ValueError, TypeError):
            raise self._bad("a head with known keys", "another version's") from None
        if min(numbers) < 0:
            raise self._bad("chunks of tokens", f"{head.n_chunks} of {head.n_ctx}")
        return head

    def _check_size(self) -> None:
        expected = self._file.tell() + self.head.token_bytes + self.head.n_chunks * self.head.chunk_bytes
        found = os.fstat(self._file.fileno()).st_size
        if found != expected:
            what = "it was cut short" if found < expected else "something was added"
            raise self._bad(f"{expected:,} bytes", f"{found:,}: {what}")

    def _read_tokens(self) -> Tokens:
        data = self._checked(self._file.read(self.head.token_bytes), "the tokens", at_end=True)
        return np.frombuffer(data, "<i4").reshape(self.head.n_chunks, self.head.n_ctx)

    def pieces(self, chunk: int) -> Iterator[Rows]:
        """Log-probabilities (m, n_vocab) of a chunk's scored positions, at most ``PIECE`` at a time.

        Raises:
            InputError: the chunk is damaged.
        """
        head, n_rows = self.head, scored(self.head.n_ctx)
        data = self._chunk(chunk)
        heads = np.frombuffer(data, "<f4", 2 * n_rows).reshape(n_rows, 2)
        levels = np.frombuffer(data, "<u2", offset=8 * n_rows).reshape(n_rows, head.n_vocab)
        for start in range(0, n_rows, PIECE):
            part = slice(start, start + PIECE)
            yield levels[part] * heads[part, :1] + heads[part, 1:]

    def check(self) -> None:
        """Read all of it; InputError when a chunk is damaged."""
        for chunk in range(self.head.n_chunks):
            self._chunk(chunk)

    def _chunk(self, chunk: int) -> memoryview:
        self._file.seek(self._start + chunk * self.head.chunk_bytes)
        return self._checked(self._file.read(self.head.chunk_bytes), f"chunk {chunk + 1}")

    def _checked(self, data: bytes, what: str, at_end: bool = False) -> memoryview:
        """The data without their checksum, which comes before or after them."""
        view = memoryview(data)
        body, mark = (view[: -_CRC.size], view[-_CRC.size :]) if at_end else (view[_CRC.size :], view[: _CRC.size])
        if len(mark) < _CRC.size or zlib.crc32(body) != _CRC.unpack(mark)[0]:
            raise self._bad(f"{what} as recorded", "other bytes: the file is damaged")
        return body

    def _bad(self, expected: str, got: str) -> InputError:
        return InputError(f"{shown(self.path.name)}: expected {expected}, got {got}", _HINT)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RecordingWriter:
    """Writes a recording; it has its name only when it is whole.

    Args:
        tokens: (n_chunks, n_ctx) int32, the text as it was cut, without BOS.

    Raises:
        EFTError: the file cannot be written, or the disk has no room for it.
    """

    def __init__(self, path: Path, head: Head, tokens: Tokens) -> None:
        self.path = path
        self._head, self._missing = head, head.n_chunks
        self._part = path.with_name(f"{path.name}.{os.getpid()}.part")
        self._heads: list[bytes] = []
        self._levels: list[bytes] = []
        self._n_rows = 0
        text, ids = json.dumps(asdict(head)).encode(), tokens.astype("<i4").tobytes()
        self._check_room(_START.size + len(text) + head.token_bytes + head.n_chunks * head.chunk_bytes)
        with self._explained():
            self._file = self._part.open("wb")
            try:
                self._file.write(_START.pack(MAGIC, len(text), zlib.crc32(text)) + text)
                self._file.write(ids + _CRC.pack(zlib.crc32(ids)))
            except OSError:
                self._file.close()
                raise

    def write(self, rows: Rows) -> None:
        """The next rows of logits (m, n_vocab) float32, all of one chunk."""
        heads, levels = stored(rows)
        self._heads.append(heads.astype("<f4").tobytes())
        self._levels.append(levels.astype("<u2").tobytes())
        self._n_rows += len(rows)
        if self._n_rows == scored(self._head.n_ctx):
            data = b"".join([*self._heads, *self._levels])
            with self._explained():
                self._file.write(_CRC.pack(zlib.crc32(data)) + data)
            self._heads, self._levels, self._n_rows = [], [], 0
            self._missing -= 1

    def close(self) -> None:
        """Give the file its name if all rows were written; else nothing is left of it."""
        with self._explained():
            try:
                with self._file:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                if not self._missing:
                    self._part.replace(self.path)
            finally:
                self._part.unlink(missing_ok=True)

    def _check_room(self, n_bytes: int) -> None:
        with self._explained():
            free = shutil.disk_usage(self.path.absolute().parent).free
        if free < n_bytes:
            message = f"{shown(self.path.name)}: expected {size(n_bytes)} of free disk, got {size(free)}"
            raise EFTError(message, "Record fewer chunks with --chunks, or elsewhere")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """A full disk or a folder that cannot be written, in one line."""
        try:
            yield
        except OSError as error:
            self._part.unlink(missing_ok=True)
            raise EFTError(f"{shown(self.path.name)}: cannot be written: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
