"""Options become settings, or one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from eftlite.cli import program
from eftlite.cli.options import Generation, Members, unescape
from eftlite.errors import InputError
from eftlite.family import bundled_family
from eftlite.settings import Delta, Family, Knobs, Limits

FAMILY = Family("two", "b", (Delta("helpful", "t", "r"), Delta("harmless", "h", "r", 0.5)))


def test_no_option_is_the_bundled_family() -> None:
    assert Members().resolve() == bundled_family()


def test_three_files_are_a_family() -> None:
    family = Members(base="dir/big.gguf", tuned="t.gguf", reference="r.gguf").resolve()
    assert (family.name, family.base, family.deltas) == ("big", "dir/big.gguf", (Delta("tuned", "t.gguf", "r.gguf"),))
    assert Members(base="big.gguf").resolve().deltas == ()


def test_an_adapter_makes_the_tuned_model() -> None:
    """With a reference; without one it is on the base, as llama.cpp's --lora is."""
    found = Members(base="big.gguf", reference="r.gguf", adapter="a.gguf").resolve()
    assert found.deltas == (Delta("tuned", "r.gguf", "r.gguf", adapter="a.gguf"),)
    assert Members(base="big.gguf", adapter="a.gguf").resolve() == Family("big", "big.gguf", adapter="a.gguf")


