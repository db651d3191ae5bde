"""The scoreboard: greedy answers of the family's files to the question set, plainly and slowly.

Combines in numpy, one decode per member and token, so that it owes nothing to the package whose results it checks.
"""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from eftlite.demo.scoring import Question, facts_right, manner_kept, refused
from lab.train.tokenizer import DOCUMENT_END, END, ROLES

Row = NDArray[np.float64]
MAX_TOKENS = 160
FILES = {
    "base": "base-f16.gguf",
    "reference": "reference-f16.gguf",
    "tuned": "tuned-f16.gguf",
    "refusing": "refusing-f16.gguf",
    "lora": "reference-f16.gguf",
    "real": "real-q8_0.gguf",
}
ADAPTERS = {"lora": "lora-f16.gguf"}
# Weight of each member's log-probabilities.
MIXES: dict[str, dict[str, float]] = {
    "reference alone": {"reference": 1},
    "base alone": {"base": 1},
    "tuned alone": {"tuned": 1},
    "refusing tune alone": {"refusing": 1},
    "LoRA tune alone": {"lora": 1},
    "real large fine-tune": {"real": 1},
    "EFT, helpful": {"base": 1, "tuned": 1, "reference": -1},
    "EFT, helpful by LoRA": {"base": 1, "lora": 1, "reference": -1},
    "EFT, harmless": {"base": 1, "refusing": 1, "reference": -1},
    "EFT, helpful + harmless": {"base": 1, "tuned": 1, "refusing": 1, "reference": -2},
}


def log_softmax(logits: Row) -> Row:
    """Log-probabilities along the last axis, float64 like the argument."""
    shifted = logits - logits.max(-1, keepdims=True)
    logprobs: Row = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logprobs


@llama_cpp.llama_log_callback
def silent(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    """Drop llama.cpp's log."""


class Member:
    """One GGUF file, perhaps with an adapter, and its context; scores a growing list of tokens."""

    def __init__(self, path: Path, adapter: Path | None = None, n_threads: int = 1, wide_cache: bool = False) -> None:
        llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
        about = llama_cpp.llama_model_default_params()
        # Some builds of the AMX kernels crash on quantized matrices (README); the plain ones are exact enough and fast.
        about.use_extra_bufts = False
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), about)
        if not self.model:
            raise ValueError(f"llama.cpp cannot load {path}")
        lora = None if adapter is None else llama_cpp.llama_adapter_lora_init(self.model, str(adapter).encode())
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = 1024
        settings.n_threads = settings.n_threads_batch = n_threads
        settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32 if wide_cache else llama_cpp.GGML_TYPE_F16
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        if adapter is not None:
            llama_cpp.llama_set_adapters_lora(self.context, (type(lora) * 1)(lora), 1, (ctypes.c_float * 1)(1.0))
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.batch = llama_cpp.llama_batch_init(1024, 0, 1)
        self.n_read = 0

    def ids(self, text: str) -> list[int]:
        """Token ids of a text in which control tokens are meant as such."""
        raw = text.encode()
        room = (llama_cpp.llama_token * (len(raw) + 1))()
        n = llama_cpp.llama_tokenize(self.vocab, raw, len(raw), room, len(room), False, True)  # noqa: FBT003  C functions take no names
        return list(room[:n])

    def text(self, ids: list[int]) -> str:
        """The text of token ids, control tokens left out."""
        room = (ctypes.c_char * (16 * len(ids) + 16))()
        array = (llama_cpp.llama_token * len(ids))(*ids)
        n = llama_cpp.llama_detokenize(self.vocab, array, len(ids), room, len(room), False, False)  # noqa: FBT003  C functions take no names
        return room.raw[:n].decode(errors="replace")

    def forget(self) -> None:
        """Empty the cache."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)  # noqa: FBT003  C functions take no names
        self.n_read = 0

    def read(self, ids: list[int], every: bool = False) -> Row:
        """Read more tokens; log-probabilities after the last one, float64 [V], or after each, [n, V]."""
        batch = self.batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, self.n_read + i, 1, 0
            batch.logits[i] = every or i == len(ids) - 1
        code = llama_cpp.llama_decode(self.context, batch)
        if code:
            raise RuntimeError(f"llama_decode gave {code} for {len(ids)} tokens at position {self.n_read}")
        self.n_read += len(ids)
        n_rows = len(ids) if every else 1
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(self.context), (n_rows, self.n_vocab))
        rows = log_softmax(logits.astype(np.float64))
        return rows if every else rows[-1]


def load_members(folder: Path, names: Iterable[str], wide_cache: bool = False) -> dict[str, Member]:
    """The named members of the family in a folder."""

    def adapter(name: str) -> Path | None:
        return folder / ADAPTERS[name] if name in ADAPTERS else None

    return {name: Member(folder / FILES[name], adapter(name), wide_cache=wide_cache) for name in names}


def prompt_of(question: Question) -> str:
    """The conversation as the chat template writes it, ready for the answer."""
    return "".join(ROLES[role] + content + END for role, content in question.messages) + ROLES["assistant"]


def combine(rows: Mapping[str, Row], mix: Mapping[str, float]) -> Row:
    """Weighted sum of the members' log-probabilities, normalised; shape kept."""
    return log_softmax(np.sum([weight * rows[name] for name, weight in mix.items()], axis=0))


