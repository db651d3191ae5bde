"""Cost curves, the arithmetic of rounds, and the store."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import pytest

from eftlite.costs import CURVE_SIZES, MOST, CostCurve, Costs, load_curve, measure, save_curve
from eftlite.errors import InputError

BASE = CostCurve.of({1: 0.094, 2: 0.144, 3: 0.164, 4: 0.172, 5: 0.279, 8: 0.296})
SMALL = CostCurve.of({1: 0.0057, 2: 0.0126, 4: 0.015, 8: 0.024})
KEY: dict[str, str | int] = {"machine": "two cores", "model": "a1b2", "n_threads": 2}


def family(**changes: object) -> Costs:
    settings: dict[str, object] = {"verifiers": ("base", "reference"), "drafter": "tuned", **changes}
    return Costs({"base": BASE, "reference": SMALL, "tuned": SMALL}, **settings)  # type: ignore[arg-type]  # as named


# ---- curves


def test_a_curve_is_exact_where_measured_and_straight_between() -> None:
    assert [BASE.at(n) for n in (1, 2, 3, 4, 5, 8)] == [0.094, 0.144, 0.164, 0.172, 0.279, 0.296]
    assert BASE.at(6) == pytest.approx(0.279 + 0.017 / 3)
    assert SMALL.at(3) == pytest.approx(0.0138)
    assert BASE.at(0) == 0.0


def test_beyond_the_last_size_its_rate_holds() -> None:
    assert BASE.at(16) == pytest.approx(2 * 0.296)
    assert CostCurve.of({1: 0.5}).at(3) == pytest.approx(1.5)


def test_a_curve_may_fall() -> None:
    assert CostCurve.of({1: 0.02, 4: 0.01}).at(4) == 0.01


@pytest.mark.parametrize(
    "seconds", [{}, {2: 0.1}, {1: 0.0}, {1: -1.0}, {1: math.nan}, {1: 0.1, 2: math.inf}, {0: 0.1, 1: 0.1}]
)
def test_bad_curves_are_refused(seconds: dict[int, float]) -> None:
    with pytest.raises(InputError, match="cost curve"):
        CostCurve.of(seconds)


def test_measuring_takes_the_shortest_time() -> None:
    times = iter([3.0, 1.0, 2.0, 5.0, 6.0, 4.0])
    assert measure(lambda n: next(times), sizes=(1, 4)).points == ((1, 1.0), (4, 4.0))
    assert measure(float, repetitions=1).points == tuple((n, float(n)) for n in CURVE_SIZES)


# ---- rounds


def test_a_round_with_the_tuned_model_drafting() -> None:
    """Three steps to draft three tokens, one more when all stood; base and reference score four rows each."""
    costs = family()
    assert costs.plain_s == pytest.approx(0.094 + 2 * 0.0057)
    assert costs.round_s(3, 2.0, 0.0) == pytest.approx(3 * 0.0057 + 0.172 + 0.015)
    assert costs.round_s(3, 4.0, 1.0) == pytest.approx(4 * 0.0057 + 0.172 + 0.015)


def test_rows_cost_as_far_as_the_rule_asks() -> None:
    lazy, eager = family(row_s=0.001, draft_row_s=0.0001), family(row_s=0.001, draft_row_s=0.0001, all_rows=True)
    bare = family()
    assert lazy.plain_s == pytest.approx(bare.plain_s + 0.001)
    assert lazy.round_s(3, 2.0, 0.0) == pytest.approx(bare.round_s(3, 2.0, 0.0) + 0.0003 + 0.002)
    assert eager.round_s(3, 2.0, 0.0) == pytest.approx(bare.round_s(3, 2.0, 0.0) + 0.0003 + 0.003)
    assert eager.round_s(3, 4.0, 1.0) == pytest.approx(lazy.round_s(3, 4.0, 1.0))


def test_lookup_drafts_cost_no_decoding_and_every_member_verifies() -> None:
    costs = family(verifiers=("base", "reference", "tuned"), drafter=None)
    assert costs.plain_s == family().plain_s
    assert costs.round_s(3, 1.0, 0.0) == pytest.approx(0.172 + 2 * 0.015)
    assert costs.round_s(3, 4.0, 1.0) == costs.round_s(3, 1.0, 0.0)


def test_an_outsider_drafts_but_takes_no_part_in_plain_steps() -> None:
    curves = {"base": BASE, "reference": SMALL, "tuned": SMALL, "tiny": CostCurve.of({1: 0.001})}
    costs = Costs(curves, ("base", "reference", "tuned"), "tiny", outsider=True)
    assert costs.plain_s == pytest.approx(0.094 + 2 * 0.0057)
    assert costs.round_s(3, 1.0, 0.0) == pytest.approx(0.003 + 0.172 + 2 * 0.015)


def test_side_by_side_the_slowest_counts() -> None:
    costs = family(side_by_side=True)
    assert costs.plain_s == 0.094
    assert costs.round_s(3, 1.0, 0.0) == pytest.approx(3 * 0.0057 + 0.172)


def test_costs_know_every_draft_length() -> None:
    assert len(family().fixed_s) == MOST + 1


@pytest.mark.parametrize("changes", [{"verifiers": ()}, {"verifiers": ("base", "x")}, {"drafter": "x"}])
def test_members_without_curves_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match="costs: expected curves"):
        family(**changes)


# ---- the store


def test_a_curve_is_found_under_its_whole_key_only(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "curves.json"
    assert load_curve(path, KEY) is None
    assert save_curve(path, KEY, BASE)
    assert save_curve(path, {**KEY, "n_threads": 1}, SMALL)
    assert load_curve(path, dict(reversed(KEY.items()))) == BASE
    assert load_curve(path, {**KEY, "n_threads": 1}) == SMALL
    assert load_curve(path, {**KEY, "n_threads": "2"}) is None
    assert load_curve(path, {"machine": "two cores"}) is None


def test_saving_again_replaces(tmp_path: Path) -> None:
    path = tmp_path / "curves.json"
    assert save_curve(path, KEY, BASE)
    assert save_curve(path, KEY, SMALL)
    assert load_curve(path, KEY) == SMALL
    assert len(json.loads(path.read_text(encoding="utf-8"))["curves"]) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["curves.json"]


DAMAGED = [
    b"",
    b"\xff\xfe\x00",
    b"{",
    b"[" * 100_000,
    b"[]",
    b"null",
    b'{"format": 2, "curves": []}',
    b'{"format": 1, "curves": {}}',
    b'{"format": 1, "curves": [3, null, {}]}',
    b'{"format": 1, "curves": [{"key": {"a": 1}, "seconds": {"1": "x"}}]}',
    b'{"format": 1, "curves": [{"key": {"a": 1}, "seconds": {"one": 1.0}}]}',
    b'{"format": 1, "curves": [{"key": {"a": 1}, "seconds": {"1": null}}]}',
    b'{"format": 1, "curves": [{"key": {"a": 1}, "seconds": {"2": 1.0}}]}',
    b'{"format": 1, "curves": [{"key": {"a": 1}, "seconds": {"1": NaN}}]}',
    b'{"format": 1, "curves": [{"key": [1], "seconds": {"1": 1.0}}]}',
]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_ignored_and_written_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "curves.json"
    path.write_bytes(content)
    assert load_curve(path, {"a": 1}) is None
    assert save_curve(path, KEY, BASE)
    assert load_curve(path, KEY) == BASE


def test_a_damaged_entry_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    path = tmp_path / "curves.json"
    assert save_curve(path, KEY, BASE)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["curves"].append({"key": {"a": 1}, "seconds": {}})
    path.write_text(json.dumps(content), encoding="utf-8")
    assert save_curve(path, {"b": 1}, SMALL)
    assert load_curve(path, KEY) == BASE
    assert load_curve(path, {"b": 1}) == SMALL


def test_a_file_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert save_curve(tmp_path / "file" / "curves.json", KEY, BASE) is False
    (tmp_path / "curves.json").mkdir()
    assert save_curve(tmp_path / "curves.json", KEY, BASE) is False
    assert load_curve(tmp_path / "curves.json", KEY) is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["curves.json", "file"]


def test_the_store_keeps_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "curves.json"
    entry = {"key": {"n": 0}, "seconds": {"1": 1.0}}
    curves = [{**entry, "key": {"n": n}} for n in range(300)]
    path.write_text(json.dumps({"format": 1, "curves": curves}), encoding="utf-8")
    assert save_curve(path, {"n": 300}, BASE)
    kept = [e["key"]["n"] for e in json.loads(path.read_text(encoding="utf-8"))["curves"]]
    assert kept == list(range(45, 301))


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    """Two writers and a reader at once: what is read is always one of the curves."""
    path = tmp_path / "curves.json"
    assert save_curve(path, KEY, BASE)

    def write(curve: CostCurve) -> None:
        for _ in range(40):
            save_curve(path, KEY, curve)

    writers = [threading.Thread(target=write, args=(curve,)) for curve in (BASE, SMALL)]
    for writer in writers:
        writer.start()
    seen = [load_curve(path, KEY) for _ in range(100)]
    for writer in writers:
        writer.join()
    assert set(seen) <= {BASE, SMALL}
