"""Following a text that is given whole each time; real models are in tests/plugins/test_llama_cpp.py."""

from __future__ import annotations

import numpy as np
import pytest

from eftlite.companions import Follower
from eftlite.errors import ContextError, EngineError
from tests.fakes import fake_ensemble, fakes


def test_any_text_is_followed() -> None:
    """Longer, shorter, another, the same: the logits are those of the text, and nothing is evaluated twice in a row."""
    ensemble = fake_ensemble()
    follower = Follower(ensemble)
    rng = np.random.default_rng(0)
    text: list[int] = [1]
    for _ in range(300):
        cut = int(rng.integers(len(text) + 1)) if rng.random() < 0.3 else len(text)
        text = [*text[:cut], *rng.integers(24, size=rng.integers(4)).tolist()][:80] or [2]
        follower.follow(np.array(text, np.int32))
        rows = ensemble.rows(0, range(len(ensemble.members)))
        for member, row in zip(fakes(ensemble), rows, strict=True):
            assert row is not None
            assert np.array_equal(row, member.logits(text))
        ensemble.validate(0)


def test_after_a_failure_nothing_is_taken_for_known(monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = fake_ensemble()
    follower = Follower(ensemble)
    follower.follow(np.array([1, 2, 3], np.int32))
    ensemble.rows(0, [0])

    def fail(*_: object) -> int:
        raise EngineError("cannot")

    with monkeypatch.context() as patch:
        patch.setattr(ensemble.members[0], "rewind", fail)
        with pytest.raises(EngineError):
            follower.follow(np.array([1, 5], np.int32))
    with pytest.raises(ContextError):
        follower.follow(np.ones(96, np.int32))
    follower.follow(np.array([1, 2, 3, 4], np.int32))
    assert ensemble.texts[0].tail(0, 0) == [1, 2, 3, 4]
