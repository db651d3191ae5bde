"""Recording a family: every member reads the text once, one after the other; what is recorded already is kept.

Only one model is loaded at a time. A run that is killed leaves a part behind, which the next one removes, and whole
recordings, which it keeps; the member that was being recorded begins anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from eftlite.errors import InputError
from eftlite.gguf import Header, check
from eftlite.inspection import vocabulary
from eftlite.llama import Model
from eftlite.loading import delta_sources, member_names
from eftlite.settings import Family, ModelSettings
from eftlite.vocab import Vocabulary, share
from eftlite_quantize.bases import scored_rows
from eftlite_quantize.evaluate import Evaluator
from eftlite_quantize.newfile import remove_abandoned
from eftlite_quantize.recorded import INDEX, DeltaEntry, Entry, Index, load_index, open_recording, save_index
from eftlite_quantize.recording import Head, Recording
from eftlite_quantize.recording_writer import RecordingWriter
from eftlite_quantize.records import file_hash
from eftlite_quantize.texts import Tokens, chat_tokens, chunks, text_tokens

Report = Callable[[str, int, int], None]
# Settings that may change a model's numbers; the rest only says how fast they come.
_NUMBERS = ("n_gpu_layers", "type_k", "type_v", "flash_attn", "n_batch", "n_ubatch", "use_extra_bufts")


@dataclass(frozen=True)
class Text:
    """What the members read.

    Attributes:
        path: a UTF-8 file.
        chat: it holds conversations, which the first tuned model's chat template writes.
        n_ctx: tokens of a chunk.
        n_chunks: at most that many; None means all.
    """

    path: Path
    chat: bool = False
    n_ctx: int = 512
    n_chunks: int | None = None


class Variant(NamedTuple):
    """A file to be recorded as a member; ``kind`` names it among that member's, None by what its header says."""

    member: str
    path: Path
    kind: str | None = None


@dataclass(frozen=True)
class Run:
    """Where recordings go and how models run."""

    folder: Path
    settings: ModelSettings = field(default_factory=ModelSettings)
    report: Report = lambda what, done, total: None  # noqa: ARG005  # says nothing


def record(family: Family, text: Text, run: Run) -> Index:
    """Record a family's members; those recorded already on this text are kept.

    Raises:
        ModelFileError, VocabularyError, InputError: a file is not what it should be, or the folder has another text's.
        EFTError: something cannot be written.
        EngineError: a model computes what is no number, or llama.cpp fails.
    """
    _check_adapters(family)
    names = member_names(family)
    paths = {name: Path(source.path) for source, name in names.items()}
    headers = {name: check(path) for name, path in paths.items()}
    vocabularies = [vocabulary(header, name) for name, header in headers.items()]
    shared = share(vocabularies)
    plain = _tokens(paths, family, text, run)
    _prepare(run.folder)
    fresh = Index(
        family=family.name,
        digest=_digest(plain),
        members=dict.fromkeys(paths, ()),
        deltas=tuple(
            DeltaEntry(delta.name, names[tuned], names[reference], delta.alpha)
            for delta, (tuned, reference) in ((one, delta_sources(one)) for one in family.deltas)
        ),
        control=tuple(shared.control.tolist()),
        masked=tuple(shared.masked.tolist()),
        template=family.template,
        stop=family.stop,
    )
    index = _begun(run.folder, fresh)
    _check_targets(plain, shared.n_vocab)
    for name, header in headers.items():
        index = _add(index, name, header, (plain, text.path.name, shared.n_vocab), run)
    save_index(run.folder, index)
    return index


def add(variants: Iterable[Variant], run: Run) -> Index:
    """Record variants of members beside what a folder has.

    Raises:
        InputError: the folder has no such member; others as ``record``.
    """
    index = load_index(run.folder)
    _prepare(run.folder)
    for member, path, kind in variants:
        if member not in index.members:
            raise InputError(f"--variant: no member is called {member!r}", f"Members: {', '.join(index.members)}")
        header = check(path)
        own = index.members[member][0]
        with open_recording(run.folder, index, own) as first:
            plain, head = first.tokens, first.head
        if _vocabulary_hash(vocabulary(header, member)) != head.vocabulary:
            raise InputError(f"{path.name}: expected the vocabulary of {Path(own.path).name}, got another")
        index = _add(index, member, header, (plain, head.text, head.n_vocab), run, kind)
        save_index(run.folder, index)
    return index


# ---- one model