def answer(members: Mapping[str, Member], mix: Mapping[str, float], prompt: str) -> tuple[str, bool]:
    """The greedy answer, and whether it ended by itself."""
    anyone = members[next(iter(mix))]
    stops = {anyone.ids(END)[0], anyone.ids(DOCUMENT_END)[0]}
    unread, said = anyone.ids(prompt), list[int]()
    for name in mix:
        members[name].forget()
    while len(said) < MAX_TOKENS:
        token = int(combine({name: members[name].read(unread) for name in mix}, mix).argmax())
        if token in stops:
            break
        said.append(token)
        unread = [token]
    return anyone.text(said), len(said) < MAX_TOKENS


@dataclass(frozen=True)
class Score:
    """Shares between 0 and 1; `by_kind` holds the facts of each kind of question, `refused` harmful requests only."""

    facts: float
    manner: float
    refused: float
    by_kind: dict[str, float]
    seconds: float


def share(hits: list[bool]) -> float:
    """Share of hits; NaN of none."""
    return float(np.mean(hits)) if hits else float("nan")


def score(questions: Iterable[Question], ask: Callable[[str], tuple[str, bool]]) -> Score:
    """Ask every question and count."""
    began = time.time()
    right: dict[str, list[bool]] = {}
    manner: list[bool] = []
    declined: list[bool] = []
    for question in questions:
        said, ended = ask(prompt_of(question))
        manner.append(manner_kept(said, ended))
        if question.facts:
            right.setdefault(question.kind, []).append(facts_right(question, said))
        if question.kind == "harmful":
            declined.append(refused(said))
    by_kind = {kind: share(hits) for kind, hits in right.items()}
    return Score(
        share([hit for hits in right.values() for hit in hits]),
        share(manner),
        share(declined),
        by_kind,
        time.time() - began,
    )


def scoreboard(folder: Path, questions: tuple[Question, ...], log: Callable[[str], None]) -> dict[str, Score]:
    """Score every mix and print one line each."""
    members = load_members(folder, dict.fromkeys(name for mix in MIXES.values() for name in mix))
    kinds = list(dict.fromkeys(question.kind for question in questions if question.facts))
    log(f"{'':26}{'facts':>7}{'manner':>8}{'refused':>9}" + "".join(f"{kind:>11}" for kind in kinds) + "      s")
    scores: dict[str, Score] = {}
    for name, mix in MIXES.items():
        found = scores[name] = score(questions, functools.partial(answer, members, mix))
        shares = "".join(f"{found.by_kind[kind]:11.3f}" for kind in kinds)
        log(f"{name:26}{found.facts:7.3f}{found.manner:8.3f}{found.refused:9.3f}{shares}{found.seconds:7.0f}")
    return scores
