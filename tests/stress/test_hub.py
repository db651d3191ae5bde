"""Downloads under everything at once: kills at random moments, random misdeeds, many processes; two minutes.

After every step the file is whole and of the hub's hash, or not there.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from eftlite.errors import HubError
from eftlite.hub import Remote, cache, fetch, locate, parse
from tests.conftest import ROOT
from tests.fake_hub import FakeHub, environment, fake_hub

pytestmark = pytest.mark.stress
BODY = random.Random(3).randbytes(2_000_000)
N_KILLS, N_MISDEEDS, N_CROWDS = 40, 400, 8

FETCH = """
from eftlite.hub import fetch, locate, parse
print(fetch(locate(parse("org/repo"))))
"""
BY_LIBRARY = """
from huggingface_hub import hf_hub_download
print(hf_hub_download("org/repo", "m-Q8_0.gguf"))
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the hub's cache is."""
    return tmp_path / "home"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[FakeHub]:
    """A hub with one model."""
    with fake_hub(monkeypatch, home) as found:
        found.add("org/repo", {"m-Q8_0.gguf": BODY})
        yield found


@pytest.fixture
def model(hub: FakeHub) -> Remote:
    """That model."""
    reference = parse("org/repo")
    assert reference is not None
    return locate(reference)


def start(hub: FakeHub, home: Path, program: str = FETCH) -> subprocess.Popen[str]:
    """Another process that fetches the model into the same cache."""
    variables = {**os.environ, **environment(hub, home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def is_sound(model: Remote) -> bool:
    """Whether the file is there, whole; AssertionError when it is there and anything else."""
    contents = cache.blob(model.repo, model.files[0].hash)
    assert not contents.exists() or contents.read_bytes() == BODY
    assert not model.path.exists() or model.path.read_bytes() == BODY
    return model.path.exists()


def test_kills_at_random_moments(hub: FakeHub, model: Remote, home: Path) -> None:
    draw = random.Random(0)
    partial = cache.partial(model.repo, model.files[0].hash)
    hub.misdeeds.delay_s = 0.05
    kept = [0]
    for _ in range(N_KILLS):
        process, enough = start(hub, home), kept[-1] + draw.randrange(50_000)
        while process.poll() is None and (cache.size(partial) or 0) <= enough:
            time.sleep(draw.uniform(0.0, 0.02))
        process.kill()
        process.communicate()
        assert not is_sound(model)
        assert BODY.startswith(partial.read_bytes())
        kept.append(partial.stat().st_size)
    assert kept == sorted(kept), "nothing that came is lost"
    assert len(set(kept)) > N_KILLS // 2, "the kills came in between"
    hub.misdeeds.delay_s = 0.0
    output, errors = start(hub, home).communicate(timeout=60)
    assert output.strip() == str(model.path), errors
    assert is_sound(model)


def test_random_misdeeds(hub: FakeHub, model: Remote) -> None:
    draw = random.Random(1)
    n_whole = 0
    for _ in range(N_MISDEEDS):
        misdeeds = hub.misdeeds
        misdeeds.cuts = [draw.choice([None, 0, draw.randrange(len(BODY))]) for _ in range(draw.randrange(8))]
        misdeeds.statuses = [draw.choice([0, 0, 503, 429, 500, 403]) for _ in range(draw.randrange(4))]
        misdeeds.ignores_ranges = draw.random() < 0.3
        bad = [BODY[:-1], BODY + b"x", BODY[: draw.randrange(len(BODY))], draw.randbytes(len(BODY)), b""]
        misdeeds.bodies = {"m-Q8_0.gguf": draw.choice(bad)} if draw.random() < 0.3 else {}
        with suppress(HubError):
            fetch(model, verify=draw.random() < 0.2)
        if is_sound(model):
            n_whole += 1
            model.path.unlink()
            if draw.random() < 0.8:
                cache.blob(model.repo, model.files[0].hash).unlink()
    assert N_MISDEEDS // 4 < n_whole < N_MISDEEDS


@pytest.mark.parametrize("programs", [(FETCH,) * 5, (FETCH, BY_LIBRARY, FETCH, BY_LIBRARY)], ids=["ours", "mixed"])
def test_crowds(hub: FakeHub, model: Remote, home: Path, programs: tuple[str, ...]) -> None:
    """Several processes at once, the library's own downloads among them: one of them fetches, all have it."""
    for _ in range(N_CROWDS):
        before = len(hub.byte_ranges())
        crowd = [start(hub, home, program) for program in programs]
        for process in crowd:
            output, errors = process.communicate(timeout=120)
            assert output.strip() == str(model.path), errors
        assert is_sound(model)
        assert len(hub.byte_ranges()) - before <= 1
        model.path.unlink()
        cache.blob(model.repo, model.files[0].hash).unlink()
