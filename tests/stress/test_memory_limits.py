"""Row 20 of the reliability table with models of known shapes: too little memory is refused, and never met.

For each of six shapes as the base of a family of three, for every kind of limit, weights mapped and read: a limit
half-way into each of the three loads is refused before anything is opened, one that the estimate allows is
enough to fill the contexts. About six minutes, and 3 GB of disk.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eftlite.shapes import shape_family
from tests.limited import LIMITS

pytestmark = [
    pytest.mark.stress,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limits of Linux"),
]


@pytest.mark.parametrize("shape", ["135m-q8_0", "135m-q4_0", "360m-q8_0", "360m-q4_k_m", "1b-q4_0", "1b-q4_k_m"])
def test_never_killed(tmp_path: Path, shape: str) -> None:
    family = shape_family(tmp_path, shape, "135m-q4_0")
    files = [family.base, family.deltas[0].tuned, family.deltas[0].reference]
    task = {"files": files, "n_ctx": 128, "limits": LIMITS, "shares": [1, 2, 3, 0.9, 1.01]}
    command = [sys.executable, "-m", "tests.limited", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(LIMITS) * 2 * 5
    for row in rows:
        expected = (None, 3) if row["share"] == 1.01 else ("MemoryLimitError", 0)
        assert (row["error"], row["opened"]) == expected, row
