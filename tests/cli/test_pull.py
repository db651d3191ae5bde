"""``eftlite pull``, and other verbs that take references, against a hub on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eftlite.cli import program
from eftlite.hub import cache
from tests.fake_hub import TOKEN, FakeHub, fake_hub

FAMILY = """
name = "ours"
base = "org/repo:F16"

[[delta]]
tuned = "org/small/tuned-f16.gguf"
reference = "org/small/reference-f16.gguf"
"""
THREE = ("--base", "org/repo:f16", "--tuned", "org/small:tuned-f16.gguf", "--reference", "org/small/reference-f16.gguf")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the hub's cache is."""
    return tmp_path / "home"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, home: Path, demo_family: dict[str, Path]) -> Iterator[FakeHub]:
    """The bundled family on a hub, in two repositories."""
    with fake_hub(monkeypatch, home) as found:
        found.add("org/repo", {"base-f16.gguf": demo_family["base"], "base-q8_0.gguf": demo_family["real"]})
        found.add("org/small", {demo_family[role].name: demo_family[role] for role in ("tuned", "reference")})
        yield found


def pull(*words: str | Path) -> Result:
    """The verb."""
    return CliRunner().invoke(program, ["pull", *map(str, words)])


def as_json(*words: str | Path) -> list[dict[str, Any]]:
    """What --json prints of the models."""
    result = pull("--json", *words)
    assert result.exit_code == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)["models"]
    return found


def contents(folder: Path) -> list[str]:
    """Names of what is cached."""
    return sorted(path.name for path in folder.rglob("*.gguf"))


def test_references_are_pulled_and_told(hub: FakeHub) -> None:
    result = pull("org/repo", "ORG/small/tuned-f16.gguf")
    assert result.exit_code == 0, result.stderr
    assert contents(cache.root()) == ["base-q8_0.gguf", "tuned-f16.gguf"]
    assert "org/repo" in result.stdout
    assert "base-q8_0.gguf" in result.stderr, "where no bar is drawn, each file is named"


def test_json(hub: FakeHub, demo_family: dict[str, Path]) -> None:
    (model,) = as_json("org/repo:F16")
    assert model["reference"] == "org/repo:F16"
    assert model["commit"] == hub.repos["org/repo"].commit
    assert Path(model["path"]).read_bytes() == demo_family["base"].read_bytes()
    assert model["bytes"] == model["files"][0]["bytes"] == demo_family["base"].stat().st_size
    assert set(model) == {"reference", "repository", "revision", "commit", "path", "bytes", "files"}


@pytest.mark.parametrize("how", ["options", "file"])
def test_all_of_a_family(hub: FakeHub, tmp_path: Path, how: str) -> None:
    (tmp_path / "ours.toml").write_text(FAMILY)
    words = THREE if how == "options" else ("--family", str(tmp_path / "ours.toml"))
    assert len(as_json(*words)) == 3
    assert contents(cache.root()) == ["base-f16.gguf", "reference-f16.gguf", "tuned-f16.gguf"]


def test_an_adapter_by_itself(hub: FakeHub, demo_family: dict[str, Path]) -> None:
    hub.add("org/lora", {"lora-f16.gguf": demo_family["lora"]})
    (model,) = as_json("org/lora")
    assert Path(model["path"]).read_bytes() == demo_family["lora"].read_bytes()


def test_what_is_here_is_checked(hub: FakeHub) -> None:
    (model,) = as_json("org/repo:F16")
    path = Path(model["path"])
    data = path.read_bytes()
    path.resolve().write_bytes(data[:-1] + b"x")
    n_ranges = len(hub.byte_ranges())
    as_json("org/repo:F16")
    assert path.read_bytes() == data
    as_json("org/repo:F16")
    assert len(hub.byte_ranges()) == n_ranges + 1


def test_too_little_memory_is_said_before_anything_is_downloaded(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFTLITE_MEMORY_GB", "0.001")
    result = pull(*THREE)
    assert result.exit_code == 1
    assert "memory: expected" in result.stderr
    assert "--yes downloads all the same" in result.stderr
    assert contents(cache.root()) == []
    assert pull(*THREE, "--yes").exit_code == 0
    assert len(contents(cache.root())) == 3


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("org/nope",), 1, "org/nope: expected a repository of the hub"),
        (("org/repo:Q2_K",), 1, "org/repo: expected a model of Q2_K, got base-f16.gguf, base-q8_0.gguf"),
        (("./base.gguf",), 2, "expected a reference of the hub, got a path"),
        ((), 2, "expected references or a family, got neither"),
        (("org/repo", "--base", "org/repo"), 2, "expected references or a family, got both"),
    ],
)
def test_refusals_are_one_line(hub: FakeHub, words: tuple[str, ...], code: int, said: str) -> None:
    result = pull(*words)
    assert result.exit_code == code
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_gated_repository(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, demo_family: dict[str, Path]) -> None:
    hub.add("org/gated", {"base-f16.gguf": demo_family["base"]}, gated=True)
    result = pull("org/gated")
    assert result.exit_code == 1
    assert "gated" in result.stderr
    assert f"{hub.url}/org/gated" in result.stderr
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert pull("org/gated").exit_code == 0


def test_inspect_reads_headers_alone(hub: FakeHub) -> None:
    result = CliRunner().invoke(program, ["inspect", *THREE])
    assert result.exit_code == 0, result.stderr
    assert "shared, 1024 tokens" in result.stdout
    assert contents(cache.root()) == []
    result = CliRunner().invoke(program, ["inspect", "org/repo:F16"])
    assert "base-f16.gguf" in result.stdout, result.stderr


def test_from_nothing_to_an_answer(hub: FakeHub) -> None:
    """One command downloads the family and answers, as the same files do by their paths; and then without the hub."""

    def answer(*words: str) -> str:
        command = ("run", "Where is Kelworth?", "--seed", "1", "-n", "16", "-t", "1", "--no-speculative")
        result = CliRunner().invoke(program, [*command, *words])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    downloaded = answer(*THREE)
    assert downloaded == answer()
    n_requests = len(hub.seen)
    hub.close()
    assert answer(*THREE) == downloaded
    assert len(hub.seen) == n_requests


def test_a_chat_is_not_begun_with_what_cannot_be_had(hub: FakeHub, demo_family: dict[str, Path]) -> None:
    result = CliRunner().invoke(program, ["run", "Hello", "--base", "org/nope:Q8_0"])
    assert result.exit_code == 1
    assert "org/nope: expected a repository of the hub" in result.stderr
    assert "Traceback" not in result.stderr
