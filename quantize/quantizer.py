"""The process that quantizes: jobs come in as JSON lines, llama.cpp does them, and what its log says goes out.

llama.cpp tells how far it is only in its log, so that is read here. The process ends with its parent: it watches the
pipe that jobs come from.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import re
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import llama_cpp
import numpy as np

from eftlite.errors import EFTError
from eftlite.llama import build, library
from eftlite_quantize.child import Job
from eftlite_quantize.imatrix import read_imatrix

Message = dict[str, Any]

# [   3/  38] blk.0.attn_k.weight      - [  512,   128,     1,     1], type =    f16, converting to q4_K .. size = …
# or, where nothing is written: … type =    f16, size =     0.12 MiB ->     0.04 MiB (q4_K)
_TENSOR = re.compile(
    r"\[ *(?P<index>\d+)/ *(?P<count>\d+)\] (?P<name>.+?) +- \[.*?\], type = +(?P<old>\w+), (?P<rest>.*)"
)
_TYPE = re.compile(r"converting to (\w+)|\((\w+)\)$")
_FALLBACK = re.compile(r"warning: (.+?) +- ncols .* \(required for type +(\w+)\) .*-> falling back to +(\w+)")
_FAILED = re.compile(r"failed to quantize: (.*)")
_KEY_BYTES = 127  # llama.cpp's room for a key and for a text


class LogReader:
    """llama.cpp's log, put together from its pieces and read.

    Args:
        send: takes what is to be told.

    Attributes:
        reason: why it failed.
    """

    def __init__(self, send: Callable[[Message], None]) -> None:
        self.reason = ""
        self._send = send
        self._line = ""

    def take(self, _level: int, text: bytes, _: object) -> None:
        """llama.cpp's log callback."""
        *lines, self._line = (self._line + text.decode("utf-8", "replace")).split("\n")
        for line in lines:
            self._read(line)

    def _read(self, line: str) -> None:
        if found := _TENSOR.match(line):
            kind = _TYPE.search(found["rest"])
            name = (kind[1] or kind[2] if kind else found["old"]).upper()
            position = {"index": int(found["index"]), "count": int(found["count"])}
            self._send({"tensor": found["name"], **position, "type": name})
        elif found := _FALLBACK.match(line):
            self._send({"fallback": found[1], "wanted": found[2].upper(), "got": found[3].upper()})
        elif found := _FAILED.search(line):
            self.reason = found[1]


class Params:
    """llama.cpp's parameters of a job, and the arrays that they point to."""

    def __init__(self, job: Job) -> None:
        self.struct = params = llama_cpp.llama_model_quantize_default_params()
        params.nthread, params.ftype, params.dry_run = job.threads, job.file_type, job.target is None
        params.pure, params.allow_requantize = job.pure, job.allow_requantize
        params.quantize_output_tensor = not job.leave_output
        if job.output_type is not None:
            params.output_tensor_type = job.output_type
        if job.embedding_type is not None:
            params.token_embedding_type = job.embedding_type
        self._arrays: list[Any] = []
        if job.tensor_types:
            patterns = [(pattern.encode(), number) for pattern, number in job.tensor_types]
            params.tt_overrides = self._array(llama_cpp.llama_model_tensor_override, [*patterns, (None, 0)])
        if job.metadata:
            params.kv_overrides = self._overrides(job.metadata)
        if job.imatrix is not None:
            params.imatrix = self._importances(job.imatrix)

    def _array(self, kind: type[ctypes.Structure], rows: list[tuple[Any, ...]]) -> Any:
        array = (kind * len(rows))(*[kind(*row) for row in rows])
        self._arrays.append(array)
        return array

    def _overrides(self, metadata: dict[str, str | int]) -> Any:
        """An array that ends with an empty key."""
        array = (llama_cpp.llama_model_kv_override * (len(metadata) + 1))()
        for slot, (key, value) in zip(array, metadata.items(), strict=False):
            slot.key = key.encode()
            if isinstance(value, str):
                slot.tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR
                slot.value.val_str = cut(value)
            else:
                slot.tag, slot.value.val_i64 = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT, value
        self._arrays.append(array)
        return array

    def _importances(self, path: str) -> Any:
        """An array that ends without a name."""
        rows: list[tuple[Any, ...]] = []
        for name, weights in read_imatrix(path).weights().items():
            values = np.ascontiguousarray(weights, np.float32)  # (n,)
            self._arrays.append(values)
            rows.append((name.encode(), values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), values.size))
        return self._array(llama_cpp.llama_model_imatrix_data, [*rows, (None, None, 0)])


def cut(text: str) -> bytes:
    """As much of a text as llama.cpp has room for, whole characters only."""
    return text.encode("utf-8", "replace")[:_KEY_BYTES].decode("utf-8", "ignore").encode()


def quantize(job: Job, reader: LogReader) -> Message:
    """Do a job; the message that ends it."""
    reader.reason = "llama.cpp gave no reason"
    try:
        params = Params(job)
    except EFTError as error:
        return {"failed": str(error)}
    target = os.fsencode(job.target) if job.target is not None else b""
    code = llama_cpp.llama_model_quantize(os.fsencode(job.source), target, ctypes.byref(params.struct))
    return {"failed": reader.reason} if code else {"done": True}


def send(message: Message) -> None:
    """Tell the parent."""
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Do jobs until the parent closes the pipe, or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C goes to the parent too, which ends us
    os.environ["GGML_NO_BACKTRACE"] = "1"  # llama.cpp would fork to start a debugger, and the forks keep our pipes open
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            jobs.put(Job(**json.loads(line)))
        os._exit(0)  # in the middle of a job, since nobody waits for it any more

    library.open()
    reader = LogReader(send)
    callback = llama_cpp.llama_log_callback(reader.take)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    send({"build": build()})
    threading.Thread(target=listen, daemon=True).start()
    while True:
        send(quantize(jobs.get(), reader))
