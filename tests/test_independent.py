"""The right numbers: numpy alone, reading the same GGUF files, gives the same composite (mean KL <= 1e-4).

Nothing of eftlite's or llama.cpp's computing is used on numpy's side: its own forward pass (numpy_llama.py, in float64,
in a process of its own with one thread, since two stall each other on a busy machine) and its own formula. Only the
tokens come from the tokenizer, whose ids are compared with the file's texts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from eftlite import EFT
from eftlite.composite import Recipe
from eftlite.demo.scoring import load_questions
from eftlite.settings import Knobs
from lab.train.world import encyclopaedia, make_world
from tests.conftest import ROOT

Floats = NDArray[np.float64]
WINDOW, N_WINDOWS, CHUNK = 256, 8, 64
PARTS = ("base", "tuned", "reference", "refusing")  # in the members' order
KNOBS = {
    "default": Knobs((1.0, 0.0)),
    "strong": Knobs((0.7, 0.0), beta=1.5),
    "no control rule": Knobs((1.0, 0.0), control_tokens=False),
    "two deltas": Knobs((0.6, 0.4)),
}


# ---- the paper's formula


def log_softmax(x: Floats) -> Floats:
    """Along the last axis."""
    peak = x.max(-1, keepdims=True)
    result: Floats = x - peak - np.log(np.exp(x - peak).sum(-1, keepdims=True))
    return result


def composite(base: Floats, deltas: list[tuple[Floats, Floats, float]], knobs: Knobs, control: list[int]) -> Floats:
    """The paper's formula on log-probabilities; control tokens get the up-scaling weight 1."""
    reference = deltas[0][1]
    shift = sum((alpha * (tuned - ref) for tuned, ref, alpha in deltas), np.zeros_like(base))
    scores: Floats = knobs.beta * base + shift - (knobs.beta - 1.0) * reference
    if knobs.control_tokens:
        scores[..., control] = (reference + shift)[..., control]
    return log_softmax(scores)


# ---- both on the same text


