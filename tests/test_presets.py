"""Presets: the catalogue is consistent, the user's own are read, marks count, the manual's table is the catalogue's."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from eftlite.errors import InputError
from eftlite.facts import MARKS, SEEN, File
from eftlite.family import load_family, read_table
from eftlite.hub.reference import parse
from eftlite.inspection import END_TEXTS
from eftlite.places import config_folder
from eftlite.presets import Catalogue, family_file, references
from eftlite.settings import Delta
from eftlite.template import BUILTIN, Template

DOCS = Path(__file__).resolve().parents[1] / "docs"
CATALOGUE = Catalogue(Path("none"))  # without presets of the user's
EVERY = list(CATALOGUE.names)
GENERATIONS = ("smollm2", "qwen2.5", "qwen3", "llama-3", "llama-2", "gemma", "olmo-2", "falcon")
CONVERSATION = (
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi!"},
    {"role": "user", "content": "Who are you?"},
)
OWN = """
about = "Mine."
base = "big.gguf"
quants = ["Q8_0"]
ends = ["<|end|>"]

[[delta]]
tuned = "small/tuned.gguf"
reference = "org/repo-GGUF:Q8_0"
"""
REFERENCE = "bartowski/Qwen2.5-1.5B-Instruct-GGUF:Q8_0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder with room for presets."""
    (tmp_path / "presets").mkdir()
    return tmp_path


def own(folder: Path, name: str, text: str = OWN) -> Catalogue:
    """The catalogue with a preset of the user's."""
    folder.joinpath("presets", f"{name}.toml").write_text(text, encoding="utf-8")
    return Catalogue(folder)


# ---- the catalogue


def test_every_generation_is_there_and_no_name_twice() -> None:
    document = read_table(DOCS.parent / "eftlite" / "presets.toml")
    assert all(any(name.startswith(generation) for name in EVERY) for generation in GENERATIONS)
    assert [table["name"] for table in document["preset"]] == EVERY
    known = [table["reference"] for table in document["file"]]
    assert len(known) == len(set(known))
    assert set(known) >= {text for name in EVERY for text in references(CATALOGUE.find(name).family)}


@pytest.mark.parametrize("name", EVERY)
def test_a_preset_is_a_family_of_hub_references(name: str) -> None:
    preset = CATALOGUE.find(name)
    family = preset.family
    assert (family.name, len(family.deltas)) == (name, 1)
    for text in references(family):
        reference = parse(text)
        assert reference is not None, text
        assert reference.quant is not None
        assert reference.revision is None
        assert str(reference) == text
    tuned, base = (parse(text) for text in (family.deltas[0].tuned, family.deltas[0].reference))
    assert tuned is not None
    assert base is not None
    assert tuned.quant == base.quant  # the difference is taken of models that are quantized alike
    assert preset.about.endswith(".")
    assert preset.verified is None or preset.vocabulary


@pytest.mark.parametrize("name", EVERY)
def test_a_base_has_the_types_it_is_said_to_have(name: str) -> None:
    preset = CATALOGUE.find(name)
    first = parse(preset.family.base)
    assert first is not None
    assert first.quant == preset.quants[0]
    sizes = {quant: CATALOGUE.find(f"{name}:{quant.lower()}").n_bytes for quant in preset.quants}
    assert all(sizes.values())
    q4, q8 = sizes.get("Q4_K_M"), sizes.get("Q8_0")
    assert q4 is None or q8 is None or q4 < q8


@pytest.mark.parametrize("name", EVERY)
def test_what_is_known_of_files_is_plausible(name: str) -> None:
    for file in CATALOGUE.find(name).files:
        assert file.seen in SEEN, file.reference
        assert file.params > 0
        estimate = replace(file, size=None).n_bytes
        assert estimate is not None
        assert file.size is None or 0.8 < file.size / estimate < 1.3, file.reference
        assert (file.seen in ("size", "hash")) == (file.size is not None)
        assert (file.seen == "hash") == bool(file.sha256)
        assert all(len(one) == 64 and int(one, 16) for one in file.sha256)
        assert file.revision is None or len(file.revision) == 40


