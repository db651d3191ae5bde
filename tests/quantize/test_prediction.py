"""Predicted speed: the same costs as a loaded family's, nothing without curves, and what the verb prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from eftlite.composite import Recipe
from eftlite.costs import CostCurve, save_curve
from eftlite.loading import Engine, load
from eftlite.pace import seconds_per_token
from eftlite.settings import Delta, Family, Knobs
from eftlite.timing import costs
from eftlite_quantize import prediction
from eftlite_quantize.metrics import Figure
from eftlite_quantize.prediction import CURVES, speeds
from eftlite_quantize.recorded import Index, load_index
from eftlite_quantize.replay import Score, Setting, originals, replay
from tests.quantize.commands import quantize
from tests.quantize.tiny_recordings import MEMBERS, RUN, recordings

LARGE = CostCurve.of({1: 0.1, 2: 0.11, 4: 0.12, 8: 0.15, 17: 0.3})
SMALL = CostCurve.of({1: 0.01, 2: 0.012, 4: 0.015, 17: 0.03})
ROWS = (0.002, 0.001)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recordings(tmp_path_factory.mktemp("recorded"))


@pytest.fixture
def folder(made: Path) -> Iterator[Path]:
    """Recordings that nobody has timed."""
    yield made
    (made / CURVES).unlink(missing_ok=True)


def timed(folder: Path, index: Index) -> None:
    """Keep made-up times of all models and rows."""
    for name, (entry,) in index.members.items():
        save_curve(folder / CURVES, prediction._key(entry.sha256), LARGE if name == "base" else SMALL)
    for what, seconds in zip((prediction._LAW, prediction._DRAFTED_LAW), ROWS, strict=True):
        save_curve(folder / CURVES, prediction._key(what), CostCurve.of({1: seconds}))


def scored(index: Index, knobs: Knobs, acceptance: float = 0.8) -> Score:
    (one,) = replay_of(index, [knobs])
    return replace(one, shift=Figure(1 - acceptance))


def replay_of(index: Index, knobs: list[Knobs]) -> list[Score]:
    folder = Path(index.members["base"][0].path).parent / "out"
    return replay(folder, index, [Setting("", one, originals(index)) for one in knobs])


@pytest.fixture(scope="module")
def engine(made: Path) -> Iterator[Engine]:
    folder = made.parent
    family = Family("tiny", str(folder / "base.gguf"), (Delta("d", *pair(folder)),))
    found = load(family, 64, 1, RUN)
    yield found
    found.close()


def pair(folder: Path) -> tuple[str, str]:
    return str(folder / "tuned.gguf"), str(folder / "reference.gguf")


@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("knobs", [Knobs((1.0,)), Knobs((0.5,), beta=2.0), Knobs((0.0,), beta=2.0)])
def test_costs_are_those_of_the_loaded_family(folder: Path, engine: Engine, knobs: Knobs, acceptance: float) -> None:
    index = load_index(folder)
    timed(folder, index)
    (found,) = speeds(folder, index, [scored(index, knobs, acceptance)]) or []
    curves = {name: LARGE if name == "base" else SMALL for name in MEMBERS}
    needed = Recipe.of(knobs, engine.ensemble.roles).needed
    real = costs(engine.ensemble, needed, 1, curves, ROWS, "token")
    seconds = seconds_per_token(real, acceptance, 16)
    assert found.plain == pytest.approx(1 / seconds[0])
    assert found.drafted == pytest.approx(1 / min(seconds))
    assert seconds[found.n_draft] == min(seconds)
    assert (found.n_draft > 0) == (acceptance > 0.2)


def test_one_member_alone_drafts_nothing(folder: Path) -> None:
    index = load_index(folder)
    timed(folder, index)
    found = speeds(folder, index, [scored(index, Knobs((0.0,)))]) or []
    assert [(one.n_draft, one.drafted) for one in found] == [(0, found[0].plain)]
    assert found[0].plain == pytest.approx(1 / (0.1 + ROWS[0]))


def test_no_curves_no_speed(folder: Path) -> None:
    index = load_index(folder)
    scores = [scored(index, Knobs((1.0,)))]
    assert speeds(folder, index, scores) is None
    timed(folder, index)
    assert speeds(folder, index, scores)
    (folder / CURVES).write_text("{ damaged")
    assert speeds(folder, index, scores) is None


def test_times_of_another_machine_do_not_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = load_index(folder)
    timed(folder, index)
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    assert speeds(folder, index, [scored(index, Knobs((1.0,)))]) is None


def test_the_verb(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFTLITE_CACHE_DIR", str(tmp_path))
    result = quantize("replay", folder)
    assert result.exit_code == 0, result.output
    assert "--speed times each model once" in " ".join(result.stdout.split())
    assert "plain t/s" not in result.stdout
    assert quantize("replay", folder, "--speed", "-t", "1").exit_code == 0
    kept = (folder / CURVES).read_bytes()
    result = quantize("replay", folder, "--sweep", "alpha=0,1", "--speed")
    assert result.stdout.splitlines()[0].split()[-3:] == ["drafted", "t/s", "draft"]
    assert "--speed" not in result.stdout
    assert (folder / CURVES).read_bytes() == kept  # nothing is timed twice
    found = json.loads(quantize("replay", folder, "--sweep", "alpha=0,1", "--json").stdout)["settings"]
    assert [one["speed"]["plain"] > 0 for one in found] == [True, True]
    assert found[0]["speed"]["n_draft"] == 0
    assert found[0]["speed"]["plain"] > found[1]["speed"]["plain"]  # the base alone
