"""Roles and plans on a tiny family: what is compared, what is left out, and that a plan's figure is what it runs at."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from eftlite.composite import Composite, Recipe
from eftlite.errors import InputError
from eftlite.family import load_family
from eftlite.settings import Delta, Family, Knobs, ModelSettings
from eftlite_quantize.bases import scored_rows
from eftlite_quantize.evaluate import Evaluator
from eftlite_quantize.plan import budget, choose, front
from eftlite_quantize.record import Run, Text, record
from eftlite_quantize.recorded import load_index, open_recording
from eftlite_quantize.replay import Setting, replay, usual
from eftlite_quantize.roles import ALIKE, ALL, DIFFERENT, combinations, files_of, swaps
from tests.quantize.commands import quantize
from tests.tiny_gguf import write_family

RUN = ModelSettings(n_threads=1)
TYPES = ["Q8_0", "Q4_0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of a tiny family, and of two types that the verb made."""
    folder = tmp_path_factory.mktemp("family")
    write_family(folder, seed=3)
    (folder / "text.txt").write_text("a lazy dog and a quick fox " * 30)
    base, tuned, reference = (str(folder / f"{name}.gguf") for name in ("base", "tuned", "reference"))
    family = Family("tiny", base, (Delta("helpful", tuned, reference),))
    record(family, Text(folder / "text.txt", n_ctx=120, n_chunks=4), Run(folder / "out", RUN))
    result = quantize("family", folder / "out", "--types", ",".join(TYPES), "-t", "1", "--json")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["combinations"]) == len(combinations(["base", "tuned", "reference"], TYPES))
    return folder / "out"


def test_combinations() -> None:
    found = combinations(["base", "tuned", "reference"], TYPES)
    counts = {what: sum(one == what for one, _ in found) for what, _ in found}
    assert counts == {"base": 2, "tuned": 2, "reference": 2, ALIKE: 2, DIFFERENT: 2, ALL: 2}
    assert combinations(["base"], ["Q8_0"]) == [("base", {"base": "Q8_0"})]


def test_a_sum_is_that_of_the_members_alone(folder: Path) -> None:
    found = {(one.what, *one.kinds.values()): one for one in swaps(folder, load_index(folder), TYPES)}
    both = found[ALIKE, "Q4_0", "Q4_0"]
    alone = [found[name, "Q4_0"].score.kld.value for name in ("tuned", "reference")]
    assert both.alone == pytest.approx(sum(alone))
    assert min(alone) > found["tuned", "Q8_0"].score.kld.value > 0
    assert found["tuned", "Q4_0"].ratio == 1


def test_a_type_that_is_not_recorded(folder: Path) -> None:
    index = load_index(folder)
    for types in (["Q6_K"], []):
        with pytest.raises(InputError, match="recorded type"):
            swaps(folder, index, types)


def test_the_front_is_that_of_all_combinations(folder: Path) -> None:
    index = load_index(folder)
    every = [dict(zip(index.members, kinds, strict=True)) for kinds in product(["F32", *TYPES], repeat=3)]
    every = [{name: index.members[name][0].kind if k == "F32" else k for name, k in one.items()} for one in every]
    scores = replay(folder, index, [Setting("", usual(index).knobs, files_of(index, one)) for one in every])
    sizes = [sum(index.find(name, kind).n_bytes for name, kind in one.items()) for one in every]
    points = [(n, one.kld.value) for n, one in zip(sizes, scores, strict=True)]
    best = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    found = front(folder, index, 64)
    caches = found[-1].n_bytes - max(sizes)
    assert {(one.n_bytes - caches, one.score.kld.value) for one in found} == best
    for one in found:
        assert choose(found, one.n_bytes) is one
    with pytest.raises(InputError, match="at least"):
        choose(found, found[0].n_bytes - 1)


@pytest.mark.parametrize(("text", "n"), [("8G", 2**33), ("1.5MiB", 3 * 2**19), ("100", 100), ("2kb", 2048)])
def test_budgets(text: str, n: int) -> None:
    assert budget(text) == n


@pytest.mark.parametrize("text", ["", "G", "-1G", "nan", "inf", "8X"])
def test_bad_budgets(text: str) -> None:
    with pytest.raises(InputError, match="--ram"):
        budget(text)


def rows_of(folder: Path, family: Family) -> list[np.ndarray]:
    """Logits of base, tuned and reference at all scored positions, from the models."""
    index = load_index(folder)
    with open_recording(folder, index, index.members["base"][0]) as one:
        tokens, n_vocab = one.tokens, one.head.n_vocab
    found = []
    for path in (family.base, family.deltas[0].tuned, family.deltas[0].reference):
        with Evaluator(path, tokens.shape[1], RUN) as model:
            pieces = [piece[:, :n_vocab].copy() for ids in tokens for piece in scored_rows(model, ids)]
        found.append(np.concatenate(pieces))
    return found


def test_what_is_planned_is_what_runs(folder: Path, tmp_path: Path) -> None:
    index = load_index(folder)
    choices = front(folder, index, 64)
    limit = choices[len(choices) // 2].n_bytes
    result = quantize("plan", folder, "--ram", limit, "-c", 64, "--write", tmp_path / "f.toml", "--json")
    assert result.exit_code == 0, result.output
    planned = json.loads(result.stdout)["choice"]
    assert planned["bytes"] <= limit
    originals = [index.members[name][0].path for name in ("base", "tuned", "reference")]
    full = Family("", originals[0], (Delta("helpful", originals[1], originals[2]),))
    composite = Composite(512, np.array(index.control, np.int32), np.array(index.masked, np.int32))
    recipe = Recipe.of(Knobs((1.0,)), index.roles)
    laws = []
    for family in (full, load_family(tmp_path / "f.toml")):
        rows = zip(*rows_of(folder, family), strict=True)
        scores = np.array([composite.combine(list(r), recipe, np.empty(512, np.float32)).astype(float) for r in rows])
        laws.append(scores - np.log(np.exp(scores).sum(1, keepdims=True)))
    p, q = laws
    measured = (np.exp(p) * (p - q)).sum(1).mean()
    assert planned["kld"]["value"] == pytest.approx(measured, rel=0.05)
