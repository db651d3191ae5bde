"""Where a base's probabilities come from: a model that reads the text beside the others, or a file.

Knows rows and chunks, never statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eftlite.gguf_types import shown
from eftlite_quantize.evaluate import Evaluator, Rows
from eftlite_quantize.kernels import compare_rows, compare_stored
from eftlite_quantize.klbase import BaseReader, BaseWriter, Stored, parts
from eftlite_quantize.texts import Tokens, begun, first_scored

Found = NDArray[np.float64]  # (m, N_FOUND)


class Base(Protocol):
    """A base, a piece of a chunk at a time; ``name`` is how messages call it."""

    name: str

    def pieces(self, chunk: int, size: int) -> Iterator[Any]:
        """What is known of a chunk's scored positions, ``size`` of them at a time."""

    def compare(self, piece: Any, other: Rows, targets: Tokens, scratch: Rows, found: Found) -> None:
        """Fill ``found`` for a piece and another model's rows (m, n_vocab); arguments as in kernels.py."""


def scored_rows(evaluator: Evaluator, ids: Tokens) -> Iterator[Rows]:
    """Rows of a chunk's scored positions. Its first token becomes BOS if the model adds one; its last is not read."""
    vocabulary = evaluator.vocabulary
    (read,) = begun(ids[None, :-1], vocabulary.add_bos, vocabulary.bos)
    return evaluator.rows(read, first_scored(len(ids)))


class LiveBase:
    """A model.

    Args:
        plain: (n_chunks, n_ctx) int32, the text without BOS.
        writer: gets the rows too, until it has them all.
    """

    def __init__(self, evaluator: Evaluator, plain: Tokens, writer: BaseWriter | None = None) -> None:
        self.name = evaluator.name
        self._evaluator, self._plain, self._writer = evaluator, plain, writer

    def pieces(self, chunk: int, size: int) -> Iterator[Rows]:  # noqa: ARG002  its size is that of the other models
        """Rows of logits (m, n_vocab)."""
        for rows in scored_rows(self._evaluator, self._plain[chunk]):
            if self._writer is not None and not self._writer.is_whole:
                self._writer.write(rows)
            yield rows

    def compare(self, piece: Rows, other: Rows, targets: Tokens, scratch: Rows, found: Found) -> None:
        """Logits against logits."""
        assert piece.shape == other.shape  # the kernel does not look
        compare_rows(piece, other, targets, scratch, found)


class StoredBase:
    """A file of log-probabilities."""

    def __init__(self, reader: BaseReader) -> None:
        self.name = shown(reader.path.name)
        self._reader = reader

    def pieces(self, chunk: int, size: int) -> Iterator[Stored]:
        """Stored rows."""
        return self._reader.pieces(chunk, size)

    def compare(self, piece: Stored, other: Rows, targets: Tokens, scratch: Rows, found: Found) -> None:
        """Stored log-probabilities against logits."""
        assert other.shape == (len(piece), self._reader.n_vocab)
        compare_stored(*parts(piece, self._reader.n_vocab), other, targets, scratch, found)
