"""``eftlite inspect``: words and JSON, files that belong together and files that do not."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eftlite.cli import program
from eftlite.cli.output import printable
from tests.bad_adapters import bad_adapters
from tests.lora import write_adapter
from tests.tiny_gguf import write_family, write_model


def inspect(*words: str | Path) -> Result:
    """The verb."""
    return CliRunner().invoke(program, ["inspect", *map(str, words)])


def as_json(*words: str | Path) -> dict[str, Any]:
    """What --json prints."""
    found: dict[str, Any] = json.loads(inspect("--json", *words).stdout)
    return found


def test_one_file_is_described(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", seed=1)
    result = inspect(path)
    assert result.exit_code == 0
    for text in (
        "m.gguf",
        "llama, 2 layers, embedding 64, 4 heads",
        "512 tokens",
        "chat template  no",
        "of cache for 256",
    ):
        assert text in result.stdout
    assert "Together" not in result.stdout


def test_json_of_one_file_has_no_family(tmp_path: Path) -> None:
    found = as_json(write_model(tmp_path / "m.gguf", seed=1))
    assert found["family"] is None
    (file,) = found["files"]
    assert (file["file"], file["architecture"], file["memory"]["context"]) == ("m.gguf", "llama", 256)


def test_members_of_a_family(tmp_path: Path) -> None:
    files = write_family(tmp_path, seed=1)
    result = inspect("--base", files["base"], "--tuned", files["tuned"], "--reference", files["reference"])
    assert result.exit_code == 0
    assert "base: base.gguf" in result.stdout
    assert "shared, 512 tokens" in result.stdout
    assert as_json(*files.values())["family"]["vocabulary_shared"] is True


def test_bundled_family_goes_together() -> None:
    found = as_json()
    assert [file["as"] for file in found["files"]] == ["base", "tuned", "reference", "tuned:harmless", "real"]
    assert found["family"]["vocabulary_shared"] is True
    assert found["family"]["end_tokens"]


def test_files_that_do_not_go_together_are_exit_code_2(tmp_path: Path) -> None:
    files = write_family(tmp_path, seed=1, base_text=(300, "foreign"))
    result = inspect(*files.values())
    assert result.exit_code == 2
    assert "not shared:" in result.stdout
    assert "token 300 is 'foreign'" in " ".join(result.stdout.split())
    assert as_json(*files.values())["family"]["first_differing_id"] == 300


def test_adapters_are_described_and_tried(tmp_path: Path) -> None:
    files = write_family(tmp_path, seed=1)
    lora = write_adapter(tmp_path / "lora.gguf", files["reference"], seed=2)
    result = inspect(files["reference"], lora)
    assert result.exit_code == 0
    words = " ".join(result.stdout.split())
    assert "LoRA adapter for llama, rank 4, alpha 8" in words
    assert "changes attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down matrices 14" in words
    assert "fits reference.gguf: yes" in words
    assert inspect(files["base"], files["reference"], lora).exit_code == 0
    found = as_json(files["base"], files["reference"], lora)
    assert [file["file"] for file in found["files"]] == ["base.gguf", "reference.gguf"]
    (adapter,) = found["adapters"]
    assert (adapter["rank"], adapter["alpha"], adapter["tensors"]) == (4, 8.0, 14)
    assert adapter["fits"] == {str(files["base"]): False, str(files["reference"]): True}
    assert adapter["errors"][0].startswith("expected blk.0.attn_q.weight of 96 × 96 as in base.gguf")


def test_an_adapter_for_no_model_is_exit_code_2(tmp_path: Path) -> None:
    files = write_family(tmp_path, seed=1)
    lora = write_adapter(tmp_path / "lora.gguf", files["reference"], seed=2)
    assert inspect(lora).exit_code == 0
    result = inspect(files["base"], lora)
    assert result.exit_code == 2
    assert ": no, expected blk.0.attn_q.weight" in " ".join(result.stdout.split())


def test_adapters_of_a_family(tmp_path: Path) -> None:
    """Shared weights are one file; the adapter is told by the member that it makes."""
    files = write_family(tmp_path, seed=1)
    lora = write_adapter(tmp_path / "lora.gguf", files["reference"], seed=2)
    named = ("--base", files["base"], "--reference", files["reference"], "--lora", lora)
    found = as_json(*named)
    assert [file["as"] for file in found["files"]] == ["base", "reference"]
    assert [(one["as"], one["file"], one["fits"]) for one in found["adapters"]] == [
        ("tuned", "lora.gguf", {"reference": True})
    ]
    assert "tuned: lora.gguf" in inspect(*named).stdout
    assert inspect("--base", files["base"], "--lora", lora).exit_code == 2


def test_damaged_adapters_are_one_line(tmp_path: Path) -> None:
    for name, data, words in islice(bad_adapters(), 1, None, 5):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(data)
        result = inspect(path)
        assert (result.exit_code, result.stdout) == (2, "")
        assert words in result.stderr or "a LoRA adapter" not in result.stderr
        assert result.stderr.count("\n") == 1


def test_metadata_is_printed_on_request(tmp_path: Path) -> None:
    result = inspect("--metadata", write_model(tmp_path / "m.gguf", seed=1))
    assert "general.architecture = llama" in result.stdout
    assert "tokenizer.ggml.tokens = 512 × string" in result.stdout


def test_hostile_names_are_made_harmless(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", seed=1, name="\x1b[31mred\x07")
    result = inspect("--metadata", path)
    assert result.exit_code == 0
    assert printable(result.stdout) == result.stdout


@pytest.mark.parametrize("content", [b"", b"GGUF", b"<!DOCTYPE html>", b"GGUF" + b"\xff" * 100])
def test_damaged_files_are_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    result = inspect(path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: bad.gguf: ")
    assert result.stderr.count("\n") == 1


def test_files_and_a_family_are_too_much(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", seed=1)
    assert "expected either files or a family" in inspect(path, "--base", path).stderr
    assert "expected each file once" in inspect(path, path).stderr
