"""Disks that are full, small, forbidden or damaged: what is wrong is named, and whole files stay whole."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from eftlite.errors import HubError
from eftlite.hub import Remote, cache, check_room, fetch
from tests.fake_hub import FakeHub
from tests.hub.models import BODY, FETCH, is_absent, partial, remote, start_fetching

LIMITED = (
    """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
"""
    + FETCH
)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_limit_of_the_system_is_named(hub: FakeHub, model: Remote, home: Path) -> None:
    process = start_fetching(hub, home, LIMITED)
    _, errors = process.communicate(timeout=20)
    assert "HubError: m-Q8_0.gguf: cannot be written: File too large" in errors.replace("deep/", "")
    assert is_absent(model)
    assert partial(model).read_bytes() == BODY[:100_000]


class FullDisk:
    """A file that refuses its ``at``-th write."""

    def __init__(self, handle: Any, at: int, error: int) -> None:
        self._handle, self._left, self._error = handle, at, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    def write(self, data: bytes) -> int:
        """Write, or be full."""
        self._left -= 1
        if self._left < 0:
            raise OSError(self._error, os.strerror(self._error))
        return int(self._handle.write(data))


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_named_and_what_came_stays(
    hub: FakeHub, model: Remote, monkeypatch: pytest.MonkeyPatch, at: int, error: int
) -> None:
    """Reliability: at each write."""
    opened = Path.open
    hub.misdeeds.cuts = [100_000]  # two writes at least
    with monkeypatch.context() as patch:
        full = partial(model)
        patch.setattr(
            Path,
            "open",
            lambda path, mode="r", *more, **words: (
                FullDisk(opened(path, mode), at, error) if path == full else opened(path, mode, *more, **words)
            ),
        )
        with pytest.raises(HubError) as found:
            fetch(model)
    assert f"deep/m-Q8_0.gguf: cannot be written: {os.strerror(error)}" in str(found.value)
    assert ("Make room" in str(found.value)) == (error != errno.EIO)
    assert is_absent(model)
    assert BODY.startswith(partial(model).read_bytes())
    hub.misdeeds.cuts = []
    assert fetch(model).read_bytes() == BODY


def test_no_room_is_known_before(hub: FakeHub, model: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/more", {"m.gguf": BODY[:1000]})
    more = remote("org/more")
    n_requests = len(hub.seen)
    room = shutil.disk_usage("/")._replace(free=300_999)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room)
    with pytest.raises(HubError, match=r"expected 301,000 bytes of free disk, got 300,999\. Make room"):
        check_room([model, more, model])
    check_room([model, model])
    partial(model).parent.mkdir(parents=True)
    partial(model).write_bytes(b"x")
    check_room([model, more])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room._replace(free=10))
    with pytest.raises(HubError, match="free disk"):
        fetch(model)
    assert len(hub.seen) == n_requests
    assert not model.path.exists()


def test_a_cache_that_cannot_be_written(hub: FakeHub, model: Remote) -> None:
    cache.root().parent.mkdir(parents=True)
    cache.root().write_text("a file where the folder should be")
    with pytest.raises(HubError, match=r"deep/m-Q8_0\.gguf: cannot be written"):
        fetch(model)


def test_a_damaged_file_is_found_on_demand(hub: FakeHub, model: Remote) -> None:
    path = fetch(model)
    path.resolve().write_bytes(b"x" + BODY[1:])
    assert fetch(model).read_bytes() != BODY, "only sizes are looked at each time"
    assert fetch(model, verify=True).read_bytes() == BODY
    path.resolve().write_bytes(BODY[:10])
    assert fetch(model).read_bytes() == BODY


def test_without_links_the_files_themselves_are_there(
    hub: FakeHub, model: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    path = fetch(model)
    assert path.is_file()
    assert not path.is_symlink()
    assert path.read_bytes() == BODY
    hub.close()
    found = remote("org/repo:Q8_0")
    assert found.is_here
    assert fetch(found, verify=True) == path


def test_revisions_share_contents(hub: FakeHub, model: Remote) -> None:
    fetch(model)
    hub.add("org/repo", {"deep/m-Q8_0.gguf": BODY, "new.gguf": b"GGUF"})
    later = remote("org/repo")
    assert later.commit != model.commit
    n_ranges = len(hub.byte_ranges())
    assert fetch(later).read_bytes() == BODY
    assert len(hub.byte_ranges()) == n_ranges
