"""EFT inside a ``llama_cpp.Llama`` that somebody else holds: a logits processor, and the tuned model as draft model.

The Llama is the base: it evaluates, samples and keeps its cache. The processor turns the base's row into the composite
before penalties, grammar and filters see it, so these go on working; docs/llama-cpp-python.md says what does not.

Two things that llama-cpp-python 0.3.36 does must be known here. ctypes prints what a callback raises and goes on; and
a row after a draft comes with the ids of the whole draft, accepted or not. ``Llama.sample`` knows which row it is and
can raise, so the processor puts itself around that method of the one Llama it serves.

Knows Llama's interface; what EFT is, is composite.py's. benchmarks/processor.py compares it with the native engine.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np
from llama_cpp.llama_speculative import LlamaDraftModel

from eftlite.arguments import family_of, settings_of
from eftlite.companions import Companions, Follower, Ids
from eftlite.composite import Composite, Recipe, Row
from eftlite.errors import InputError
from eftlite.llama import Model, library
from eftlite.loading import Progress, load
from eftlite.settings import Family, Knobs, ModelSettings

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on; a dependency of llama-cpp-python


class EFTLogitsProcessor:
    """Makes a ``Llama`` answer with EFT: ``llama.create_completion(…, logits_processor=LogitsProcessorList([this]))``.

    It serves one Llama and one text at a time, and is to be closed before the Llama. Other processors go after it.

    Args:
        llama: the base.
        tuned, reference, adapter: as in ``eftlite.EFT``.
        family: a family file's path or a ``Family``, for its deltas; the bundled one when nothing is named. Its base is
            not opened.
        alpha, beta, conservative_p: knobs, see ``Knobs``; alpha is the first delta's.
        progress: called with a member's name and 0..1 while loading.
        **model_settings: fields of ``ModelSettings`` for the small models, e.g. ``n_gpu_layers=-1``.

    Attributes:
        knobs: may be assigned between two tokens.
        notes: harmless differences between the vocabularies.
        seconds: spent here in all, the small models' evaluation included.

    Raises:
        InputError and its subclasses: files, vocabularies or values that cannot be used.
        EngineError: llama.cpp could not load them.
    """

    def __init__(
        self,
        llama: llama_cpp.Llama,
        tuned: str | None = None,
        reference: str | None = None,
        *,
        adapter: str | None = None,
        family: Family | str | Path | None = None,
        alpha: float | None = None,
        beta: float = 1.0,
        conservative_p: float | None = None,
        progress: Progress | None = None,
        **model_settings: Any,
    ) -> None:
        base = llama.model_path if tuned or reference or adapter else None
        found = family_of(base, tuned, reference, family, adapter)
        settings = settings_of(None, model_settings)
        assert isinstance(settings, ModelSettings)
        alphas = [delta.alpha for delta in found.deltas]
        if alpha is not None:
            alphas[:1] = [alpha]
        self.knobs = Knobs(tuple(alphas), beta, conservative_p)
        vocabulary = _Borrowed(llama).vocabulary()
        found = replace(found, base=llama.model_path, adapter=None, rpc=())
        # One more: Llama samples after a full context, too.
        self._small = Companions(found, vocabulary, llama.n_ctx() + 1, settings, progress)
        shared = self._small.ensemble.shared
        self.notes, self.seconds = shared.notes, 0.0
        self._recipe = Recipe.of(self.knobs, self._small.roles)
        self._composite = Composite(shared.n_vocab, shared.control, shared.masked)
        self._base: Row = np.empty(shared.n_vocab, np.float32)  # (n_vocab,)
        self._scores: Row = np.empty(shared.n_vocab, np.float32)  # (n_vocab,)
        self._foreign_ends = np.array(sorted(shared.eog - vocabulary.ends()), np.int32)
        self._end = vocabulary.eos
        self._n_text: int | None = None  # tokens before the row that is being sampled, inside Llama.sample
        self._error: BaseException | None = None
        self._llama, self._sample, self._was_watched = llama, llama.sample, "sample" in vars(llama)
        llama.sample = self._watched_sample  # type: ignore[method-assign]  # see the module's docstring

    def __call__(self, input_ids: Ids, scores: Row) -> Row:
        """Replace the base's logits by the composite's scores, in place.

        Args:
            input_ids: (n,) the text, and behind it a draft that is being verified.
            scores: (n_vocab of the base,) float32, of the token after the text; overwritten.

        Returns:
            ``scores``.
        """
        began = time.perf_counter()
        try:
            self._combine(input_ids, scores)
        except BaseException as error:
            if self._n_text is None:
                raise
            self._error = error  # ctypes would print and forget it
        finally:
            self.seconds += time.perf_counter() - began
        return scores

    def _watched_sample(self, *args: Any, **options: Any) -> int:
        """``Llama.sample``; raises what went wrong in here meanwhile."""
        index = options.get("idx")
        self._n_text = self._llama.n_tokens if index is None else index + 1
        try:
            token: int = self._sample(*args, **options)
        finally:
            self._n_text, error, self._error = None, self._error, None
        if error is not None:
            raise error
        return token

    def _combine(self, input_ids: Ids, scores: Row) -> None:
        if self.knobs is not self._recipe.knobs:
            self._recipe = Recipe.of(self.knobs, self._small.roles)
        n_vocab = len(self._base)
        self._base[:] = scores[:n_vocab]  # the kernels want it dense; Llama's logits lie between ids and probabilities
        small = self._small_rows(input_ids, self._n_text or len(input_ids))
        composite = self._composite.combine([self._base, *small], self._recipe, self._scores)
        self._composite.log_normaliser(composite)  # raises for what is no number
        scores[:n_vocab] = composite
        scores[n_vocab:] = -np.inf
        self._move_ends(scores)

    def _small_rows(self, input_ids: Ids, n_text: int) -> list[Row | None]:
        """The small models' logits after ``n_text`` tokens; those after a draft's tokens come with the same decode."""
        small = self._small.ensemble
        rows: list[Row | None] = [None] * len(small.members)
        needed = [member - 1 for member in self._recipe.needed if member]
        if needed:
            n_draft = min(len(input_ids) - n_text, min(member.max_rows for member in small.members) - 1)
            self._small.follow(input_ids[: n_text + n_draft])
            small.advance_all(0, needed, n_rows=n_draft + 1)
            for member in needed:
                rows[member] = small.row(0, member, -n_draft)
        return rows

    def _move_ends(self, scores: Row) -> None:
        """Give what the small models' own end tokens have to the base's, the only ones that Llama stops at."""
        if self._end >= 0 and len(self._foreign_ends):
            ends = [self._end, *self._foreign_ends]
            scores[self._end] = np.logaddexp.reduce(scores[ends])
            scores[self._foreign_ends] = -np.inf

    @property
    def chat_template(self) -> str | None:
        """The tuned model's chat template; a base often has none."""
        return self._small.speaker.chat_template

    def close(self) -> None:
        """Free the small models, and leave the Llama as it was."""
        if self._llama.sample == self._watched_sample:  # else a processor put around this one would lose its own
            if self._was_watched:
                self._llama.sample = self._sample  # type: ignore[method-assign]  # another processor's
            else:
                del self._llama.sample  # the class's own is back
        self._small.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TunedDraftModel(LlamaDraftModel):
    """A small model that drafts greedily: ``Llama(…, draft_model=TunedDraftModel("tuned.gguf"))``.

    Args:
        tuned: a model of the Llama's vocabulary.
        adapter: path of a LoRA adapter on it.
        n_draft: tokens to draft at a time.
        n_ctx: tokens of context; nothing is drafted beyond it. None takes what the model was trained for, 4096 at most.
        **model_settings: fields of ``ModelSettings``.

    Raises:
        InputError and its subclasses: a file or value that cannot be used.
        EngineError: llama.cpp could not load it.
    """

    def __init__(
        self,
        tuned: str,
        *,
        adapter: str | None = None,
        n_draft: int = 4,
        n_ctx: int | None = None,
        **model_settings: Any,
    ) -> None:
        if isinstance(n_draft, bool) or not isinstance(n_draft, int) or n_draft < 1:
            raise InputError(f"n_draft: expected an integer of at least 1, got {n_draft!r}")
        self.n_draft = n_draft
        family = family_of(tuned, None, None, None, adapter)
        self._engine = load(family, n_ctx, 1, settings_of(None, model_settings))
        self._follower = Follower(self._engine.ensemble)

    def __call__(self, input_ids: Ids, /, **kwargs: Any) -> Ids:  # noqa: ARG002  # the base class's
        """Up to ``n_draft`` tokens after ``input_ids`` (n,), an end token being the last."""
        ensemble, shared = self._engine.ensemble, self._engine.shared
        if input_ids.size and int(input_ids.max()) >= shared.n_vocab:
            raise InputError(
                f"draft_model: expected token ids below {shared.n_vocab}, its vocabulary, got {input_ids.max()}",
                "Choose a model of the base's vocabulary",
            )
        drafted: list[int] = []
        n = min(self.n_draft, ensemble.n_ctx - len(input_ids))
        if n > 0 and input_ids.size:
            self._follower.follow(input_ids)
        while len(drafted) < n and not shared.eog.intersection(drafted):
            ensemble.advance(0, 0, drafted)
            drafted.append(int(ensemble.row(0, 0, len(drafted)).argmax()))
        return np.array(drafted, np.intc)

    def close(self) -> None:
        """Free the model."""
        self._engine.close()


class _Borrowed(Model):
    """The vocabulary of weights that a Llama holds; nothing is loaded, and nothing freed."""

    def __init__(self, llama: llama_cpp.Llama) -> None:
        library.open()
        self.name = "base"
        self._handle = llama.model
        self._vocab = llama_cpp.llama_model_get_vocab(self._handle)
        self.n_vocab = llama.n_vocab()
