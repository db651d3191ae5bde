"""The example plugin of docs/plugins.md: installed as pip would, then used as the page says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eftlite import EFT, Limits, Sampling, Speculation
from eftlite.presets import Catalogue
from tests.distributions import on_path, write_distribution
from tests.hosts import host_python
from tests.test_docs import DOCS, ROOT, blocks

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MODULE = next(block.text for block in blocks(DOCS / "plugins.md") if "class Again" in block.text)
PROJECT = next(block.text for block in blocks(DOCS / "plugins.md") if 'name = "eftlite-example"' in block.text)
PLUGINS = [
    ["again", "drafter", "eftlite-example", "0.1.0", "ready", ""],
    ["half", "preset", "eftlite-example", "0.1.0", "ready", ""],
    ["surprise", "command", "eftlite-example", "0.1.0", "ready", ""],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on the path with the example in it."""
    folder = tmp_path_factory.mktemp("site")
    project: dict[str, Any] = tomllib.loads(PROJECT)["project"]
    with on_path(folder):
        write_distribution(
            folder,
            project["name"],
            project["entry-points"],
            {"eftlite_example": MODULE},
            project["version"],
            project["description"],
        )
        yield folder


def eftlite(folder: Path, *words: str) -> str:
    """What the command line prints with this folder on its path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "eftlite", *words]
    result = subprocess.run(
        command, capture_output=True, encoding="utf-8", env=environment, cwd=folder, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr.strip(), result.stderr
    return result.stdout


def check_commands(folder: Path) -> None:
    """The list, the help, the command and the preset; each a process, some seconds together."""
    assert [line.split("\t") for line in eftlite(folder, "plugins", "list").splitlines()] == PLUGINS
    assert "surprise  Three small additions to eftlite (eftlite-example)" in eftlite(folder, "--help")
    lines = eftlite(folder, "surprise", "Kelworth is a town").splitlines()
    assert lines
    assert all(float(line.split()[0]) >= 0 and line.endswith("'") for line in lines)
    words = ("Where is Kelworth?", "--max-tokens", "8", "--no-speculative")
    assert eftlite(folder, "run", "--preset", "half", *words).strip()


def test_the_example_does_what_the_page_says(folder: Path) -> None:
    check_commands(folder)


def test_its_preset_is_the_bundled_family_at_half_strength(folder: Path) -> None:
    preset = Catalogue().find("half")
    assert [delta.alpha for delta in preset.family.deltas] == [0.5]
    assert preset.source == "eftlite-example"


def test_its_drafter_repeats_the_last_answer(folder: Path) -> None:
    """Asked the same again, every draft stands; asked something else, the text is still the plain decoder's."""
    again, plain = Speculation(drafter="again", n_draft=4), Speculation(enabled=False)
    with EFT(n_threads=1, speculative=again) as eft:
        for question in ("Where is Kelworth?", "Who founded Kelworth?"):
            texts, drafts = [], []
            for speculation in (plain, again, again, plain):
                messages = [{"role": "user", "content": question}]
                sampling, limits = Sampling(seed=5), Limits(40)
                answer = eft.chat(messages, sampling=sampling, limits=limits, speculation=speculation)
                texts.append(answer.text())
                drafts.append(answer.statistics.drafts)
            assert len(set(texts)) == 1
            second = drafts[2]
            assert second is not None
            assert second.n_drafted == second.n_accepted > 10


@pytest.mark.hosts
def test_pip_installs_the_example(tmp_path: Path) -> None:
    """Half a minute, the first time: an environment with setuptools builds it, no network after that."""
    project, site = tmp_path / "project", tmp_path / "site"
    project.mkdir()
    (project / "eftlite_example.py").write_text(MODULE, encoding="utf-8")
    (project / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    python = host_python("plugins", "setuptools>=77")
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(site), str(project)], check=True)
    check_commands(site)
