"""``eftlite quantize produce``: words, tables, JSON, exit codes, and what happens when it is stopped. Half a minute."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from eftlite.gguf import check
from tests.conftest import DEMO
from tests.quantize.commands import quantize, start
from tests.quantize.kills import kill_and_resume, names

REFERENCE, BASE = DEMO / "reference-f16.gguf", DEMO / "base-f16.gguf"


def produce(*words: object) -> Any:
    return quantize("produce", *words)


def test_a_table(tmp_path: Path) -> None:
    first = produce(REFERENCE, "--types", "q4_k_m,Q8_0", "-o", tmp_path)
    assert first.exit_code == 0
    lines = [line.split() for line in first.stdout.splitlines()]
    assert lines[0] == "file size bits per weight seconds fell back".split()
    assert [line[0] for line in lines[1:]] == ["reference-Q4_K_M.gguf", "reference-Q8_0.gguf"]
    assert lines[2][1:4] == ["1.0", "MiB", "8.53"]
    assert lines[1][-1] == "none"
    assert not first.stderr
    again = produce(REFERENCE, "--types", "Q8_0,Q5_0", "-o", tmp_path)
    assert [line.split()[4] == "kept" for line in again.stdout.splitlines()[1:]] == [True, False]


def test_json(tmp_path: Path) -> None:
    found = json.loads(produce(REFERENCE, "--types", "Q4_K_M", "-o", tmp_path, "--json").stdout)
    assert found["source"] == "reference-f16.gguf"
    (file,) = found["files"]
    seconds = file.pop("seconds")
    assert seconds > 0
    assert file == {
        "type": "Q4_K_M",
        "file": "reference-Q4_K_M.gguf",
        "state": "made",
        "bytes": (tmp_path / "reference-Q4_K_M.gguf").stat().st_size,
        "bits_per_weight": 5.2567,
        "tensors": {"Q4_K": 12, "F32": 5, "Q6_K": 3},
        "fallbacks": [],
    }


def test_a_dry_run_tells_sizes(tmp_path: Path) -> None:
    options = [REFERENCE, "--types", "Q4_K_M,Q8_0,BF16", "-o", tmp_path / "out", "--json"]
    planned = json.loads(produce(*options, "--dry-run").stdout)["files"]
    assert not (tmp_path / "out").exists()
    made = json.loads(produce(*options).stdout)["files"]
    for one, other in zip(planned, made, strict=True):
        assert (one["state"], one["seconds"]) == ("planned", None)
        assert abs(one["bytes"] - other["bytes"]) < 0.01 * other["bytes"]
        assert (one["tensors"], one["bits_per_weight"]) == (other["tensors"], other["bits_per_weight"])


def test_options_of_tensors(tmp_path: Path) -> None:
    words = ["--types", "Q4_K_M", "-o", tmp_path, "--json"]
    options = ["--tensor-type", "ffn_down=q8_0", "--tensor-type", r"blk\.0\.attn=BF16", "--output-tensor-type", "F16"]
    assert produce(REFERENCE, *words, *options).exit_code == 0
    types = {one.name: one.type for one in check(tmp_path / "reference-Q4_K_M.gguf").tensors}
    assert (types["blk.1.ffn_down.weight"], types["blk.0.attn_q.weight"]) == ("Q8_0", "BF16")
    assert types["token_embd.weight"] == "F16"  # it is the output too
    pure = json.loads(produce(REFERENCE, *words, "--pure", "--force").stdout)["files"][0]
    assert pure["tensors"] == {"Q4_K": 15, "F32": 5}
    words = [*words, "--token-embedding-type", "Q5_K", "--force"]
    assert json.loads(produce(REFERENCE, *words).stdout)["files"][0]["tensors"]["Q5_K"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([REFERENCE], "Missing option '--types'"),
        ([REFERENCE, "--types", "Q4_K_X"], "expected a quantization type"),
        ([REFERENCE, "--types", ","], "expected names between commas"),
        ([REFERENCE, "--types", "IQ2_XS"], "expected an importance matrix, got none"),
        ([REFERENCE, "--types", "Q4_0", "--imatrix", "missing.gguf"], "missing.gguf: expected an importance matrix"),
        ([REFERENCE, "--types", "Q4_0", "--imatrix", REFERENCE], "another kind of GGUF file"),
        ([REFERENCE, "--types", "Q4_0", "--tensor-type", "ffn_down"], "expected NAME=TYPE"),
        ([REFERENCE, "--types", "Q4_0", "--tensor-type", "=Q8_0"], "expected NAME=TYPE"),
        ([REFERENCE, "--types", "Q4_0", "--tensor-type", "ffn_down=Q4_K_M"], "--tensor-type: 'Q4_K_M': expected"),
        ([REFERENCE, "--types", "Q4_0", "--output-tensor-type", "x"], "--output-tensor-type: 'x': expected"),
        ([REFERENCE, "--types", "Q4_0", "--threads", "-1"], "--threads: expected"),
        ([REFERENCE, "--types", "Q4_0", "-o", "out.gguf"], "-o: expected a folder"),
        ([DEMO / "real-q8_0.gguf", "--types", "Q4_0"], "expected F32, F16 or BF16 weights"),
        ([DEMO / "questions.json", "--types", "Q4_0"], "questions.json: expected a GGUF file, got JSON"),
        ([DEMO, "--types", "Q4_0"], "got a directory"),
        (["missing.gguf", "--types", "Q4_0"], "there is no such file"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str | Path], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = names(DEMO)
    result = produce(*words)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not result.stdout
    assert names(tmp_path) == []
    assert names(DEMO) == before


def test_help_names_the_types() -> None:
    text = " ".join(produce("--help").stdout.split())
    assert "IQ1_S" in text
    assert "Those that need an importance matrix: IQ1_S, IQ1_M, IQ2_XXS" in text
    assert "produce" in quantize("--help").stdout


# ---- stopped


def await_part(folder: Path, process: subprocess.Popen[str]) -> Path:
    """Wait until something is being written."""
    deadline = time.monotonic() + 60
    while not (parts := list(folder.glob("*.part"))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return parts[0]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a terminal")
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    """As a terminal does it: to all processes of the group, in the middle of a file."""
    process = start("produce", BASE, "--types", "IQ3_S,Q4_K_M,Q2_K", "-o", tmp_path, start_new_session=True)
    await_part(tmp_path, process)
    (child,) = psutil.Process(process.pid).children()
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (stdout, stderr) == ("", "")
    assert not list(tmp_path.glob("*.part"))
    assert not child.is_running()


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of POSIX")
def test_a_disk_that_is_full_is_one_line(tmp_path: Path) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    process = start("produce", BASE, "--types", "Q4_K_M", "-o", tmp_path, preexec_fn=limit)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stdout == ""
    assert stderr.startswith("error: base-Q4_K_M.gguf: llama.cpp could not make it")
    assert "The disk is full" in stderr
    assert len(stderr.splitlines()) == 1
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    process = start("produce", BASE, "--types", "Q4_K_M", "-o", tmp_path, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how a pseudo-terminal says that nobody writes any more
        while data := os.read(ours, 4096):
            shown += data
    os.close(ours)
    stdout, _ = process.communicate(timeout=60)
    assert b"Q4_K_M" in shown
    assert b"100%" in shown
    assert "base-Q4_K_M.gguf" in stdout


def test_killed_at_random_moments_it_goes_on(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, 10)
