"""Files that Ollama and LM Studio fetched are taken from there, when their hash is right."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from eftlite.hub import Remote, cache, check_room, fetch, locate, parse
from tests.fake_hub import FakeHub, sha256

BODY = random.Random(2).randbytes(200_000)


@pytest.fixture
def model(hub: FakeHub) -> Remote:
    """A published model of one file."""
    hub.add("org/repo", {"deep/m-Q8_0.gguf": BODY})
    reference = parse("org/repo")
    assert reference is not None
    return locate(reference)


def place(home: Path, store: str, body: bytes = BODY) -> Path:
    """Put a file where a program keeps it."""
    ollama = Path("blobs", f"sha256-{sha256(BODY)}")
    path = (
        home
        / {
            "ollama": Path(".ollama/models") / ollama,
            "ollama elsewhere": Path("disk") / ollama,
            "lm studio": Path(".lmstudio/models/org/repo/deep/m-Q8_0.gguf"),
            "old lm studio": Path(".cache/lm-studio/models/org/repo/deep/m-Q8_0.gguf"),
        }[store]
    )
    path.parent.mkdir(parents=True)
    path.write_bytes(body)
    return path


@pytest.mark.parametrize("store", ["ollama", "ollama elsewhere", "lm studio", "old lm studio"])
def test_it_gets_one_more_name_and_is_not_fetched(
    hub: FakeHub, model: Remote, home: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = place(home, store)
    monkeypatch.setenv("OLLAMA_MODELS", str(home / "disk"))
    steps: list[int] = []
    path = fetch(model, lambda name, n_bytes: steps.append(n_bytes))
    assert path.read_bytes() == BODY
    assert path.samefile(found), "no second copy on the disk"
    assert sum(steps) == len(BODY)
    assert hub.byte_ranges() == []
    found.unlink()
    assert path.read_bytes() == BODY, "whatever that program does later"


def test_on_another_disk_it_is_copied(hub: FakeHub, model: Remote, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    found = place(home, "ollama")
    monkeypatch.setattr(os, "link", refuse)
    path = fetch(model)
    assert path.read_bytes() == BODY
    assert not path.samefile(found)
    assert hub.byte_ranges() == []


@pytest.mark.parametrize("body", [BODY[:-1] + b"x", BODY[:-1], b""])
def test_another_file_of_that_name_is_left_alone(hub: FakeHub, model: Remote, home: Path, body: bytes) -> None:
    found = place(home, "lm studio", body)
    steps: list[int] = []
    assert fetch(model, lambda name, n_bytes: steps.append(n_bytes)).read_bytes() == BODY
    assert found.read_bytes() == body
    assert sum(steps) == len(BODY)
    assert len(hub.byte_ranges()) == 1


def test_it_takes_no_room(hub: FakeHub, model: Remote, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(home, "ollama")
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Full)
    check_room([model])
    assert fetch(model).read_bytes() == BODY


class _Full:
    """What ``disk_usage`` says of a full disk."""

    free = 0


def test_what_a_former_run_left_is_given_up_for_it(hub: FakeHub, model: Remote, home: Path) -> None:
    partial = cache.partial(model.repo, model.files[0].hash)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(BODY[:1000])
    place(home, "ollama")
    assert fetch(model).read_bytes() == BODY
    assert not partial.exists()
