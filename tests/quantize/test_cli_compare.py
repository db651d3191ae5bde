"""``eftlite quantize compare``: options, formats, exit codes; nothing is loaded for what cannot work."""

from __future__ import annotations

import csv
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eftlite.cli.output import Output
from eftlite.errors import EFTError, InputError
from eftlite_quantize.cli import quantize_command
from tests.tiny_gguf import write_model


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
    result = run(folder)
    assert result.exit_code == 2
    assert "Missing argument" in result.stderr


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


MANUAL = Path(__file__).resolve().parents[2] / "docs" / "quantize.md"


def test_commands_of_the_manual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as a reader types them, on models and texts of those names."""
    lines = [shlex.split(line[2:]) for line in MANUAL.read_text(encoding="utf-8").splitlines() if line[:2] == "$ "]
    commands = [words[2:] for words in lines if words[1:3] == ["quantize", "compare"] and "--family" not in words]
    assert len(commands) >= 5
    monkeypatch.chdir(tmp_path)
    for name in sorted({word for words in commands for word in words if word.endswith(".gguf")}):
        write_model(Path(name), seed=1, noise=0.02 * (name != "base-f16.gguf"), n_ctx=512)
    Path("world.txt").write_text("a lazy dog and a quick fox " * 200)
    talk = [{"role": "user", "content": "a lazy dog " * 20}, {"role": "assistant", "content": "a quick fox " * 20}]
    Path("chats.jsonl").write_text("\n".join([json.dumps(talk)] * 8))
    for words in commands:
        result = CliRunner().invoke(quantize_command, words, obj=Output())
        assert result.exit_code == 0, f"{words}: {result.output} {result.exception}"


def test_help_is_quick() -> None:
    code = (
        "import sys; from eftlite_quantize.cli_compare import compare_command; "
        "print([name for name in ('numpy', 'numba', 'llama_cpp', 'matplotlib', 'rich') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
