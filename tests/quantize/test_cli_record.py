"""``eftlite quantize record``: words and exit codes, what is added, and what is left when it is stopped anywhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eftlite_quantize.recorded import INDEX, load_index
from eftlite_quantize.recording import Recording
from tests.quantize.commands import quantize, start
from tests.quantize.limits import files_of_at_most, limit
from tests.tiny_gguf import write_family, write_model

MEMBERS = ("base", "tuned", "reference")
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny family's models, texts short and long, conversations."""
    folder = tmp_path_factory.mktemp("models")
    write_family(folder, seed=3)
    (folder / "text.txt").write_text("a lazy dog and a quick fox " * 40)
    (folder / "long.txt").write_text("a lazy dog and a quick fox " * 1200)
    talk = [{"role": "user", "content": "a lazy dog " * 20}, {"role": "assistant", "content": "a quick fox " * 20}]
    (folder / "chats.jsonl").write_text("\n".join([json.dumps(talk)] * 4))
    return folder


def words(models: Path, out: Path, text: str = "text.txt") -> list[object]:
    members = [word for name in MEMBERS for word in (f"--{name}", models / f"{name}.gguf")]
    return ["record", *members, "--text", models / text, "-c", 64, "-t", 1, "-o", out]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_family_then_a_variant_then_again(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = quantize(*words(models, out))
    assert result.exit_code == 0, result.output
    kind = load_index(out).members["base"][0].kind
    assert result.stdout == "".join(f"{member}: {kind}\n" for member in MEMBERS)
    assert not result.stderr
    made = quantize("produce", models / "base.gguf", "--types", "Q8_0,Q4_0", "-o", tmp_path, "--json")
    files = [tmp_path / one["file"] for one in json.loads(made.stdout)["files"]]
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*.rec")}
    added = quantize("record", "-o", out, "--add", *(w for path in files for w in ("--variant", f"base={path}")))
    assert added.exit_code == 0, added.output
    assert added.stdout.splitlines()[0] == f"base: {kind}, Q8_0, Q4_0"
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    replayed = quantize("replay", out, "--use", "base=Q4_0", "--json")
    assert json.loads(replayed.stdout)["settings"][0]["kld"]["value"] > 0
    again = quantize(*words(models, out))
    assert again.stdout == added.stdout


def test_conversations(models: Path, tmp_path: Path) -> None:
    result = quantize(*words(models, tmp_path / "out", "chats.jsonl"), "--chat", "--chunks", 2)
    assert result.exit_code == 0, result.output
    with Recording(next((tmp_path / "out").glob("base-*.rec"))) as found:
        assert (found.head.n_chunks, found.head.text) == (2, "chats.jsonl")
        n_control = len(load_index(tmp_path / "out").control)
        assert n_control
        assert set(load_index(tmp_path / "out").control) & set(found.tokens.ravel().tolist())  # the template's


def test_what_cannot_be_is_one_line(models: Path, tmp_path: Path) -> None:
    out, text, base = tmp_path / "out", models / "text.txt", models / "base.gguf"
    other = write_model(tmp_path / "other.gguf", seed=1, n_vocab=300)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\0")
    (tmp_path / "family.toml").write_text("base = 3")
    pair = ["--tuned", models / "tuned.gguf", "--reference"]
    for more, message in (
        ([], "--text: expected a text"),
        (["--add"], "--add: expected --variant"),
        (["--add", "--variant", f"base={base}", "--chunks", 3], "--add: expected --variant"),
        (["--add", "--variant", f"base={base}"], "expected a folder of recordings"),
        (["--text", text, "--variant", "base"], "--variant: expected MEMBER=FILE"),
        (["--text", text, "--base", other, *pair, models / "reference.gguf"], "do not share a vocabulary"),
        (["--text", text, "--base", base, *pair, text], "text.txt: expected a GGUF file (it begins with GGUF), got"),
        (["--text", text, "--base", base, "--tuned", base], "--reference: expected a GGUF file"),
        (["--text", text, "--family", tmp_path / "family.toml"], "family.toml"),
        (["--text", text, "--family", tmp_path / "none.toml"], "none.toml"),
        (["--text", tmp_path / "binary.txt", "--base", base], "binary.txt: expected UTF-8 text"),
        (["--text", tmp_path / "none.txt", "--base", base], "none.txt: cannot be read"),
        (["--text", base, "--base", base], "base.gguf: expected UTF-8 text"),
        (["--text", text, "--chat", "--base", base], "text.txt, line 1: expected JSON"),
        (["--text", text, "--base", base, "-c", 4], "-c: expected at least 8"),
        (["--text", text, "--base", base, "-c", 4096], "expected at least 8192 tokens"),
        (["--text", text, "--base", base, "--chunks", 0], "--chunks"),
    ):
        result = quantize("record", "-o", out, *more)
        assert result.exit_code == 2, (more, result.output)
        assert message in result.stderr, (more, result.stderr)
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert not list(out.glob("*.rec")), more
    (tmp_path / "file").write_text("mine")
    result = quantize("record", "-o", tmp_path / "file", "--text", text, "--base", base, "-c", 64)
    assert result.exit_code == 2
    assert "-o: expected a folder that can be written, got file" in result.stderr


# ---- stopped


def await_part(out: Path, member: str, process: subprocess.Popen[str]) -> None:
    """Wait until a member is being recorded."""
    deadline = time.monotonic() + 120
    while not list(out.glob(f"{member}-*.part")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def goes_on(models: Path, out: Path, kept: int) -> None:
    """The next run keeps what is whole, makes the rest, and leaves nothing else behind."""
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*.rec")}
    assert len(stamps) == kept
    for path in stamps:
        with Recording(path) as one:
            one.check()
    assert not (out / INDEX).exists()
    result = quantize(*words(models, out, "long.txt"))
    assert result.exit_code == 0, result.output
    assert len(list(out.glob("*.rec"))) == len(MEMBERS)
    assert len(names(out)) == len(MEMBERS) + 1
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


@posix
def test_ctrl_c_leaves_whole_recordings_only_and_the_next_run_goes_on(models: Path, tmp_path: Path) -> None:
    process = start(*words(models, tmp_path, "long.txt"), start_new_session=True)
    await_part(tmp_path, "tuned", process)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "")
    assert not list(tmp_path.glob("*.part"))
    goes_on(models, tmp_path, 1)


@posix
def test_killed_the_next_run_goes_on(models: Path, tmp_path: Path) -> None:
    process = start(*words(models, tmp_path, "long.txt"))
    await_part(tmp_path, "reference", process)
    process.kill()
    process.communicate()
    assert len(list(tmp_path.glob("reference-*.part"))) == 1
    goes_on(models, tmp_path, 2)


@posix
def test_a_full_disk_is_one_line_and_leaves_nothing(models: Path, tmp_path: Path) -> None:
    process = start(*words(models, tmp_path), preexec_fn=limit(20_000))
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (1, "")
    assert stderr.startswith("error: base-")
    assert stderr.endswith(".rec: cannot be written: File too large\n")
    assert names(tmp_path) == []


@posix
def test_an_index_that_cannot_be_written_costs_no_recording(models: Path, tmp_path: Path) -> None:
    assert quantize(*words(models, tmp_path)).exit_code == 0
    (tmp_path / INDEX).unlink()
    with files_of_at_most(100):
        result = quantize(*words(models, tmp_path))
    assert result.exit_code == 1
    assert result.stderr == f"error: {INDEX}: cannot be written: File too large\n"
    assert len(names(tmp_path)) == len(MEMBERS)
    assert quantize(*words(models, tmp_path)).exit_code == 0
