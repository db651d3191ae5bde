"""llama-perplexity's file of a base model's log-probabilities (``--kl-divergence-base``), read and written as a stream.

The file, little-endian: ``_logits_``, n_ctx, n_vocab and n_chunk (int32 each), the text's tokens (int32), then for each
scored position a row of 16-bit words: scale and minimum as two float32, n_vocab levels, and one word more when n_vocab
is odd. A log-probability is ``minimum + scale * level``.

Not guaranteed: that a file belongs to a model. It names none; only the vocabulary's size can be compared.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eftlite.kernels import BLOCK
from eftlite_quantize.filereader import FileReader
from eftlite_quantize.kernels import HEAD, store_rows
from eftlite_quantize.newfile import NewFile
from eftlite_quantize.texts import MIN_CONTEXT, Tokens, scored

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on; a dependency of llama-cpp-python

MAGIC = b"_logits_"
MAX_CONTEXT, MAX_VOCAB, MAX_TOKENS = 1 << 24, 1 << 24, 1 << 31
_HEADER = np.dtype([("magic", "S8"), ("n_ctx", "<i4"), ("n_vocab", "<i4"), ("n_chunk", "<i4")])

Stored = NDArray[np.uint16]  # (m, HEAD + n_vocab or one more)


def words(n_vocab: int) -> int:
    """16-bit words of a row."""
    return 2 * ((n_vocab + 1) // 2) + HEAD


def _n_bytes(n_ctx: int, n_vocab: int, n_chunk: int) -> int:
    """Of a whole file."""
    return _HEADER.itemsize + n_chunk * (4 * n_ctx + 2 * words(n_vocab) * scored(n_ctx))


def parts(rows: Stored, n_vocab: int) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Rows taken apart, without copies: scale and minimum (m, 2) float32, levels (m, n_vocab) uint16."""
    return rows[:, :HEAD].view(np.float32), rows[:, HEAD : HEAD + n_vocab]


class BaseReader(FileReader):
    """A file that llama-perplexity or ``BaseWriter`` wrote.

    Attributes:
        n_ctx, n_vocab, n_chunk: as in the file.
        tokens: (n_chunk, n_ctx) int32, the text as it was cut, without BOS.

    Raises:
        InputError: it is no such file, or not whole; the message says what is wrong.
    """

    hint = "Make it again with --save-kl-base, or with llama-perplexity --kl-divergence-base"

    def _read_head(self) -> None:
        head = np.frombuffer(self._take(_HEADER.itemsize, "a header"), _HEADER)[0]
        if head["magic"] != MAGIC:
            raise self._bad(f"a file that begins with {MAGIC.decode()}", repr(bytes(head["magic"])))
        self.n_ctx, self.n_vocab, self.n_chunk = (int(head[name]) for name in ("n_ctx", "n_vocab", "n_chunk"))
        for name, value, low, high in (
            ("n_ctx", self.n_ctx, MIN_CONTEXT, MAX_CONTEXT),
            ("n_vocab", self.n_vocab, 2, MAX_VOCAB),
            ("n_chunk", self.n_chunk, 1, MAX_TOKENS // max(self.n_ctx, 1)),
        ):
            if not low <= value <= high:
                raise self._bad(f"{name} from {low} to {high}", str(value))
        n_bytes = _n_bytes(self.n_ctx, self.n_vocab, self.n_chunk)
        self._check_size(n_bytes, f"{self.n_chunk} chunks of {self.n_ctx} tokens")
        n_bytes = 4 * self.n_ctx * self.n_chunk
        self.tokens: Tokens = np.frombuffer(self._take(n_bytes, "its tokens"), "<i4").reshape(self.n_chunk, self.n_ctx)
        if self.tokens.min() < 0 or self.tokens.max() >= self.n_vocab:
            wrong = self.tokens[(self.tokens < 0) | (self.tokens >= self.n_vocab)][0]
            raise self._bad(f"tokens from 0 to {self.n_vocab - 1}", str(wrong))
        self._start = self._file.tell()

    def pieces(self, chunk: int, size: int) -> Iterator[Stored]:
        """The rows of a chunk's scored positions, ``size`` at a time; each piece is valid until the next.

        Raises:
            InputError: the file was cut short meanwhile, or a row is damaged.
        """
        n_rows, n_words = scored(self.n_ctx), words(self.n_vocab)
        buffer = np.empty((min(size, n_rows), n_words), np.uint16)
        self._file.seek(self._start + 2 * n_words * n_rows * chunk)
        for start in range(0, n_rows, size):
            piece = buffer[: min(size, n_rows - start)]
            if self._file.readinto(piece.data.cast("B")) != piece.nbytes:
                raise self._bad(f"the rows of chunk {chunk + 1}", "the end of the file")
            scale, lowest = parts(piece, self.n_vocab)[0].T
            if not (np.isfinite(scale).all() and np.isfinite(lowest).all() and (scale >= 0).all()):
                raise self._bad(f"finite scales in chunk {chunk + 1}", "others")
            yield piece


class BaseWriter:
    """Writes such a file; it has its name only when it is whole.

    Args:
        tokens: (n_chunk, n_ctx) int32, the text as it was cut, without BOS.

    Raises:
        EFTError: the file cannot be written, or the disk has no room for it.
    """

    def __init__(self, path: str | os.PathLike[str], tokens: Tokens, n_vocab: int) -> None:
        n_chunk, n_ctx = tokens.shape
        self._n_vocab = n_vocab
        self._missing = scored(n_ctx) * n_chunk
        self._scratch = np.empty((2, BLOCK), np.float32)
        self._buffer = np.zeros((0, words(n_vocab)), np.uint16)
        self._file = NewFile(path, _n_bytes(n_ctx, n_vocab, n_chunk), "Compare fewer chunks, or elsewhere")
        head = np.array([(MAGIC, n_ctx, n_vocab, n_chunk)], _HEADER)
        try:
            self._file.write(head.tobytes() + tokens.astype("<i4").tobytes())
        except BaseException:
            self._file.close()
            raise

    @property
    def is_whole(self) -> bool:
        """Whether all rows were written."""
        return not self._missing

    def write(self, rows: NDArray[np.float32]) -> None:
        """The next rows of logits (m, n_vocab) float32."""
        if len(self._buffer) < len(rows):
            self._buffer = np.zeros((len(rows), words(self._n_vocab)), np.uint16)
        stored = self._buffer[: len(rows)]
        store_rows(rows, self._scratch, *parts(stored, self._n_vocab))
        self._file.write(stored.data.cast("B"))
        self._missing -= len(rows)

    def close(self) -> None:
        """Give the file its name if all rows were written; else nothing is left of it."""
        with self._file:
            if self.is_whole:
                self._file.keep()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
