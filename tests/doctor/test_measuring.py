"""A family at work: curves against those that were kept, fewer questions where time is short, figures by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eftlite.composite import Recipe
from eftlite.costs import CostCurve, load_curve, save_curve
from eftlite.doctor import measuring
from eftlite.doctor.measuring import measure, timed
from eftlite.doctor.walking import Walker
from eftlite.loading import Engine, load
from eftlite.places import cache_folder
from eftlite.settings import Knobs, ModelSettings
from eftlite.timing import curve_key
from tests.doctor.ill import case
from tests.tiny_gguf import write_family


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A tiny family, loaded."""
    files = write_family(tmp_path, seed=1)
    subject = case(files["base"], files["tuned"], files["reference"])
    with closing(load(subject.family, None, 1, ModelSettings(n_threads=1))) as loaded:
        yield loaded


def silent(_: str) -> None:
    pass


def test_curves_are_kept_unless_the_machine_is_busy(engine: Engine) -> None:
    path, base = cache_folder() / "curves.json", engine.ensemble.members[0]
    _, stale = timed(engine, silent, busy=0.9)
    assert (stale, path.exists()) == (1.0, False)
    curves, stale = timed(engine, silent, busy=0.0)
    assert stale == 1.0
    assert load_curve(path, curve_key(base)) == curves["base"]


@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_kept_curves_that_are_off_are_told(factor: float, engine: Engine) -> None:
    path, base = cache_folder() / "curves.json", engine.ensemble.members[0]
    curves, _ = timed(engine, silent, busy=1.0)
    wrong = CostCurve(tuple((n, seconds * factor) for n, seconds in curves["base"].points))
    save_curve(path, curve_key(base), wrong)
    _, stale = timed(engine, silent, busy=0.0)
    assert 10.0 < stale < 1000.0
    assert load_curve(path, curve_key(base)) == wrong  # looking mends nothing


def test_a_slow_machine_is_asked_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_family(tmp_path, seed=1)
    monkeypatch.setattr(measuring, "busy_share", lambda: 0.0)
    monkeypatch.setattr(measuring, "BUDGET_S", 0.0)
    told: list[str] = []
    measured = measure(case(files["base"], files["tuned"], files["reference"]), told.append)
    assert len(measured.answers) == len(measured.ends) == measuring.MIN_QUESTIONS
    assert max(answer.n_tokens for answer in measured.answers) <= measuring.MIN_TOKENS
    assert max(end.n_tokens for end in measured.ends) <= measuring.MIN_TUNED_TOKENS
    assert told[-1] == "asking tuned, 2 of 3"


def test_figures_of_one_token_are_the_formulas(engine: Engine) -> None:
    """Total variation and changes at the first token of an answer, by numpy in float64."""
    knobs, prompt = Knobs((1.0,)), [5, 6, 7]
    found = Walker(engine, knobs).answer(prompt, 1)
    engine.ensemble.begin(0, [prompt] * 3)
    rows = engine.ensemble.rows(0, range(3))
    scores = engine.composite.combine(rows, Recipe.of(knobs, engine.ensemble.roles), np.empty(512, np.float32))

    def law(row: Any) -> Any:
        exps = np.exp(np.asarray(row, np.float64) - np.max(row))
        return exps / exps.sum()  # (n_vocab,)

    composite, base, tuned = (law(row) for row in (scores, rows[0], rows[1]))
    assert found.n_tokens == 1
    assert found.tv_tuned == pytest.approx(0.5 * np.abs(composite - tuned).sum(), abs=1e-5)
    assert found.tv_base == pytest.approx(0.5 * np.abs(composite - base).sum(), abs=1e-5)
    best = composite.argmax()
    assert found.changed_tuned == int(best != tuned.argmax())
    assert found.changed_base == int(best != base.argmax())
    assert found.unwanted == int(max(base[best], tuned[best]) < 0.01)
    assert 0.0 <= found.acceptance <= 1.0
