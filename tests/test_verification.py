"""Verification against a hub on loopback: what is right becomes marks, what is wrong is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eftlite.errors import InputError
from eftlite.facts import MARKS
from eftlite.hub import Reference, fetch, locate
from eftlite.presets import Catalogue, Preset
from eftlite.verification import Verdict, Verifier, marks, write_marks
from tests.fake_hub import FakeHub, fake_hub, sha256
from tests.tiny_gguf import write_family, write_model

DAY = "2026-12-01"
PRESET = """
base = "org/base-GGUF:F32"
ends = ["<|end|>"]

[[delta]]
tuned = "org/tuned-GGUF:F32"
reference = "org/reference-GGUF:F32"
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub that this process asks."""
    with fake_hub(monkeypatch, tmp_path / "home") as found:
        yield found


def publish(hub: FakeHub, files: dict[str, Path]) -> None:
    """A repository "org/ROLE-GGUF" for each file."""
    for role, path in files.items():
        hub.add(f"org/{role}-GGUF", {f"{role}.F32.gguf": path})


@pytest.fixture
def family(tmp_path: Path, hub: FakeHub) -> FakeHub:
    """A hub with a family that is all right."""
    publish(hub, write_family(tmp_path / "models", seed=1))
    return hub


def preset(folder: Path, text: str = PRESET) -> Preset:
    """A preset of the user's, with what is known of it."""
    file = folder / "presets" / "tiny.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return Catalogue(folder).find("tiny")


def wrong(verdict: Verdict) -> list[str]:
    """What a verdict finds wrong."""
    return [finding.text for finding in verdict.findings if not finding.ok]


def test_what_is_right_becomes_marks(tmp_path: Path, family: FakeHub) -> None:
    verdict = Verifier(DAY).verify(preset(tmp_path))
    assert wrong(verdict) == []
    assert (verdict.ok, verdict.vocabulary, len(verdict.files)) == (True, 512, 3)
    write_marks(tmp_path / MARKS, [verdict])
    again = preset(tmp_path)
    assert (again.verified, again.vocabulary) == (DAY, 512)
    repo, base = family.repos["org/base-gguf"], again.files[0]
    data = repo.files["base.F32.gguf"]
    assert (base.size, base.revision, base.verified) == (len(data), repo.commit, DAY)
    assert base.sha256 == (sha256(data),)
    assert again.pinned.base == f"org/base-GGUF@{repo.commit}:F32"


def test_a_second_look_is_at_the_pinned_revision_and_finds_the_same(tmp_path: Path, family: FakeHub) -> None:
    write_marks(tmp_path / MARKS, [Verifier(DAY).verify(preset(tmp_path))])
    before = (tmp_path / MARKS).read_text(encoding="utf-8")
    verdict = Verifier(DAY).verify(preset(tmp_path))
    assert verdict.ok
    commits = [repo.commit for repo in family.repos.values()]
    assert [one.path.rpartition("/")[2] for one in family.listings()[3:]] == commits
    write_marks(tmp_path / MARKS, [verdict])
    assert (tmp_path / MARKS).read_text(encoding="utf-8") == before


def test_each_file_is_asked_for_once(tmp_path: Path, family: FakeHub) -> None:
    verifier = Verifier(DAY)
    verifier.verify(preset(tmp_path))
    verifier.verify(preset(tmp_path))
    assert len(family.listings()) == 3


def test_a_missing_repository_is_a_finding(tmp_path: Path, family: FakeHub) -> None:
    del family.repos["org/tuned-gguf"]
    verdict = Verifier(DAY).verify(preset(tmp_path))
    (text,) = wrong(verdict)
    assert text.startswith("org/tuned-GGUF: expected a repository of the hub")
    assert [file.reference for file in verdict.files] == ["org/base-GGUF:F32", "org/reference-GGUF:F32"]
    assert "[[preset]]" not in marks([verdict])


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"size": 5}, "expected 5 bytes, got"),
        ({"sha256": ("ab" * 32,)}, "expected SHA-256 abababababab…, got"),
        ({"params": 7.0}, "expected about 7 B parameters, got"),
    ],
)
def test_a_file_other_than_known_is_named(tmp_path: Path, family: FakeHub, known: dict[str, Any], words: str) -> None:
    one = preset(tmp_path)
    changed = replace(one, files=(replace(one.files[0], **known), *one.files[1:]))
    verdict = Verifier(DAY).verify(changed)
    assert [text.startswith(words) for text in wrong(verdict)] == [True]
    assert [file.reference for file in verdict.files] == ["org/tuned-GGUF:F32", "org/reference-GGUF:F32"]


