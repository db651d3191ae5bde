"""Mutated LoRA adapters through check_adapter() and check_fit(), and those that pass through llama.cpp; a minute.

The process that checks must be alive after every file, and so must the one that computes with an accepted one.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from eftlite.errors import ModelFileError
from eftlite.gguf import Header, check
from eftlite.gguf_adapter import check_adapter, check_fit
from tests.lora import write_adapter
from tests.stress.test_gguf_mutations import MAX_SECONDS, Loader, Mutator
from tests.tiny_gguf import write_model

N_CHECKED, N_LOADED = 10_000, 1_000

# Puts each adapter named on its input on a model as eftlite will: adapter, context, two decodes.
WORKER = r"""
import ctypes, sys
import llama_cpp as C

@C.llama_log_callback
def silent(level, text, user):
    pass

C.llama_log_set(silent, ctypes.c_void_p(0))
C.llama_backend_init()
FLOATS = ctypes.c_float * 1

def load(path):
    params = C.llama_model_default_params()
    params.use_extra_bufts = False
    model = C.llama_model_load_from_file(b"MODEL", params)
    adapter = C.llama_adapter_lora_init(model, path.encode())
    if not adapter:
        C.llama_model_free(model)
        return "refused"
    settings = C.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 64
    settings.n_threads = settings.n_threads_batch = 1
    context = C.llama_init_from_model(model, settings)
    C.llama_set_adapters_lora(context, (type(adapter) * 1)(adapter), 1, FLOATS(1.0))
    tokens = (C.llama_token * 4)(5, 6, 7, 8)
    code = C.llama_decode(context, C.llama_batch_get_one(tokens, 4))
    code = code or C.llama_decode(context, C.llama_batch_get_one(tokens, 1))
    C.llama_free(context)
    C.llama_model_free(model)
    return "decoded" if code == 0 else f"decode gave {code}"

for line in sys.stdin:
    print("answer:", load(line.rstrip("\n")), flush=True)
"""


@pytest.fixture
def model(tmp_path: Path) -> Header:
    """A tiny model whose embedding is not its output."""
    return check(write_model(tmp_path / "model.gguf", seed=1, n_vocab=300, n_embd=32, n_ff=64, n_ctx=64))


def mutators(folder: Path, model: Header, seed: int) -> list[Mutator]:
    """One for an adapter of everything, one for a small one in F16."""
    every = write_adapter(folder / "every.gguf", model.path, seed=1, only=("attn", "ffn", "token_embd", "output"))
    few = write_adapter(folder / "few.gguf", model.path, seed=2, rank=2, dtype="f16", only=("attn_q", "token_embd"))
    return [Mutator(path, seed + i) for i, path in enumerate((every, few))]


def accepted(path: Path, model: Header) -> bool:
    """Whether the checks let the file through."""
    words, start = "", time.perf_counter()
    try:
        check_fit(check_adapter(path), model)
    except ModelFileError as error:
        words = str(error)
    assert time.perf_counter() - start < MAX_SECONDS
    assert words.isprintable()
    return not words


@pytest.mark.stress
def test_the_checker_outlives_10000_mutated_adapters(tmp_path: Path, model: Header) -> None:
    """About 10 seconds. Any error but its own, and any file that takes long, fails."""
    makers, path, n_accepted = mutators(tmp_path, model, seed=27), tmp_path / "mutant.gguf", 0
    for i in range(N_CHECKED):
        path.write_bytes(makers[i % len(makers)].make())
        n_accepted += accepted(path, model)
    print(f"{N_CHECKED:,} mutated adapters: {n_accepted:,} accepted")


@pytest.mark.stress
def test_no_accepted_adapter_ends_the_process_that_uses_it(tmp_path: Path, model: Header) -> None:
    """About 30 seconds. Of 1,000 adapters that pass the checks, none may abort llama.cpp, nor be refused by it."""
    makers, path = mutators(tmp_path, model, seed=2700), tmp_path / "mutant.gguf"
    loader = Loader(WORKER.replace("MODEL", str(model.path)))
    outcomes: Counter[str] = Counter()
    n_made = 0
    while outcomes.total() < N_LOADED:
        path.write_bytes(makers[n_made % len(makers)].make())
        n_made += 1
        if not accepted(path, model):
            continue
        outcome = loader.load(path)
        outcomes[outcome] += 1
        if outcome.startswith("died"):
            path.rename(tmp_path / f"killer-{n_made}.gguf")
    loader.close()
    print(f"{n_made:,} mutated adapters, {N_LOADED:,} accepted and used:", dict(outcomes))
    assert not [outcome for outcome in outcomes if outcome.startswith("died")], f"the files are in {tmp_path}"
