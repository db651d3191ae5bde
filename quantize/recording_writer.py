"""A recording, written: rows of logits in, levels out. The format is recording.py's.

A text that is not read to its end leaves no file.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eftlite.errors import EngineError
from eftlite_quantize.newfile import NewFile
from eftlite_quantize.recording import CRC, DEPTH, MAGIC, START, Head, Rows
from eftlite_quantize.texts import Tokens, scored

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on; a dependency of llama-cpp-python

LEVELS = 65535


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


class RecordingWriter:
    """Writes a recording; it has its name only when it is whole.

    Args:
        tokens: (n_chunks, n_ctx) int32, the text as it was cut, without BOS.

    Raises:
        EFTError: the file cannot be written, or the disk has no room for it.
    """

    def __init__(self, path: Path, head: Head, tokens: Tokens) -> None:
        self._head, self._missing = head, head.n_chunks
        self._heads: list[bytes] = []
        self._levels: list[bytes] = []
        self._n_rows = 0
        text, ids = json.dumps(asdict(head)).encode(), tokens.astype("<i4").tobytes()
        self._file = NewFile(path, head.file_bytes(len(text)), "Record fewer chunks with --chunks, or elsewhere")
        try:
            self._file.write(START.pack(MAGIC, len(text), zlib.crc32(text)) + text)
            self._file.write(ids + CRC.pack(zlib.crc32(ids)))
        except BaseException:
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
            self._file.write(CRC.pack(zlib.crc32(data)) + data)
            self._heads, self._levels, self._n_rows = [], [], 0
            self._missing -= 1

    def close(self) -> None:
        """Give the file its name if all rows were written; else nothing is left of it."""
        with self._file:
            if not self._missing:
                self._file.keep()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
