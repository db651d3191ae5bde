"""What llama.cpp would allocate, without weights: files of headers alone, and its own dry runs on them."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from pathlib import Path

import llama_cpp

from eftlite import shapes
from eftlite.llama import library
from eftlite.member import GGML_TYPES, MAX_ROWS
from eftlite.settings import ModelSettings
from eftlite.shapes import Shape

_BUFFER = re.compile(r"(KV|RS|compute)\s+buffer size\s*=\s*([\d.]+) MiB")
_CACHE = re.compile(r"llama_kv_cache: size = +([\d.]+) MiB")


def sparse_model(path: Path, shape: Shape, quant: str, n_vocab: int = 32_000) -> Path:
    """A model's file whose weights are a hole."""
    plan = shapes.tensors(shape, quant, n_vocab)
    shapes._write_header(path, shape, quant, n_vocab, plan)
    size = shapes._padded(path.stat().st_size) + shapes.data_bytes(shape, quant, n_vocab)
    os.truncate(path, size)
    return path


class _Sizes(logging.Handler):
    """Reads llama.cpp's log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.found: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if match := _BUFFER.search(line):
            self.found[match[1]] += round(float(match[2]) * (1 << 20))
        if match := _CACHE.search(line):
            self.found["cache"] += round(float(match[1]) * (1 << 20))


def dry_run(path: Path, settings: ModelSettings, n_ctx: int, n_slots: int) -> Counter[str]:
    """Bytes of a context's "cache" and "compute" buffers, in hundredths of a MiB; nothing is allocated."""
    library.open()
    log, sizes = logging.getLogger("eftlite.llama"), _Sizes()
    level = log.level
    log.addHandler(sizes)
    log.setLevel(logging.INFO)
    try:
        _run(path, settings, n_ctx, n_slots)
    finally:
        log.setLevel(level)
        log.removeHandler(sizes)
    return sizes.found


def _run(path: Path, settings: ModelSettings, n_ctx: int, n_slots: int) -> None:
    model_params = llama_cpp.llama_model_default_params()
    model_params.no_alloc, model_params.load_mode = True, 0
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), model_params)
    assert model, library.last_error()
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_seq_max, params.kv_unified = n_ctx * n_slots, n_slots, False
    params.n_batch, params.n_ubatch = settings.n_batch, min(settings.n_ubatch, settings.n_batch)
    params.n_outputs_max = params.n_outputs_max_per_seq = min(MAX_ROWS, settings.n_batch)
    params.type_k, params.type_v = GGML_TYPES[settings.type_k or "f16"], GGML_TYPES[settings.type_v or "f16"]
    params.flash_attn_type = {None: -1, False: 0, True: 1}[settings.flash_attn]
    context = llama_cpp.llama_init_from_model(model, params)
    try:
        assert context, library.last_error()
        llama_cpp.llama_free(context)
    finally:
        llama_cpp.llama_model_free(model)
