"""Family files: paths, keys, values; what is wrong is named, with the file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from eftlite.errors import InputError
from eftlite.family import bundled_family, load_family
from eftlite.settings import Delta, Family

WHOLE = """
name = "mine"
base = "large.gguf"
real = "/models/real.gguf"
stop = ["\\nUser:", "###"]
template = "chatml"

[[delta]]
name = "helpful"
tuned = "small/tuned.gguf"
reference = "../small.gguf"
alpha = 0.5

[[delta]]
name = "harmless"
tuned = "c.gguf"
reference = "d.gguf"
"""


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    """A family file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_everything_a_file_can_say(tmp_path: Path) -> None:
    family = load_family(write(tmp_path, WHOLE))
    assert family == Family(
        name="mine",
        base=str(tmp_path / "large.gguf"),
        deltas=(
            Delta("helpful", str(tmp_path / "small/tuned.gguf"), str(tmp_path / "../small.gguf"), 0.5),
            Delta("harmless", str(tmp_path / "c.gguf"), str(tmp_path / "d.gguf"), 1.0),
        ),
        real="/models/real.gguf",
        template="chatml",
        stop=("\nUser:", "###"),
    )


def test_paths_are_relative_to_the_file_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 'base = "large.gguf"')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Path(load_family("../mine.toml").base).resolve() == tmp_path / "large.gguf"


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    assert load_family(write(tmp_path, 'base = "~/x.gguf"')).base == str(tmp_path / "home" / "x.gguf")


def test_a_base_alone_is_a_family_named_after_its_file(tmp_path: Path) -> None:
    family = load_family(write(tmp_path, 'base = "b.gguf"', "alone.toml"))
    assert (family.name, family.deltas, family.real, family.template, family.stop) == ("alone", (), None, None, ())


def test_a_delta_needs_no_name_when_it_is_the_only_one(tmp_path: Path) -> None:
    family = load_family(write(tmp_path, 'base = "b"\n[[delta]]\ntuned = "t"\nreference = "r"'))
    assert [delta.name for delta in family.deltas] == ["tuned"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "mine.toml: base: expected a path, got None"),
        ('name = "x"', "mine.toml: base: expected a path, got None"),
        ("base = 5", "mine.toml: base: expected a path, got 5"),
        ('base = ""', "mine.toml: base: expected a path, got ''"),
        ('base = "b"\nbse = 1', "mine.toml: unknown key 'bse'"),
        ('base = "b"\nreal = 5', "mine.toml: real: expected a path, got 5"),
        ('base = "b"\nname = 5', "mine.toml: name: expected a string, got 5"),
        ('base = "b"\ntemplate = 5', "mine.toml: template: expected a string, got 5"),
        ('base = "b"\nstop = "User:"', "mine.toml: stop: expected a list of strings, got 'User:'"),
        ('base = "b"\nstop = [5]', r"mine.toml: stop: expected a list of strings, got \[5\]"),
        ('base = "b"\nstop = [""]', r"mine.toml: stop: expected a list of strings, got \[''\]"),
        ('base = "b"\ndelta = 5', "mine.toml: delta: expected"),
        ('base = "b"\ndelta = ["x"]', "mine.toml: delta: expected"),
        ('base = "b"\n[delta]\ntuned = "t"\nreference = "r"', r"mine.toml: delta: expected .*\[\[delta\]\]"),
        ('base = "b"\n[[delta]]\ntuned = "t"', "mine.toml, delta 1: reference: expected a path, got None"),
        ('base = "b"\n[[delta]]\nreference = "t"', "mine.toml, delta 1: tuned: expected a path, got None"),
        ('base = "b"\n[[delta]]\ntuned = "t"\nreference = "r"\nalhpa = 1', "mine.toml, delta 1: unknown key 'alhpa'"),
        ('base = "b"\n[[delta]]\ntuned = "t"\nreference = "r"\nalpha = "1"', "delta 1: alpha: expected a number"),
        ('base = "b"\n[[delta]]\ntuned = "t"\nreference = "r"\nalpha = true', "delta 1: alpha: expected a number"),
        ('base = "b"\n[[delta]]\ntuned = "t"\nreference = "r"\nalpha = nan', "delta 1: alpha: expected a number"),
        ('base = "b"\n[[delta]]\ntuned = "t"\nreference = "r"\nname = 5', "delta 1: name: expected a string, got 5"),
        ("base = ", "family file mine.toml: expected TOML"),
        ("base = 'b'\nbase = 'c'", "family file mine.toml: expected TOML"),
        ("base = " + "[" * 20_000, "family file mine.toml: expected TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words.replace(".toml", r"\.toml")):
        load_family(write(tmp_path, text))


def test_two_deltas_need_two_names(tmp_path: Path) -> None:
    delta = '[[delta]]\nname = "x"\ntuned = "t"\nreference = "r"\n'
    with pytest.raises(InputError, match="a different name for each delta, got x, x"):
        load_family(write(tmp_path, 'base = "b"\n' + delta + delta))


def test_an_unknown_key_comes_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_family(write(tmp_path, 'base = "b"\nx = 1'))
    assert "base, delta, name, real, stop, template" in caught.value.hint


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing.toml", tmp_path, tmp_path / "binary.toml", "a\0b.toml", "x" * 5000):
        with pytest.raises(InputError, match="family file"):
            load_family(path)


def test_the_bundled_family_is_whole() -> None:
    family = bundled_family()
    assert family.name == "demo"
    assert [delta.name for delta in family.deltas] == ["helpful", "harmless"]
    assert [delta.alpha for delta in family.deltas] == [1.0, 0.0]
    assert family.real is not None
    files = [family.base, family.real, *(p for d in family.deltas for p in (d.tuned, d.reference))]
    assert all(Path(path).is_file() for path in files)
    assert math.isclose(sum(delta.alpha for delta in family.deltas), 1.0)
