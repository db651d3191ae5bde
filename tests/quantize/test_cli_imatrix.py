"""``eftlite quantize imatrix``, and what is made with its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eftlite_quantize.imatrix import read_imatrix
from tests.conftest import DEMO
from tests.quantize.commands import quantize

REFERENCE = DEMO / "reference-f16.gguf"
TEXT = "The town of Kelworth lies on the river Ashe. It is known for its glass. " * 60


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.txt"
    path.write_text(TEXT)
    return path


def test_from_a_text_to_a_small_file(tmp_path: Path, text: Path) -> None:
    matrix = tmp_path / "imatrix.gguf"
    result = quantize("imatrix", REFERENCE, text, "-o", matrix, "--ctx-size", 64, "--chunks", 5)
    assert result.exit_code == 0, result.output
    assert "imatrix.gguf  14 tensors, 320 tokens" in result.stdout
    found = read_imatrix(matrix)
    assert (len(found.entries), found.datasets, found.n_chunks, found.chunk_size) == (14, ("calibration.txt",), 5, 64)
    words = ["--types", "IQ3_XS,Q4_K_M", "--imatrix", matrix, "-o", tmp_path / "out", "--json"]
    files = json.loads(quantize("produce", REFERENCE, *words).stdout)["files"]
    assert [one["state"] for one in files] == ["made", "made"]


def test_json_and_conversations(tmp_path: Path) -> None:
    talk = tmp_path / "talk.jsonl"
    talk.write_text(json.dumps([{"role": "user", "content": TEXT[:2000]}, {"role": "assistant", "content": "Yes."}]))
    words = ["-o", tmp_path / "a.gguf", "--ctx-size", "32", "--chat", "--json"]
    found = json.loads(quantize("imatrix", REFERENCE, talk, *words).stdout)
    assert (found["file"], found["entries"]) == ("a.gguf", 14)
    assert found["tokens"] == 32 * found["chunks"]


def test_what_cannot_be_is_one_line_and_exit_code_2(tmp_path: Path, text: Path) -> None:
    there = tmp_path / "there.gguf"
    there.write_text("mine")
    new = tmp_path / "new.gguf"
    for words, message in (
        ([REFERENCE, text, "-o", there], "there is such a file"),
        ([REFERENCE, text, "-o", tmp_path / "no" / "new.gguf"], "in a folder that is there"),
        ([REFERENCE, text, "-o", new, "--chunks", "0"], "'--chunks': 0 is not in the range"),
        ([REFERENCE, text, "-o", new, "--ctx-size", "8"], "expected at least 16 tokens"),
        ([REFERENCE, text, "-o", new, "--ctx-size", "100000"], "expected at least 200000 tokens"),
        ([REFERENCE, text, "-o", new, "--threads", "-1"], "n_threads"),
        ([REFERENCE, tmp_path / "missing.txt", "-o", new], "missing.txt"),
        ([REFERENCE, REFERENCE, "-o", new], "expected UTF-8 text"),
        ([text, text, "-o", new], "calibration.txt: expected a GGUF file"),
    ):
        result = quantize("imatrix", *words)
        assert result.exit_code == 2, (words, result.output)
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert there.read_text() == "mine"
    assert not new.exists()
