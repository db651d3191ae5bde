"""``eftlite quantize compare``: options, formats, exit codes; nothing is loaded for what cannot work."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eftlite.cli.output import Output
from eftlite.errors import EFTError, InputError
from eftlite_quantize.cli import quantize_command
from tests.quantize.commands import quantize, start
from tests.quantize.limits import files_of_at_most
from tests.tiny_gguf import write_family, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two variants, a text."""
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "base.gguf", seed=1)
    write_model(folder / "near.gguf", seed=1, noise=0.02)
    write_model(folder / "far.gguf", seed=1, noise=0.3)
    (folder / "text.txt").write_text("a lazy dog and a quick fox " * 30)
    return folder


def run(folder: Path, *words: str | Path, text: bool = True) -> Result:
    """The verb on files of the folder."""
    files = [str(folder / word) if str(word).endswith(".gguf") else str(word) for word in words]
    more = ["-c", "32", "--no-bench", "-t", "1", *(["--text", str(folder / "text.txt")] if text else [])]
    return CliRunner().invoke(quantize_command, ["compare", *files, *more], obj=Output())


def failure(result: Result, kind: type[EFTError] = InputError) -> str:
    """The message of a run that failed."""
    assert isinstance(result.exception, kind), result.output
    return str(result.exception)


def test_a_table(folder: Path) -> None:
    result = run(folder, "base.gguf", "near.gguf", "far.gguf")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["model", "size", "BPW", "PPL"]
    assert [line.split()[0] for line in lines[1:4]] == ["base", "near", "far"]
    assert "text.txt: " in lines[4]


@pytest.mark.parametrize("how", ["--json", "--format json"])
def test_json(folder: Path, how: str) -> None:
    found = json.loads(run(folder, "base.gguf", "near.gguf", *how.split()).stdout)
    assert found["base"]["name"] == "base"
    assert found["variants"][0]["kld_mean"]["value"] > 0


def test_files_are_written_in_the_format_of_their_names(folder: Path, tmp_path: Path) -> None:
    for name in ("r.json", "r.csv", "r.md", "r.txt"):
        result = run(folder, "base.gguf", "near.gguf", "-o", tmp_path / name)
        assert (result.exit_code, result.stdout) == (0, "")
        assert "written" in result.stderr
    assert json.loads((tmp_path / "r.json").read_text())["n_ctx"] == 32
    assert len(list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))) == 2
    assert (tmp_path / "r.md").read_text().startswith("| model |")
    assert (tmp_path / "r.txt").read_text().startswith("model")
    run(folder, "base.gguf", "near.gguf", "-o", tmp_path / "r.md", "--format", "csv")
    assert (tmp_path / "r.md").read_text().startswith("name,file")


def test_a_plot_is_drawn(folder: Path, tmp_path: Path) -> None:
    result = run(folder, "base.gguf", "near.gguf", "far.gguf", "--plot", tmp_path / "p.svg")
    assert result.exit_code == 0
    assert "<svg" in (tmp_path / "p.svg").read_text()


def test_a_stored_base(folder: Path, tmp_path: Path) -> None:
    saved = run(folder, "base.gguf", "--save-kl-base", tmp_path / "b.kld")
    assert saved.exit_code == 0, saved.output
    live = json.loads(run(folder, "base.gguf", "far.gguf", "--json").stdout)
    stored = json.loads(run(folder, "far.gguf", "--kl-base", tmp_path / "b.kld", "--json", text=False).stdout)
    assert stored["tokens_sha256"] == live["tokens_sha256"]
    assert stored["variants"][0]["ppl"] == live["variants"][0]["ppl"]


# ---- --fail-if


def test_a_condition_that_holds_is_exit_code_1(folder: Path) -> None:
    result = run(folder, "base.gguf", "near.gguf", "far.gguf", "--fail-if", "kld_mean>0.05", "--fail-if", "ppl<0")
    message = failure(result, EFTError)
    assert message.startswith("--fail-if: kld_mean>0.05 holds for far (")
    assert "near" not in message
    assert isinstance(result.exception, EFTError)
    assert result.exception.exit_code == 1
    assert "far" in result.stdout  # the table came first


