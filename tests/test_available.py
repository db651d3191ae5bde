"""What memory there is: cgroups of both kinds, limits of the shell, and the user's own word."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from eftlite.available import VARIABLE, _cgroups, available
from eftlite.errors import InputError

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limits of Linux")
MIB = 1 << 20


def cgroup(folder: Path, names: tuple[str, str], limit: str, usage: int, stat: str) -> None:
    """The files of one memory cgroup."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip((*names, "memory.stat"), (limit, str(usage), stat), strict=True):
        (folder / name).write_text(f"{text}\n")


V2 = ("memory.max", "memory.current")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def test_the_tightest_cgroup_above_a_process_counts(tmp_path: Path) -> None:
    cgroup(tmp_path, V2, "max", 0, "inactive_file 0")
    cgroup(tmp_path / "a", V2, str(100 * MIB), 60 * MIB, f"active_file 5\ninactive_file {10 * MIB}")
    cgroup(tmp_path / "a/b", V2, str(400 * MIB), 50 * MIB, "inactive_file 0")
    (tmp_path / "self").write_text("0::/a/b\n")
    assert sorted(_cgroups(tmp_path, tmp_path / "self")) == [50 * MIB, 350 * MIB]


def test_in_a_container_the_path_is_the_hosts(tmp_path: Path) -> None:
    cgroup(tmp_path, V2, str(100 * MIB), 30 * MIB, "inactive_file 0")
    (tmp_path / "self").write_text("0::/../../elsewhere/pod\n")
    assert list(_cgroups(tmp_path, tmp_path / "self")) == [70 * MIB]


def test_cgroups_of_version_1(tmp_path: Path) -> None:
    cgroup(tmp_path / "memory/x", V1, str(64 * MIB), 80 * MIB, f"total_inactive_file {8 * MIB}")
    cgroup(tmp_path / "memory", V1, str(0x7FFFFFFFFFFFF000), 80 * MIB, "total_inactive_file 0")
    (tmp_path / "self").write_text("9:name=systemd:/\n4:memory:/x\n0::/\n")
    assert list(_cgroups(tmp_path, tmp_path / "self")) == [0.0]  # it is over its limit already


def test_no_cgroups_and_broken_ones_limit_nothing(tmp_path: Path) -> None:
    assert list(_cgroups(tmp_path, tmp_path / "missing")) == []
    (tmp_path / "self").write_text("0::/\n")
    cgroup(tmp_path, V2, "a lot", 0, "inactive_file 0")
    assert list(_cgroups(tmp_path, tmp_path / "self")) == []


def test_what_is_there_now() -> None:
    found = available()
    assert 0 < found.memory < 1 << 50
    assert found.why in {"free", "cgroup"}


def test_the_users_word_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1.5")
    assert (available().memory, available().why) == (1.5e9, VARIABLE)
    monkeypatch.setenv(VARIABLE, "inf")
    assert available().memory == math.inf


@pytest.mark.parametrize("text", ["much", "-1", "nan", "4 GB"])
def test_what_is_no_number_of_gigabytes_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(InputError, match=f"{VARIABLE}: expected gigabytes"):
        available()


@LINUX
@pytest.mark.parametrize(("limit", "field"), [("RLIMIT_AS", "address_space"), ("RLIMIT_DATA", "data")])
def test_limits_of_the_shell_less_what_is_taken(limit: str, field: str) -> None:
    """In a process of its own, for limits stay."""
    program = (
        "import resource; from eftlite.available import available; n = 16 << 30;"
        f"before = available(); resource.setrlimit(resource.{limit}, (n, n)); after = available();"
        f"print(before.{field}, n - after.{field})"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    before, taken = map(float, output.split())
    assert before == math.inf
    assert MIB < taken < 8 << 30
