"""Files that are written whole or not at all: whatever happens, there is the old file, the new one, or none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eftlite.errors import EFTError, InputError
from eftlite_quantize.imatrix import Entry, ImportanceMatrix, write_imatrix
from eftlite_quantize.klbase import BaseWriter
from eftlite_quantize.newfile import NewFile, remove_abandoned, write_text
from eftlite_quantize.plots import plot
from eftlite_quantize.recording import Head
from eftlite_quantize.recording_writer import RecordingWriter
from tests.quantize.limits import files_of_at_most
from tests.quantize.made_up import comparison, variant

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs limits and devices of POSIX")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_has_its_name_when_it_is_kept(tmp_path: Path) -> None:
    with NewFile(tmp_path / "f") as new:
        new.write(b"ab")
        new.write(np.arange(3, dtype=np.uint8).data)
        assert names(tmp_path) == [f"f.{os.getpid()}.part"]
        new.keep()
    assert (tmp_path / "f").read_bytes() == b"ab\0\1\2"
    assert names(tmp_path) == ["f"]


def test_another_program_may_write_it(tmp_path: Path) -> None:
    with NewFile(tmp_path / "f") as new:
        new.part.write_bytes(b"from elsewhere")
        new.keep()
    assert (tmp_path / "f").read_bytes() == b"from elsewhere"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError, None])
def test_what_is_not_kept_leaves_nothing_and_the_old_file_stays(
    tmp_path: Path, kind: type[BaseException] | None
) -> None:
    (tmp_path / "f").write_bytes(b"old")

    def write() -> None:
        with NewFile(tmp_path / "f") as new:
            new.write(b"new")
            if kind is not None:
                raise kind

    if kind is None:
        write()
    else:
        with pytest.raises(kind):
            write()
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


def test_room_is_looked_for_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"f: expected 1001 B of free disk, got 1000 B\. Go elsewhere"):
        NewFile(tmp_path / "f", 1001, "Go elsewhere")
    assert names(tmp_path) == []
    NewFile(tmp_path / "f", 1000).close()


def test_places_that_cannot_be(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "f"):
        with pytest.raises(InputError, match="cannot be written"):
            NewFile(path)
    assert names(tmp_path) == []


@posix
def test_devices_and_pipes_are_written_directly(tmp_path: Path) -> None:
    write_text("/dev/null", "text")
    assert Path("/dev/null").is_char_device()
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True)
    write_text(tmp_path / "pipe", "text")
    assert reader.communicate(timeout=30)[0] == "text"
    assert (tmp_path / "pipe").is_fifo()
    if Path("/dev/full").exists():
        with pytest.raises(EFTError, match="full: cannot be written: No space left on device"):
            write_text("/dev/full", "text")


# ---- a disk that is full at any byte, for everything that is written in this process


def recording(path: Path) -> None:
    tokens = np.arange(32, dtype=np.int32).reshape(2, 16) % 20
    rows = np.random.default_rng(0).normal(0, 4, (7, 20)).astype(np.float32)
    with RecordingWriter(path, Head("m", "0" * 64, "0" * 64, "t", "0" * 64, 16, 2, 20, {}), tokens) as writer:
        for _ in range(2):
            writer.write(rows)


def base_file(path: Path) -> None:
    tokens = np.arange(32, dtype=np.int32).reshape(2, 16) % 20
    with BaseWriter(path, tokens, 20) as writer:
        for _ in range(2):
            writer.write(np.zeros((7, 20), np.float32))


def importances(path: Path) -> None:
    entry = Entry(np.ones((1, 64), np.float32), np.ones(1, np.float32))
    write_imatrix(path, ImportanceMatrix({"blk.0.ffn_up.weight": entry}, ("t",), 1, 512))


def picture(path: Path) -> None:
    plot(comparison(variant("a", 2e6, 0.1), variant("b", 1e6, 0.2)), path)


@posix
@pytest.mark.parametrize(
    ("write", "name"),
    [
        (recording, "f.rec"),
        (base_file, "f.kld"),
        (importances, "f.gguf"),
        (picture, "f.png"),
        (picture, "f.svg"),
        (lambda path: write_text(path, "text\n" * 5000), "f.md"),
    ],
)
def test_a_disk_full_at_any_byte_is_one_line_and_leaves_nothing(
    tmp_path: Path, write: Callable[[Path], None], name: str
) -> None:
    path = tmp_path / name
    write(path)
    whole = path.read_bytes()
    path.unlink()
    for n_bytes in {0, len(whole) // 3, 2 * len(whole) // 3, len(whole) - 1}:
        with files_of_at_most(n_bytes), pytest.raises(EFTError) as found:
            write(path)
        assert str(found.value) == f"{name}: cannot be written: File too large", n_bytes
        assert names(tmp_path) == []
    with files_of_at_most(len(whole)):
        write(path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("write", [recording, base_file])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_interrupted_in_the_middle_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None], kind: type[BaseException]
) -> None:
    """At each write in turn, the first too, which the constructor makes."""
    real, n_done = NewFile.write, 0
    for n_allowed in range(3):
        n_done = 0

        def interrupted(self: NewFile, data: bytes, n_allowed: int = n_allowed) -> None:
            nonlocal n_done
            if n_done == n_allowed:
                raise kind
            n_done += 1
            real(self, data)

        monkeypatch.setattr(NewFile, "write", interrupted)
        with pytest.raises(kind):
            write(tmp_path / "f")
        assert names(tmp_path) == []


def test_parts_of_dead_processes_are_removed_and_others_not(tmp_path: Path) -> None:
    dead, living = (tmp_path / f"base-Q4_0.rec.{pid}.part" for pid in (2**22 + 1, os.getppid()))
    others = [tmp_path / name for name in ("film.part", "film.2.part", "film.rec.part", "x.rec.two.part")]
    for path in (dead, living, *others):
        path.touch()
    remove_abandoned(tmp_path, "*.rec")
    assert names(tmp_path) == sorted(path.name for path in (living, *others))