@pytest.mark.parametrize("name", EVERY)
def test_the_base_is_larger_than_its_pair(name: str) -> None:
    base, tuned, reference = CATALOGUE.find(name).files
    assert tuned.params == reference.params
    assert 1.3 < base.params / tuned.params < 15


@pytest.mark.parametrize("name", EVERY)
def test_templates_and_end_tokens(name: str) -> None:
    preset = CATALOGUE.find(name)
    assert preset.ends
    assert END_TEXTS.issuperset(text.encode() for text in preset.ends)  # llama.cpp ends there whatever a file says
    if preset.family.template is None:
        return  # the tuned model's file has one; only `eftlite presets verify` can look
    prompt = Template(BUILTIN[preset.family.template], bos="<s>", eos=preset.ends[0]).render(CONVERSATION)
    assert all(turn["content"] in prompt for turn in CONVERSATION)
    assert any(end in prompt for end in (*preset.ends, *preset.family.stop))


def test_thinking_is_off_where_the_base_never_learnt_it() -> None:
    prompt = Template(BUILTIN["qwen3"]).render(CONVERSATION)
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert all(CATALOGUE.find(name).family.template == "qwen3" for name in EVERY if "qwen3" in name)


# ---- names


def test_revisions_that_are_known_are_pinned() -> None:
    preset = CATALOGUE.find("qwen2.5-7b")
    pinned = parse(preset.pinned.deltas[0].tuned)
    assert pinned is not None
    assert pinned.revision == preset.files[1].revision is not None
    assert preset.pinned.base == preset.family.base
    assert parse(preset.family.deltas[0].tuned) == replace(pinned, revision=None)


def test_another_type_of_the_base() -> None:
    preset = CATALOGUE.find("qwen2.5-7b:q6_k")
    assert preset.family.base == "mradermacher/Qwen2.5-7B-GGUF:Q6_K"
    assert preset.files[0] == File("mradermacher/Qwen2.5-7B-GGUF:Q6_K", 7.62)
    assert not preset.measured
    with pytest.raises(InputError, match=r"expected one of Q4_K_M, .*, got IQ1_S"):
        CATALOGUE.find("qwen2.5-7b:IQ1_S")


@pytest.mark.parametrize("text", ["", "nonsense", "../presets/x", "qwen2.5-7", ":Q8_0"])
def test_no_such_preset(text: str) -> None:
    with pytest.raises(InputError, match="preset: there is none called") as caught:
        CATALOGUE.find(text)
    assert ("qwen2.5-7b" in caught.value.hint) == (text == "qwen2.5-7")


# ---- the user's own


def test_a_file_in_the_users_folder_is_a_preset(folder: Path) -> None:
    preset = own(folder, "mine").find("mine")
    presets = folder / "presets"
    assert preset.family.name == "mine"
    assert preset.family.base == str(presets / "big.gguf")
    assert preset.family.deltas == (Delta("tuned", str(presets / "small/tuned.gguf"), "org/repo-GGUF:Q8_0"),)
    assert (preset.about, preset.quants, preset.ends) == ("Mine.", ("Q8_0",), ("<|end|>",))
    assert preset.source == str(presets / "mine.toml")
    assert preset.n_bytes is None
    with pytest.raises(InputError, match="named by its type, got a file"):
        own(folder, "mine").find("mine:Q8_0")


def test_the_same_file_is_a_family(folder: Path) -> None:
    preset = own(folder, "mine").find("mine")
    assert load_family(folder / "presets" / "mine.toml") == preset.family


def test_the_users_preset_comes_before_eftlites(folder: Path) -> None:
    catalogue = own(folder, "qwen2.5-7b")
    assert catalogue.find("qwen2.5-7b").about == "Mine."
    assert list(catalogue.names) == EVERY


