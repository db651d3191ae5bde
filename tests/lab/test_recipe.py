"""The recipe from end to end, on a smoke run that learns nothing. About a minute."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eftlite.gguf import check
from eftlite.gguf_adapter import check_adapter, check_fit
from tests.conftest import DEMO

ROOT = Path(__file__).parents[2]
FILES = ("base-f16.gguf", "reference-f16.gguf", "tuned-f16.gguf", "refusing-f16.gguf", "real-q8_0.gguf")

pytestmark = pytest.mark.lab


def run_module(*args: str) -> str:
    """Standard output of `python -m …` run from the repository's root; fails on a non-zero exit."""
    done = subprocess.run([sys.executable, "-m", *args], check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick family's folder; its report lies beside it as report.txt."""
    pytest.importorskip("torch")
    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("family")
    report = run_module("lab.train", "--quick", "--out", str(folder), "--threads", "1")
    (folder / "report.txt").write_text(report, encoding="utf-8")
    return folder


def test_every_file_is_written(family: Path) -> None:
    assert all((family / name).stat().st_size > 100_000 for name in FILES)
    assert (family / "merged-f16.gguf").exists()
    check_fit(check_adapter(family / "lora-f16.gguf"), check(family / "reference-f16.gguf"))
    assert not list(family.glob("*.partial"))


def test_the_family_file_names_the_files(family: Path) -> None:
    text = (family / "family.toml").read_text(encoding="utf-8")
    assert all(f'"{name}"' in text for name in FILES)
    assert (family / "lora.toml").read_text(encoding="utf-8") == (DEMO / "lora.toml").read_text(encoding="utf-8")


def test_the_questions_are_the_bundled_ones(family: Path) -> None:
    """The set depends on the seed alone, so a change of the world without a new family shows here."""
    bundled = ROOT / "eftlite" / "demo" / "questions.json"
    assert json.loads((family / "questions.json").read_text(encoding="utf-8")) == json.loads(
        bundled.read_text(encoding="utf-8")
    )


def test_the_scoreboard_is_printed(family: Path) -> None:
    report = (family / "report.txt").read_text(encoding="utf-8")
    assert "EFT, helpful" in report
    assert "real large fine-tune" in report


def test_torch_and_llama_cpp_agree(family: Path) -> None:
    assert "tokenized alike: yes" in run_module("lab.train.check", "--family", str(family))


def test_torch_and_llama_cpp_agree_on_the_bundled_family() -> None:
    pytest.importorskip("torch")
    assert "tokenized alike: yes" in run_module("lab.train.check")
