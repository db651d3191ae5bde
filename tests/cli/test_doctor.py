"""``eftlite doctor``: the whole of it once, as a user runs it; its options, formats and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eftlite.cli import doctor as verb
from eftlite.cli import program
from eftlite.cli.doctor import NAMING
from eftlite.cli.options import Members
from eftlite.doctor import verdict
from eftlite.doctor.findings import PROBLEM, Finding, Report, Section
from eftlite.shapes import SHAPES, Shape
from tests.tiny_gguf import write_family


def doctor(*words: str | Path) -> Result:
    """The verb."""
    return CliRunner().invoke(program, ["doctor", *map(str, words)])


def members(folder: Path, **options: Any) -> list[str]:
    """Options that name a tiny family; ``options`` as in write_family."""
    files = write_family(folder, seed=1, **options)
    return [word for role, path in files.items() for word in (f"--{role}", str(path))]


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Callable[[Report], None]:
    """Makes a report that the verb then prints."""

    def use(made: Report) -> None:
        monkeypatch.setattr(verdict, "examine", lambda *_, **__: made)

    return use


def test_the_bundled_family_is_well() -> None:
    """The real thing, child processes and all: 5 s."""
    result = doctor()
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    headings = [line for line in lines if line[:1].isdigit()]
    assert [line.partition("?")[0] for line in headings] == [
        "1. Is this installation sound",
        "2. Is this family sound",
        "3. Is it fast",
        "4. Is EFT worth it here",
    ]
    assert len(lines) < 40  # a screen
    assert max(map(len, lines)) <= 100
    assert "EFT is worth a try" in " ".join(lines[-2:])


def test_quick_json_and_a_mismatched_vocabulary(tmp_path: Path) -> None:
    words = members(tmp_path, base_text=(300, "foreign"))
    result = doctor("--quick", "--json", *words)
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["sound"] is False
    assert found["sections"].keys() == {"installation", "family"}
    (vocabulary,) = (one for one in found["sections"]["family"]["findings"] if one["name"] == "vocabulary")
    assert (vocabulary["level"], vocabulary["facts"]["token_id"]) == (PROBLEM, 300)
    assert vocabulary["fix"] == " ".join(["eftlite inspect", *words])


def test_what_mends_is_printed_whole_and_control_characters_are_not(report: Callable[[Report], None]) -> None:
    command = "CMAKE_ARGS=-DGGML_CUDA=on " + "pip install something " * 12
    section = Section("a", "Sound?", (Finding("GPU", PROBLEM, "It \x1b[2Jis idle " * 20, command),))
    report(Report((section,), "Not sound. \x07Idle."))
    result = doctor()
    assert result.exit_code == 1
    assert command in result.stdout
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout
    assert result.stdout.startswith("1. Sound?  No\n   problem GPU  It")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shape", "3b-q8_0", "135m-q8_0", "--base", "x.gguf"), "expected no --base beside it"),
        (("--shape", "3b-q8_0", "135m-q8_0", "--quick"), "expected no --quick beside it"),
    ],
)
def test_options_that_contradict_are_one_line(words: tuple[str, ...], message: str) -> None:
    result = doctor(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words", [("--shape", "3b-q9", "1b-q8_0"), ("--base", "only.gguf", "--tuned", "t.gguf"), ("--family", "no.toml")]
)
def test_a_family_that_cannot_be_is_in_the_report(words: tuple[str, ...]) -> None:
    result = doctor(*words)
    assert result.exit_code == 1
    assert "2. Is this family sound?  No" in result.stdout
    assert "Traceback" not in result.output


def test_every_option_that_names_models_is_repeated_in_commands() -> None:
    given: dict[str, Any] = {name: f"{name} x.gguf" for name in NAMING}
    assert verb._naming(Members(**given)) == " ".join(f"{option} '{name} x.gguf'" for name, option in NAMING.items())
    assert verb._naming(Members()) == ""


def test_a_shape_is_timed_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are written into the user's cache, which is the test's own."""
    shape = Shape(
        "tiny", "a tiny model", n_embd=64, n_layers=2, n_heads=4, n_kv_heads=2, n_ff=128, n_vocab=600, tied=True
    )
    monkeypatch.setitem(SHAPES, "tiny", shape)
    result = doctor("--shape", "tiny-f16", "tiny-f16", "--json", "-t", "1")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["sections"].keys() == {"installation", "speed"}
    (eft,) = (one for one in found["sections"]["speed"]["findings"] if one["name"] == "EFT")
    assert "with drafts" in eft["text"]
    assert eft["facts"]["plain"] > 0
    assert eft["facts"]["acceptance"] is None
