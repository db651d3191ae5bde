"""The program around the verbs: help, versions, exit codes, streams, colour."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from eftlite import __version__
from eftlite.cli import VERBS, program
from eftlite.cli.errors import guarded
from eftlite.cli.output import LoadingLine, Output, printable
from eftlite.errors import EngineError, InputError

ROOT = Path(__file__).resolve().parents[2]
RUN = [sys.executable, "-m", "eftlite"]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """The program as a user starts it, with nothing to read."""
    return subprocess.run(
        [*RUN, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )


def test_help_is_quick() -> None:
    """Under 0.3 s on a quiet machine; the best of a few runs, since this one may be busy."""
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        result = run("--help")
        best = min(best, time.perf_counter() - began)
        assert result.returncode == 0
        if best < 0.3:
            break
    assert best < 0.9


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    result = CliRunner().invoke(program, [verb, "--help"])
    assert result.exit_code == 0
    assert f"Usage: program {verb}" in result.stdout
    _, examples = result.stdout.split("\nExamples:\n")
    assert re.search(rf"^  (.* \| )?eftlite {verb}", examples, re.MULTILINE)


def test_version_names_what_matters() -> None:
    result = CliRunner().invoke(program, ["--version"])
    assert result.exit_code == 0
    for text in (
        f"eftlite {__version__}",
        f"llama-cpp-python {metadata.version('llama-cpp-python')}",
        "devices:",
        "CPU",
    ):
        assert text in result.stdout


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nosuch"], "error: No such command 'nosuch'"),
        (["--nosuch"], "error: No such option '--nosuch'"),
        (["run", "--nosuch"], "error: No such option '--nosuch'"),
        (["demo", "--limit", "0"], "error: Invalid value for '--limit': 0"),
        (["completion", "tcsh"], "error: Invalid value for '{bash|zsh|fish}'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(words: list[str], complaint: str) -> None:
    result = CliRunner().invoke(program, words)
    assert result.exit_code == 2
    assert result.stderr.startswith(complaint)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    result = CliRunner().invoke(program, ["completion", shell])
    assert result.exit_code == 0
    assert "_EFTLITE_COMPLETE" in result.stdout


def test_completion_knows_the_verbs() -> None:
    environment = {"_EFTLITE_COMPLETE": "bash_complete", "COMP_WORDS": "eftlite c", "COMP_CWORD": "1"}
    result = CliRunner().invoke(program, [], prog_name="eftlite", env=environment)
    assert result.stdout.split() == ["plain,chat", "plain,completion"]


# --- exit codes ---


@pytest.mark.parametrize(
    ("error", "code", "stderr"),
    [
        (InputError("x: expected y", "Do z"), 2, "error: x: expected y. Do z\n"),
        (EngineError("two\nlines"), 1, "error: two lines\n"),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
        (click.ClickException("oh"), 1, "error: oh\n"),
    ],
)
def test_failures_become_exit_codes(
    error: BaseException, code: int, stderr: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    assert guarded(fail, Output) == code
    assert capsys.readouterr().err == stderr


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 // 0, Output)


def test_reader_that_goes_away_is_no_error() -> None:
    """eftlite completion bash | true."""
    with subprocess.Popen(
        [*RUN, "completion", "bash"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, stderr = process.communicate(timeout=60)
    assert stderr == b""


# --- streams and colour ---


def test_no_colour_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    Output().error("x")
    Output().note("y")
    Output().pairs([("a", "b")])
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err


def test_colour_can_be_forced(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Output("always").error("x")
    assert "\x1b[31m" in capsys.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    assert Output().forced is False
    assert Output("always").forced is True


def test_colour_option_reaches_errors() -> None:
    result = CliRunner().invoke(program, ["--color", "always", "inspect", "nosuch.gguf"], color=True)
    assert "\x1b[31m" in result.stderr


def test_control_characters_cannot_command_the_terminal() -> None:
    hostile = "a\x1b]0;title\x07\x9b31mb\r\n\tc\x7f"
    assert printable(hostile) == "a\ufffd]0;title\ufffd\ufffd31mb\ufffd\n\tc\ufffd"


def test_long_values_are_wrapped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    Output("never").pairs([("key", "word " * 10), ("other", "a\nb")])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 30
    assert out.splitlines()[1].startswith("       word")
    assert out.endswith("other  a\n       b\n")


def test_loading_is_not_shown_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    line = LoadingLine()
    line.DELAY_S = -1.0
    line("base", 0.5)
    line.clear()
    assert capsys.readouterr().err == ""


def test_loading_line_is_taken_away(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eftlite.cli.output.on_terminal", lambda stream: True)
    line = LoadingLine()
    line.DELAY_S = -1.0
    line("base", 0.5)
    line("timing base", 0.0)
    line.clear()
    assert capsys.readouterr().err == "\rloading base 50%\rtiming base …   \r             \r"


def test_log_of_llama_is_shown_on_request(demo_family: dict[str, Path]) -> None:
    words = ["-v", "run", "Hi", "--base", str(demo_family["base"]), "-n", "1", "-t", "1"]
    result = run(*words)
    assert result.returncode == 0, result.stderr
    assert "llama.cpp: llama_model_loader" in result.stderr
