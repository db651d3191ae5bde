"""Runs of ``eftlite quantize produce`` that are killed, and what the next one makes of it."""

from __future__ import annotations

import json
import random
import subprocess
import time
from pathlib import Path

from eftlite.gguf import check
from eftlite_quantize.records import is_whole
from tests.conftest import DEMO
from tests.quantize.commands import quantize, start

BASE = DEMO / "base-f16.gguf"
TYPES = "Q4_K_M,Q8_0,Q2_K"


def run_and_kill(folder: Path, n_files: int, delay_s: float) -> None:
    """Start, wait for so many finished files and a little longer, kill -9, and look: every file that has its name is
    whole."""
    process = start("produce", BASE, "--types", TYPES, "-o", folder)
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*.gguf"))) < n_files and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    try:
        process.wait(delay_s)
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate()
    for path in folder.glob("*.gguf"):
        assert is_whole(check(path)), path.name


def resume(folder: Path) -> None:
    """The next run goes on and leaves nothing else behind."""
    there = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.gguf")}
    result = quantize("produce", BASE, "--types", TYPES, "-o", folder, "--json")
    assert result.exit_code == 0, result.output
    for one in json.loads(result.stdout)["files"]:
        assert one["state"] == ("kept" if one["file"] in there else "made")
    assert names(folder) == sorted(f"base-{name}.gguf" for name in TYPES.split(","))
    assert all((folder / name).stat().st_mtime_ns == stamp for name, stamp in there.items())


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def kill_and_resume(folder: Path, n_kills: int) -> None:
    """Each folder sees three kills, after none, one and two files; then a run goes on to the end."""
    draw, found = random.Random(1), []
    for i in range(n_kills):
        run_and_kill(folder, i % 3, draw.choice((0.02, 0.3, 1.0)) * draw.random())
        found.append((len(list(folder.glob("*.gguf"))), len(list(folder.glob("*.part")))))
        if i % 3 == 2 or i == n_kills - 1:
            resume(folder)
            clear(folder)
    print(f"finished files and parts after each kill: {found}")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