@pytest.fixture(scope="module")
def windows(demo_eft: EFT) -> NDArray[np.int64]:
    """(N_WINDOWS, WINDOW) ids: the world's articles, and questions as conversations."""
    rng = Random(5)
    articles = "\n\n".join(encyclopaedia(make_world(99), 60, rng))
    ids = demo_eft.tokenize(articles.encode())[: WINDOW * (N_WINDOWS // 2)]
    for question in rng.sample(list(load_questions()), 200):
        ids += demo_eft.chat_prompts(question.chat)[0]
    return np.array(ids[: WINDOW * N_WINDOWS], np.int64).reshape(N_WINDOWS, WINDOW)


@pytest.fixture(scope="module")
def independent(
    demo_family: dict[str, Path], windows: NDArray[np.int64], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Floats]:
    """Log-probabilities (N_WINDOWS * WINDOW, n_vocab) of each model."""
    folder = tmp_path_factory.mktemp("independent")
    np.save(folder / "ids.npy", windows)
    one_thread = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    files = [str(demo_family[part]) for part in PARTS]
    arguments = [sys.executable, "-m", "tests.numpy_llama", str(folder / "ids.npy"), str(folder), *files]
    subprocess.run(arguments, cwd=ROOT, env={**os.environ, **one_thread}, check=True, timeout=300)
    rows = {part: np.load(folder / f"{demo_family[part].stem}.npy").astype(np.float64) for part in PARTS}
    return {part: log_softmax(row.reshape(-1, row.shape[-1])) for part, row in rows.items()}


@pytest.fixture(scope="module")
def vocabulary(demo_family: dict[str, Path]) -> dict[str, Any]:
    """The base's token texts, types and end, as its file has them."""
    fields = gguf.GGUFReader(demo_family["base"]).fields
    return {name: fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type", "eos_token_id")}


def engine_rows(eft: EFT, windows: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """(N_WINDOWS * WINDOW, n_vocab) raw logits of each member."""
    found = []
    for member in eft._engine.ensemble.members:
        rows = []
        for window in windows.tolist():
            member.clear(0)
            for start in range(0, WINDOW, CHUNK):
                member.decode(0, window[start : start + CHUNK], CHUNK)
                rows += [member.row(0, start + i + 1)[: eft.n_vocab].copy() for i in range(CHUNK)]
        member.clear(0)
        found.append(np.array(rows))
    return found


def engine_composite(eft: EFT, rows: list[NDArray[np.float32]], knobs: Knobs) -> Floats:
    """(N_WINDOWS * WINDOW, n_vocab) float64 log-probabilities of the engine's composite."""
    recipe, out = Recipe.of(knobs, eft._engine.ensemble.roles), np.empty(eft.n_vocab, np.float32)
    combine = eft._engine.composite.combine
    scores = [combine([row[i] for row in rows], recipe, out).astype(np.float64) for i in range(len(rows[0]))]
    return log_softmax(np.array(scores))


@pytest.fixture(scope="module", params=["f32", "f16"])
def engine(request: pytest.FixtureRequest, windows: NDArray[np.int64]) -> Iterator[tuple[str, EFT, list[Any]]]:
    """The engine with caches of this type, and its members' rows."""
    kv = str(request.param)
    with EFT(n_threads=1, speculative=False, type_k=kv, type_v=kv, flash_attn=False) as eft:
        yield kv, eft, engine_rows(eft, windows)


@pytest.mark.parametrize("name", KNOBS)
def test_numpy_gives_the_same_composite(
    engine: tuple[str, EFT, list[Any]], independent: dict[str, Floats], vocabulary: dict[str, Any], name: str
) -> None:
    kv, eft, rows = engine
    knobs, end = KNOBS[name], vocabulary["eos_token_id"]
    control = [i for i, kind in enumerate(vocabulary["token_type"]) if kind == gguf.TokenType.CONTROL or i == end]
    assert control
    pairs = zip(("tuned", "refusing"), knobs.alphas, strict=True)
    deltas = [(independent[part], independent["reference"], alpha) for part, alpha in pairs]
    p = composite(independent["base"], deltas, knobs, control)
    q = engine_composite(eft, rows, knobs)
    kl = (np.exp(p) * (p - q)).sum(-1)  # (positions,)
    print(f"{name}, {kv} caches: mean KL {kl.mean():.1e}, largest {kl.max():.1e}, {kl.size} positions")
    assert kl.size >= 2000
    assert kl.min() > -1e-9
    assert kl.mean() <= 1e-4
    assert float((p.argmax(-1) == q.argmax(-1)).mean()) > 0.995


def test_numpy_gives_the_same_members(engine: tuple[str, EFT, list[Any]], independent: dict[str, Floats]) -> None:
    kv, eft, rows = engine
    parts = dict(zip(PARTS, rows, strict=True))
    assert eft.members == ("base", "tuned", "reference", "tuned:harmless")
    for part, row in parts.items():
        p, q = independent[part], log_softmax(row.astype(np.float64))
        kl = (np.exp(p) * (p - q)).sum(-1)
        print(f"{part}, {kv} caches: mean KL {kl.mean():.1e}, largest {kl.max():.1e}")
        assert kl.mean() <= 1e-4


def test_ids_mean_what_the_file_says(demo_eft: EFT, vocabulary: dict[str, Any]) -> None:
    texts = vocabulary["tokens"]
    for id_ in demo_eft.tokenize(b"The town of Dunmoor lies on the river."):
        assert texts[id_].replace("Ġ", " ").encode() == demo_eft.detokenize([id_])


def test_the_comparison_would_notice_a_wrong_term(
    engine: tuple[str, EFT, list[Any]], independent: dict[str, Floats]
) -> None:
    """Tuned and reference exchanged; a strength of 0.9 in place of 1."""
    _, eft, rows = engine
    knobs = Knobs((1.0, 0.0), control_tokens=False)
    q = engine_composite(eft, rows, knobs)
    for tuned, reference, alpha in (("reference", "tuned", 1.0), ("tuned", "reference", 0.9)):
        p = composite(independent["base"], [(independent[tuned], independent[reference], alpha)], knobs, [])
        assert (np.exp(p) * (p - q)).sum(-1).mean() > 1e-4
