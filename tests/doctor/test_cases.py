"""The five prepared cases, on real models, and more of their kind: what the doctor says of each, and its exit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eftlite.doctor.findings import OK, PROBLEM, WARNING
from eftlite.doctor.machine import Gpu
from tests.doctor.ill import (
    BUILD,
    HERE,
    case,
    examined,
    found,
    levels,
    never_ending,
    other_number,
    other_token,
    renamed,
)

Files = dict[str, Path]


def test_all_well(demo_family: Files) -> None:
    report = examined(case(demo_family["base"], demo_family["tuned"], demo_family["reference"], bundled=True))
    assert levels(report) == {"installation": OK, "family": OK, "speed": OK, "worth": OK}
    assert report.sound
    assert report.verdict.startswith("Sound. EFT is worth a try")
    assert found(report, "ends").facts["tuned_ended"] == found(report, "ends").facts["eft_ended"] == 3
    assert min(found(report, "ends").facts["probabilities"]) > 0.9
    assert found(report, "EFT").facts["plain"] < found(report, "EFT").facts["base"]
    assert 0.02 < found(report, "beside tuned").facts["changed"] < 0.5


def test_cpu_only_build_on_a_gpu_machine(demo_family: Files) -> None:
    machine = replace(HERE, gpus=(Gpu("NVIDIA", "NVIDIA RTX 4090", 24 << 30),), tools=frozenset({"nvcc"}))
    report = examined(case(demo_family["base"], demo_family["tuned"], demo_family["reference"]), machine, quick=True)
    gpu = found(report, "GPU")
    assert (gpu.level, report.sound) == (PROBLEM, False)
    assert gpu.text.startswith("NVIDIA RTX 4090 (24.0 GiB) stays idle")
    assert gpu.fix.startswith('CMAKE_ARGS="-DGGML_CUDA=on" ')
    assert gpu.fix.endswith("--no-deps llama-cpp-python==0.3.36")
    assert report.verdict.startswith("Not sound. GPU: NVIDIA RTX 4090 (24.0 GiB) stays idle")
    assert levels(report)["family"] == OK


def test_mismatched_vocabulary(demo_family: Files, tmp_path: Path) -> None:
    base = other_token(demo_family["base"], tmp_path / "base.gguf", b"ing", b"gni")
    report = examined(case(base, demo_family["tuned"], demo_family["reference"], naming="--family ill.toml"))
    vocabulary = found(report, "vocabulary")
    assert (vocabulary.level, report.sound) == (PROBLEM, False)
    assert "'gni' in base and 'ing' in tuned" in vocabulary.text
    assert vocabulary.fix == "eftlite inspect --family ill.toml"
    assert levels(report).keys() == {"installation", "family"}  # nothing that makes no sense is measured
    assert "do not share a vocabulary" in report.verdict


def test_endless_answers_of_a_wrong_end_token(demo_family: Files, tmp_path: Path) -> None:
    """The control token after an answer is not what the files name as their end, as with early Llama 3 files."""
    files = {}
    for role in ("base", "tuned", "reference"):
        path = tmp_path / f"{role}.gguf"
        renamed(demo_family[role], path, (b"<|end|>", b"<|fin|>"))
        other_number(path, path, b"tokenizer.ggml.eot_token_id", 4, 1)
        files[role] = other_number(path, path, b"tokenizer.ggml.eos_token_id", 4, 1)
    report = examined(case(files["base"], files["tuned"], files["reference"]))
    by_header, measured = found(report, "end of turn"), found(report, "ends")
    assert by_header.level == measured.level == PROBLEM
    assert "<|fin|>, which tuned does not name as an end token" in by_header.text
    assert by_header.fix == f"gguf-set-metadata --force {files['tuned']} tokenizer.ggml.eos_token_id 4"
    assert measured.text.startswith("Answers are endless: the tuned model writes <|fin|> where it should end")
    assert not report.sound


def test_endless_answers_of_a_weak_delta(demo_family: Files, tmp_path: Path) -> None:
    """Base and reference were never taught to stop, and a quarter of the delta is not enough to teach them."""
    base = never_ending(demo_family["base"], tmp_path / "base.gguf")
    reference = never_ending(demo_family["reference"], tmp_path / "reference.gguf")
    report = examined(case(base, demo_family["tuned"], reference, alpha=0.25))
    ends = found(report, "ends")
    assert ends.level == PROBLEM
    assert ends.facts["tuned_ended"] == 3
    assert max(ends.facts["probabilities"]) < 0.1
    assert "endless" in report.verdict
    assert ends.fix == "eftlite chat --alpha 1"
    whole = found(examined(case(base, demo_family["tuned"], reference)), "ends")
    assert whole.level == OK  # what is recommended helps


@pytest.mark.parametrize(
    ("roles", "words", "mode"),
    [
        (("reference", "tuned", "reference"), "the tuned model alone is as good", "tuned"),
        (("base", "reference", "reference"), "the delta changes nothing, so the base alone is as good", "base"),
    ],
)
def test_not_worth_it(roles: tuple[str, str, str], words: str, mode: str, demo_family: Files) -> None:
    """A base that adds nothing to the reference; a tuned model that is the reference."""
    base, tuned, reference = (demo_family[role] for role in roles)
    report = examined(case(base, tuned, reference))
    advice = found(report, "recommendation")
    assert advice.level == WARNING
    assert words in advice.text
    assert advice.fix == f"eftlite chat --mode {mode}"
    assert words in report.verdict
    assert levels(report)["installation"] == OK


def test_a_copy_of_the_reference_as_tuned_is_found_by_measuring(demo_family: Files, tmp_path: Path) -> None:
    copy = renamed(demo_family["reference"], tmp_path / "tuned.gguf", (b"demo reference", b"demo  a  tuned"))
    advice = found(examined(case(demo_family["base"], copy, demo_family["reference"])), "recommendation")
    assert "the base alone is as good" in advice.text


def test_a_base_alone_is_an_ordinary_model(demo_family: Files) -> None:
    subject = case(demo_family["base"], "", "")
    report = examined(replace(subject, family=replace(subject.family, deltas=())))
    assert levels(report)["speed"] == OK
    assert "no delta" in found(report, "recommendation").text


def test_a_context_that_holds_no_answer_is_a_problem(demo_family: Files) -> None:
    report = examined(case(demo_family["base"], demo_family["tuned"], demo_family["reference"], n_ctx=20))
    assert "expected room for 24 tokens after a question" in found(report, "loading").text


def test_the_real_build_is_asked_in_place(demo_family: Files) -> None:
    report = examined(case(demo_family["base"], demo_family["tuned"], demo_family["reference"]), build=None, quick=True)
    assert found(report, "llama.cpp").level == OK
    assert BUILD.binding in found(report, "versions").text