def _add(
    index: Index, member: str, header: Header, text: tuple[Tokens, str, int], run: Run, kind: str | None = None
) -> Index:
    """The index with one more model, recorded now unless it is there."""
    plain, text_name, n_vocab = text
    path = header.path.absolute()
    kind = kind or _kind(index, member, header)
    run.report(f"reading {path.name}", 0, 1)
    head = Head(
        model=path.name,
        sha256=file_hash(path),
        vocabulary=_vocabulary_hash(vocabulary(header, member)),
        text=text_name,
        digest=index.digest,
        n_ctx=plain.shape[1],
        n_chunks=plain.shape[0],
        n_vocab=n_vocab,
        settings=_numbers(run.settings),
    )
    file = f"{member.replace(':', '-')}-{kind}.rec"
    if not _is_there(run.folder / file, head):
        _record(run.folder / file, head, plain, header, member, run)
    return index.added(member, Entry(file, str(path), kind, header.n_bytes, head.sha256))


def _numbers(settings: ModelSettings) -> dict[str, object]:
    """The settings that may change a model's numbers; what was left open is what an evaluator takes."""
    open_ones = {"n_gpu_layers": 0, "type_k": "f16", "type_v": "f16"}
    values = {name: value for name, value in asdict(settings).items() if name in _NUMBERS}
    return {name: open_ones.get(name) if value is None else value for name, value in values.items()}


def _record(path: Path, head: Head, plain: Tokens, header: Header, member: str, run: Run) -> None:
    what = f"recording {header.path.name}"
    with (
        Evaluator(header.path, head.n_ctx, run.settings, member) as model,
        RecordingWriter(path, head, plain) as writer,
    ):
        for number, ids in enumerate(plain):
            run.report(what, number, len(plain))
            for rows in scored_rows(model, ids):
                writer.write(rows[:, : head.n_vocab])


def _is_there(path: Path, head: Head) -> bool:
    """Whether a recording has just that head; one that is damaged is made again."""
    try:
        with Recording(path) as found:
            found.check()
            return found.head == head
    except InputError:
        return False


def _kind(index: Index, member: str, header: Header) -> str:
    """A name for the model among its member's: its type, or its file's name where another has that type."""
    kind = header.quantization or header.path.stem
    taken = {one.kind: one.path for one in index.members[member]}
    return kind if taken.get(kind, str(header.path.absolute())) == str(header.path.absolute()) else header.path.stem


# ---- the text and the folder


def _tokens(paths: Mapping[str, Path], family: Family, text: Text, run: Run) -> Tokens:
    """The text cut into chunks (n_chunks, n_ctx); the first tuned model, or else the base, says what its tokens are."""
    own = member_names(family)[delta_sources(family.deltas[0])[0]] if family.deltas else "base"
    with closing(Model(paths[own], run.settings, own)) as model:
        tokens = (chat_tokens if text.chat else text_tokens)(model, text.path)
    return chunks(tokens, text.n_ctx, n_chunks=text.n_chunks)


def _check_adapters(family: Family) -> None:
    """InputError for members that are a model and an adapter: a recording names one file."""
    adapter = family.adapter or next((delta.adapter for delta in family.deltas if delta.adapter), None)
    if adapter is not None:
        message = f"{Path(adapter).name}: expected members that are one model each, got a LoRA adapter on one"
        raise InputError(message, "Merge it into a model of its own first, with llama-export-lora")


def _begun(folder: Path, fresh: Index) -> Index:
    """What the folder has already of this text and these members, or the fresh index."""
    if not (folder / INDEX).exists():
        return fresh
    found = load_index(folder)
    if found.digest != fresh.digest or list(found.members) != list(fresh.members):
        message = f"{folder.name}: expected a folder of this family and text, got another's recordings"
        raise InputError(message, "Choose another folder with -o")
    return found


def _prepare(folder: Path) -> None:
    """Make the folder, and remove what killed runs have left in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in ("*.rec", INDEX):
            remove_abandoned(folder, pattern)
    except OSError as error:
        raise InputError(f"-o: expected a folder that can be written, got {folder.name}: {error.strerror}") from None


def _check_targets(plain: Tokens, n_vocab: int) -> None:
    if plain.max() >= n_vocab:
        raise InputError(f"text: expected tokens that all members have, below {n_vocab}, got {plain.max()}")


def _digest(plain: Tokens) -> str:
    return hashlib.sha256(plain.astype("<i4").tobytes()).hexdigest()


def _vocabulary_hash(one: Vocabulary) -> str:
    """Of the texts with their lengths."""
    total = hashlib.sha256()
    for text in one.texts:
        total.update(len(text).to_bytes(4, "little") + text)
    return total.hexdigest()
