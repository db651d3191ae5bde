"""``eftlite run`` on the bundled family."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eftlite import EFT
from eftlite.cli import program
from eftlite.settings import ModelSettings
from tests.tiny_gguf import write_model

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str, stdin: str | bytes = "") -> Result:
    """The verb with greedy answers."""
    return CliRunner().invoke(program, ["run", "--temperature", "0", "--no-speculative", *words], input=stdin)


def as_json(*words: str, stdin: str = "") -> dict[str, Any]:
    """What --json prints."""
    result = run("--json", *words, stdin=stdin)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_answer_on_stdout_and_nothing_else() -> None:
    result = run("Hello!", "-n", "8")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("\n")
    assert result.stdout.strip()
    assert result.stderr == ""


def test_json_and_plain_agree() -> None:
    found = as_json("Hello!", "-n", "8")
    assert found["text"] + "\n" == run("Hello!", "-n", "8").stdout
    assert found["finish_reason"] in {"stop", "length"}
    assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] + found["usage"]["completion_tokens"]
    assert {"seed", "shift", "tokens_per_s", "member_s", "speculation"} <= found["eft"].keys()


def test_stats_go_to_stderr() -> None:
    result = run("Hello!", "-n", "8", "--stats")
    assert " tokens · " in result.stderr
    assert " tokens · " not in result.stdout


def test_piped_text_follows_the_prompt() -> None:
    both = as_json("One", "-n", "1", stdin="two\n")
    assert both == {**both, "usage": as_json("One\n\ntwo", "-n", "1")["usage"]}
    assert both["text"] == as_json("-n", "1", stdin="One\n\ntwo")["text"]


def test_piped_bytes_need_not_be_utf8() -> None:
    assert run("-n", "1", stdin=b"\xef\xbb\xbfcaf\xe9").exit_code == 0


def test_nothing_to_answer_is_refused() -> None:
    result = run(stdin=" \n")
    assert result.exit_code == 2
    assert "expected a prompt" in result.stderr


def test_raw_leaves_the_template_out() -> None:
    assert (
        as_json("Hello!", "--raw", "-n", "1")["usage"]["prompt_tokens"]
        < (as_json("Hello!", "-n", "1")["usage"]["prompt_tokens"])
    )


def test_system_message_is_part_of_the_prompt() -> None:
    plain, told = (as_json("Hello!", "-n", "1", *more) for more in ((), ("--system", "Be brief.")))
    assert told["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


def test_modes_use_only_their_member() -> None:
    for mode in ("base", "tuned", "reference"):
        seconds = as_json("Hello!", "-n", "2", "--mode", mode)["eft"]["member_s"]
        assert [name for name, spent in seconds.items() if spent] == [mode]


def test_alpha_0_is_the_base() -> None:
    assert (
        as_json("Hello!", "-n", "8", "--alpha", "0")["text"] == as_json("Hello!", "-n", "8", "--mode", "base")["text"]
    )


def test_same_seed_same_answer() -> None:
    wild = ("--temperature", "5", "--top-k", "0", "--top-p", "1", "--min-p", "0")
    one, two, other = (as_json("Hello!", "-n", "20", *wild, "--seed", seed) for seed in ("5", "5", "6"))
    assert one["text"] == two["text"] != other["text"]
    assert one["eft"]["seed"] == 5


def test_stop_string_is_not_shown() -> None:
    text = as_json("Hello!", "-n", "20")["text"]
    word = text.split()[2]
    cut = as_json("Hello!", "-n", "20", "--stop", word)
    assert cut["finish_reason"] == "stop"
    assert word not in cut["text"]
    assert text.startswith(cut["text"])


@pytest.fixture(scope="module")
def prompt_of() -> Callable[[int], str]:
    """A raw prompt of exactly so many tokens."""
    with EFT(settings=ModelSettings(n_threads=1), speculative=False) as eft:
        sizes = {n: len(eft.tokenize(b"\n" * n)) for n in range(1, 200)}
    by_size = {size: n for n, size in sizes.items()}
    return lambda size: "\n" * by_size[size]


@pytest.mark.parametrize(("size", "fits"), [(31, True), (32, False), (33, False)])
def test_prompt_around_the_context(size: int, fits: bool, prompt_of: Callable[[int], str]) -> None:
    """Row 34: one token below, at and above the context."""
    result = run("--json", "--raw", prompt_of(size), "--n-ctx", "32")
    if fits:
        found = json.loads(result.stdout)
        assert result.exit_code == 0
        assert (found["usage"]["prompt_tokens"], found["usage"]["completion_tokens"]) == (size, 1)
        assert found["finish_reason"] in {"length", "stop"}
    else:
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.startswith("error: prompt: expected fewer than 32 tokens")
        assert f"got {size}" in result.stderr


def test_answer_that_reaches_the_context_says_so(prompt_of: Callable[[int], str]) -> None:
    found = as_json("--raw", prompt_of(25), "--n-ctx", "32", "--mode", "base")
    usage = found["usage"]
    assert found["finish_reason"] == "stop" or usage["total_tokens"] == 32
    assert usage["total_tokens"] <= 32


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    empty = tmp_path / "empty.gguf"
    empty.touch()
    for name in (tmp_path / "missing.gguf", empty, tmp_path):
        result = run("Hi", "--base", str(name))
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: {name.name}: ")
        assert result.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_keeps_what_was_printed(tmp_path: Path) -> None:
    """In a process of its own, as in a terminal; a random model, greedy, goes in circles and never ends by itself."""
    model = tmp_path / "endless.gguf"
    write_model(model, seed=1, n_ctx=100_000)
    words = ["run", "--raw", "Tell", "--base", str(model), "--n-ctx", "0", "--temperature", "0", "-t", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "eftlite", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(20)
        process.send_signal(signal.SIGINT)
        rest, stderr = process.communicate(timeout=60)
    assert len(first) == 20
    assert rest.endswith(b"\n")
    assert (process.returncode, stderr) == (130, b"")
