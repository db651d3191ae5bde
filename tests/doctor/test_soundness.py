"""Question two by headers: files, pairs, vocabularies, templates, and what a wrong one is told to do."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eftlite.doctor import soundness
from eftlite.doctor.case import Case
from eftlite.doctor.findings import OK, PROBLEM, WARNING, Finding
from eftlite.family import bundled_family
from eftlite.settings import ModelSettings
from tests.doctor.ill import case, other_number
from tests.tiny_gguf import CHAT_TEMPLATE, gpt2_texts, write_family, write_model

Files = dict[str, Path]
CHATML = ("<|im_start|>", "<|im_end|>")


def tiny(folder: Path, **options: Any) -> Case:
    """A tiny family; ``options`` as in write_family."""
    files = write_family(folder, seed=1, **options)
    return case(files["base"], files["tuned"], files["reference"])


def by_name(subject: Case) -> dict[str, Finding]:
    return {finding.name: finding for finding in soundness.examine(subject)}


def alone(folder: Path, template: str | None, texts: list[str] | None = None, **options: Any) -> dict[str, Finding]:
    """Findings on a model alone with this chat template."""
    path = write_model(folder / "m.gguf", seed=1, chat_template=template, texts=texts, **options)
    subject = case(path, "", "")
    return by_name(replace(subject, family=replace(subject.family, deltas=())))


def test_the_bundled_family_is_sound() -> None:
    found = by_name(Case(bundled_family(), ModelSettings(), bundled=True))
    assert {finding.level for finding in found.values()} == {OK}
    assert found.keys() == {"files", "vocabulary", "end tokens", "template", "memory"}
    assert "5 of them control tokens" in found["vocabulary"].text


def test_every_bad_file_is_named(tmp_path: Path, demo_family: Files) -> None:
    (tmp_path / "page.gguf").write_text("<!DOCTYPE html>")
    found = by_name(case(tmp_path / "missing.gguf", tmp_path / "page.gguf", demo_family["reference"]))
    assert found.keys() == {"base", "tuned"}
    assert {finding.level for finding in found.values()} == {PROBLEM}
    assert found["base"].text.startswith("missing.gguf: ")


def test_an_adapter_that_fits_nothing_is_a_problem(demo_family: Files) -> None:
    subject = case(demo_family["base"], demo_family["reference"], demo_family["reference"])
    (delta,) = subject.family.deltas
    fitting = replace(subject.family, deltas=(replace(delta, adapter=str(demo_family["lora"])),))
    assert by_name(replace(subject, family=fitting))["files"].level == OK
    foreign = replace(subject.family, deltas=(replace(delta, adapter=str(demo_family["base"])),))
    assert by_name(replace(subject, family=foreign))["tuned"].level == PROBLEM


def test_a_pair_of_two_sizes_or_types_is_a_warning(tmp_path: Path, demo_family: Files) -> None:
    sizes = by_name(case(demo_family["base"], demo_family["tuned"], demo_family["base"]))["pair"]
    assert sizes.level == WARNING
    assert "not one model" in sizes.text
    tuned = write_model(tmp_path / "t.gguf", seed=1, dtype="q8_0", chat_template=CHAT_TEMPLATE)
    base, reference = (write_model(tmp_path / f"{seed}.gguf", seed=seed, dtype="f16") for seed in (2, 3))
    types = by_name(case(base, tuned, reference))["pair"]
    assert types.level == WARNING
    assert "does not cancel" in types.text
    assert types.fix == "eftlite quantize produce REFERENCE-F16.gguf --types Q8_0"


@pytest.mark.parametrize("options", [{"base_text": (300, "foreign")}, {"base_tokenizer": "llama"}])
def test_no_common_vocabulary_ends_the_looking(options: dict[str, Any], tmp_path: Path) -> None:
    found = by_name(tiny(tmp_path, **options))
    assert found["vocabulary"].level == PROBLEM


def test_harmless_differences_are_counted(tmp_path: Path) -> None:
    found = by_name(tiny(tmp_path, base_n_pad=16))["vocabulary"]
    assert found.level == OK
    assert "2 harmless differences" in found.text


def test_templates_that_the_vocabulary_cannot_say(tmp_path: Path) -> None:
    chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    found = alone(tmp_path, chatml)
    assert found["template"].level == WARNING
    assert "<|im_start|>, <|im_end|>" in found["template"].text
    texts = gpt2_texts(512)
    texts[-3:-1] = CHATML  # in place of two of its own
    assert alone(tmp_path, chatml, texts)["template"].level == OK


def test_without_a_template_one_that_fits_is_named(tmp_path: Path) -> None:
    texts = gpt2_texts(512)
    texts[-3:] = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    found = alone(tmp_path, None, texts)["template"]
    assert found.level == WARNING
    assert found.fix == 'template = "llama-3"  # in the family file'


def test_a_template_that_fails_is_a_problem(tmp_path: Path) -> None:
    found = alone(tmp_path, "{{ raise_exception('not today') }}")["template"]
    assert found.level == PROBLEM
    assert "not today" in found.text


def test_turns_that_end_in_plain_text_want_a_stop_string(tmp_path: Path) -> None:
    found = alone(tmp_path, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    assert found["end of turn"].level == WARNING
    assert found["end of turn"].fix == r'stop = ["\nuser:"]  # in the family file'


def test_the_command_for_a_wrong_end_token_mends_it(tmp_path: Path) -> None:
    """As it is printed, but for the program's place."""
    texts = gpt2_texts(512)
    texts[-1] = "<|fin|>"
    template = CHAT_TEMPLATE.replace("<|end|>", "<|fin|>")
    found = alone(tmp_path, template, texts, eos=5, eot=5)["end of turn"]
    assert found.level == PROBLEM
    program, *words = found.fix.split()
    assert program == "gguf-set-metadata"
    command = [sys.executable, "-m", "gguf.scripts.gguf_set_metadata", *words]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    subject = case(tmp_path / "m.gguf", "", "")
    assert "end of turn" not in by_name(replace(subject, family=replace(subject.family, deltas=())))


def test_too_little_memory_is_told_with_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFTLITE_MEMORY_GB", "0.001")
    found = by_name(tiny(tmp_path))["memory"]
    assert found.level == PROBLEM
    assert "of main memory, got" in found.text


def test_special_ids_outside_the_vocabulary_are_a_problem(tmp_path: Path, demo_family: Files) -> None:
    path = other_number(demo_family["tuned"], tmp_path / "t.gguf", b"tokenizer.ggml.eos_token_id", 4, 5000)
    found = by_name(case(demo_family["base"], path, demo_family["reference"]))
    assert any(finding.level == PROBLEM for finding in found.values())
