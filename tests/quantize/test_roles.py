"""Roles on a tiny family: what is compared, and with what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eftlite.errors import InputError
from eftlite_quantize.recorded import load_index
from eftlite_quantize.replay import over_sum
from eftlite_quantize.roles import ALIKE, ALL, DIFFERENT, combinations, swaps
from tests.quantize.commands import quantize
from tests.quantize.tiny_recordings import TYPES, with_types


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of a tiny family, and of two types that the verb made."""
    return with_types(tmp_path_factory.mktemp("family"))


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
    assert found["tuned", "Q4_0"].over_sum is None
    assert both.over_sum is not None
    assert both.over_sum.value == pytest.approx(both.score.kld.value / both.alone)


def test_a_ratio_is_drawn_from_the_same_chunks(folder: Path) -> None:
    found = {(one.what, *one.kinds.values()): one for one in swaps(folder, load_index(folder), TYPES)}
    score = found[ALL, "Q4_0", "Q4_0", "Q4_0"].score
    one = over_sum(score, [score])
    assert one is not None
    assert (one.value, one.bootstrap) == pytest.approx((1, 0), abs=1e-9)  # independent draws would give it a spread
    ratio = found[ALIKE, "Q4_0", "Q4_0"].over_sum
    assert ratio is not None
    parts = [found[name, "Q4_0"].score.kld_chunks for name in ("tuned", "reference")]
    each = found[ALIKE, "Q4_0", "Q4_0"].score.kld_chunks / np.sum(parts, axis=0)
    assert ratio.bootstrap is not None
    assert 0 < ratio.bootstrap < each.max() - each.min()
    assert each.min() < ratio.value < each.max()


def test_no_divergence_has_no_ratio(folder: Path) -> None:
    score = swaps(folder, load_index(folder), TYPES)[0].score
    none = replace(score, kld_chunks=np.zeros_like(score.kld_chunks))
    assert over_sum(score, [none]) is None


def test_the_verb(folder: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "roles.svg"
    result = quantize("family", folder, "--plot", drawn, "--format", "md")
    assert result.exit_code == 0, result.output
    lines = [line.split("|")[1:-1] for line in result.stdout.splitlines()]
    assert [cell.strip() for cell in lines[0]] == ["quantized", "types", "KLD", "over sum"]
    assert [bool(line[3].strip()) for line in lines[2:]] == [False] * 6 + [True] * 6
    assert all("±" in line[3] for line in lines[8:])
    text = drawn.read_text()
    for word in (*TYPES, ALIKE, DIFFERENT, ALL, "mean KLD of the composite, nats"):
        assert f"<!-- {word} -->" in text, word


def test_a_type_that_is_not_recorded(folder: Path) -> None:
    index = load_index(folder)
    for types in (["Q6_K"], []):
        with pytest.raises(InputError, match="recorded type"):
            swaps(folder, index, types)
