"""Quantizing under hard conditions: killed often, twice at the same time, types that take long. About six minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eftlite.gguf import check
from eftlite.llama import Model
from eftlite.member import Member
from eftlite_quantize.imatrix import Entry, ImportanceMatrix, write_imatrix
from eftlite_quantize.names import TYPES, file_types
from eftlite_quantize.produce import produce
from eftlite_quantize.recipe import Recipe
from eftlite_quantize.records import is_whole
from tests.conftest import DEMO
from tests.quantize.commands import start
from tests.quantize.kills import BASE, clear, kill_and_resume, resume
from tests.quantize.kills import TYPES as KILLED

pytestmark = pytest.mark.stress
REFERENCE = DEMO / "reference-f16.gguf"
# llama.cpp computes tables for these first.
SLOW = [name for name in TYPES if name.startswith(("IQ1", "IQ2", "IQ3_XXS"))]


def test_killed_a_hundred_times_it_goes_on(tmp_path: Path) -> None:
    """About three minutes."""
    kill_and_resume(tmp_path, 100)


def test_two_runs_at_the_same_time_do_not_touch_each_other(tmp_path: Path) -> None:
    """A minute. Whoever comes second replaces a file by the same bytes, or keeps it."""
    for _ in range(10):
        runs = [start("produce", BASE, "--types", KILLED, "-o", tmp_path) for _ in range(2)]
        for run in runs:
            _, stderr = run.communicate(timeout=120)
            assert run.returncode == 0, stderr
        resume(tmp_path)
        clear(tmp_path)


@pytest.mark.parametrize("name", SLOW)
def test_slow_types_load_and_decode(tmp_path: Path, name: str) -> None:
    """A minute in all."""
    draw = np.random.default_rng(1)
    entries = {
        one.name: Entry(draw.random((1, one.shape[0]), np.float32) + 0.1, np.array([1], np.float32))
        for one in check(REFERENCE).tensors
        if one.name.startswith("blk.") and len(one.shape) > 1
    }
    write_imatrix(tmp_path / "imatrix.gguf", ImportanceMatrix(entries, ("text.txt",), 2, 512))
    recipe = Recipe(imatrix=tmp_path / "imatrix.gguf")
    (outcome,) = produce(REFERENCE, file_types(name), recipe, tmp_path)
    assert is_whole(check(outcome.plan.path))
    assert abs(outcome.plan.n_bytes - outcome.n_bytes) < 0.01 * outcome.n_bytes
    model = Model(outcome.plan.path)
    member = Member(model, 32)
    member.decode(0, model.tokenize(b"Where is Kelworth?"))
    assert np.isfinite(member.row(0, len(member.slots[0]))).all()
    member.close()
    model.close()
