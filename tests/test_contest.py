"""Plans are checked, grids are whole, and coins keep the rate they were asked for while all the work is done."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eftlite import contest
from eftlite.contest import ADVERSARIAL, Contender, Plan, Trial, contenders, judge, synthetic
from eftlite.errors import InputError
from eftlite.noise import Noise
from eftlite.settings import Delta, Family, Knobs, Speculation
from eftlite.verify import EXPECTED_ACCEPTANCE, Law, Verdict, draw

LAW = Law(np.arange(5, dtype=np.int32), np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05])))
FAMILY = Family("two", "b.gguf", (Delta("kind", "t.gguf", "r.gguf", 0.5), Delta("safe", "u.gguf", "r.gguf", 0.0)))


# --- plans ---


@pytest.mark.parametrize(
    ("test", "name"),
    [
        (Trial(512, 0, 0), "pp512"),
        (Trial(0, 128, 0), "tg128"),
        (Trial(0, 128, 1024), "tg128 @ d1024"),
        (Trial(16, 0, 4), "pp16 @ d4"),
    ],
)
def test_names_are_llama_benchs(test: Trial, name: str) -> None:
    assert test.name == name


def test_grid_of_tests() -> None:
    plan = Plan(n_prompt=(512, 0), n_gen=(128, 16), n_depth=(0, 64))
    assert [test.name for test in plan.tests] == ["pp512", "tg128", "tg16", "pp512 @ d64", "tg128 @ d64", "tg16 @ d64"]


def test_warming_up_is_short() -> None:
    assert Trial(0, 128, 7).shortened(32) == Trial(0, 32, 7)
    assert Trial(8, 0, 0).shortened(32) == Trial(8, 0, 0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"n_prompt": (-1,)}, "n_prompt"),
        ({"n_gen": ()}, "n_gen"),
        ({"n_depth": (0, -4)}, "n_depth"),
        ({"repetitions": 0}, "repetitions"),
        ({"n_prompt": (0,), "n_gen": (0,)}, "to read or to make"),
        ({"modes": ("base", "fast")}, "'fast'"),
        ({"acceptances": (1.1,)}, "acceptance"),
        ({"acceptances": (math.nan,)}, "acceptance"),
        ({"acceptances": ("hostile",)}, "adversarial"),
        ({"rules": ("luck",)}, "rule"),
        ({"n_drafts": (0,)}, "n_draft"),
        ({"drafters": ("a.gguf", "b.gguf")}, "one file"),
        ({"questions": ()}, "questions"),
    ],
)
def test_values_that_cannot_be_used_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Plan(**options)


# --- contenders ---


def test_all_modes_by_default_with_their_knobs() -> None:
    found = {one.mode: one.knobs for one in contenders(Plan(), FAMILY)}
    assert found == {
        "base": Knobs((0.0, 0.0)),
        "tuned": Knobs((1.0, 0.0), beta=0.0),
        "eft": Knobs((0.5, 0.0)),
        "eft-spec": Knobs((0.5, 0.0)),
    }


def test_knobs_of_ones_own_are_eft_s() -> None:
    own = Knobs((2.0, 1.0), beta=1.5)
    found = {one.mode: one.knobs for one in contenders(Plan(knobs=own), FAMILY)}
    assert (found["eft"], found["eft-spec"], found["base"]) == (own, own, Knobs((0.0, 0.0)))


def test_every_way_to_draft_is_a_contender() -> None:
    plan = Plan(modes=("eft-spec", "base"), drafters=("auto", "lookup"), rules=("block",), acceptances=(None, 0.8))
    labels = [one.label for one in contenders(plan, FAMILY)]
    assert labels == [
        "base",
        "eft-spec auto block",
        "eft-spec auto block 0.8",
        "eft-spec lookup block",
        "eft-spec lookup block 0.8",
    ]


def test_base_alone_has_one_mode() -> None:
    alone = Family("alone", "b.gguf")
    assert [one.mode for one in contenders(Plan(), alone)] == ["base"]
    with pytest.raises(InputError, match="base alone"):
        contenders(Plan(modes=("base", "eft")), alone)


def test_drafter_file_goes_by_its_members_name(tmp_path: Path) -> None:
    family = replace(FAMILY, deltas=(Delta("kind", str(tmp_path / "t.gguf"), str(tmp_path / "r.gguf")),))
    for file, name in (("other.gguf", "drafter"), ("t.gguf", "tuned")):
        plan = Plan(modes=("eft-spec",), drafters=(str(tmp_path / file),))
        (one,) = contenders(plan, family)
        assert one.speculation is not None
        assert (plan.drafter_file, one.speculation.drafter) == (str(tmp_path / file), name)


class FakePlanner:
    """Counts how often it is made; keeps what it is asked for."""

    made = 0

    def __init__(self, *_: object, curves: object) -> None:
        FakePlanner.made += 1

    def rounds(self, *arguments: object) -> Any:
        return arguments


@pytest.mark.parametrize(("acceptance", "expected"), [(None, 1), (0.5, 1), (ADVERSARIAL, 3)])
def test_only_an_adversary_meets_a_new_pace_each_time(
    acceptance: float | str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contest, "Planner", FakePlanner)
    monkeypatch.setattr(FakePlanner, "made", 0)
    one = Contender("eft-spec", Knobs(), Speculation(), acceptance)
    nothing: Any = None
    asked: Any = [one.rounds(nothing, {}, nothing) for _ in range(3)]
    assert FakePlanner.made == expected
    assert (asked[0][2] is None) == (acceptance is None)


def test_plain_modes_are_never_drafted() -> None:
    nothing: Any = None
    assert Contender("eft", Knobs()).rounds(nothing, {}, nothing) is None


# --- synthetic acceptance ---


def outcome(rate: float, n: int = 4, position: int = 0, all_rows: bool = False) -> tuple[Verdict, list[int]]:
    """A verdict on a draft of token 4, the unlikeliest, and the rows it looked at."""
    asked: list[int] = []

    def target(i: int) -> Law:
        asked.append(i)
        return LAW

    return synthetic(rate, all_rows)([4] * n, [LAW] * n, target, Noise(7), position, position), asked


@pytest.mark.parametrize("rate", [0.2, 0.8, 0.95])
def test_tokens_are_kept_at_the_rate(rate: float) -> None:
    """The mean of n coins is within 4 standard deviations of the rate but once in 16,000 seeds; the seed is fixed."""
    kept = tried = 0
    for position in range(0, 8000, 4):
        verdict, _ = outcome(rate, position=position)
        kept += verdict.n_accepted
        tried += min(verdict.n_accepted + 1, 4)
    assert kept / tried == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / tried))


@pytest.mark.parametrize(("rate", "n_accepted", "rows"), [(0.0, 0, [0]), (1.0, 4, [0, 1, 2, 3, 4])])
def test_rows_are_asked_for_as_a_rule_would(rate: float, n_accepted: int, rows: list[int]) -> None:
    verdict, asked = outcome(rate)
    assert (verdict.n_accepted, asked) == (n_accepted, rows)


def test_block_looks_at_every_row_of_the_draft() -> None:
    verdict, asked = outcome(0.0, all_rows=True)
    assert (verdict.n_accepted, asked) == (0, [0, 1, 2, 3])


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_token_after_the_draft_is_the_laws_own(rate: float) -> None:
    verdict, _ = outcome(rate, position=100)
    assert verdict.token == draw(LAW, Noise(7), 100 + verdict.n_accepted)


def test_pace_sees_the_rate_and_the_real_estimate_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    estimates: list[float] = []

    def counted(p: Law, q: Law) -> float:
        estimates.append(1.0)
        return 0.123

    monkeypatch.setitem(EXPECTED_ACCEPTANCE, "token", counted)
    expected = judge(0.8, "token").expected
    assert expected is not None
    assert (expected(LAW, LAW), len(estimates)) == (0.8, 1)


def test_an_adversary_gives_the_pace_no_estimate() -> None:
    decide, expected = judge(ADVERSARIAL, "gumbel")
    assert expected is None
    assert decide([0, 1], [LAW, LAW], lambda _: LAW, Noise(1), 0, 1).n_accepted == 0