def test_a_file_of_another_type_is_named(tmp_path: Path, family: FakeHub) -> None:
    family.add("org/base-GGUF", {"base.Q8_0.gguf": family.repos["org/base-gguf"].files["base.F32.gguf"]})
    verdict = Verifier(DAY).verify(preset(tmp_path, PRESET.replace("base-GGUF:F32", "base-GGUF:Q8_0")))
    assert wrong(verdict) == ["expected a file of type Q8_0, got F32"]


def test_vocabularies_that_differ_are_named(tmp_path: Path, hub: FakeHub) -> None:
    publish(hub, write_family(tmp_path / "models", seed=1, base_text=(300, "foreign")))
    verdict = Verifier(DAY).verify(preset(tmp_path))
    (text,) = wrong(verdict)
    assert "do not share a vocabulary" in text
    assert "foreign" in text
    assert verdict.vocabulary is None
    assert len(verdict.files) == 3  # each by itself is as it should be


def test_an_end_token_that_ends_nothing_is_named(tmp_path: Path, family: FakeHub) -> None:
    verdict = Verifier(DAY).verify(preset(tmp_path, PRESET.replace("<|end|>", "<|im_end|>")))
    assert wrong(verdict) == ["expected the end token <|im_end|>, got <|end|>"]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('never') }}", "chat template: never"),
        ("{% for", "chat template: "),
    ],
)
def test_a_template_that_does_not_work_is_named(tmp_path: Path, family: FakeHub, template: str, words: str) -> None:
    (text,) = wrong(Verifier(DAY).verify(preset(tmp_path, f'template = "{template}"\n{PRESET}')))
    assert text.startswith(words)


def test_a_file_without_template_wants_one_named(tmp_path: Path, family: FakeHub) -> None:
    family.add("org/tuned-GGUF", {"tuned.F32.gguf": family.repos["org/reference-gguf"].files["reference.F32.gguf"]})
    verdict = Verifier(DAY).verify(preset(tmp_path))
    assert wrong(verdict) == ["expected a chat template, got none in the tuned model's file; the preset must name one"]
    assert Verifier(DAY).verify(preset(tmp_path, f'template = "chatml"\n{PRESET}')).ok


def test_local_files_are_looked_at_and_get_no_marks(tmp_path: Path, family: FakeHub) -> None:
    path = write_model(tmp_path / "local.gguf", seed=3)
    verdict = Verifier(DAY).verify(preset(tmp_path, PRESET.replace("org/base-GGUF:F32", str(path))))
    assert verdict.ok
    assert len(verdict.files) == 2
    assert "[[preset]]" not in marks([verdict])


def test_marks_of_others_stay_and_wrong_ones_go(tmp_path: Path, family: FakeHub) -> None:
    file = tmp_path / MARKS
    other = 'reference = "org/other-GGUF:Q8_0"\nsize = 5\nsha256 = ["x"]\nrevision = "main"\nverified = "2026-11-30"\n'
    file.write_text(f"[[file]]\n{other}", encoding="utf-8")
    write_marks(file, [Verifier(DAY).verify(preset(tmp_path))])
    assert file.read_text(encoding="utf-8").count("[[file]]") == 4
    del family.repos["org/base-gguf"]
    write_marks(file, [Verifier(DAY).verify(preset(tmp_path))])
    text = file.read_text(encoding="utf-8")
    assert "org/other-GGUF" in text
    assert "org/base-GGUF" not in text
    assert "[[preset]]" not in text
    assert [path.name for path in tmp_path.glob("*.part")] == []


def test_marks_that_cannot_be_written_are_named(tmp_path: Path, family: FakeHub) -> None:
    verdict = Verifier(DAY).verify(preset(tmp_path))
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be written"):
        write_marks(tmp_path / "file" / "marks.toml", [verdict])


def test_a_hub_that_does_not_answer_is_a_finding(tmp_path: Path, family: FakeHub) -> None:
    family.misdeeds.listing_status = 503
    verdict = Verifier(DAY).verify(preset(tmp_path))
    assert [text.startswith("org/") and "busy" in text for text in wrong(verdict)] == [True] * 3
    assert verdict.files == ()


def test_a_cached_file_is_not_the_hubs_word(tmp_path: Path, family: FakeHub) -> None:
    for role in ("base", "tuned", "reference"):
        fetch(locate(Reference(f"org/{role}-GGUF", "F32")))
    family.misdeeds.listing_status = 503
    assert len(wrong(Verifier(DAY).verify(preset(tmp_path)))) == 3


@pytest.mark.network
def test_the_smallest_preset_is_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names were taken from public files of others; whoever has a network runs this first."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert wrong(Verifier(DAY).verify(Catalogue(Path("none")).find("smollm2-360m"))) == []
