"""A hub of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from eftlite.hub import Remote
from tests.fake_hub import FakeHub, fake_hub
from tests.hub.models import BODY, remote


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the hub's cache is, and other programs' stores."""
    return tmp_path / "home"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[FakeHub]:
    """A hub that this process asks."""
    with fake_hub(monkeypatch, home) as found:
        yield found


@pytest.fixture
def model(hub: FakeHub) -> Remote:
    """A published model of one file."""
    hub.add("org/repo", {"deep/m-Q8_0.gguf": BODY})
    return remote("org/repo")
