"""Bounded check of a GGUF file before anyone opens it; metadata for people.

``ggml_abort`` ends the process and no ``except`` can help, so every file is checked here, in Python, before llama.cpp
sees it: what is opened (gguf_reader), the format (gguf_header), what makes a model plausible (gguf_rules).

Not guaranteed: that the weights are good ones, or that the file is still the same when llama.cpp opens it. A file may
pass and still be refused by llama.cpp, with an error.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eftlite.errors import InputError, ModelFileError
from eftlite.gguf_header import TOKENS, RawHeader, read_header
from eftlite.gguf_reader import AGAIN, Reader, open_regular
from eftlite.gguf_rules import check_rules
from eftlite.gguf_types import FILE_TYPES, VALUE_TYPES, ArrayInfo, TensorInfo, Value, bad, shown

__all__ = ["ArrayInfo", "Header", "TensorInfo", "check", "describe", "read_array", "token_texts"]

MAX_PARTS = 1_000


@dataclass(frozen=True)
class Header:
    """What a GGUF model says about itself, checked.

    Attributes:
        path: the file, or the first file of a split model.
        metadata: scalars and short arrays (tuples); long arrays and all of the tokenizer's as ArrayInfo.
        tensors: of all parts, in the files' order.
        n_params: numbers in all tensors.
        n_bytes: bytes of all tensors.
        file_bytes: size of the file, of all parts together when split.
        quantization: as people name it, such as "Q4_K_M".
        n_ctx_train, n_vocab, n_layers, n_embd: 0 when a vocabulary-only file does not say.
        chat_template: the default one.
        split: (index, count) of a split model, None for a single file.
    """

    path: Path
    version: int
    architecture: str
    name: str
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    n_params: int
    n_bytes: int
    file_bytes: int
    quantization: str
    n_ctx_train: int
    n_vocab: int
    n_layers: int
    n_embd: int
    chat_template: str | None
    split: tuple[int, int] | None


def check(path: str | os.PathLike[str], require_weights: bool = True, sizes: Sequence[int] | None = None) -> Header:
    """Check a GGUF model within bounds of time and memory; all files of one that is split.

    Args:
        require_weights: False also takes files that hold a vocabulary only.
        sizes: bytes of each whole file, when those at ``path`` are only their beginnings, as fetched from the hub.

    Raises:
        ModelFileError: one line: the file's name, what was expected, what came.
    """
    first = Path(path)
    with named(first):
        raw = _read(first, sizes[0] if sizes else None)
        split = _split(raw.metadata)
        if split is not None and split[0] != 0:
            raise bad(f"expected the first file of the model, got part {split[0] + 1} of {split[1]}", "Give the first")
    raws = [raw] if split is None else [raw, *_read_parts(first, split[1], sizes)]
    tensors = tuple(replace(one, part=i) if i else one for i, raw in enumerate(raws) for one in raw.tensors)
    with named(first):
        if require_weights and not tensors:
            raise bad("expected a model with weights, got a file without any", "It holds a vocabulary only, perhaps")
        if split is not None:
            _check_whole(raw.metadata, tensors)
        check_rules(raw.metadata, tensors, raw.token_hashes, vocabulary_only=not tensors)
        _refuse_twins(first, raw)
    return _header(first, raw, tensors, sum(one.file_bytes for one in raws), split)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Put the file's name in front of a ModelFileError."""
    try:
        yield
    except ModelFileError as error:
        raise ModelFileError(f"{shown(path.name or str(path))}: {error.message}", error.hint) from None


def _read(path: Path, whole: int | None = None) -> RawHeader:
    """The header of one file, or of the beginning of a file of ``whole`` bytes."""
    with open_regular(path) as (handle, n_bytes):
        return read_header(handle, n_bytes if whole is None else whole)


def _split(metadata: Mapping[str, Value]) -> tuple[int, int] | None:
    """(index, count) of a part of a split model, None for a single file."""
    count, index = metadata.get("split.count", 1), metadata.get("split.no", 0)
    if count in (0, 1):
        return None
    if not isinstance(count, int) or not isinstance(index, int) or not 0 <= index < count <= MAX_PARTS:
        raise bad(f"expected split.no below split.count, at most {MAX_PARTS:,}, got {index!s:.20} and {count!s:.20}")
    return index, count


def _read_parts(first: Path, count: int, sizes: Sequence[int] | None) -> Iterator[RawHeader]:
    """Headers of the second and further files, which llama.cpp will open by itself."""
    found = re.fullmatch(r"(.*)-00001-of-(\d{5})\.gguf", first.name, re.DOTALL)
    if not found or int(found[2]) != count:
        with named(first):
            raise bad(f"expected a name that ends in -00001-of-{count:05d}.gguf", "Keep the names of split files")
    for i in range(1, count):
        path = first.with_name(f"{found[1]}-{i + 1:05d}-of-{count:05d}.gguf")
        with named(path):
            raw = _read(path, sizes[i] if sizes else None)
            if _split(raw.metadata) != (i, count):
                raise bad(f"expected part {i + 1} of {count}, got another", "The files are of different models")
        yield raw


def _check_whole(metadata: Mapping[str, Value], tensors: tuple[TensorInfo, ...]) -> None:
    """All tensors of a split model are there, each once."""
    expected = metadata.get("split.tensors.count")
    if expected != len(tensors) or len({one.name for one in tensors}) != len(tensors):
        hint = "The files are of different models, or one is missing"
        raise bad(f"expected {expected!s:.20} different tensors in all parts, got {len(tensors):,}", hint)


