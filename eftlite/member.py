"""One model with its context, and an adapter if there is one: decode, rewind, see logits.

Knows token ids and slots (llama.cpp's sequences), never text or other members. Each slot remembers which ids its
cache holds, so callers can ask for a text and have only its new end evaluated. llama.cpp's return codes become errors.

Not guaranteed: that logits of a batch of n rows equal those of n single steps bit for bit; llama.cpp's kernels
differ by batch size. One thread at a time.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
import psutil
from llama_cpp.llama_cpp import _lib
from numpy.typing import NDArray

from eftlite.adapter import Adapter
from eftlite.errors import CacheFullError, Cancelled, EngineError
from eftlite.llama import Model, library
from eftlite.settings import ModelSettings

GGML_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30,
}  # fmt: skip
FLASH_ATTENTION = {None: -1, False: 0, True: 1}

# Rows that one decode may keep: llama.cpp reserves memory for that many times the vocabulary.
MAX_ROWS = 64

# Below this a model's layers take microseconds, and a second thread's barriers cost more than it brings.
SMALL_BYTES = 32 << 20

# The binding's llama_get_logits_ith makes a pointer object per call; we want the bare address.
_logits_address = _lib["llama_get_logits_ith"]
_logits_address.restype = ctypes.c_void_p
_logits_address.argtypes = [ctypes.c_void_p, ctypes.c_int32]


def physical_cores() -> int:
    """Cores that one process can use for computing."""
    return psutil.cpu_count(logical=False) or psutil.cpu_count() or 1


def default_threads(model: Model) -> int:
    """All physical cores; one for a model so small that threads would mostly wait for each other."""
    return 1 if model.n_bytes < SMALL_BYTES else physical_cores()


class CancelFlag:
    """Stops a running ``llama_decode`` from another thread (on the CPU; elsewhere after the current batch).

    llama.cpp asks a callback at every node of the graph. A Python callback would take the interpreter's lock each
    time, so the callback is C's own strlen on a byte that is 0, or 1 to stop.
    """

    def __init__(self) -> None:
        self._byte = ctypes.create_string_buffer(2)
        libc = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
        self.callback = ctypes.cast(libc.strlen, type(llama_cpp.llama_context_default_params().abort_callback))
        self.data = ctypes.cast(self._byte, ctypes.c_void_p)

    def set(self) -> None:
        """Ask to stop."""
        self._byte[0] = b"\x01"

    def clear(self) -> None:
        """Allow decoding again."""
        self._byte[0] = b"\x00"

    def is_set(self) -> bool:
        """Whether a stop was asked for."""
        return self._byte[0] != b"\x00"


class _Batch:
    """llama.cpp's batch over numpy arrays, filled without a Python loop."""

    def __init__(self, n_batch: int, n_slots: int) -> None:
        self.token = np.zeros(n_batch, np.int32)  # (n_batch,)
        self.pos = np.zeros(n_batch, np.int32)  # (n_batch,)
        self.logits = np.zeros(n_batch, np.int8)  # (n_batch,) 1 where logits are wanted
        self._slots = np.arange(n_slots, dtype=np.int32)  # (n_slots,)
        self._n_seq_id = np.ones(n_batch, np.int32)  # (n_batch,)
        self._seq_id = np.full(n_batch, self._slots.ctypes.data, np.uintp)  # (n_batch,) addresses into _slots
        self.struct = llama_cpp.llama_batch()
        for name, array in (
            ("token", self.token), ("pos", self.pos), ("logits", self.logits),
            ("n_seq_id", self._n_seq_id), ("seq_id", self._seq_id),
        ):  # fmt: skip
            pointer_type: Any = type(getattr(self.struct, name))
            setattr(self.struct, name, ctypes.cast(array.ctypes.data, pointer_type))

    def fill(self, ids: Sequence[int], position: int, slot: int, n_rows: int) -> None:
        """Tokens ``ids`` from ``position`` on; logits for the last ``n_rows`` of them."""
        n = len(ids)
        self.token[:n] = ids
        self.pos[:n] = np.arange(position, position + n)
        self.logits[:n] = 0
        self.logits[n - n_rows : n] = 1
        self._seq_id[:n] = self._slots.ctypes.data + slot * self._slots.itemsize
        self.struct.n_tokens = n


