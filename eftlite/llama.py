"""One model's weights and vocabulary through llama.cpp's low-level API, and the library itself: logs, devices.

Knows files and token ids; contexts and caches are member.py's. The log callback is process-wide and ours.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from eftlite.amx import extra_buffers_work
from eftlite.errors import EFTError, EngineError, InputError, MemoryLimitError, ModelFileError
from eftlite.ggml import local_gpus
from eftlite.gguf import Header, check
from eftlite.remote import device_list, limit_silence
from eftlite.settings import ModelSettings
from eftlite.vocab import Vocabulary

# Struct layouts move between releases; each version here was tested.
SUPPORTED = ("0.3.36",)
BINDING_VERSION: str = llama_cpp.__version__
VOCABULARY_KINDS = {0: "none", 1: "spm", 2: "bpe", 3: "wpm", 4: "ugm", 5: "rwkv", 6: "plamo2"}
SPLIT_MODES = {"none": 0, "layer": 1, "row": 2}
# ggml's own numbers (debug, info, warn, error); the binding's comment has them shifted by one.
_LOG_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}

log = logging.getLogger("eftlite.llama")
log.addHandler(logging.NullHandler())  # quiet unless an application asks
Progress = Callable[[float], None]


class _Library:
    """The process-wide parts of llama.cpp: its log, read by us, and its start."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=20)  # the last warnings and errors
        self._level = logging.DEBUG
        self._callback: Any = None  # llama.cpp keeps only the address

    def open(self) -> None:
        """Check the binding's version, take the log over and start the backends; once."""
        if self._callback is not None:
            return
        if BINDING_VERSION not in SUPPORTED:
            raise EngineError(
                f"llama-cpp-python: expected {' or '.join(SUPPORTED)}, got {BINDING_VERSION}",
                f"Install the tested one: pip install llama-cpp-python=={SUPPORTED[-1]}",
            )
        self._callback = llama_cpp.llama_log_callback(self._take)
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()

    def _take(self, level: int, text: bytes, _: object) -> None:
        """llama.cpp's log callback: level 5 continues the line before."""
        if level != 5:
            self._level = _LOG_LEVELS.get(level, logging.DEBUG)
        line = text.decode("utf-8", "replace").rstrip()
        if not line.strip("."):
            return
        if self._level >= logging.WARNING:
            self.lines.append(line)
        log.log(self._level, "%s", line)

    def last_error(self) -> str:
        """The last thing llama.cpp complained about, for a message."""
        return self.lines[-1] if self.lines else "llama.cpp gave no reason"


library = _Library()


def log_to_stderr() -> None:
    """Show llama.cpp's whole log, as ``llama_cpp.Llama(verbose=True)`` does."""
    if not any(isinstance(handler, logging.StreamHandler) for handler in log.handlers):
        log.addHandler(logging.StreamHandler())
    log.setLevel(logging.DEBUG)


def devices() -> list[dict[str, Any]]:
    """The devices llama.cpp was built for: ``{"name", "kind", "description", "free_bytes", "total_bytes"}`` each.

    The kind is ggml's number: 0 processor, 1 GPU, 2 integrated GPU, 3 accelerator. Of the processor's memory all
    counts as free; available.py knows better.
    """
    library.open()
    from llama_cpp._ggml import libggml  # the binding wraps none of these functions

    count, get = libggml["ggml_backend_dev_count"], libggml["ggml_backend_dev_get"]
    name, kind, text, memory = (
        libggml[f"ggml_backend_dev_{what}"] for what in ("name", "type", "description", "memory")
    )
    count.restype, get.restype = ctypes.c_size_t, ctypes.c_void_p
    name.restype = text.restype = ctypes.c_char_p
    found = []
    for index in range(count()):
        device = ctypes.c_void_p(get(ctypes.c_size_t(index)))
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        memory(device, ctypes.byref(free), ctypes.byref(total))
        found.append(
            {
                "name": (name(device) or b"").decode(),
                "kind": kind(device),
                "description": (text(device) or b"").decode(),
                "free_bytes": free.value,
                "total_bytes": total.value,
            }
        )
    return found


