"""Texts to compare models on: a file's token ids, cut into chunks as llama-perplexity cuts them.

Knows files, chat templates and token ids, never logits. Plain text is taken as it is: control tokens spelled out in it
are words. Conversations are written by the model's own chat template, one after the other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eftlite.errors import EFTError, InputError
from eftlite.llama import Model
from eftlite.template import BUILTIN, Template, has_bos

Tokens = NDArray[np.int32]

MIN_CONTEXT = 8
_TEXT_HINT = "Give a UTF-8 text file; --chat takes conversations as JSON"
_CHAT_HINT = 'One conversation a line, [{"role": "user", "content": "…"}, …], or an object with these as its "messages"'


def first_scored(n_ctx: int) -> int:
    """The first position of a chunk whose prediction counts: the second half has a context worth the name."""
    return n_ctx // 2


def scored(n_ctx: int) -> int:
    """Predictions of a chunk that count: those of positions ``first_scored`` to ``n_ctx - 2``."""
    return n_ctx - 1 - first_scored(n_ctx)


def text_tokens(model: Model, path: str | os.PathLike[str]) -> Tokens:
    """Token ids (n,) int32 of a text file, begun as the model begins a text.

    Raises:
        InputError: the file cannot be read or is no UTF-8 text.
    """
    # llama.cpp's programs drop a final line feed of the files they are given
    return np.array(model.tokenize(_read(path).removesuffix("\n").encode()), np.int32)


def chat_tokens(model: Model, path: str | os.PathLike[str]) -> Tokens:
    """Token ids (n,) int32 of conversations, each as the model's chat template writes it (ChatML if it has none).

    Raises:
        InputError: the file cannot be read or does not hold conversations; the message says where.
        TemplateError: the template refuses a conversation.
    """
    bos, eos = (model.piece(id_, special=True).decode("utf-8", "replace") if id_ >= 0 else "" for id_ in _ends(model))
    template = Template(model.chat_template or BUILTIN["chatml"], bos=bos, eos=eos)
    pieces = [np.zeros(0, np.int32)]
    for where, messages in _conversations(path):
        try:
            text = template.render(messages, add_generation_prompt=False)
        except EFTError as error:
            raise type(error)(f"{where}: {error.message}", error.hint) from None
        ids = model.tokenize(text.encode(), add_bos=not has_bos(text, bos), special=True)
        pieces.append(np.array(ids, np.int32))
    return np.concatenate(pieces)


def chunks(
    tokens: Sequence[int] | Tokens, n_ctx: int, add_bos: bool = False, bos: int = -1, n_chunks: int | None = None
) -> Tokens:
    """A text cut as llama-perplexity cuts it: chunk i is ``tokens[i*n_ctx : (i+1)*n_ctx]``, what is left is dropped.

    Args:
        tokens: the whole text, itself begun with ``bos`` where the model adds one.
        add_bos: whether the first token of each chunk is replaced by ``bos``.
        n_chunks: at most that many.

    Returns:
        (n_chunks, n_ctx) int32.

    Raises:
        InputError: the text has fewer than two chunks, or n_ctx is too small.
    """
    if n_ctx < MIN_CONTEXT:
        raise InputError(f"-c: expected at least {MIN_CONTEXT} tokens, got {n_ctx}")
    if len(tokens) < 2 * n_ctx:
        raise InputError(
            f"text: expected at least {2 * n_ctx} tokens for a context of {n_ctx}, got {len(tokens)}",
            "Give a longer text, or a smaller context with -c",
        )
    n_found = len(tokens) // n_ctx
    n_taken = n_found if n_chunks is None else min(n_chunks, n_found)
    cut = np.array(tokens[: n_taken * n_ctx], np.int32).reshape(n_taken, n_ctx)
    return begun(cut, add_bos, bos)


def begun(cut: Tokens, add_bos: bool, bos: int) -> Tokens:
    """Chunks as the model reads them: each begins with ``bos``, which replaces a token, if the model adds one."""
    if not add_bos:
        return cut
    cut = cut.copy()
    cut[:, 0] = bos
    return cut


def _ends(model: Model) -> tuple[int, int]:
    return model.bos, model.eos


def _read(path: str | os.PathLike[str]) -> str:
    """A text file as it is, line ends too."""
    name = Path(path).name
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: expected UTF-8 text, got byte {error.start} that is none", _TEXT_HINT) from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from None
    if "\0" in text:
        raise InputError(f"{name}: expected text, got a NUL at character {text.index(chr(0))}", _TEXT_HINT)
    return text


def _conversations(path: str | os.PathLike[str]) -> Iterator[tuple[str, list[Any]]]:
    """Where each conversation stands and its messages; the file is one of them, a list of them, or has one a line."""
    name, text = Path(path).name, _read(path)
    try:
        whole = json.loads(text)
    except ValueError:
        lines = enumerate(text.splitlines(), 1)
        found = [(f"{name}, line {number}", _parsed(name, number, line)) for number, line in lines if line.strip()]
    else:
        several = isinstance(whole, list) and not (whole and isinstance(whole[0], dict) and "role" in whole[0])
        found = [(f"{name}[{i}]", one) for i, one in enumerate(whole)] if several else [(name, whole)]
    for where, one in found:
        messages = one.get("messages") if isinstance(one, dict) else one
        if not isinstance(messages, list):
            raise InputError(f"{where}: expected a conversation, got {str(one)[:40]!r}", _CHAT_HINT)
        yield where, messages


def _parsed(name: str, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise InputError(f"{name}, line {number}: expected JSON, got {line[:40]!r} ({error})", _CHAT_HINT) from None
