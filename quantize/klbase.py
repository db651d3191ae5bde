"""llama-perplexity's file of a base model's log-probabilities (``--kl-divergence-base``), read and written as a stream.

The file, little-endian: ``_logits_``, n_ctx, n_vocab and n_chunk (int32 each), the text's tokens (int32), then for each
scored position a row of 16-bit words: scale and minimum as two float32, n_vocab levels, and one word more when n_vocab
is odd. A log-probability is ``minimum + scale * level``.

Not guaranteed: that a file belongs to a model. It names none; only the vocabulary's size can be compared.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eftlite.errors import EFTError, InputError
from eftlite.gguf_types import shown
from eftlite.kernels import BLOCK
from eftlite_quantize.kernels import HEAD, store_rows
from eftlite_quantize.texts import MIN_CONTEXT, Tokens, scored

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on; a dependency of llama-cpp-python

MAGIC = b"_logits_"
MAX_CONTEXT, MAX_VOCAB, MAX_TOKENS = 1 << 24, 1 << 24, 1 << 31
_HEADER = np.dtype([("magic", "S8"), ("n_ctx", "<i4"), ("n_vocab", "<i4"), ("n_chunk", "<i4")])
_HINT = "Make it again with --save-kl-base, or with llama-perplexity --kl-divergence-base"

Stored = NDArray[np.uint16]  # (m, HEAD + n_vocab or one more)


def words(n_vocab: int) -> int:
    """16-bit words of a row."""
    return 2 * ((n_vocab + 1) // 2) + HEAD


def parts(rows: Stored, n_vocab: int) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Rows taken apart, without copies: scale and minimum (m, 2) float32, levels (m, n_vocab) uint16."""
    return rows[:, :HEAD].view(np.float32), rows[:, HEAD : HEAD + n_vocab]


class BaseReader:
    """A file that llama-perplexity or ``BaseWriter`` wrote.

    Attributes:
        n_ctx, n_vocab, n_chunk: as in the file.
        tokens: (n_chunk, n_ctx) int32, the text as it was cut, without BOS.

    Raises:
        InputError: it is no such file, or not whole; the message says what is wrong.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._file = self.path.open("rb")
        except OSError as error:
            raise InputError(f"{shown(self.path.name)}: cannot be read: {error.strerror}") from None
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def _read_header(self) -> None:
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
        self._check_size()
        n_bytes = 4 * self.n_ctx * self.n_chunk
        self.tokens: Tokens = np.frombuffer(self._take(n_bytes, "its tokens"), "<i4").reshape(self.n_chunk, self.n_ctx)
        if self.tokens.min() < 0 or self.tokens.max() >= self.n_vocab:
            wrong = self.tokens[(self.tokens < 0) | (self.tokens >= self.n_vocab)][0]
            raise self._bad(f"tokens from 0 to {self.n_vocab - 1}", str(wrong))
        self._start = self._file.tell()

    def _check_size(self) -> None:
        """A file that was cut short is refused before hours are spent on its beginning."""
        n_rows = scored(self.n_ctx) * self.n_chunk
        expected = _HEADER.itemsize + 4 * self.n_ctx * self.n_chunk + 2 * words(self.n_vocab) * n_rows
        found = os.fstat(self._file.fileno()).st_size
        if found != expected:
            raise self._bad(f"{expected:,} bytes for {self.n_chunk} chunks of {self.n_ctx} tokens", f"{found:,}")

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

    def _take(self, n_bytes: int, what: str) -> bytes:
        data = self._file.read(n_bytes)
        if len(data) < n_bytes:
            raise self._bad(f"{n_bytes:,} bytes of {what}", f"{len(data):,}")
        return data

    def _bad(self, expected: str, got: str) -> InputError:
        return InputError(f"{shown(self.path.name)}: expected {expected}, got {got}", _HINT)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BaseWriter:
    """Writes such a file; it has its name only when it is whole.

    Args:
        tokens: (n_chunk, n_ctx) int32, the text as it was cut, without BOS.

    Raises:
        EFTError: the file cannot be written, or the disk has no room for it.
    """

    def __init__(self, path: str | os.PathLike[str], tokens: Tokens, n_vocab: int) -> None:
        self.path = Path(path)
        self._part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        self._n_vocab = n_vocab
        self._missing = scored(tokens.shape[1]) * len(tokens)
        self._scratch = np.empty((2, BLOCK), np.float32)
        self._buffer = np.zeros((0, words(n_vocab)), np.uint16)
        self._check_room(_HEADER.itemsize + 4 * tokens.size + 2 * words(n_vocab) * self._missing)
        head = np.array([(MAGIC, tokens.shape[1], n_vocab, len(tokens))], _HEADER)
        with self._explained():
            self._file = self._part.open("wb")
            try:
                self._file.write(head.tobytes() + tokens.astype("<i4").tobytes())
            except OSError:
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
        with self._explained():
            self._file.write(stored.data.cast("B"))
        self._missing -= len(rows)

    def close(self) -> None:
        """Give the file its name if all rows were written; else nothing is left of it."""
        with self._explained():
            try:
                with self._file:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                if self.is_whole:
                    self._part.replace(self.path)
            finally:
                self._part.unlink(missing_ok=True)

    def _check_room(self, n_bytes: int) -> None:
        """A file of this kind may take more than a disk has, and hours to find out."""
        with self._explained():
            free = shutil.disk_usage(self.path.absolute().parent).free
        if free < n_bytes:
            expected = f"{n_bytes / 2**30:.1f} GiB of free disk space, got {free / 2**30:.1f} GiB"
            raise EFTError(f"{shown(self.path.name)}: expected {expected}", "Compare fewer chunks, or elsewhere")

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