def test_conditions_that_do_not_hold(folder: Path) -> None:
    result = run(folder, "base.gguf", "near.gguf", "--fail-if", "kld_mean>5", "--fail-if", "same_top<1")
    assert result.exit_code == 0


# ---- what cannot work, said before any model is loaded


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fail-if", "kld_mean>>1"], "--fail-if: expected a name"),
        (["--fail-if", "kld>1"], "'kld' is no figure"),
        (["--fail-if", "tg_ts<5"], "tg_ts is not measured with --no-bench"),
        (["--plot", "p.pdf"], "--plot: expected a name that ends in .png or .svg"),
        (["--kl-base", "b.kld"], "--text: expected none beside --kl-base"),
        (["-t", "-1"], "n_threads: expected an integer from 0"),
    ],
)
def test_impossible_options(folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    def not_now(*_: Any) -> None:
        pytest.fail("a model was loaded")

    monkeypatch.setattr("eftlite_quantize.compare.Evaluator", not_now)
    assert message in failure(
        CliRunner().invoke(
            quantize_command,
            ["compare", str(folder / "base.gguf"), "--text", str(folder / "text.txt"), "--no-bench", *words],
            obj=Output(),
        )
    )


@pytest.mark.parametrize("option", [["--chat"], ["--save-kl-base", "x.kld"]])
def test_a_stored_base_stands_for_itself(folder: Path, option: list[str]) -> None:
    message = failure(run(folder, "near.gguf", "--kl-base", "b.kld", *option, text=False))
    assert message.startswith(f"{option[0]}: expected none beside --kl-base")


def test_a_text_is_needed(folder: Path) -> None:
    assert failure(run(folder, "base.gguf", text=False)).startswith("--text: expected a text")


def test_a_model_is_needed(folder: Path) -> None:
    assert failure(run(folder)).startswith("REFERENCE: expected a model's file")


@pytest.mark.parametrize("option", ["-o", "--plot", "--save-kl-base"])
def test_folders_that_are_not_there_are_noticed_before(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr("eftlite_quantize.compare.Evaluator", lambda *_: pytest.fail("a model was loaded"))
    message = failure(run(folder, "base.gguf", "near.gguf", option, tmp_path / "none" / "r.png"))
    assert message == f"r.png: expected a folder for it at {tmp_path / 'none'}, got none"
    (tmp_path / "r.png").mkdir()
    message = failure(run(folder, "base.gguf", "near.gguf", option, tmp_path / "r.png"))
    assert message == "r.png: expected a file's name, got a folder's"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_report_on_a_full_disk_is_one_line(folder: Path) -> None:
    message = failure(run(folder, "base.gguf", "near.gguf", "-o", "/dev/full"), EFTError)
    assert message == "full: cannot be written: No space left on device"


def test_help_is_quick() -> None:
    code = (
        "import sys; from eftlite_quantize.cli_compare import compare_command; "
        "print([name for name in ('numpy', 'numba', 'llama_cpp', 'matplotlib', 'rich') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_files_that_are_not_what_they_should_be_are_one_line(folder: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.gguf", seed=1, n_vocab=300)
    base, text = folder / "base.gguf", folder / "text.txt"
    for words, message in (
        ([base, other, "--text", text], "do not share a vocabulary"),
        ([base, text, "--text", text], "text.txt: expected a GGUF file"),
        ([base, folder / "none.gguf", "--text", text], "none.gguf: expected a GGUF file, but there is no such file"),
        ([base, "--text", base], "base.gguf: expected UTF-8 text"),
        ([base, "--text", folder / "none.txt"], "none.txt: cannot be read: No such file"),
        ([base, "--text", text, "--chat"], "text.txt, line 1: expected JSON"),
        ([base, "--kl-base", text], "text.txt: expected a file that begins with _logits_"),
        ([base, "--kl-base", folder / "none.kld"], "none.kld: cannot be read: No such file"),
    ):
        result = quantize("compare", *words, "-t", 1, "--no-bench")
        assert (result.exit_code, result.stdout) == (2, ""), (words, result.output)
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of POSIX")
@pytest.mark.parametrize("option", ["--save-kl-base", "-o", "--plot"])
def test_a_full_disk_is_one_line_and_leaves_the_old_file(folder: Path, tmp_path: Path, option: str) -> None:
    target = tmp_path / "r.png"
    target.write_text("old")
    with files_of_at_most(100):
        message = failure(run(folder, "base.gguf", "near.gguf", option, target), EFTError)
    assert message == "r.png: cannot be written: File too large"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


# ---- --family


@pytest.fixture(scope="module")
def family(folder: Path) -> Path:
    """A family file of tiny members, which names them beside it."""
    write_family(folder / "family", seed=3)
    path = folder / "family" / "family.toml"
    path.write_text('base = "base.gguf"\n[[delta]]\nname = "d"\ntuned = "tuned.gguf"\nreference = "reference.gguf"\n')
    return path


def test_a_family_is_what_the_verb_family_says_of_its_recordings(folder: Path, family: Path, tmp_path: Path) -> None:
    words = ["--family", family, "--types", "Q8_0", "--recordings", tmp_path / "kept", "--json"]
    text = ["--text", folder / "text.txt", "-c", "32", "-t", "1"]
    found = quantize("compare", *words, *text)
    assert found.exit_code == 0, found.output
    combinations = json.loads(found.stdout)["combinations"]
    assert [one["what"] for one in combinations] == ["base", "tuned", "reference", "small alike", "all"]
    assert all(one["kld"]["value"] > 0 for one in combinations)
    assert quantize("family", tmp_path / "kept", "--json").stdout == found.stdout
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*.[rg]*")}
    plot, report = tmp_path / "roles.svg", tmp_path / "roles.md"
    again = quantize("compare", *words[:-1], *text, "--plot", plot, "-o", report)
    assert (again.exit_code, again.stdout) == (0, "")
    assert report.read_text().startswith("| quantized |")
    assert plot.exists()
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_what_a_family_cannot_be_compared_with(folder: Path, family: Path, tmp_path: Path) -> None:
    words = ["compare", "--family", family, "--recordings", tmp_path / "kept", "-c", "32", "-t", "1"]
    text = ["--text", folder / "text.txt"]
    for more, message in (
        ([], "--text: expected a text"),
        ([*text, folder / "base.gguf"], "REFERENCE: expected none beside --family"),
        ([*text, "--kl-base", "b.kld"], "--kl-base: expected none beside --family"),
        ([*text, "--fail-if", "kld_mean>1"], "--fail-if: expected none beside --family"),
        ([*text, "--types", "Q9"], "expected a quantization type"),
        ([*text, "-o", tmp_path / "none" / "r.md"], "expected a folder for it"),
        (["--text", folder / "base.gguf"], "base.gguf: expected UTF-8 text"),
    ):
        result = quantize(*words, *more)
        assert (result.exit_code, result.stdout) == (2, ""), more
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert not (tmp_path / "kept").exists(), more
    assert "--types" in failure(run(folder, "base.gguf", "--types", "Q8_0"))


def test_a_member_that_needs_an_importance_matrix_says_so_and_its_recordings_stay(folder: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "wide.gguf", seed=1, n_embd=256, n_ff=256, n_layers=1)
    (tmp_path / "family.toml").write_text('base = "wide.gguf"\n')
    words = ["--text", folder / "text.txt", "-c", 32, "-t", 1, "--recordings", tmp_path / "kept", "--types", "IQ2_XS"]
    result = quantize("compare", "--family", tmp_path / "family.toml", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "IQ2_XS: expected an importance matrix, got none" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert len(list((tmp_path / "kept").glob("*.rec"))) == 1
    assert not list((tmp_path / "kept").rglob("*.gguf"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_table_on_a_terminal(folder: Path) -> None:
    """No character of it is one that the terminal would have to be protected from."""
    ours, theirs = os.openpty()
    words = ["compare", folder / "base.gguf", folder / "near.gguf", "--text", folder / "text.txt", "-c", 32, "-t", 1]
    process = start(*words, "--no-bench", stdout=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how a pseudo-terminal says that nobody writes any more
        while data := os.read(ours, 4096):
            shown += data
    os.close(ours)
    assert process.wait(60) == 0, process.communicate()
    process.communicate()
    assert shown.startswith(b"model ")
    assert "\ufffd" not in shown.decode()
