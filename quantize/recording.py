r"""One model's log-probabilities at the scored positions of a text, on disk, read a piece at a time.

The file, little-endian: ``eftrec1\n``, bytes and CRC-32 of a JSON head (uint32 each), the head; the text's tokens
(n_chunks, n_ctx) int32 and their CRC-32; then for each chunk the CRC-32 of what follows, of each row its step and its
lowest log-probability (float32 each), and of each row n_vocab levels (uint16). A log-probability is ``lowest + step *
level``. Unlike llama-perplexity's, a row reaches down to its true minimum, at most ``DEPTH`` below its maximum: the
composite adds differences of small log-probabilities, which a cut at 16 would falsify.

Knows rows and tokens, never models; recording_writer.py writes it.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eftlite_quantize.filereader import FileReader
from eftlite_quantize.texts import MIN_CONTEXT, Tokens, scored

MAGIC = b"eftrec1\n"
DEPTH = 64.0  # nats; e**-64 means nothing to any sum
PIECE = 64
START = struct.Struct("<8sII")
CRC = struct.Struct("<I")
_MOST_HEAD = 1 << 20

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
        return CRC.size + scored(self.n_ctx) * (8 + 2 * self.n_vocab)

    @property
    def token_bytes(self) -> int:
        """Bytes of the tokens with their checksum."""
        return 4 * self.n_ctx * self.n_chunks + CRC.size

    def file_bytes(self, n_bytes: int) -> int:
        """Bytes of a recording whose head, as JSON, has n_bytes."""
        return START.size + n_bytes + self.token_bytes + self.n_chunks * self.chunk_bytes


class Recording(FileReader):
    """A recording, opened to be read.

    Attributes:
        head: what it says of itself.
        tokens: (n_chunks, n_ctx) int32, the text as it was cut, without BOS.

    Raises:
        InputError: it is no recording, another version's, or damaged; the message says which.
    """

    hint = "Record it again with `eftlite quantize record`"

    def _read_head(self) -> None:
        start = self._file.read(START.size)
        if len(start) < START.size or start[: len(MAGIC)] != MAGIC:
            expected = f"a recording, which begins with {MAGIC.decode().strip()}"
            raise self._bad(expected, repr(start[: len(MAGIC)]))
        _, length, checksum = START.unpack(start)
        text = self._file.read(min(length, _MOST_HEAD))
        if len(text) < length or zlib.crc32(text) != checksum:
            raise self._bad("a whole head", "a damaged one")
        self.head = self._parsed(text)
        n_chunks, n_ctx = self.head.n_chunks, self.head.n_ctx
        self._check_size(self.head.file_bytes(len(text)), f"{n_chunks} chunks of {n_ctx} tokens")
        data = self._checked(self._file.read(self.head.token_bytes), "the tokens", at_end=True)
        self.tokens: Tokens = np.frombuffer(data, "<i4").reshape(n_chunks, n_ctx)
        self._start = self._file.tell()

    def _parsed(self, text: bytes) -> Head:
        try:
            head = Head(**json.loads(text))
            numbers = (head.n_ctx - MIN_CONTEXT, head.n_chunks - 1, head.n_vocab - 1)
        except (ValueError, TypeError):
            raise self._bad("a head with known keys", "another version's") from None
        if min(numbers) < 0:
            raise self._bad("chunks of tokens", f"{head.n_chunks} of {head.n_ctx}")
        return head

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
        body, mark = (view[: -CRC.size], view[-CRC.size :]) if at_end else (view[CRC.size :], view[: CRC.size])
        if len(mark) < CRC.size or zlib.crc32(body) != CRC.unpack(mark)[0]:
            raise self._bad(f"{what} as recorded", "other bytes: the file is damaged")
        return body
