"""Models before they are loaded: names, groups that fit, and where the room is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eftlite.settings import ModelSettings
from eftlite_quantize import candidates as module
from eftlite_quantize.candidates import ROOM, candidates, groups, room
from tests.tiny_gguf import write_model


def test_groups_fill_the_room() -> None:
    assert groups([], 10) == [[]]
    assert groups([4, 4, 4], 100) == [[0, 1, 2]]
    assert groups([4, 4, 4], 8) == [[0, 1], [2]]
    assert groups([9, 1, 9], 8) == [[0], [1], [2]]
    assert groups([5, 5], -3) == [[0], [1]]


def test_names(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    paths = [write_model(tmp_path / name, seed=1) for name in ("a.gguf", "b.c.gguf", "d/a.gguf")]
    found = candidates(paths)
    assert [one.name for one in found] == [str(paths[0]), "b.c", str(paths[2])]
    assert 32 <= found[0].bits_per_weight < 33


def test_room_is_where_the_layers_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> list[dict[str, Any]]:
        return [
            {"name": "CPU", "free_bytes": 1},
            {"name": "GPU0", "free_bytes": 100},
            {"name": "GPU1", "free_bytes": 20},
        ]

    monkeypatch.setattr(module, "devices", found)
    assert room(ModelSettings(n_gpu_layers=-1)) == round(120 * ROOM)
    assert room(ModelSettings()) > 2**20
    monkeypatch.setattr(module, "devices", lambda: found()[:1])
    assert room(ModelSettings(n_gpu_layers=-1)) > 2**20