def build() -> str:
    """llama.cpp's version and ggml's with its commit, e.g. ``0.5.0-dev, ggml 0.25.3 0c1e570``."""
    from llama_cpp._ggml import libggml
    from llama_cpp.llama_cpp import _lib

    def text(library: ctypes.CDLL, name: str) -> str:
        """What a function without arguments returns."""
        try:
            function = library[name]
        except AttributeError:  # older builds do not tell
            return "unknown"
        function.restype = ctypes.c_char_p
        return (function() or b"unknown").decode()

    return f"{text(_lib, 'llama_version')}, ggml {text(libggml, 'ggml_version')} {text(libggml, 'ggml_commit')}"


def system_info() -> str:
    """What this build of llama.cpp was compiled for, e.g. ``CPU : SSE3 = 1 | AVX = 1 | …``."""
    library.open()
    return str(llama_cpp.llama_print_system_info().decode())


def supports_gpu() -> bool:
    """Whether this build can put layers on a GPU of this machine."""
    library.open()
    return bool(local_gpus())  # llama.cpp's own answer is yes for any build with the RPC backend


class Model:
    """Weights and vocabulary of one GGUF file.

    Args:
        path: the file; its header is checked before llama.cpp opens it.
        settings: where it runs.
        name: how messages call it, e.g. "base".
        progress: called with 0..1 while loading.
        header: of the file, when it was checked already.

    Raises:
        ModelFileError: the file is not a model that can be loaded.
        EngineError: llama.cpp could not load it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: ModelSettings | None = None,
        name: str = "model",
        progress: Progress | None = None,
        header: Header | None = None,
    ) -> None:
        self.path = Path(path)
        self.name = name
        self.settings = settings or ModelSettings()
        self.header = check(self.path) if header is None else header
        library.open()
        self._handle = self._load(progress)
        self._vocab = llama_cpp.llama_model_get_vocab(self._handle)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.n_ctx_train: int = llama_cpp.llama_model_n_ctx_train(self._handle)
        self.bos: int = llama_cpp.llama_vocab_bos(self._vocab)  # -1 when there is none
        self.eos: int = llama_cpp.llama_vocab_eos(self._vocab)
        self._pieces: dict[tuple[int, bool], bytes] = {}

    def _load(self, progress: Progress | None) -> Any:
        params = llama_cpp.llama_model_default_params()
        settings = self.settings
        params.n_gpu_layers = settings.n_gpu_layers or 0
        params.main_gpu = settings.main_gpu
        params.split_mode = SPLIT_MODES[settings.split_mode]
        if settings.tensor_split:
            split = (ctypes.c_float * llama_cpp.llama_max_devices())(*settings.tensor_split)
            params.tensor_split = split
        if settings.devices is not None:
            chosen = device_list(settings.devices)
            params.devices = ctypes.cast(chosen, ctypes.c_void_p)
        extra = settings.use_extra_bufts
        params.use_extra_bufts = extra_buffers_work() if extra is None else extra
        params.load_mode = int(settings.use_mmap) + 2 * int(settings.use_mlock)  # NONE, MMAP, MLOCK, both

        def report(done: float, _: object) -> bool:
            if settings.devices and not done:  # memory is reserved, so connections to workers are there
                limit_silence()
            if progress is not None:
                progress(done)
            return True  # False would end the loading

        callback = llama_cpp.llama_progress_callback(report)
        params.progress_callback = callback
        library.lines.clear()
        handle = llama_cpp.llama_model_load_from_file(os.fsencode(self.path), params)
        if not handle:
            raise self._refusal(library.last_error())
        return handle

    def _refusal(self, reason: str) -> EFTError:
        """Why the model was not loaded; no memory on a device is no fault of the file."""
        causes = [line.partition("error loading model: ")[2] for line in library.lines]
        reason = next(filter(None, causes), reason)  # the last line says only that it failed
        if "unable to allocate" in reason:
            return MemoryLimitError(
                f"{self.path.name}: llama.cpp was {reason}", "Less memory is free there than it needs"
            )
        return ModelFileError(
            f"{self.path.name}: llama.cpp cannot load this file: {reason}",
            "It may need a newer llama-cpp-python, or be damaged",
        )

    @property
    def handle(self) -> Any:
        """llama.cpp's pointer; EngineError after ``close``."""
        if self._handle is None:
            raise EngineError(f"{self.name}: expected an open model, got one that was closed")
        return self._handle

    def close(self) -> None:
        """Free the weights; contexts on them must be closed before."""
        if self._handle is not None:
            llama_cpp.llama_model_free(self._handle)
            self._handle = self._vocab = None

    # ---- what it is

    @property
    def vocab(self) -> Any:
        """llama.cpp's pointer to the vocabulary, for samplers that read it; EngineError after ``close``."""
        return self._vocab if self.handle else None

    @property
    def description(self) -> str:
        """llama.cpp's words, e.g. ``llama 1B Q4_0``."""
        buffer = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self.handle, buffer, 256)
        return buffer.value.decode("utf-8", "replace")

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors."""
        return int(llama_cpp.llama_model_size(self.handle))

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        return int(llama_cpp.llama_model_n_params(self.handle))

    @property
    def is_recurrent(self) -> bool:
        """Whether a part of its memory is a state that cannot be cut: recurrent and hybrid models."""
        return bool(llama_cpp.llama_model_is_recurrent(self.handle) or llama_cpp.llama_model_is_hybrid(self.handle))

    @property
    def chat_template(self) -> str | None:
        """The Jinja template inside the file."""
        text = llama_cpp.llama_model_chat_template(self.handle, None)
        return text.decode("utf-8", "replace") if text else None

    # ---- its vocabulary

    def vocabulary(self) -> Vocabulary:
        """Everything the proof of a shared vocabulary compares."""
        v, n = self.vocab, self.n_vocab
        get_text, get_attr = llama_cpp.llama_vocab_get_text, llama_cpp.llama_vocab_get_attr
        texts = tuple(get_text(v, i) or b"" for i in range(n))
        attributes = np.fromiter((get_attr(v, i) for i in range(n)), np.int32, n)  # (n_vocab,)
        control = (attributes & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL) != 0  # (n_vocab,)
        padding = np.fromiter((text.startswith(b"[PAD") for text in texts), bool, n)  # (n_vocab,)
        unused = ((attributes & llama_cpp.LLAMA_TOKEN_ATTR_UNUSED) != 0) | padding  # (n_vocab,)
        special = np.flatnonzero(attributes & ~llama_cpp.LLAMA_TOKEN_ATTR_NORMAL)
        return Vocabulary(
            name=self.name,
            kind=VOCABULARY_KINDS.get(llama_cpp.llama_vocab_type(v), "unknown"),
            texts=texts,
            control=control,
            unused=unused,
            bos=llama_cpp.llama_vocab_bos(v),
            eos=llama_cpp.llama_vocab_eos(v),
            eot=llama_cpp.llama_vocab_eot(v),
            add_bos=bool(llama_cpp.llama_vocab_get_add_bos(v)),
            eog=frozenset(int(i) for i in special if llama_cpp.llama_vocab_is_eog(v, int(i))),
        )

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """Token ids of UTF-8 text.

        Args:
            text: bytes, as in llama_cpp.Llama.
            add_bos: add the tokens that the model wants around a text.
            special: read control tokens' texts as those tokens.
        """
        size = len(text) + 8
        for _ in range(2):
            tokens = (llama_cpp.llama_token * size)()
            n = llama_cpp.llama_tokenize(self.vocab, text, len(text), tokens, size, add_bos, special)
            if n >= 0:
                return list(tokens[:n])
            size = -n
        raise InputError(f"text of {len(text)} bytes: {self.name}'s tokenizer cannot read it")

    def piece(self, token: int, special: bool = False) -> bytes:
        """Bytes of one token; control tokens are empty unless ``special``. InputError for an id outside."""
        found = self._pieces.get((token, special))
        if found is None:
            if not 0 <= token < self.n_vocab:  # llama.cpp would end the process
                raise InputError(f"token: expected an id from 0 to {self.n_vocab - 1}, got {token}")
            buffer = ctypes.create_string_buffer(64)
            n = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, 64, 0, special)
            if n < 0:
                buffer = ctypes.create_string_buffer(-n)
                n = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, -n, 0, special)
            found = self._pieces[token, special] = buffer.raw[: max(n, 0)]
        return found

    def detokenize(self, tokens: Sequence[int], special: bool = False) -> bytes:
        """Bytes of several tokens."""
        return b"".join(self.piece(token, special) for token in tokens)
