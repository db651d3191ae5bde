"""Rounding errors of two models: the same ones where the models are the same, others where they are not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lab import rounding
from tests.tiny_gguf import write_model


def printed(
    folder: Path, noise: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """The row of Q8_0 for a tuned model with that much noise."""
    folder.mkdir()
    members = {}
    for name, own in (("tuned", noise), ("reference", 0.0)):
        files = {kind: folder / f"{name}-{kind}.gguf" for kind in ("f32", "q8_0")}
        for kind, path in files.items():
            write_model(path, seed=1, noise=own, noise_seed=2, dtype=kind)
        members[name] = [{"kind": kind.upper(), "path": str(path)} for kind, path in files.items()]
    deltas = [{"alpha": 0.0}, {"alpha": 1.0, "tuned": "tuned", "reference": "reference"}]
    (folder / "recordings.json").write_text(json.dumps({"members": members, "deltas": deltas}))
    monkeypatch.setattr(sys, "argv", ["rounding", str(folder)])
    rounding.main()
    return capsys.readouterr().out.splitlines()[2].split("|")[1:-1]


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    kind, error, change, correlation = printed(tmp_path / "same", 0.0, monkeypatch, capsys)
    assert kind.strip() == "Q8_0"
    assert 0 < float(error) < 0.1
    assert (float(change), float(correlation)) == (0, 1)
    *_, change, correlation = printed(tmp_path / "other", 0.5, monkeypatch, capsys)
    assert float(change) > 10
    assert abs(float(correlation)) < 0.05
