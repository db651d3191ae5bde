"""A published model and what becomes of it in the cache, for tests of downloads."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from eftlite.hub import Remote, cache, fetch, locate, parse
from tests.conftest import ROOT
from tests.fake_hub import FakeHub, environment

BODY = random.Random(1).randbytes(300_000)
FETCH = """
from eftlite.hub import fetch, locate, parse
print("begun", flush=True)
print(fetch(locate(parse("org/repo"))), flush=True)
"""


def remote(text: str) -> Remote:
    """What a reference means."""
    reference = parse(text)
    assert reference is not None
    return locate(reference)


def partial(model: Remote) -> Path:
    """What grows until it is whole."""
    return cache.partial(model.repo, model.files[0].hash)


def files_of(folder: Path) -> list[str]:
    """Every file and link below a folder but locks."""
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir() and path.suffix != ".lock")


def reported(model: Remote) -> int:
    """Fetch the model; the bytes that were told of."""
    steps: list[int] = []
    fetch(model, lambda _, n_bytes: steps.append(n_bytes))
    return sum(steps)


def is_absent(model: Remote) -> bool:
    """Whether nothing bears the file's name, or its hash as a name."""
    return not model.path.exists() and not cache.blob(model.repo, model.files[0].hash).exists()


def start_fetching(hub: FakeHub, home: Path, program: str = FETCH) -> subprocess.Popen[str]:
    """Another process that fetches the model into the same cache."""
    variables = {**os.environ, **environment(hub, home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
