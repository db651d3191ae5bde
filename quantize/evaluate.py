"""One model over a text whose tokens are given: the rows of logits that follow them, a piece at a time.

Knows token ids and rows, never texts, other models, or what is made of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eftlite.errors import ContextError, InputError
from eftlite.llama import Model, Progress
from eftlite.member import Member
from eftlite.settings import ModelSettings
from eftlite.vocab import Vocabulary

if TYPE_CHECKING:
    from typing_extensions import Self

Rows = NDArray[np.float32]  # (m, n_vocab)


class Evaluator:
    """One model with a context of its own.

    Args:
        path: a GGUF file.
        n_ctx: tokens of the longest text.
        settings: where it runs.
        name: how messages call it.
        progress: called with 0..1 while loading.

    Attributes:
        model: its weights.
        member: its context, whose only slot is 0.
        n_vocab: columns of a row.

    Raises:
        ModelFileError: the file is not a model that can be loaded.
        EngineError: llama.cpp could not load it, or make a context of n_ctx tokens.
    """

    def __init__(
        self,
        path: str | Path,
        n_ctx: int,
        settings: ModelSettings | None = None,
        name: str = "model",
        progress: Progress | None = None,
    ) -> None:
        self.name, self.n_ctx = name, n_ctx
        self.model = Model(path, settings, name, progress)
        try:
            self.member = Member(self.model, n_ctx)
        except BaseException:
            self.model.close()
            raise
        self.n_vocab = self.model.n_vocab

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What the proof of a shared vocabulary compares."""
        return self.model.vocabulary()

    def rows(self, tokens: Sequence[int] | NDArray[np.int32], first: int) -> Iterator[Rows]:
        """Logits that follow ``tokens[first]`` up to the last token, each given all before it.

        Args:
            tokens: a text; it is evaluated from an empty cache.
            first: the first position whose row is wanted.

        Yields:
            Views (m, n_vocab) float32, m at most 64, valid until the next is asked for. Together ``len(tokens) -
            first`` rows.

        Raises:
            ContextError: the text is longer than the context.
            InputError: there is no such position.
        """
        ids = [int(token) for token in tokens]
        if len(ids) > self.n_ctx:
            raise ContextError(f"{self.name}: expected at most {self.n_ctx} tokens, got {len(ids)}", "", len(ids))
        if not 0 <= first < len(ids):
            raise InputError(f"first: expected a position of a text of {len(ids)} tokens, got {first}")
        self.member.clear(0)
        done = 0
        for start in range(first, len(ids), self.member.max_rows):
            stop = min(start + self.member.max_rows, len(ids))
            self.member.decode(0, ids[done:stop], stop - start)
            done = stop
            yield self._view(start, stop)

    def _view(self, start: int, stop: int) -> Rows:
        """The rows after tokens ``start … stop-1`` as one array; llama.cpp lays one decode's rows side by side."""
        rows = [self.member.row(0, n) for n in range(start + 1, stop + 1)]
        step = rows[0].nbytes
        if any(row.ctypes.data != rows[0].ctypes.data + step * i for i, row in enumerate(rows)):
            return np.stack(rows)  # a build that sorts its outputs differently
        view: Rows = np.lib.stride_tricks.as_strided(rows[0], (len(rows), self.n_vocab), (step, 4), writeable=False)
        return view

    def close(self) -> None:
        """Free context and weights."""
        self.member.close()
        self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
