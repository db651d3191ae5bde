"""Importance matrices computed: what a text multiplies a model's weights with, squared and summed on the way.

llama.cpp calls back at every node of its graph, which is how llama-imatrix works too, and the same nodes are taken: the
matrix products of the layers' weights, in batches of 16 tokens or more. Knows token ids, never texts or files.

Not guaranteed: bits. Sums are kept in double precision here, in single precision there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp._ctypes_extensions import load_shared_library
from llama_cpp._ggml import libggml_base_path
from numpy.typing import NDArray

from eftlite.errors import EngineError, InputError
from eftlite.llama import Model, library
from eftlite.member import default_threads
from eftlite_quantize.imatrix import Entry

_MIN_ROWS = 16
_F32 = 0
_MUL_MAT, _MUL_MAT_ID = 29, 30


class _Tensor(ctypes.Structure):
    """``struct ggml_tensor`` of ggml 0.25, as far as its name."""


_Pointer = ctypes.POINTER(_Tensor)
_Tensor._fields_ = [  # how ctypes is told of a structure that points to itself
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", _Pointer * 10),
    ("view_src", _Pointer),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


class _Ggml:
    """The functions of ggml that the binding does not wrap.

    Raises:
        EngineError: ggml numbers its operations in another way than this file knows.
    """

    def __init__(self) -> None:
        base = load_shared_library("ggml-base", libggml_base_path)
        self.is_host: Any = base.ggml_backend_buffer_is_host
        self.is_host.argtypes, self.is_host.restype = [ctypes.c_void_p], ctypes.c_bool
        self.read: Any = base.ggml_backend_tensor_get
        self.read.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        self.n_bytes: Any = base.ggml_nbytes
        self.n_bytes.argtypes, self.n_bytes.restype = [ctypes.c_void_p], ctypes.c_size_t
        self.name: Any = base.ggml_get_name
        self.name.argtypes, self.name.restype = [ctypes.c_void_p], ctypes.c_char_p
        base.ggml_op_name.argtypes, base.ggml_op_name.restype = [ctypes.c_int], ctypes.c_char_p
        if (base.ggml_op_name(_MUL_MAT), base.ggml_op_name(_MUL_MAT_ID)) != (b"MUL_MAT", b"MUL_MAT_ID"):
            raise EngineError("ggml: expected version 0.25, got one that numbers its operations differently")

    def check(self, tensor: _Tensor) -> None:
        """Raise EngineError when the structure is not the one that this file knows."""
        if self.name(ctypes.addressof(tensor)) != tensor.name:
            raise EngineError("ggml: expected version 0.25, got one that lays its tensors out differently")

    def values(self, tensor: _Tensor, dtype: type[np.float32 | np.int32]) -> NDArray[Any]:
        """A tensor's numbers (ne3, ne2, ne1, ne0), seen where they are or brought from their device."""
        n = self.n_bytes(ctypes.addressof(tensor))
        if self.is_host(tensor.buffer):
            memory: Any = (ctypes.c_char * n).from_address(tensor.data)
        else:
            memory = (ctypes.c_char * n)()
            self.read(ctypes.addressof(tensor), memory, 0, n)
        return np.ndarray(tuple(tensor.ne)[::-1], dtype, memory, 0, tuple(tensor.nb)[::-1])