def _refuse_twins(path: Path, raw: RawHeader) -> None:
    """Two tokens with one text end the process in llama.cpp; equal hashes are only a reason to look."""
    hashes = np.sort(np.frombuffer(raw.token_hashes, dtype=np.int64))  # [n_vocab] int64
    if not np.any(hashes[1:] == hashes[:-1]) and hash(b"") not in raw.token_hashes:
        return
    seen: dict[bytes, int] = {}
    for token_id, text in enumerate(_texts(path, raw.metadata[TOKENS])):
        # llama.cpp ends texts at a NUL and gives empty ones this text, which another token may have.
        named = text.partition(b"\0")[0] or b"[EMPTY_%d]" % token_id
        if seen.setdefault(named, token_id) != token_id:
            raise bad(f"expected different tokens, got '{shown(named)}' as {seen[named]} and {token_id}")


def _header(
    path: Path, raw: RawHeader, tensors: tuple[TensorInfo, ...], file_bytes: int, split: tuple[int, int] | None
) -> Header:
    """The header of a model that passed."""
    metadata = raw.metadata
    architecture = str(metadata["general.architecture"])
    name = metadata.get("general.name")
    template = metadata.get("tokenizer.chat_template")
    return Header(
        path=path,
        version=raw.version,
        architecture=architecture,
        name=shown(name, 200) if isinstance(name, str) else "",
        metadata=metadata,
        tensors=tensors,
        n_params=sum(one.n_elements for one in tensors),
        n_bytes=sum(one.n_bytes for one in tensors),
        file_bytes=file_bytes,
        quantization=_quantization(metadata, tensors),
        n_ctx_train=_whole(metadata, f"{architecture}.context_length"),
        n_vocab=len(raw.token_hashes),
        n_layers=_whole(metadata, f"{architecture}.block_count"),
        n_embd=_whole(metadata, f"{architecture}.embedding_length"),
        chat_template=template if isinstance(template, str) else None,
        split=split,
    )


def _whole(metadata: Mapping[str, Value], key: str) -> int:
    """An integer, the largest of an array of them, or 0."""
    value = metadata.get(key, 0)
    if isinstance(value, tuple):
        return max((one for one in value if isinstance(one, int)), default=0)
    return value if isinstance(value, int) else 0


def _quantization(metadata: Mapping[str, Value], tensors: tuple[TensorInfo, ...]) -> str:
    """The declared file type when the tensors bear it out, else the type of most numbers in the layers' matrices."""
    numbers: Counter[str] = Counter()
    for one in tensors:
        if len(one.shape) > 1 and one.name not in ("token_embd.weight", "output.weight"):
            numbers[one.type] += one.n_elements
    if not numbers:
        return ""
    most = numbers.most_common(1)[0][0]
    declared = FILE_TYPES.get(_whole(metadata, "general.file_type"), "") if "general.file_type" in metadata else ""
    return declared if declared.split("_")[0] == most.split("_")[0] else most


def _texts(path: Path, info: Value) -> list[bytes]:
    """The strings of an array that was described."""
    if not isinstance(info, ArrayInfo) or info.type != "string":
        raise InputError("expected an array of strings")
    with open_regular(path) as (handle, n_bytes):
        reader = Reader(handle, n_bytes, info.offset)
        return [text for pieces in reader.strings(info.length, "a string") for text in pieces]


def read_array(header: Header, key: str) -> npt.NDArray[np.generic] | list[str] | str:
    """A long value that the header only describes, read from the file.

    Returns:
        Numbers as an array ([length], the file's dtype), strings as a list, a long text as a string. Bytes that are
        no UTF-8 become surrogates, so that texts are equal exactly when the file's bytes are.

    Raises:
        InputError: there is no such long value.
        ModelFileError: the file has changed and ends before it.
    """
    info = header.metadata.get(key)
    if not isinstance(info, ArrayInfo):
        raise InputError(f"{shown(key)}: expected the key of a long array in {shown(header.path.name)}, got none")
    with named(header.path):
        if info.type == "string":
            return [text.decode("utf-8", "surrogateescape") for text in _texts(header.path, info)]
        code = next((kind.code for kind in VALUE_TYPES.values() if kind.name == info.type), "B")
        dtype = np.dtype(bool) if info.type == "bool" else np.dtype("<" + code)
        with open_regular(header.path) as (handle, _):
            handle.seek(info.offset)
            data = handle.read(info.length * dtype.itemsize) or b""
        if len(data) < info.length * dtype.itemsize:
            raise bad(f"expected {info.length * dtype.itemsize:,} bytes of {shown(key)}, got {len(data):,}", AGAIN)
    return data.decode("utf-8", "surrogateescape") if info.type == "text" else np.frombuffer(data, dtype)


def token_texts(header: Header) -> list[str]:
    """The text of every token, in order, as the file writes it (a gpt2 vocabulary writes bytes as characters).

    Raises:
        ModelFileError: the file has changed since it was checked.
    """
    with named(header.path):
        return [text.decode("utf-8", "surrogateescape") for text in _texts(header.path, header.metadata[TOKENS])]


def describe(header: Header) -> dict[str, object]:
    """What ``eftlite inspect`` prints: stable keys, values that JSON takes."""
    licence = header.metadata.get("general.license")
    return {
        "file": header.path.name,
        "architecture": header.architecture,
        "name": header.name,
        "quantization": header.quantization,
        "parameters": header.n_params,
        "bytes": header.file_bytes,
        "bits_per_weight": round(8 * header.n_bytes / header.n_params, 2) if header.n_params else None,
        "context": header.n_ctx_train,
        "vocabulary": header.n_vocab,
        "layers": header.n_layers,
        "embedding": header.n_embd,
        "heads": _whole(header.metadata, f"{header.architecture}.attention.head_count"),
        "chat_template": header.chat_template is not None,
        "license": licence if isinstance(licence, str) else None,
        "split": list(header.split) if header.split else None,
    }
