"""``eftlite presets`` and ``--preset``: what is printed, and what a user's slip brings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eftlite import hub
from eftlite.cli import program
from eftlite.cli.options import Members
from eftlite.errors import HubError, InputError
from eftlite.facts import MARKS
from eftlite.places import config_folder
from eftlite.presets import Catalogue
from tests.fake_hub import fake_hub
from tests.tiny_gguf import write_family

LOCAL = 'base = "base.gguf"\nends = ["<|end|>"]\n[[delta]]\ntuned = "tuned.gguf"\nreference = "reference.gguf"\n'


def run(*words: str) -> Result:
    """The command line, with its streams apart."""
    return CliRunner().invoke(program, ["presets", *words])


@pytest.fixture
def own() -> Path:
    """The user's folder of presets with a family of small files in it, called "mine"."""
    folder = config_folder() / "presets"
    write_family(folder, seed=1)
    (folder / "mine.toml").write_text(LOCAL, encoding="utf-8")
    return folder


def test_list_is_a_line_for_each(own: Path) -> None:
    result = run("list")
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert [row[0] for row in rows] == list(Catalogue().names)
    assert {len(row) for row in rows} == {5}
    assert rows[-1] == ["mine", "base", "tuned − reference", "unknown", "unverified"]


def test_list_as_json() -> None:
    found = json.loads(run("list", "--json").stdout)
    assert [one["name"] for one in found] == list(Catalogue().names)
    assert {"base", "deltas", "estimated_size", "files", "verified"} <= set(found[0])


def test_a_wrong_file_is_named_and_hides_nothing(own: Path) -> None:
    (own / "wrong.toml").write_text("base = 5\n", encoding="utf-8")
    result = run("list")
    assert result.exit_code == 0
    assert "mine" in result.stdout
    assert result.stderr.startswith("error: wrong.toml: base: expected a path, got 5")


def test_show_says_what_is_known() -> None:
    text = " ".join(run("show", "qwen2.5-7b:q6_k").stdout.split())
    for words in ("mradermacher/Qwen2.5-7B-GGUF:Q6_K", "the tuned model's own", "unverified", "<|im_end|>"):
        assert words in text
    assert "its size was seen in public files" in text


def test_show_as_toml_is_a_family_file(tmp_path: Path) -> None:
    file = tmp_path / "copy.toml"
    file.write_text(run("show", "falcon-40b", "--toml").stdout, encoding="utf-8")
    assert Members(family=str(file)).resolve() == Catalogue().find("falcon-40b").family


def test_show_as_json(own: Path) -> None:
    found = json.loads(run("show", "mine", "--json").stdout)
    assert (found["name"], found["source"]) == ("mine", str(own / "mine.toml"))
    assert found["files"][0]["size"] is None


@pytest.mark.parametrize("verb", ["show", "verify"])
def test_an_unknown_name_is_one_line(verb: str) -> None:
    result = run(verb, "quen2.5-7b")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: preset: there is none called 'quen2.5-7b'. Perhaps qwen2.5-7b")
    assert result.stderr.count("\n") == 1


# ---- verify


def test_verify_prints_what_is_right_and_writes_marks(own: Path, tmp_path: Path) -> None:
    result = run("verify", "mine")
    assert result.exit_code == 0
    assert "mine: all is right" in result.stdout
    assert "one vocabulary of 512 tokens" in result.stdout
    assert "Marks" not in result.stdout  # of local files there are none
    assert run("verify", "mine", "--write", str(tmp_path / MARKS)).exit_code == 0
    assert (tmp_path / MARKS).read_text(encoding="utf-8").startswith("# verified.toml: ")


def test_verify_prints_marks_of_the_hubs_files(own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (own / "mine.toml").write_text(LOCAL.replace("base.gguf", "org/base-GGUF:F32"), encoding="utf-8")
    with fake_hub(monkeypatch, tmp_path / "home") as found:
        found.add("org/base-GGUF", {"base.F32.gguf": own / "base.gguf"})
        result = run("verify", "mine")
    assert result.exit_code == 0
    assert "Marks, for verified.toml" in result.stdout
    assert 'reference = "org/base-GGUF:F32"' in result.stdout


def test_verify_ends_with_1_when_something_is_wrong(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(reference: hub.Reference, live: bool = False) -> None:
        raise HubError(f"{reference.repo}: gone")

    monkeypatch.setattr(hub, "locate", refuse)
    result = run("verify", "mine", "smollm2-360m", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [one["ok"] for one in found["presets"]] == [True, False]
    assert found["presets"][1]["findings"][0]["text"] == "mradermacher/SmolLM2-360M-GGUF: gone"
    assert "[[file]]" not in found["marks"]


# ---- --preset


def test_preset_names_a_family(own: Path) -> None:
    assert Members(preset="mine").resolve().base == str(own / "base.gguf")
    assert Members(preset="qwen2.5-7b").resolve() == Catalogue().find("qwen2.5-7b").pinned


@pytest.mark.parametrize("others", [{"family": "f.toml"}, {"base": "b"}, {"tuned": "t"}, {"adapter": "a"}])
def test_a_preset_stands_alone(others: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="--preset: expected no --"):
        Members(preset="qwen2.5-7b", **others).resolve()


def test_inspect_takes_a_preset(own: Path) -> None:
    result = CliRunner().invoke(program, ["inspect", "--preset", "mine", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["family"]["vocabulary_shared"] is True


def test_completion_knows_the_names() -> None:
    words = {"_EFTLITE_COMPLETE": "bash_complete", "COMP_WORDS": "eftlite run --preset qwen2", "COMP_CWORD": "3"}
    result = CliRunner().invoke(program, [], env=words, prog_name="eftlite", complete_var="_EFTLITE_COMPLETE")
    found = [line.partition(",")[2] for line in result.stdout.splitlines()]
    assert found == [name for name in Catalogue().names if name.startswith("qwen2")] != []


def test_one_command_fetches_and_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From nothing to an answer: a preset of the hub's names, on a machine that has none of its files."""
    folder = config_folder() / "presets"
    folder.mkdir(parents=True)
    names = {role: f"org/{role}-GGUF:F32" for role in ("base", "tuned", "reference")}
    delta = f'[[delta]]\ntuned = "{names["tuned"]}"\nreference = "{names["reference"]}"\n'
    (folder / "far.toml").write_text(f'base = "{names["base"]}"\n{delta}', encoding="utf-8")
    with fake_hub(monkeypatch, tmp_path / "home") as found:
        for role, path in write_family(tmp_path / "models", seed=1).items():
            found.add(f"org/{role}-GGUF", {f"{role}.F32.gguf": path})
        words = ["run", "Hi", "--preset", "far", "--max-tokens", "4", "--threads", "1", "--seed", "1"]
        result = CliRunner().invoke(program, words)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()
    assert len(list((tmp_path / "home").rglob("*.gguf"))) >= 3
