"""Curves of loaded members: what they depend on, that they are measured once, that measuring leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eftlite.composite import Composite
from eftlite.costs import CostCurve
from eftlite.ensemble import Ensemble
from eftlite.llama import Model
from eftlite.member import Member
from eftlite.settings import Knobs, ModelSettings, Sampling
from eftlite.timing import costs, curve_key, member_curve, row_seconds
from tests.fakes import fake_ensemble, fake_sampler, watched_decodes
from tests.tiny_gguf import write_model

SETTINGS = ModelSettings(n_threads=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A tiny model."""
    made = Model(write_model(tmp_path_factory.mktemp("t") / "m.gguf", seed=1), SETTINGS, "tiny")
    yield made
    made.close()


@pytest.fixture
def member(model: Model) -> Iterator[Member]:
    """A context of 64 tokens."""
    made = Member(model, 64)
    yield made
    made.close()


def test_a_curve_is_measured_once_and_then_read(member: Member, tmp_path: Path) -> None:
    path, told = tmp_path / "curves.json", list[str]()
    with watched_decodes() as first:
        curve = member_curve(member, path, told.append)
    assert told == ["tiny"]
    assert [n for n, _ in curve.points] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17]
    assert max(first.sizes) == 32  # the prefix
    assert member.slots == [[]]
    member.validate(0)
    with watched_decodes() as second:
        assert member_curve(member, path, told.append) == curve
    assert second.sizes == []
    assert told == ["tiny"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format": 99}', b"\xff\xfe", b'{"format": 1, "curves": [3]}'])
def test_a_damaged_store_is_written_anew(member: Member, tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "curves.json"
    path.write_bytes(damage)
    curve = member_curve(member, path)
    assert member_curve(member, path) == curve


def test_a_store_that_cannot_be_written_costs_only_time(member: Member, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    told = list[str]()
    for _ in range(2):
        member_curve(member, tmp_path / "file" / "curves.json", told.append)
    assert told == ["tiny", "tiny"]


@pytest.mark.parametrize("n_ctx", [1, 2, 3, 20])
def test_a_small_context_has_fewer_sizes(model: Model, tmp_path: Path, n_ctx: int) -> None:
    member = Member(model, n_ctx)
    curve = member_curve(member, tmp_path / "curves.json")
    assert curve.points[0][0] == 1
    assert curve.points[-1][0] <= max(n_ctx // 2, 1)
    member.close()


def test_a_small_batch_has_fewer_sizes(model: Model, tmp_path: Path) -> None:
    member = Member(model, 64, settings=replace(SETTINGS, n_batch=4))
    assert [n for n, _ in member_curve(member, tmp_path / "curves.json").points] == [1, 2, 3, 4]
    member.close()


def test_what_a_curve_depends_on(model: Model, member: Member) -> None:
    key = curve_key(member)
    assert key == curve_key(member)
    for changed in (
        {"n_threads": 2}, {"n_threads_batch": 3}, {"type_k": "f32"}, {"flash_attn": False}, {"n_ubatch": 64},
    ):  # fmt: skip
        other = Member(model, 64, settings=replace(SETTINGS, **changed))
        assert curve_key(other) != key
        other.close()
    other = Member(model, 32)
    assert curve_key(other) != key
    other.close()
    assert all(isinstance(value, str | int) for value in key.values())


def test_rows_take_time_too() -> None:
    ensemble = fake_ensemble()
    composite = Composite(24, ensemble.shared.control, ensemble.shared.masked)
    verified, drafted = row_seconds(composite, ensemble, Knobs((1.0,)), fake_sampler(Sampling(), 24))
    assert verified > 0
    assert drafted > 0


# ---- costs of a round


CURVES = {name: CostCurve.of({1: seconds}) for name, seconds in (("base", 4.0), ("tuned", 2.0), ("reference", 1.0))}


def price(
    needed: tuple[int, ...], drafter: int | None, rule: str = "gumbel", ensemble: Ensemble | None = None
) -> object:
    """Costs of these members, with rows that cost nothing."""
    return costs(ensemble or fake_ensemble(), needed, drafter, CURVES, (0.0, 0.0), rule)


def test_the_drafter_does_not_verify() -> None:
    made = costs(fake_ensemble(), (0, 1, 2), 1, CURVES, (0.5, 0.25), "gumbel")
    assert made.verifiers == ("base", "reference")
    assert made.drafter == "tuned"
    assert not made.outsider
    assert not made.all_rows
    assert (made.row_s, made.draft_row_s) == (0.5, 0.25)
    assert made.plain_s == pytest.approx(7.5)


def test_lookup_has_no_drafter_and_all_verify() -> None:
    made = costs(fake_ensemble(), (0, 1, 2), None, CURVES, (0.0, 0.0), "block")
    assert made.verifiers == ("base", "tuned", "reference")
    assert made.drafter is None
    assert made.all_rows
    assert made.plain_s == pytest.approx(7.0)


def test_an_outsider_is_not_part_of_a_plain_step() -> None:
    made = costs(fake_ensemble(), (0,), 1, CURVES, (0.0, 0.0), "token")
    assert made.outsider
    assert made.plain_s == pytest.approx(4.0)


def test_members_side_by_side_take_as_long_as_the_slowest() -> None:
    ensemble = fake_ensemble()
    threaded = Ensemble(ensemble.members, ensemble.roles, ensemble.shared, side_by_side=True)
    try:
        made = costs(threaded, (0, 1, 2), None, CURVES, (0.0, 0.0), "gumbel")
        assert made.plain_s == pytest.approx(4.0)
    finally:
        threaded.close()


def test_seconds_are_positive_numbers(member: Member, tmp_path: Path) -> None:
    curve = member_curve(member, tmp_path / "curves.json")
    assert all(np.isfinite(seconds) and seconds > 0 for _, seconds in curve.points)