class Collector:
    """Sums of squares by the weights' names, taken while a context with its ``callback`` decodes.

    Attributes:
        callback: for ``cb_eval``.
        sums: (n_matrices, n_columns) float64 each.
        counts: (n_matrices,) int64 each; a single one for weights that are not a mixture's experts.
    """

    def __init__(self) -> None:
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._called)
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, NDArray[np.int64]] = {}
        self._ggml = _Ggml()
        self._error: BaseException | None = None
        self._checked = False

    def check(self) -> None:
        """Raise what went wrong in the callback, where nothing can be raised; Ctrl+C too comes there."""
        if self._error is not None:
            raise self._error
        for name, sums in self.sums.items():
            if not np.isfinite(sums).all():
                raise EngineError(f"{name}: expected to be multiplied with finite numbers, got others")

    def entries(self) -> dict[str, Entry]:
        """What was collected, by name."""
        return {
            name: Entry(self.sums[name].astype(np.float32), self.counts[name].astype(np.float32))
            for name in sorted(self.sums)
        }

    def _called(self, address: int, ask: bool, _: object) -> bool:
        """llama.cpp's callback: whether a node's operands are wanted, then, when it was computed, a look at them."""
        try:
            node = _Tensor.from_address(address)
            if not self._checked:
                self._ggml.check(node)
                self._checked = True
            if node.op not in (_MUL_MAT, _MUL_MAT_ID):
                return False
            return self._wants(node) if ask else self._take(node)
        except BaseException as error:  # noqa: BLE001  # raised again by check
            self._error = error
            return False

    def _wants(self, node: _Tensor) -> bool:
        weights, operand = node.src[0].contents, node.src[1].contents
        if operand.type != _F32 or not _plain(weights.name).startswith("blk."):
            return False
        return bool(node.op == _MUL_MAT_ID or operand.ne[1] >= _MIN_ROWS)

    def _take(self, node: _Tensor) -> bool:
        name, shape = _plain(node.src[0].contents.name), tuple(node.src[0].contents.ne)
        values = self._ggml.values(node.src[1].contents, np.float32)
        if node.op == _MUL_MAT_ID:
            self._add_experts(name, shape[2], values[0], self._ggml.values(node.src[2].contents, np.int32)[0, 0])
        else:
            self._add(name, shape[2], shape[3], values)
        return True

    def _add(self, name: str, n_deep: int, n_wide: int, values: NDArray[np.float32]) -> None:
        """One product with a matrix, or with a stack of them, whose columns then stand side by side."""
        n_matrices, n_columns = n_deep * n_wide, values.shape[-1]
        sums = self.sums.setdefault(name, np.zeros((1, n_matrices * n_columns))).reshape(n_matrices, n_columns)
        if n_matrices == 1:
            sums[0] += _squares(values.reshape(-1, n_columns))
        else:
            for wide, stack in enumerate(values):
                for deep, rows in enumerate(stack):
                    sums[wide % n_wide * n_deep + deep % n_deep] += _squares(rows)
        counts = self.counts.setdefault(name, np.zeros(1, np.int64))
        counts += values[..., 0].size // n_matrices

    def _add_experts(self, name: str, n_experts: int, values: NDArray[np.float32], ids: NDArray[np.int32]) -> None:
        """A product with a mixture's experts.

        Args:
            values: (n_tokens, 1 or n_used, n_columns).
            ids: the expert of each, (n_tokens, n_used).
        """
        sums = self.sums.setdefault(name, np.zeros((n_experts, values.shape[-1])))
        counts = self.counts.setdefault(name, np.zeros(n_experts, np.int64))
        for used in range(ids.shape[1]):
            rows, chosen = values[:, used % values.shape[1]], ids[:, used]
            for expert in np.unique(chosen):
                mine = rows[chosen == expert]
                sums[expert] += _squares(mine)
                counts[expert] += len(mine)


def _squares(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums of squares over rows (n, n_columns)."""
    total: NDArray[np.float32] = np.square(rows).sum(0)
    return total


def _plain(name: bytes) -> str:
    """A tensor's name without what schedulers put around it: ``CUDA0#blk.0.attn_k.weight#0``."""
    parts = name.decode("utf-8", "replace").split("#")
    return parts[0] if len(parts) == 1 else parts[1]


def collect(
    model: Model,
    chunks: NDArray[np.int32],
    progress: Callable[[int], None] = lambda n: None,  # noqa: ARG005  # says nothing
) -> dict[str, Entry]:
    """Evaluate chunks of text and collect.

    Args:
        chunks: token ids (n, n_ctx), each chunk evaluated alone.
        progress: told how many are done.

    Returns:
        By the weights' names, sorted.

    Raises:
        InputError: the chunks are too short to be counted.
        EngineError: llama.cpp cannot evaluate them, or gave numbers that are not finite.
    """
    if chunks.shape[1] < _MIN_ROWS:
        raise InputError(f"-c: expected at least {_MIN_ROWS} tokens, got {chunks.shape[1]}")
    collector = Collector()
    context = _context(model, chunks.shape[1], collector)
    batch = llama_cpp.llama_batch_init(chunks.shape[1], 0, 1)
    try:
        for done, chunk in enumerate(chunks):
            with np.errstate(all="ignore"):  # what overflows is found below
                _decode(context, batch, chunk)
            collector.check()
            progress(done + 1)
    finally:
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
    return collector.entries()


def _context(model: Model, n_ctx: int, collector: Collector) -> Any:
    """A context that calls back; every token gets logits, or the last layer would be computed for few of them."""
    settings = model.settings
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = n_ctx
    params.n_ubatch = min(settings.n_ubatch, n_ctx)
    params.n_threads = params.n_threads_batch = settings.n_threads or default_threads(model)
    params.no_perf = True
    params.cb_eval = collector.callback
    library.lines.clear()
    context = llama_cpp.llama_init_from_model(model.handle, params)
    if not context:
        raise EngineError(f"{model.name}: llama.cpp cannot make a context of {n_ctx} tokens: {library.last_error()}")
    return context


def _decode(context: Any, batch: Any, chunk: NDArray[np.int32]) -> None:
    """Evaluate one chunk from an empty cache."""
    n = len(chunk)
    batch.n_tokens = n
    np.ctypeslib.as_array(batch.token, (n,))[:] = chunk
    np.ctypeslib.as_array(batch.pos, (n,))[:] = np.arange(n)
    np.ctypeslib.as_array(batch.n_seq_id, (n,))[:] = 1
    np.ctypeslib.as_array(batch.logits, (n,))[:] = 1
    for i in range(n):
        batch.seq_id[i][0] = 0
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)  # noqa: FBT003  # of the binding
    code = llama_cpp.llama_decode(context, batch)
    if code:
        raise EngineError(f"llama_decode of {n} tokens failed with code {code}: {library.last_error()}", code=code)
