"""Mutated model files through check(), and those that it accepts through a full load; about a minute.

The process that checks must be alive after every file, whatever llama.cpp would have done with it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import pytest

from eftlite.errors import ModelFileError
from eftlite.gguf import check
from tests.tiny_gguf import write_model

N_CHECKED = 10_000
N_LOADED = 1_000
MAX_SECONDS = 2.0
LOAD_SECONDS = 30.0

INTERESTING = (
    *(0, 1, 2, 3, 4, 7, 8, 16, 31, 32, 33, 127, 255, 256, 299, 300, 301, 511, 512, 513, 1023, 1025, 2**15, 2**16),
    *(2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1),
)
FRACTIONS = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0, -1.0, 1e-45, 3e38)

# Loads each file named on its input as eftlite will: model, context, a text's tokens, all pieces, two decodes.
WORKER = r"""
import ctypes, sys
import llama_cpp as C

@C.llama_log_callback
def silent(level, text, user):
    pass

C.llama_log_set(silent, ctypes.c_void_p(0))
C.llama_backend_init()
TEXT = "Héllo wörld 🙂 <|user|>\n\x01".encode() + b"\xff\xc3"

def load(path):
    params = C.llama_model_default_params()
    params.use_extra_bufts = False  # some compilers break ggml's AMX kernels; this test is about files
    model = C.llama_model_load_from_file(path.encode(), params)
    if not model:
        return "refused"
    settings = C.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 64
    settings.n_threads = settings.n_threads_batch = 1
    context = C.llama_init_from_model(model, settings)
    if not context:
        C.llama_model_free(model)
        return "no context"
    vocab = C.llama_model_get_vocab(model)
    tokens, piece = (C.llama_token * 64)(), ctypes.create_string_buffer(512)
    n = C.llama_tokenize(vocab, TEXT, len(TEXT), tokens, 64, True, True)
    for i in range(C.llama_vocab_n_tokens(vocab)):
        C.llama_token_to_piece(vocab, i, piece, 512, 0, True)
    code = C.llama_decode(context, C.llama_batch_get_one(tokens, max(n, 1)))
    code = code or C.llama_decode(context, C.llama_batch_get_one(tokens, 1))
    C.llama_free(context)
    C.llama_model_free(model)
    return "decoded" if code == 0 else f"decode gave {code}"

for line in sys.stdin:
    print("answer:", load(line.rstrip("\n")), flush=True)
"""


class Loader:
    """A child process that loads files one after the other, and a new one after each death."""

    def __init__(self, worker: str = WORKER) -> None:
        self._worker = worker
        self._child: subprocess.Popen[str] | None = None

    def load(self, path: Path) -> str:
        """What became of the file, or of the child that loaded it."""
        if self._child is None:
            command, quiet = [sys.executable, "-c", self._worker], {**os.environ, "GGML_NO_BACKTRACE": "1"}
            self._child = subprocess.Popen(
                command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=quiet
            )
        assert self._child.stdin
        assert self._child.stdout
        watch = threading.Timer(LOAD_SECONDS, self._child.kill)
        watch.start()
        try:
            self._child.stdin.write(f"{path}\n")
            self._child.stdin.flush()
            answer = self._child.stdout.readline().strip()
        except BrokenPipeError:  # it died of the file before, after its answer: memory was overwritten
            answer = ""
        finally:
            watch.cancel()
        return answer.removeprefix("answer: ") if answer.startswith("answer: ") else f"died: {self.close()}"

    def close(self) -> str:
        """End the child; the name of the signal that ended it, or its exit code."""
        child, self._child = self._child, None
        if child is None:
            return ""
        with contextlib.suppress(BrokenPipeError), child:
            child.communicate(timeout=LOAD_SECONDS)
        code = child.wait()
        return signal.Signals(-code).name if code < 0 else str(code)


class Mutator:
    """Makes damaged copies of one model file, mostly of its header, half of them by one value of one key."""

    def __init__(self, path: Path, seed: int) -> None:
        self.data = path.read_bytes()
        self._random = random.Random(seed)
        reader = gguf.GGUFReader(path)
        self._header_bytes = min(int(tensor.data_offset) for tensor in reader.tensors)
        # Keys whose values begin right after the name and the type; the first three are the counts.
        self._values = [
            (field.offset + 8 + len(name.encode()) + 4, field.types[0])
            for name, field in reader.fields.items()
            if not name.startswith("GGUF.")
        ]
        self._tensors = [int(tensor.field.offset) for tensor in reader.tensors]
        self._first_tensor = min(self._tensors)

    def make(self) -> bytes:
        """One damaged copy."""
        data = bytearray(self.data)
        ways = (self._value, self._value, self._value, self._tensor, self._tensor, self._byte, self._byte, self._number)
        for _ in range(self._random.choice((1, 1, 1, 2, 4))):
            self._random.choice(ways)(data)
        if self._random.random() < 0.08:
            self._cut(data)
        return bytes(data)

    def _value(self, data: bytearray) -> None:
        """One key gets another value of its type, or its array another length, or another type."""
        at, kind = self._random.choice(self._values)
        if self._random.random() < 0.1:
            data[at - 4] = self._random.randrange(14)
        elif kind == gguf.GGUFValueType.FLOAT32:
            data[at : at + 4] = struct.pack("<f", self._random.choice(FRACTIONS))
        elif kind == gguf.GGUFValueType.ARRAY:
            where = at + 4 if self._random.random() < 0.5 else at + 12 + self._random.randrange(64)
            data[where : where + 1] = bytes([self._random.randrange(256)])
        else:
            size = 1 if kind == gguf.GGUFValueType.BOOL else 8 if kind == gguf.GGUFValueType.STRING else 4
            value = self._random.choice(INTERESTING) % (1 << 8 * size)
            data[at : at + size] = value.to_bytes(size, "little")

    def _tensor(self, data: bytearray) -> None:
        """One byte of a tensor's description: its name, dimensions, shape, type or offset."""
        at = self._random.choice(self._tensors) + self._random.randrange(60)
        data[at] = self._random.choice((data[at] ^ 1, data[at] + 1 & 255, self._random.randrange(43), 0))

    def _byte(self, data: bytearray) -> None:
        """A few bytes anywhere in the header."""
        for _ in range(self._random.randrange(1, 4)):
            data[self._random.randrange(self._header_bytes)] = self._random.randrange(256)

    def _number(self, data: bytearray) -> None:
        """An interesting number of 4 or 8 bytes anywhere in the header."""
        size = self._random.choice((4, 8))
        at = self._random.randrange(self._header_bytes - size)
        data[at : at + size] = (self._random.choice(INTERESTING) % (1 << 8 * size)).to_bytes(size, "little")

    def _cut(self, data: bytearray) -> None:
        """A piece is lost, doubled, or the end is missing."""
        at = self._random.randrange(len(data))
        n = self._random.randrange(1, 200)
        way = self._random.randrange(3)
        if way == 0:
            del data[at:]
        elif way == 1:
            del data[at % self._header_bytes : at % self._header_bytes + n]
        else:
            data[at:at] = data[at : at + n]


