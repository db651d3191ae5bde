"""A base model and variants of it, side by side over one text: what quantization did to each.

All models read the text together, a piece of a chunk at a time, and only numbers are kept of each position; so memory
does not grow with the text, but for what metrics.py keeps. Variants that do not fit into memory together come one group
after another, and the base reads the text again for each.

Not guaranteed: that speeds are those of a quiet machine.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from eftlite.errors import EngineError, InputError, VocabularyError
from eftlite.gguf_types import shown
from eftlite.kernels import BLOCK
from eftlite.member import MAX_ROWS
from eftlite.settings import ModelSettings
from eftlite_quantize.bases import Base, LiveBase, StoredBase, scored_rows
from eftlite_quantize.candidates import Candidate, candidates, check_vocabularies, groups, room
from eftlite_quantize.comparison import Comparison, Entry
from eftlite_quantize.evaluate import Evaluator
from eftlite_quantize.kernels import N_FOUND, NLL_BASE
from eftlite_quantize.klbase import BaseReader, BaseWriter
from eftlite_quantize.metrics import Figure, Meter
from eftlite_quantize.speed import speeds
from eftlite_quantize.texts import Tokens, chat_tokens, chunks, first_scored, scored, text_tokens

N_CTX = 512
FEW = 1000

Report = Callable[[str, int, int], None]  # what is done, how far, of how much
PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Plan:
    """How models are compared.

    Attributes:
        n_ctx: tokens of a chunk; None means 512, or what a base file says.
        n_chunks: at most that many; None means all of the text.
        chat: the text is conversations, which the base's chat template writes.
        bench: also measure speed.
        settings: where the models run.
    """

    n_ctx: int | None = None
    n_chunks: int | None = None
    chat: bool = False
    bench: bool = True
    settings: ModelSettings = field(default_factory=ModelSettings)


@dataclass(frozen=True)
class _Measured:
    """What the text and the clock say about a model."""

    figures: dict[str, Figure]
    pace: dict[str, Figure]


def compare(
    reference: PathLike,
    variants: Sequence[PathLike],
    text: PathLike,
    plan: Plan | None = None,
    save: PathLike | None = None,
    report: Report = lambda what, done, total: None,  # noqa: ARG005  says nothing
) -> Comparison:
    """Compare variants with a reference model; without variants, measure the reference alone.

    Args:
        text: a UTF-8 file, or conversations as JSON.
        save: write the reference's log-probabilities here, as llama-perplexity does.
        report: told what is done, how far, of how much.

    Raises:
        ModelFileError, VocabularyError, InputError: a file is not what it should be.
        EngineError: a model computes what is no number, or llama.cpp fails.
        EFTError: ``save`` cannot be written.
    """
    plan = plan or Plan()
    own, *others = candidates([reference, *variants])
    check_vocabularies(own, others)
    n_ctx = N_CTX if plan.n_ctx is None else plan.n_ctx
    left = room(plan.settings) - own.header.n_bytes
    with ExitStack() as stack:
        model = stack.enter_context(_open(own, n_ctx, plan, report))
        tokens = (chat_tokens if plan.chat else text_tokens)(model.model, text)
        plain = chunks(tokens, n_ctx, n_chunks=plan.n_chunks)
        writer = None if save is None else stack.enter_context(closing(BaseWriter(save, plain, model.n_vocab)))
        pace = _pace(model, plain, plan, report)
        measured = list(_measure(LiveBase(model, plain, writer), others, plain, plan, left, report))
    entry = _entry(own, _Measured({"ppl": measured[0].figures["ppl_base"]}, pace))
    return _comparison(entry, others, measured, Path(text).name, plain, own.header.n_ctx_train)


def compare_with_stored(
    stored: PathLike,
    variants: Sequence[PathLike],
    plan: Plan | None = None,
    report: Report = lambda what, done, total: None,  # noqa: ARG005  says nothing
) -> Comparison:
    """Compare variants with a base whose log-probabilities were stored; the text's tokens are in the file too.

    Raises:
        InputError: the file is damaged, of another vocabulary, or of another context than ``plan`` asks for.
        ModelFileError, EngineError: as ``compare``.
    """
    plan = plan or Plan()
    others = candidates(variants)
    with BaseReader(stored) as reader:
        base = StoredBase(reader)
        if plan.n_ctx not in (None, reader.n_ctx):
            raise InputError(f"-c: expected {reader.n_ctx} as in {base.name}, got {plan.n_ctx}")
        for one in others:
            if one.header.n_vocab != reader.n_vocab:
                expected = f"the vocabulary of {base.name}, {reader.n_vocab} tokens"
                raise VocabularyError(f"{one.name}: expected {expected}, got {one.header.n_vocab}")
        plain = reader.tokens[: plan.n_chunks]
        measured = list(_measure(base, others, plain, plan, room(plan.settings), report))
    entry = Entry(base.name, base.name, "", {"ppl": measured[0].figures["ppl_base"]}, {})
    return _comparison(entry, others, measured, base.name, plain)


# ---- reading


def _open(one: Candidate, n_ctx: int, plan: Plan, report: Report) -> Evaluator:
    what = f"loading {one.name}"
    return Evaluator(one.header.path, n_ctx, plan.settings, one.name, lambda done: report(what, round(100 * done), 100))


def _pace(model: Evaluator, plain: Tokens, plan: Plan, report: Report) -> dict[str, Figure]:
    if not plan.bench:
        return {}
    report(f"timing {model.name}", 0, 1)
    return speeds(model, plain[0].tolist())


@dataclass(frozen=True)
class _Reader:
    """A model that reads along, with what is found out about it; the base itself where there is no other."""

    name: str
    meter: Meter
    model: Evaluator | None = None
    pace: dict[str, Figure] = field(default_factory=dict)


def _measure(
    base: Base, others: Sequence[Candidate], plain: Tokens, plan: Plan, left: int, report: Report
) -> Iterator[_Measured]:
    """Each candidate's figures, in order; the base's own if there is no candidate.

    Args:
        plain: (n_chunks, n_ctx) int32, the text without BOS.
        left: bytes that the candidates' weights may take.
    """
    n_chunks, n_ctx = plain.shape
    passes = groups([one.header.n_bytes for one in others], left)
    for number, group in enumerate(passes, 1):
        what = "comparing" if len(passes) == 1 else f"comparing, group {number} of {len(passes)}"
        with ExitStack() as stack:
            readers = []
            for one in (others[index] for index in group):
                model = stack.enter_context(_open(one, n_ctx, plan, report))
                meter = Meter(n_chunks, scored(n_ctx))
                readers.append(_Reader(one.name, meter, model, _pace(model, plain, plan, report)))
            readers = readers or [_Reader(base.name, Meter(n_chunks, scored(n_ctx)))]
            for chunk, ids in enumerate(plain):
                report(what, chunk, n_chunks)
                _read(base, chunk, ids, readers)
        yield from (_Measured(reader.meter.figures(), reader.pace) for reader in readers)


def _read(base: Base, chunk: int, ids: Tokens, readers: Sequence[_Reader]) -> None:
    """One chunk (n_ctx,) through the base and all readers, a piece at a time."""
    size = next((one.model.member.max_rows for one in readers if one.model), MAX_ROWS)
    scratch, found = np.empty((2, BLOCK), np.float32), np.empty((size, N_FOUND))
    streams = [scored_rows(one.model, ids) if one.model else None for one in readers]
    start = first_scored(len(ids)) + 1
    for piece in base.pieces(chunk, size):
        stop = start + len(piece)
        for reader, stream in zip(readers, streams, strict=True):
            here = found[: len(piece)]
            base.compare(piece, piece if stream is None else next(stream), ids[start:stop], scratch, here)
            if not np.isfinite(here).all():
                name = reader.name if np.isfinite(here[:, NLL_BASE]).all() else base.name
                raise EngineError(
                    f"{name}: expected probabilities in chunk {chunk + 1}, got what is no number",
                    "The file is damaged, or its type is too small for this model",
                )
            reader.meter.add(here)
        start = stop


# ---- words


def _entry(one: Candidate, found: _Measured) -> Entry:
    """What is known of a model in the end."""
    facts = {"size_bytes": Figure(one.header.n_bytes), "bits_per_weight": Figure(one.bits_per_weight), **found.pace}
    return Entry(one.name, shown(one.header.path.name), one.header.quantization, found.figures, facts)


def _comparison(
    base: Entry, others: Sequence[Candidate], measured: Sequence[_Measured], text: str, plain: Tokens,
    n_ctx_train: int = 0,
) -> Comparison:  # fmt: skip  # the arguments fit on two lines
    n_chunks, n_ctx = plain.shape
    n_scored = n_chunks * scored(n_ctx)
    return Comparison(
        base=base,
        variants=tuple(_entry(one, found) for one, found in zip(others, measured, strict=False)),
        text=shown(text),
        digest=hashlib.sha256(plain.astype("<i4").tobytes()).hexdigest(),
        n_ctx=n_ctx,
        n_chunks=n_chunks,
        n_scored=n_scored,
        notes=tuple(_notes([n_ctx_train, *(one.header.n_ctx_train for one in others)], n_ctx, n_scored)),
    )


def _notes(trained: Sequence[int], n_ctx: int, n_scored: int) -> Iterator[str]:
    """Warnings; ``trained`` is each model's context, 0 where it is not known."""
    shortest = min((n for n in trained if n), default=n_ctx)
    if n_ctx > shortest:
        yield f"a model was trained on {shortest} tokens, and chunks have {n_ctx}"
    if n_scored < FEW:
        yield f"{n_scored} predictions are few: the figures say little"
