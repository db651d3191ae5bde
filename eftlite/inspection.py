"""GGUF files by their headers alone: what each is, what it will take, whether several share a vocabulary or fit.

Knows headers of models and adapters, and vocabularies; no weights are read and llama.cpp is not asked, so any file
can be looked at.

Not guaranteed: that the end tokens are exactly llama.cpp's. It adds some by their texts, and its list changes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from eftlite import hub
from eftlite.buffers import F32, row_bytes
from eftlite.errors import ModelFileError, VocabularyError
from eftlite.gguf import Header, check, read_array, token_texts
from eftlite.gguf_adapter import AdapterHeader, check_adapter, check_fit, describe_adapter, is_adapter
from eftlite.gguf_types import ArrayInfo, shown
from eftlite.layers import sizes
from eftlite.vocab import SharedVocabulary, Vocabulary, share

KINDS = {"gpt2": "bpe", "llama": "spm", "bert": "wpm", "t5": "ugm", "rwkv": "rwkv", "plamo2": "plamo2"}
# Texts that llama.cpp 0c1e57098 takes for end tokens whatever the file says; the last two lines are the borders of
# files and repositories in code, which end an answer too.
END_TEXTS = frozenset(
    text.encode()
    for text in (
        "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> "
        "<|eom_id|> <EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> "
        "<｜end▁of▁sentence｜> <|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD] "
        "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame> <|file_sep|>"
    ).split()
)
# (bos, eos) of files that name none
DEFAULT_IDS = {"llama": (1, 2), "gpt2": (11, 11), "bert": (101, -1), "t5": (-1, 1), "plamo2": (1, 2)}
# tokenizer.ggml.token_type, as the GGUF specification numbers them
_CONTROL, _UNUSED = 3, 5


@dataclass(frozen=True)
class Relation:
    """What several files are to each other.

    Attributes:
        names: as the caller calls the files.
        shared: the common vocabulary; None if there is none.
        error: why there is none.
        ends: the texts of each file's end tokens.
        templates: whether each file's chat template is its own, the same as another's, or missing.
    """

    names: tuple[str, ...]
    shared: SharedVocabulary | None
    error: VocabularyError | None
    ends: Mapping[str, tuple[str, ...]]
    templates: Mapping[str, str]

    def as_json(self) -> dict[str, object]:
        """Stable keys, values that JSON takes."""
        shared, error = self.shared, self.error
        return {
            "vocabulary_shared": shared is not None,
            "vocabulary": shared.n_vocab if shared else None,
            "control_tokens": len(shared.control) if shared else None,
            "end_tokens": sorted(shared.eog) if shared else None,
            "notes": list(shared.notes) if shared else [],
            "error": error.message if error else None,
            "first_differing_id": error.token_id if error else None,
            "texts": list(error.texts) if error and error.texts else None,
            "templates": dict(self.templates),
        }


@dataclass(frozen=True)
class Fit:
    """What an adapter is to several models.

    Attributes:
        adapter: the adapter.
        misfits: why it cannot be put on each model, by the model's name; empty where it can.
    """

    adapter: AdapterHeader
    misfits: Mapping[str, str]

    @property
    def works(self) -> bool:
        """Whether a model takes it, or none was asked."""
        return not self.misfits or not all(self.misfits.values())

    def as_json(self) -> dict[str, object]:
        """Stable keys, values that JSON takes."""
        errors = [reason for reason in self.misfits.values() if reason]
        fits = {name: not reason for name, reason in self.misfits.items()}
        return {**describe_adapter(self.adapter), "fits": fits, "errors": errors}


def look(path: str | os.PathLike[str]) -> Header | AdapterHeader:
    """The header of a model by path or reference of the hub, or of an adapter by path.

    Raises:
        ModelFileError: it is neither.
        HubError: it cannot be had.
    """
    try:
        return hub.header_of(os.fspath(path))
    except ModelFileError:
        if hub.parse(os.fspath(path)) or not is_adapter(path):
            raise
    return check_adapter(path)


def fit(adapter: AdapterHeader, models: Mapping[str, Header]) -> Fit:
    """Try an adapter on each of the models, by their headers."""
    misfits = {}
    for name, header in models.items():
        misfits[name] = ""
        try:
            check_fit(adapter, header)
        except ModelFileError as error:
            misfits[name] = error.message.removeprefix(f"{shown(adapter.path.name)}: ")
    return Fit(adapter, misfits)


def relate(headers: Mapping[str, Header]) -> Relation:
    """Compare the vocabularies and templates of two files or more.

    Raises:
        ModelFileError: a file has changed since it was checked.
    """
    vocabularies = [vocabulary(header, name) for name, header in headers.items()]
    shared, error = None, None
    try:
        shared = share(vocabularies)
    except VocabularyError as found:
        error = found
    ends = {one.name: tuple(one.text(token) for token in sorted(one.ends())) for one in vocabularies}
    return Relation(tuple(headers), shared, error, ends, _templates(headers))


def _templates(headers: Mapping[str, Header]) -> dict[str, str]:
    """What each file has: its own, the same as an earlier one ("as NAME"), or none."""
    found = {name: "own" if header.chat_template else "none" for name, header in headers.items()}
    for (first, left), (second, right) in combinations(headers.items(), 2):
        if right.chat_template and left.chat_template == right.chat_template and found[second] == "own":
            found[second] = f"as {first}"
    return found


def vocabulary(header: Header, name: str) -> Vocabulary:
    """A file's vocabulary as its metadata describe it.

    Raises:
        VocabularyError: a special id is outside the vocabulary.
        ModelFileError: the file has changed since it was checked.
    """
    metadata = header.metadata
    texts = tuple(text.encode("utf-8", "surrogateescape") for text in token_texts(header))
    kinds = _token_types(header, len(texts))  # (n_vocab,) int
    padding = np.fromiter((text.startswith(b"[PAD") for text in texts), bool, len(texts))  # (n_vocab,)
    ends = np.fromiter((text in END_TEXTS for text in texts), bool, len(texts))  # (n_vocab,)
    model = str(metadata.get("tokenizer.ggml.model", ""))
    kind = KINDS.get(model, "unknown")
    defaults = [token if token < len(texts) else -1 for token in DEFAULT_IDS.get(model, (-1, -1))]
    bos, eos = (_id(header, key, default) for key, default in zip(("bos", "eos"), defaults, strict=True))
    eot, eom = _id(header, "eot"), _id(header, "eom")
    named = {token for token in (eos, eot, eom) if token >= 0}
    return Vocabulary(
        name=name,
        kind=kind,
        texts=texts,
        control=(kinds == _CONTROL) | ends,
        unused=(kinds == _UNUSED) | padding,
        bos=bos,
        eos=eos,
        eot=eot,
        add_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", kind in ("spm", "wpm"))),
        eog=frozenset(named | {int(token) for token in np.flatnonzero(ends)}),
    )


def _token_types(header: Header, n_vocab: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """The type of each token (n_vocab,) int64; zeros where the file does not say."""
    key = "tokenizer.ggml.token_type"
    if isinstance(header.metadata.get(key), ArrayInfo):
        kinds = np.asarray(read_array(header, key), np.int64)
        if kinds.shape == (n_vocab,):
            return kinds
    return np.zeros(n_vocab, np.int64)


def _id(header: Header, name: str, default: int = -1) -> int:
    """A special token's id, or -1."""
    value = header.metadata.get(f"tokenizer.ggml.{name}_token_id", default)
    # 2^32 - 1 is how some files write "none".
    return value if isinstance(value, int) and value < 1 << 31 else -1


# ---- memory


def cache_bytes(header: Header, n_ctx: int) -> int | None:
    """Bytes of one text's f16 cache of ``n_ctx`` tokens, states included; None where the header tells of none."""
    layers = sizes(header).layers
    tokens = n_ctx * sum(row_bytes("f16", layer.k + layer.v) for layer in layers)
    return tokens + sum(layer.state for layer in layers) * F32 or None


# ---- words


def size(n_bytes: int) -> str:
    """Bytes as people read them."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes} B"


def count(number: int) -> str:
    """A number of parameters as people say it."""
    for unit, factor in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return str(number)


def summary(path: str | os.PathLike[str], adapter: str | os.PathLike[str] | None = None) -> str:
    """One line about a model's file and the adapter on it; ModelFileError when they are none."""
    header = check(path)
    parts = [shown(header.path.name), f"{shown(header.architecture)}, {count(header.n_params)} parameters"]
    parts += [header.quantization, size(header.file_bytes), f"context {header.n_ctx_train}"]
    if adapter is not None:
        lora = check_adapter(adapter)
        parts.append(f"with {shown(lora.path.name)}: LoRA of rank {lora.rank}, {count(lora.n_params)} parameters")
    return " · ".join(part for part in parts if part)
