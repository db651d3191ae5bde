"""``eftlite plugins``, and commands and presets of plugins: listed, used, and named where they are broken."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eftlite.cli import VERBS, program
from eftlite.plugins import GROUPS
from tests.distributions import on_path, write_distribution

MODULE = """
import click

class Silent:
    member = None
    def __init__(self, ensemble):
        assert ensemble.n_vocab > 100
    def draft(self, situation):
        raise RuntimeError
    proposal_of = draft

class Fails(Silent):
    def __init__(self, ensemble):
        raise RuntimeError("no")

@click.command("other-name")
@click.argument("whom")
@click.option("--loud", is_flag=True)
def hello(whom, loud):
    '''Greet WHOM.'''
    click.echo(f"Hello, {whom}{'!' if loud else '.'}")

here = {"about": "Here.", "base": "base.gguf", "delta": [{"tuned": "t.gguf", "reference": "r.gguf"}]}
many = lambda name: {"base": f"org/{name}-GGUF:Q8_0"}
wrong = {"base": 5}
def fails(name):
    raise RuntimeError(name)
number = 5
"""
POINTS = {
    GROUPS["drafter"]: {"silent": "plugged:Silent", "fails": "plugged:Fails", "lookup": "plugged:Silent"},
    GROUPS["preset"]: {
        "here": "plugged:here", "many": "plugged:many", "wrong": "plugged:wrong", "five": "plugged:number",
        "fails": "plugged:fails",
    },
    GROUPS["command"]: {
        "hello": "plugged:hello", "five": "plugged:number", "absent": "nosuchmodule:x", "run": "plugged:hello",
    },
}  # fmt: skip  # a line for a kind


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on the path with a distribution that has something of everything."""
    with on_path(tmp_path):
        write_distribution(tmp_path, "some-plugins", POINTS, {"plugged": MODULE}, "0.3", "Greets people")
        yield tmp_path


def run(*words: str) -> Result:
    """The command line, with its streams apart."""
    return CliRunner().invoke(program, words)


# ---- the list


def test_list_says_what_there_is_and_what_is_wrong(folder: Path) -> None:
    result = run("plugins", "list")
    assert result.exit_code == 0
    rows = {(row[1], row[0]): row for row in (line.split("\t") for line in result.stdout.split("\n")[:-1])}
    assert {row[2:4] == ["some-plugins", "0.3"] for row in rows.values()} == {True}
    assert {key: (row[4], row[5]) for key, row in rows.items()} == {
        ("command", "absent"): ("broken", "ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("command", "five"): ("broken", "TypeError: expected a click command, got int"),
        ("command", "hello"): ("ready", ""),
        ("command", "run"): ("unused", "the name is taken by eftlite"),
        ("drafter", "fails"): ("broken", "RuntimeError: no"),
        ("drafter", "lookup"): ("unused", "the name is taken by eftlite"),
        ("drafter", "silent"): ("ready", ""),
        ("preset", "fails"): ("broken", "RuntimeError: fails"),
        ("preset", "five"): ("broken", "expected a table as in a family file, got int"),
        ("preset", "here"): ("ready", ""),
        ("preset", "many"): ("ready", ""),
        ("preset", "wrong"): ("broken", "table: base: expected a path, got 5"),
    }


def test_list_as_json(folder: Path) -> None:
    found: list[dict[str, Any]] = json.loads(run("plugins", "list", "--json").stdout)
    assert {"name": "hello", "kind": "command", "distribution": "some-plugins", "version": "0.3", "state": "ready",
            "reason": ""} in found  # fmt: skip  # one entry
    assert len(found) == 12


def test_list_on_a_terminal_is_a_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eftlite.cli.plugins.on_terminal", lambda stream: True)
    text = run("plugins", "list").stdout
    assert text.split()[:6] == ["name", "kind", "distribution", "version", "state", "reason"]
    assert "No module named" in text


def test_without_plugins_there_is_nothing_to_list() -> None:
    result = run("plugins", "list")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "(no plugins are installed)\n")
    assert json.loads(run("plugins", "list", "--json").stdout) == []


# ---- commands


def test_help_names_commands_of_plugins_without_importing_them(folder: Path) -> None:
    result = run("--help")
    own, _, plugins = result.stdout.partition("\nCommands of plugins:\n")
    assert "plugged" not in sys.modules
    assert [line.split()[0] for line in plugins.partition("\n\n")[0].splitlines()] == ["absent", "five", "hello"]
    assert "Greets people (some-plugins)" in plugins
    assert "  run         Answer one prompt." in own


def test_a_plugins_command_runs_under_its_entrys_name(folder: Path) -> None:
    assert run("hello", "Ada", "--loud").stdout == "Hello, Ada!\n"
    result = run("hello")
    assert result.exit_code == 2
    assert result.stderr == "error: Missing argument 'WHOM'. Try: program hello --help\n"


def test_eftlites_own_command_wins(folder: Path) -> None:
    assert "Answer one PROMPT" in run("run", "--help").stdout


@pytest.mark.parametrize("words", [[], ["--help"], ["a", "--b", "c"], ["-h"]])
def test_a_broken_command_is_named_and_only_it_fails(folder: Path, words: list[str]) -> None:
    result = run("absent", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(
        "error: plugin some-plugins 0.3: command absent: ModuleNotFoundError: No module named 'nosuchmodule'. "
    )
    assert result.stderr.count("\n") == 1
    assert run("completion", "bash").exit_code == 0


@pytest.mark.parametrize("start", ["", "a", "h"])
def test_completion_knows_plugins_and_survives_broken_ones(folder: Path, start: str) -> None:
    words = {"_EFTLITE_COMPLETE": "bash_complete", "COMP_WORDS": f"eftlite {start}", "COMP_CWORD": "1"}
    result = CliRunner().invoke(program, [], prog_name="eftlite", env=words)
    found = [line.partition(",")[2] for line in result.stdout.splitlines()]
    assert found == [name for name in (*VERBS, "absent", "five", "hello") if name.startswith(start)]


# ---- presets


def test_a_plugins_preset_is_one_of_them(folder: Path) -> None:
    for name in ("base", "t", "r"):
        (folder / f"{name}.gguf").write_bytes(b"")
    shown = json.loads(run("presets", "show", "here", "--json").stdout)
    assert (shown["about"], shown["source"], shown["base"]) == ("Here.", "some-plugins", str(folder / "base.gguf"))
    assert json.loads(run("presets", "show", "many", "--json").stdout)["base"] == "org/many-GGUF:Q8_0"
    assert json.loads(run("presets", "show", "many:Q4_0", "--json").stdout)["base"] == "org/many-GGUF:Q4_0"


def test_broken_presets_are_named_and_hide_nothing(folder: Path) -> None:
    result = run("presets", "list")
    names = [line.partition("\t")[0] for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert names[-2:] == ["here", "many"]
    assert "qwen2.5-7b" in names
    assert [line.partition(". ")[0] for line in result.stderr.splitlines()] == [
        "error: plugin some-plugins 0.3: preset fails: RuntimeError: fails",
        "error: plugin some-plugins 0.3: preset five: expected a table as in a family file, got int",
        "error: plugin some-plugins 0.3: preset wrong: table: base: expected a path, got 5",
    ]


def test_the_users_file_comes_before_a_plugins_preset(folder: Path, user_directories: Path) -> None:
    own = user_directories / "config" / "presets"
    own.mkdir(parents=True)
    (own / "wrong.toml").write_text('base = "mine.gguf"\n', encoding="utf-8")
    assert json.loads(run("presets", "show", "wrong", "--json").stdout)["base"] == str(own / "mine.gguf")
