"""Replay: the same as the composite a row at a time, sweeps, and what the verb prints."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eftlite.composite import Composite, Recipe
from eftlite.errors import InputError
from eftlite.settings import Knobs
from eftlite_quantize.recorded import Index, load_index, open_recording
from eftlite_quantize.replay import Setting, originals, replay, usual
from eftlite_quantize.sweeps import settings, values
from tests.quantize.commands import quantize
from tests.quantize.tiny_recordings import recordings

KNOBS = [
    Knobs((1.0,)),
    Knobs((0.0,)),
    Knobs((0.7,), beta=1.5),
    Knobs((1.0,), beta=0.0),
    Knobs((1.3,), conservative_p=0.5),
    Knobs((1.3,), beta=2.0, conservative_p=0.9, control_tokens=False),
    Knobs((0.0,), beta=1.4, conservative_p=0.5),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of a tiny family: 4 chunks of 120 tokens."""
    return recordings(tmp_path_factory.mktemp("recorded"))


def naive(folder: Path, index: Index, knobs: Knobs) -> tuple[float, float, float]:
    """NLL, TV and KLD by the composite, a row at a time, in float64."""
    recordings = [open_recording(folder, index, entries[0]) for entries in index.members.values()]
    rows = [[np.concatenate(list(one.pieces(i))) for i in range(one.head.n_chunks)] for one in recordings]
    n_vocab = recordings[0].head.n_vocab
    composite = Composite(n_vocab, np.array(index.control, np.int32), np.array(index.masked, np.int32))

    def law(knobs: Knobs, chunk: int, position: int) -> np.ndarray:
        given = [one[chunk][position] for one in rows]
        scores = composite.combine(given, Recipe.of(knobs, index.roles), np.empty(n_vocab, np.float32)).astype(float)
        p = np.exp(scores - scores.max())
        total: np.ndarray = p / p.sum()
        return total

    totals, n = np.zeros(3), 0
    for chunk in range(recordings[0].head.n_chunks):
        for position in range(len(rows[0][chunk])):
            target = recordings[0].tokens[chunk, recordings[0].head.n_ctx // 2 + 1 + position]
            p, base = law(knobs, chunk, position), law(Knobs((1.0,)), chunk, position)
            tuned = np.exp(rows[1][chunk][position].astype(float))
            there = (base > 0) & (p > 0)
            kld = (base[there] * np.log(base[there] / p[there])).sum()
            totals += (-math.log(p[target]), 0.5 * np.abs(p - tuned).sum(), kld)
            n += 1
    for one in recordings:
        one.close()
    nll, shift, kld = totals / n
    return nll, shift, kld


def test_it_is_the_composite(folder: Path) -> None:
    index = load_index(folder)
    with open_recording(folder, index, index.members["base"][0]) as one:
        never = np.setdiff1d(np.arange(one.head.n_vocab - 3), one.tokens)[[5, 50, 100]]
    index = replace(index, masked=tuple(never.tolist()))  # their -inf must not become NaN
    found = replay(folder, index, [Setting("", knobs, originals(index)) for knobs in KNOBS])
    for knobs, score in zip(KNOBS, found, strict=True):
        expected = naive(folder, index, knobs)
        got = (score.nll.value, score.shift.value, score.kld.value)
        assert np.allclose(got, expected, rtol=2e-4, atol=2e-5), knobs


def test_the_family_as_it_is_has_no_divergence_from_itself(folder: Path) -> None:
    index = load_index(folder)
    (found,) = replay(folder, index, [usual(index)])
    assert found.kld.value == 0
    assert found.nll.bootstrap is not None
    assert 1 < found.tokens(4) <= 5
    (tuned,) = replay(folder, index, [Setting("tuned", Knobs.alone("tuned", 1), originals(index))])
    assert tuned.shift.value < 1e-3
    assert tuned.tokens(4) == pytest.approx(5, abs=0.02)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("alpha=0:1:.25", [0, 0.25, 0.5, 0.75, 1]), ("beta=1,2", [1, 2]), ("alpha=0:2:.1", [i / 10 for i in range(21)])],
)
def test_sweep_values(text: str, expected: list[float]) -> None:
    assert values(text)[1] == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["alpha", "alpha=", "alpha=0:1", "alpha=0:1:0", "alpha=0:1e9:1", "alpha=1:0:.1", "=1:2:x"]
)
def test_bad_sweeps(text: str) -> None:
    with pytest.raises(InputError, match="--sweep"):
        values(text)


def test_combinations() -> None:
    found = settings(Knobs((1.0, 0.5)), ["a", "b"], ["alpha=0,1", "b=2,3,4"])
    assert [knobs.alphas for _, knobs in found] == [(0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4)]
    assert found[1][0] == "alpha=0 b=3"
    for bad in (["gamma=1"], ["alpha=1", "alpha=2"], ["alpha=-1"], ["alpha=0:9:.001", "beta=0:9:.001"]):
        with pytest.raises(InputError):
            settings(Knobs((1.0,)), ["a"], bad)


def test_the_verb(folder: Path, tmp_path: Path) -> None:
    result = quantize("replay", folder, "--sweep", "alpha=0:1:.5")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["setting", "alpha=0", "alpha=0.5", "alpha=1"]
    out = tmp_path / "s.json"
    drawn = tmp_path / "s.svg"
    result = quantize("replay", folder, "--sweep", "alpha=0:1:.5", "--json", "-o", out, "--plot", drawn)
    assert result.exit_code == 0, result.output
    assert [one["alphas"] for one in json.loads(out.read_text())["settings"]] == [[0.0], [0.5], [1.0]]
    assert "<svg" in drawn.read_text()
    for words in (["--use", "base=Q9"], ["--use", "basis=F16"], ["--plot", "x.svg"], ["--plot", "x.txt"]):
        assert quantize("replay", folder, *words).exit_code == 2, words