def small(path: Path, **options: Any) -> Path:
    """A model whose header is most of it."""
    return write_model(path, n_vocab=300, n_embd=32, n_ff=64, n_ctx=64, **options)


def mutators(folder: Path, seed: int) -> list[Mutator]:
    """One for each kind of vocabulary, one of quantized weights."""
    paths = [
        small(folder / "gpt2.gguf", seed=1, chat_template="{{ messages }}"),
        small(folder / "llama.gguf", seed=2, tokenizer="llama", dtype="f16"),
        small(folder / "q8_0.gguf", seed=3, n_kv_heads=2, dtype="q8_0"),
    ]
    return [Mutator(path, seed + i) for i, path in enumerate(paths)]


def accepted(path: Path) -> bool:
    """Whether check() lets the file through."""
    words, start = "", time.perf_counter()
    try:
        check(path)
    except ModelFileError as error:
        words = str(error)
    assert time.perf_counter() - start < MAX_SECONDS
    assert words.isprintable()
    return not words


@pytest.mark.stress
def test_the_checker_outlives_10000_mutated_files(tmp_path: Path) -> None:
    """About 20 seconds. Any error but its own, and any file that takes long, fails."""
    makers, path, n_accepted = mutators(tmp_path, seed=26), tmp_path / "mutant.gguf", 0
    for i in range(N_CHECKED):
        path.write_bytes(makers[i % len(makers)].make())
        n_accepted += accepted(path)
    print(f"{N_CHECKED:,} mutated files: {n_accepted:,} accepted, {N_CHECKED - n_accepted:,} refused")


@pytest.mark.stress
def test_no_accepted_file_ends_the_process_that_loads_it(tmp_path: Path) -> None:
    """About 40 seconds. Of 1,000 files that check() lets through, none may abort llama.cpp."""
    makers, path, loader = mutators(tmp_path, seed=2600), tmp_path / "mutant.gguf", Loader()
    outcomes: Counter[str] = Counter()
    n_made = 0
    while outcomes.total() < N_LOADED:
        path.write_bytes(makers[n_made % len(makers)].make())
        n_made += 1
        if not accepted(path):
            continue
        outcome = loader.load(path)
        outcomes[outcome] += 1
        if outcome.startswith("died"):
            path.rename(tmp_path / f"killer-{n_made}.gguf")
    loader.close()
    print(f"{n_made:,} mutated files, {N_LOADED:,} accepted and loaded:", dict(outcomes))
    assert not [outcome for outcome in outcomes if outcome.startswith("died")], f"the files are in {tmp_path}"