def test_the_users_folder_is_the_configuration() -> None:
    assert Catalogue().folder == config_folder()
    assert list(Catalogue().names) == EVERY


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("about = 5", "mine.toml: about: expected a string, got 5"),
        ('quants = "Q8_0"', "mine.toml: quants: expected a list of strings, got 'Q8_0'"),
        ("ends = [5]", r"mine.toml: ends: expected a list of strings, got \[5\]"),
        ("colour = 5", "mine.toml: unknown key 'colour'"),
        ("base = 5", "mine.toml"),
    ],
)
def test_what_is_wrong_is_named_and_hides_nothing_else(folder: Path, line: str, words: str) -> None:
    catalogue = own(folder, "mine", f'{line}\nbase = "b.gguf"\n')
    with pytest.raises(InputError, match=words):
        catalogue.find("mine")
    assert catalogue.find("smollm2-360m").name == "smollm2-360m"


@pytest.mark.parametrize("name", ["falcon-40b", "qwen3-8b"])
def test_a_preset_written_out_reads_the_same(folder: Path, name: str) -> None:
    preset = CATALOGUE.find(name)
    again = own(folder, "copy", family_file(preset)).find("copy")
    assert replace(again.family, name=name) == preset.family
    assert (again.about, again.quants, again.ends) == (preset.about, preset.quants, preset.ends)
    assert again.files == preset.files


def test_all_of_a_family_is_written_out(folder: Path) -> None:
    text = (
        'base = "org/base-GGUF:Q8_0"\nadapter = "org/lora-GGUF"\nreal = "org/real-GGUF"\nrpc = ["10.0.0.2:50052"]\n'
        'stop = ["\\nUser:", "\\u007f", "\\""]\n[[delta]]\nname = "brief"\nreference = "org/small-GGUF"\n'
        'adapter = "org/brief-GGUF"\nalpha = 0.5\n'
    )
    preset = own(folder, "whole", text).find("whole")
    again = own(folder, "copy", family_file(preset)).find("copy")
    assert again.family == replace(preset.family, name="copy")
    assert [*references(preset.family)][:2] == ["org/base-GGUF:Q8_0", "org/small-GGUF"]


# ---- marks


def test_marks_of_the_user_count(folder: Path) -> None:
    names = ["mradermacher/Qwen2.5-7B-GGUF:Q4_K_M", REFERENCE, "mradermacher/Qwen2.5-1.5B-GGUF:Q8_0"]
    revision = "a" * 40
    marks = (
        f'[[file]]\nreference = "{REFERENCE}"\nsize = 5\nsha256 = ["x"]\nrevision = "{revision}"\n'
        f'verified = "2026-12-01"\n[[preset]]\nname = "qwen2.5-7b"\nfiles = {names}\nvocabulary = 7\n'
        'verified = "2026-12-01"\n'
    )
    (folder / MARKS).write_text(marks, encoding="utf-8")
    preset = Catalogue(folder).find("qwen2.5-7b")
    assert (preset.verified, preset.vocabulary) == ("2026-12-01", 7)
    assert preset.files[1] == File(REFERENCE, 1.54, "size", 5, ("x",), revision, "2026-12-01")
    assert preset.pinned.deltas[0].tuned == f"bartowski/Qwen2.5-1.5B-Instruct-GGUF@{revision}:Q8_0"
    assert Catalogue(folder).find("qwen2.5-7b:Q8_0").verified is None  # other files than those that were looked at
    assert Catalogue(folder).find("qwen2.5-14b").files[1].verified == "2026-12-01"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[", "expected TOML"),
        ("file = 5", r"expected \[\[file\]\] with reference, size, sha256, revision, verified, got others"),
        ("[[file]]\nsize = 5", r"expected \[\[file\]\]"),
        ("[[preset]]\nname = 5", r"expected \[\[preset\]\] with name, files, vocabulary, verified, got others"),
    ],
)
def test_a_damaged_file_of_marks_is_named(folder: Path, text: str, words: str) -> None:
    (folder / MARKS).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"marks verified\.toml: {words}"):
        Catalogue(folder).find("qwen2.5-7b")


# ---- the manual


def test_the_manuals_table_is_the_catalogues() -> None:
    page = (DOCS / "presets.md").read_text(encoding="utf-8")
    render = runpy.run_path(str(DOCS / "generate_presets.py"))["render"]
    assert page == render(page), "renew it: python docs/generate_presets.py"
