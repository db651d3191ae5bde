"""Whether and how an answer is drafted, in plain words; curves measured once for all answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from eftlite import EFT
from eftlite.costs import CostCurve
from eftlite.errors import InputError
from eftlite.planning import Planner
from eftlite.settings import Knobs, Limits, Sampling, Speculation
from tests.fakes import GREEDY, close_family, tiny_eft, watched_decodes

FOUR = Speculation(n_draft=4)


@pytest.fixture(scope="module")
def eft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EFT]:
    """A tiny family that measures nothing."""
    with tiny_eft(tmp_path_factory.mktemp("planning"), FOUR) as made:
        yield made


def said(
    eft: EFT, speculation: Speculation | None = None, sampling: Sampling = GREEDY, knobs: Knobs | None = None
) -> str:
    """What an answer's statistics say of speculation."""
    answer = eft.complete("ab", sampling=sampling, limits=Limits(6), speculation=speculation, knobs=knobs)
    answer.text()
    eft.validate()
    return answer.statistics.speculation


# ---- why not


def test_the_reason_for_not_drafting_is_said(eft: EFT, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(eft) == "tuned, gumbel"
    assert said(eft, Speculation(enabled=False)) == "off: switched off"
    assert said(eft, sampling=Sampling(mirostat=2, seed=1)) == "off: mirostat draws by itself"
    assert said(eft, sampling=Sampling(mirostat=2, temperature=0.0)) == "tuned, gumbel"  # which is greedy
    assert said(eft, knobs=Knobs((0.0,))) == "off: one member answers alone"
    assert said(eft, knobs=Knobs((1.0,), beta=0.0)) == "off: one member answers alone"
    assert said(eft, Speculation()) == "off: no cost curves were measured"
    monkeypatch.setattr(eft._engine.ensemble.members[2], "can_rewind", False)
    assert said(eft) == "off: reference cannot drop a part of its memory"


def test_a_batch_of_one_leaves_no_room(tmp_path: Path) -> None:
    with tiny_eft(tmp_path, FOUR, n_batch=1) as eft:
        assert said(eft) == "off: n_batch leaves no room for a draft"


def test_a_base_alone_has_nobody_to_draft(tmp_path: Path) -> None:
    with EFT(close_family(tmp_path)["base"], n_threads=1) as eft:
        assert said(eft) == "off: one member answers alone"
        assert said(eft, Speculation(drafter="lookup", n_draft=2)) == "lookup, gumbel"
        assert said(eft, Speculation(drafter="lookup+auto", n_draft=2)) == "lookup, gumbel"


# ---- who drafts


@pytest.mark.parametrize(
    ("drafter", "words"),
    [
        ("auto", "tuned, block"),
        ("lookup", "lookup, block"),
        ("lookup+auto", "lookup+tuned, block"),
        ("reference", "reference, block"),
        ("lookup+base", "lookup+base, block"),
    ],
)
def test_drafters_and_rules_are_named(eft: EFT, drafter: str, words: str) -> None:
    assert said(eft, Speculation(drafter=drafter, rule="block", n_draft=3)) == words


def test_a_drafter_may_stand_outside_the_composite(eft: EFT) -> None:
    assert said(eft, Speculation(drafter="tuned", n_draft=3), knobs=Knobs((0.0,))) == "tuned, gumbel"


def test_unknown_drafters_are_refused_with_those_that_exist(eft: EFT) -> None:
    with pytest.raises(InputError, match=r"drafter: expected .* \(base, tuned, reference\), got 'nobody'"):
        said(eft, Speculation(drafter="nobody", n_draft=2))


def test_auto_is_the_strongest_deltas_tuned_model(tmp_path: Path) -> None:
    from eftlite.settings import Delta, Family
    from tests.tiny_gguf import write_model

    files = close_family(tmp_path)
    other = str(write_model(tmp_path / "other.gguf", seed=1, noise=0.08, noise_seed=14))
    deltas = tuple(Delta(n, t, files["reference"]) for n, t in (("kind", files["tuned"]), ("brief", other)))
    with EFT(family=Family("two", files["base"], deltas), n_threads=1, speculative=FOUR) as eft:
        assert eft.members == ("base", "tuned", "reference", "tuned:brief")
        assert said(eft, knobs=Knobs((1.0, 0.2))) == "tuned, gumbel"
        assert said(eft, knobs=Knobs((0.2, 1.0))) == "tuned:brief, gumbel"


# ---- how long


@pytest.mark.parametrize(("n_draft", "n_batch", "longest"), [(20, 512, 20), (64, 512, 63), (64, 8, 7), (3, 512, 3)])
def test_drafts_fit_into_one_batch(tmp_path: Path, n_draft: int, n_batch: int, longest: int) -> None:
    """Longer than max_draft's default, than the rows that a decode keeps, than the batch."""
    with tiny_eft(tmp_path, n_batch=n_batch) as eft:
        plain = eft.complete("ab", sampling=GREEDY, limits=Limits(100), speculation=Speculation(enabled=False)).text()
        answer = eft.complete("ab", sampling=GREEDY, limits=Limits(100), speculation=Speculation(n_draft=n_draft))
        assert answer.text() == plain
        drafts = answer.statistics.drafts
        assert drafts is not None
        assert max(drafts.lengths) == longest
        eft.validate()


def test_curves_are_measured_once_and_kept(tmp_path: Path) -> None:
    told: list[str] = []

    def progress(name: str, done: float) -> None:
        if name.startswith("timing"):
            told.append(name)

    for _ in range(2):
        with tiny_eft(tmp_path, speculative=True, progress=progress) as eft, watched_decodes() as seen:
            assert said(eft) == "tuned, gumbel"
            assert seen.n_tokens < 100
    assert told == ["timing base"]  # the three are of one shape and share the curve


def test_a_damaged_store_is_measured_again(tmp_path: Path, user_directories: Path) -> None:
    store = user_directories / "cache" / "curves.json"
    with tiny_eft(tmp_path, speculative=True):
        pass
    assert store.exists()
    store.write_text('{"format": 1, "curves": "none"}')
    with tiny_eft(tmp_path, speculative=True) as eft:
        assert said(eft) == "tuned, gumbel"


def test_one_pace_learns_from_answer_to_answer(tmp_path: Path) -> None:
    with tiny_eft(tmp_path, speculative=True) as eft:
        said(eft)
        (pace,) = eft._planner._paces.values()
        said(eft)
        assert list(eft._planner._paces.values()) == [pace]
        said(eft, Speculation(rule="block"))
        assert len(eft._planner._paces) == 2


def test_given_curves_are_used_in_place_of_measured_ones(eft: EFT) -> None:
    curves = {name: CostCurve.of({1: 1.0, 8: 1.1}) for name in eft.members}
    with watched_decodes() as seen:
        planner = Planner(eft._engine, Speculation(), curves=curves)
    assert seen.sizes == []
    assert planner._curves == curves
    off = Planner(eft._engine, Speculation(enabled=False), curves=curves)
    before, eft._planner = eft._planner, off
    try:
        assert said(eft, Speculation()) == "tuned, gumbel"  # switched on for one answer
    finally:
        eft._planner = before