class Member:
    """A context on a model.

    Args:
        model: its weights; several members may share them.
        n_ctx: tokens each slot holds.
        n_slots: independent texts.
        cancel: a flag that other threads may set.
        settings: as in ``ModelSettings``; the model's own by default.
        name: how messages call it; the model's name by default.
        adapter: a LoRA on the model, switched on in this context alone.

    Attributes:
        slots: the token ids each slot's cache holds.
        can_rewind: whether a part of a slot can be dropped, found by trying.
        seconds: spent in ``llama_decode``, in all.
    """

    def __init__(
        self,
        model: Model,
        n_ctx: int,
        n_slots: int = 1,
        cancel: CancelFlag | None = None,
        settings: ModelSettings | None = None,
        name: str | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        self.model, self.name = model, name or model.name
        self.adapter = adapter
        self.n_ctx, self.n_vocab = n_ctx, model.n_vocab
        self.settings = settings or model.settings
        self.cancel = cancel or CancelFlag()
        self.slots: list[list[int]] = [[] for _ in range(n_slots)]
        self.seconds = 0.0
        self._handle = self._open(n_ctx * n_slots)
        self._memory = llama_cpp.llama_get_memory(self._handle)
        # llama.cpp lowers it to the context's size, and a larger batch would end the process.
        self.n_batch = min(self.settings.n_batch, int(llama_cpp.llama_n_batch(self._handle)))
        self._batch = _Batch(self.n_batch, n_slots)
        self._rows = (0, 0, 0, 0)  # of the last decode: slot, tokens after which its first row stands, rows, index
        self._views: dict[int, NDArray[np.float32]] = {}
        try:
            if adapter is not None:
                adapter.apply(self._handle)
            self.can_rewind = self._probe()
        except EngineError:
            self.close()
            raise

    def _open(self, n_cells: int) -> Any:
        settings = self.settings
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = n_cells, len(self.slots), False
        params.n_batch, params.n_ubatch = settings.n_batch, min(settings.n_ubatch, settings.n_batch)
        params.n_outputs_max = params.n_outputs_max_per_seq = min(MAX_ROWS, settings.n_batch)
        params.n_threads = settings.n_threads or default_threads(self.model)
        params.n_threads_batch = settings.n_threads_batch or params.n_threads
        params.type_k, params.type_v = GGML_TYPES[settings.type_k or "f16"], GGML_TYPES[settings.type_v or "f16"]
        params.flash_attn_type = FLASH_ATTENTION[settings.flash_attn]
        params.offload_kqv, params.swa_full = settings.offload_kqv, settings.swa_full
        params.n_rs_seq = settings.n_rs_seq if self.model.is_recurrent else 0
        params.no_perf = True
        params.abort_callback, params.abort_callback_data = self.cancel.callback, self.cancel.data
        library.lines.clear()
        handle = llama_cpp.llama_init_from_model(self.model.handle, params)
        if not handle:
            raise EngineError(
                f"{self.name}: llama.cpp cannot make a context of {n_cells} tokens: {library.last_error()}",
                "Try a smaller n_ctx, or f16 caches (a quantized V cache needs flash attention)",
            )
        return handle

    def _probe(self) -> bool:
        """Decode two tokens, drop one, look at the position; this also warms the model up."""
        token = max(llama_cpp.llama_vocab_bos(self.model.vocab), 0)
        self.decode(0, [token, token], 0)
        removed = bool(llama_cpp.llama_memory_seq_rm(self._cache(), 0, 1, -1))
        works = removed and int(llama_cpp.llama_memory_seq_pos_max(self._cache(), 0)) == 0
        self.clear(0)
        self.seconds = 0.0
        return works

    def close(self) -> None:
        """Free the context."""
        if self._handle is not None:
            self._views.clear()
            llama_cpp.llama_free(self._handle)
            self._handle = self._memory = None
            self._rows = (0, 0, 0, 0)
            self.slots = [[] for _ in self.slots]

    @property
    def files(self) -> tuple[str, ...]:
        """The names of its model's file and, if there is one, its adapter's."""
        model = self.model.path.name
        return (model,) if self.adapter is None else (model, self.adapter.path.name)

    @property
    def max_rows(self) -> int:
        """Rows of logits that one decode can keep."""
        return min(MAX_ROWS, self.n_batch)

    def _cache(self) -> Any:
        """llama.cpp's pointer to the cache; EngineError after ``close``, where llama.cpp would crash."""
        if self._memory is None:
            raise EngineError(f"{self.name}: expected an open context, got one that was closed")
        return self._memory

    # ---- evaluating

    def decode(self, slot: int, ids: Sequence[int], n_rows: int = 1) -> None:
        """Evaluate ``ids`` after what the slot holds; rows of logits are kept for the last ``n_rows`` of them.

        Raises:
            CacheFullError: no room; the slot is as it was.
            Cancelled: the flag was set; the slot is as it was, or empty if the model cannot rewind.
            EngineError: llama.cpp failed; the slot is empty.
        """
        self._cache()
        held = self.slots[slot]
        before = len(held)
        n_batch = self.n_batch
        if n_rows > self.max_rows:
            raise EngineError(f"{self.name}: expected at most {self.max_rows} rows from one decode, got {n_rows}")
        self._rows = (slot, 0, 0, 0)  # llama.cpp overwrites those it had, also in a decode that fails
        # The last batch carries all wanted rows: rows of earlier batches would be overwritten.
        cut = len(ids) - max((len(ids) - 1) % n_batch + 1, n_rows) if ids else 0
        for start in (*range(0, cut, n_batch), cut):
            part = ids[start : min(start + n_batch, cut)] if start < cut else ids[cut:]
            last = start == cut
            self._batch.fill(part, len(held), slot, n_rows if last else 0)
            code = self._run(slot)
            if code:
                self._fail(slot, before, code, len(part))
            held.extend(part)
        self._rows = (slot, len(held) - n_rows + 1, n_rows, len(ids) - cut - n_rows)

    def _run(self, slot: int) -> int:
        """``llama_decode`` of the filled batch; its return code."""
        began = time.perf_counter()
        try:
            return int(llama_cpp.llama_decode(self._handle, self._batch.struct))
        except KeyboardInterrupt:  # it comes when llama.cpp is done, and the cache holds what we have not noted
            self.clear(slot)
            raise
        finally:
            self.seconds += time.perf_counter() - began

    def _fail(self, slot: int, before: int, code: int, n_tokens: int) -> None:
        """Bring the slot back to what it held, then raise what ``code`` means."""
        where = f"{self.name}: llama_decode of {n_tokens} tokens after {len(self.slots[slot])}"
        if code in (1, 2):
            self.slots[slot].append(-1)  # so that rewinding touches what a partly processed batch left behind
            self.rewind(slot, before)
            if code == 1:
                raise CacheFullError(f"{where}: no room in a context of {self.n_ctx}", "Use a larger n_ctx", code)
            raise Cancelled(f"{where}: stopped on request", code=code)
        self.clear(slot)
        raise EngineError(f"{where} failed with code {code}: {library.last_error()}", code=code)

    def has_row(self, slot: int, n_tokens: int) -> bool:
        """Whether ``row(slot, n_tokens)`` can be had without decoding."""
        row_slot, first, n_rows, _ = self._rows
        return row_slot == slot and first <= n_tokens < first + n_rows and n_tokens <= len(self.slots[slot])

    def row(self, slot: int, n_tokens: int) -> NDArray[np.float32]:
        """Logits after the slot's first ``n_tokens`` tokens: a view (n_vocab,) float32, valid until the next decode."""
        _, first, _, index = self._rows
        address = _logits_address(self._handle, index + n_tokens - first) if self.has_row(slot, n_tokens) else None
        if not address:
            raise EngineError(f"{self.name}, slot {slot}: the last decode kept no logits after {n_tokens} tokens")
        view = self._views.get(address)
        if view is None:
            buffer = (ctypes.c_float * self.n_vocab).from_address(address)
            view = self._views[address] = np.ctypeslib.as_array(buffer)
            view.flags.writeable = False
        return view

    # ---- the cache

    def rewind(self, slot: int, n_keep: int) -> int:
        """Drop what follows the first ``n_keep`` tokens; returns how many are really kept: all of them or none.

        A model that cannot drop a part of its memory is emptied; its text has to be evaluated again.
        """
        held = self.slots[slot]
        if n_keep >= len(held):
            return len(held)
        if n_keep and llama_cpp.llama_memory_seq_rm(self._cache(), slot, n_keep, -1):
            del held[n_keep:]
            self._forget_rows(slot, n_keep)
            return n_keep
        self.clear(slot)
        return 0

    def clear(self, slot: int) -> None:
        """Empty a slot; removing a whole sequence never fails."""
        if not llama_cpp.llama_memory_seq_rm(self._cache(), slot, -1, -1):
            raise EngineError(f"{self.name}: llama.cpp cannot empty slot {slot}")
        self.slots[slot].clear()
        self._forget_rows(slot, 0)

    def _forget_rows(self, slot: int, n_keep: int) -> None:
        """Rows after dropped tokens no longer belong to the text."""
        row_slot, first, n_rows, index = self._rows
        if row_slot == slot:
            self._rows = (slot, first, max(0, min(n_rows, n_keep - first + 1)), index)

    def validate(self, slot: int) -> None:
        """Compare the cache's positions with the ids we believe it holds; EngineError when they differ."""
        expected = len(self.slots[slot]) - 1
        got = int(llama_cpp.llama_memory_seq_pos_max(self._cache(), slot))
        if got != expected:
            raise EngineError(f"{self.name}, slot {slot}: expected the cache to end at {expected}, got {got}")
