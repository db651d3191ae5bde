"""Family files: paths, keys, values; what is wrong is named, with the file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from eftlite.errors import InputError
from eftlite.family import bundled_family, family_of_files, load_family, parse_family
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


def test_an_adapter_stands_for_the_tuned_model(tmp_path: Path) -> None:
    text = 'base = "b"\nadapter = "x"\n[[delta]]\nreference = "r"\nadapter = "a"\nalpha = 2'
    family = load_family(write(tmp_path, text))
    small = str(tmp_path / "r")
    assert family.deltas == (Delta("tuned", small, small, 2.0, str(tmp_path / "a")),)
    assert family.adapter == str(tmp_path / "x")


def test_families_of_files() -> None:
    assert family_of_files("d/b.gguf", None, None, None) == Family("b", "d/b.gguf")
    assert family_of_files("b", None, None, "a") == Family("b", "b", adapter="a")
    assert family_of_files("b", "t", "r", None).deltas == (Delta("tuned", "t", "r"),)
    assert family_of_files("b", None, "r", "a").deltas == (Delta("tuned", "r", "r", adapter="a"),)


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
        ('base = "b"\nadapter = 5', "mine.toml: adapter: expected a path, got 5"),
        ('base = "b"\n[[delta]]\nreference = "r"\nadapter = ""', "delta 1: adapter: expected a path, got ''"),
        ('base = "b"\n[[delta]]\nadapter = "a"', "delta 1: reference: expected a path, got None"),
        (
            'base = "b"\n[[delta]]\ntuned = "t"\nreference = "r"\nadapter = "a"',
            "delta 1: expected either tuned or adapter, got both",
        ),
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
    assert {"adapter,", "base,", "delta,", "name,", "real,", "rpc,", "stop,"} <= set(caught.value.hint.split())


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


def test_workers(tmp_path: Path) -> None:
    def family(rpc: object) -> Family:
        return parse_family({"base": "b.gguf", "rpc": rpc}, "f.toml", tmp_path)

    assert family(["10.0.0.1", "desk:9"]).rpc == ("10.0.0.1:50052", "desk:9")
    for wrong in ("10.0.0.1", [1]):
        with pytest.raises(InputError, match='rpc: expected a list of "HOST:PORT"'):
            family(wrong)
    with pytest.raises(InputError, match="expected HOST:PORT"):
        family(["[::1]:50052"])


def test_references_of_the_hub_are_left_as_they_are(tmp_path: Path) -> None:
    text = 'base = "org/large-GGUF:Q4_K_M"\n[[delta]]\ntuned = "org/small/t.gguf"\nreference = "org/here/r.gguf"\n'
    here = tmp_path / "org/here/r.gguf"
    here.parent.mkdir(parents=True)
    here.touch()
    family = load_family(write(tmp_path, text))
    assert (family.base, family.deltas[0].tuned) == ("org/large-GGUF:Q4_K_M", "org/small/t.gguf")
    assert family.deltas[0].reference == str(here), "a file of that name beside the family file goes before"


def test_settings_of_single_members(tmp_path: Path) -> None:
    text = 'base = "b.gguf"\n[settings.base]\nn_gpu_layers = 20\ntensor_split = [3, 1]\n'
    text += '[settings."tuned:x"]\nuse_mmap = false\n'
    family = load_family(write(tmp_path, text))
    assert family.settings == {"base": {"n_gpu_layers": 20, "tensor_split": [3, 1]}, "tuned:x": {"use_mmap": False}}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ("settings = 3", "settings: expected tables, each under"),
        ("[settings]\nbase = 3", "settings: expected tables, each under"),
        ("[settings.base]\nn_ctx = 3", "settings of base: unknown name 'n_ctx'"),
        ("[settings.base]\nn_batch = 0", "settings of base: n_batch: expected an integer from 1"),
    ],
)
def test_settings_that_cannot_be_are_named(tmp_path: Path, settings: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        load_family(write(tmp_path, f'base = "b.gguf"\n{settings}\n'))
