"""Speeds: tokens over seconds, on a clock that only decoding moves."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from eftlite_quantize import speed
from eftlite_quantize.evaluate import Evaluator


class SlowMember:
    """Reads a batch in 2 s and a single token in 0.5 s; the very first decode takes a minute."""

    def __init__(self) -> None:
        self.now, self.held = 0.0, 0

    def clear(self, slot: int) -> None:
        self.held = slot

    def decode(self, slot: int, ids: Sequence[int], n_rows: int = 1) -> None:
        assert n_rows == 1
        self.now += 60.0 if not self.now else 2.0 if len(ids) > 1 else 0.5
        self.held += len(ids)
        assert self.held <= 100, "more than the context holds"


@pytest.mark.parametrize(("n_ids", "pp"), [(100, 50.0), (20, 10.0)])
def test_speeds(monkeypatch: pytest.MonkeyPatch, n_ids: int, pp: float) -> None:
    member = SlowMember()
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: member.now))
    found = speed.speeds(cast("Evaluator", cast("Any", SimpleNamespace(member=member))), list(range(n_ids)))
    assert list(found) == ["pp_ts", "tg_ts"]
    assert [figure.value for figure in found.values()] == pytest.approx([pp, 2.0])
    assert [figure.gaussian for figure in found.values()] == pytest.approx([0.0, 0.0])