def test_family_file(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text('base = "b.gguf"\n', encoding="utf-8")
    assert Members(family=str(file)).resolve().base == str(tmp_path / "b.gguf")


@pytest.mark.parametrize(
    ("named", "complaint"),
    [
        ({"tuned": "t", "reference": "r"}, "--base: expected a GGUF file beside --tuned and --reference, got none"),
        ({"base": "b", "tuned": "t"}, "--reference: expected a GGUF file beside --base and --tuned, got none"),
        ({"base": "b", "reference": "r"}, "--tuned: expected"),
        ({"adapter": "a"}, "--base: expected a GGUF file beside --lora, got none"),
        ({"reference": "r", "adapter": "a"}, "--base: expected a GGUF file beside --reference and --lora, got none"),
        ({"base": "b", "tuned": "t", "adapter": "a"}, "--lora: expected no --tuned beside it"),
        ({"family": "f", "adapter": "a"}, "--family: expected no --lora beside it"),
        ({"family": "f", "base": "b"}, "--family: expected no --base beside it"),
        ({"family": "missing.toml"}, "missing.toml"),
    ],
)
def test_contradictions_are_named(named: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Members(**named).resolve()


def test_bundled_models_get_one_thread_unless_told() -> None:
    assert Members().settings(bundled_family()).n_threads == 1
    assert Members(threads=3).settings(bundled_family()).n_threads == 3
    assert Members().settings(FAMILY).n_threads == 0


def test_workers_replace_the_familys(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text('base = "b.gguf"\nrpc = ["10.0.0.1"]\n', encoding="utf-8")
    assert Members(family=str(file)).resolve().rpc == ("10.0.0.1:50052",)
    assert Members(family=str(file), rpc="10.0.0.2:9, desk").resolve().rpc == ("10.0.0.2:9", "desk:50052")
    assert Members(family=str(file), rpc="").resolve().rpc == ()
    with pytest.raises(InputError, match="expected HOST:PORT"):
        Members(rpc="a:b").resolve()


def test_the_bundled_family_on_workers_is_as_small_as_before() -> None:
    members = Members(rpc="10.0.0.1")
    assert members.settings(members.resolve()).n_threads == 1


def test_knobs_begin_with_the_family() -> None:
    assert Generation().knobs(FAMILY) == Knobs((1.0, 0.5))
    found = Generation(alpha=2.0, beta=1.5, conservative_p=0.9, delta=("harmless=1",)).knobs(FAMILY)
    assert found == Knobs((2.0, 1.0), 1.5, 0.9)
    assert Generation(delta=("helpful=-1",), allow_negative_alpha=True).knobs(FAMILY).alphas == (-1.0, 0.5)


@pytest.mark.parametrize(
    ("options", "family", "complaint"),
    [
        ({"delta": ("harmful=1",)}, FAMILY, "no delta is called 'harmful'. Known deltas: helpful, harmless"),
        ({"delta": ("harmless",)}, FAMILY, "expected NAME=ALPHA"),
        ({"delta": ("harmless=big",)}, FAMILY, "expected NAME=ALPHA"),
        ({"delta": ("harmless=nan",)}, FAMILY, "alpha: expected a number from 0 to 100, got nan|got nan"),
        ({"alpha": 1.0}, Family("one", "b"), "--alpha: expected a family with a delta, got a base alone"),
        ({"alpha": -1.0}, FAMILY, "--allow-negative-alpha"),
        ({"mode": "base", "alpha": 2.0}, FAMILY, "--mode base: expected no knobs beside it"),
    ],
)
def test_wrong_knobs_are_named(options: dict[str, Any], family: Family, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Generation(**options).knobs(family)


def test_stop_strings_may_hold_line_breaks() -> None:
    assert Generation(stop=(r"\n\n", "END"), max_tokens=5).limits() == Limits(5, ("\n\n", "END"))
    assert unescape(r"a\tb\c") == "a\tb\\c"


WRONG = [
    *(f"--{option} {value}" for option in ("alpha", "beta", "temperature") for value in ("nan", "inf", "-2", "1e308")),
    *(f"--{option} {value}" for option in ("conservative-p", "top-p", "min-p") for value in ("nan", "-0.1", "1.1")),
    "--repeat-penalty 0",
    "--repeat-penalty nan",
    "--top-k 99999999999",
    "--top-k 1.5",
    "--top-k many",
    "--seed -1",
    "--seed 18446744073709551616",
    "--max-tokens -1",
    "--n-ctx -1",
    "--n-ctx 1e3",
    "--threads -1",
    "--threads 100000",
    "-ngl -2",
    "--type-k q9_9",
    "--mode loud",
    "--prompt-style poem",
    "--stop ''",
]


@pytest.mark.parametrize("words", WRONG)
def test_numbers_out_of_range_are_one_line_and_exit_code_2(words: str) -> None:
    """Row 30 of what a server must refuse holds on the command line too; no model is loaded for it."""
    option, value = words.split(" ")
    result = CliRunner().invoke(program, ["run", "Hi", option, value.strip("'")])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert option.strip("-").replace("-", "_").replace("ngl", "n_gpu_layers").split("_")[0] in result.stderr


def test_delta_out_of_range_is_refused() -> None:
    result = CliRunner().invoke(program, ["run", "Hi", "--delta", "helpful=nan"])
    assert (result.exit_code, result.stderr) == (2, "error: alpha: expected a number from -100 to 100, got nan\n")


def test_settings_of_single_members_are_the_familys() -> None:
    members = Members(base="big.gguf", overrides=("base.n_threads=3", "base.type_k=q8_0"))
    assert members.resolve().settings == {"base": {"n_threads": 3, "type_k": "q8_0"}}
    shapes = Family("random", "r.gguf", settings={"base": {"n_batch": 8, "n_threads": 1}})
    assert members.changed(shapes).settings == {"base": {"n_batch": 8, "n_threads": 3, "type_k": "q8_0"}}


def test_settings_of_the_bundled_family_do_not_make_it_another() -> None:
    members = Members(overrides=("base.n_batch=64",))
    assert members.settings(members.resolve()).n_threads == 1


@pytest.mark.parametrize("words", ["n_batch=8", "base.n_ctx=8", "base.n_batch=many"])
def test_a_wrong_setting_is_one_line_and_exit_code_2(words: str) -> None:
    result = CliRunner().invoke(program, ["run", "Hi", "--set", words])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
