"""Recordings of runs that are killed at random moments. About three minutes."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

from eftlite_quantize.recorded import load_index, open_recording
from eftlite_quantize.recording import Recording
from tests.quantize.commands import start
from tests.tiny_gguf import write_family

pytestmark = pytest.mark.stress
N_KILLS = 20


def test_killed_twenty_times_it_goes_on(tmp_path: Path) -> None:
    """Whatever has its name is whole and never changes again; in the end the bytes are those of a quiet run."""
    write_family(tmp_path, seed=3)
    (tmp_path / "text.txt").write_text("a lazy dog and a quick fox " * 1200)
    members = [word for name in ("base", "tuned", "reference") for word in (f"--{name}", tmp_path / f"{name}.gguf")]
    words = ["record", *members, "--text", tmp_path / "text.txt", "-c", 64, "-t", 1, "-o"]
    quiet = start(*words, tmp_path / "quiet")
    assert quiet.communicate(timeout=120)[1] == ""
    expected = {path.name: path.read_bytes() for path in (tmp_path / "quiet").iterdir()}

    draw, out, n_finished, found = random.Random(1), tmp_path / "out", 0, []
    for i in range(N_KILLS):
        process = start(*words, out)
        deadline = time.monotonic() + 120
        while len(list(out.glob("*.rec"))) < i % 4 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        try:
            process.wait(draw.choice((0.05, 0.5, 8.0)) * draw.random())
        except subprocess.TimeoutExpired:
            process.kill()
        _, stderr = process.communicate()
        assert stderr == ""
        for path in out.glob("*.rec"):
            with Recording(path) as one:
                one.check()
        found.append((len(list(out.glob("*.rec"))), len(list(out.glob("*.part")))))
        if process.returncode == 0:
            assert {path.name: path.read_bytes() for path in out.iterdir()} == expected
            index = load_index(out)
            for entries in index.members.values():
                open_recording(out, index, entries[0]).close()
            n_finished += 1
            for path in out.iterdir():
                path.unlink()
    print(f"recordings and parts after each run: {found}; finished {n_finished}")
    assert any(parts for _, parts in found)
    assert n_finished
