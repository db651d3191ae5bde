"""``eftlite bench``: options become a plan, each format can be read again, what is synthetic is printed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eftlite import bench, blocks
from eftlite.cli import program
from eftlite.contest import Plan
from eftlite.demo.scoring import load_questions
from eftlite.settings import Family, ModelSettings
from eftlite.shapes import SHAPES, Shape
from tests.tiny_gguf import write_family

SHORT = ("-t", "1", "-p", "4", "-n", "6", "-r", "1")


def run(*words: str) -> Result:
    """The verb."""
    return CliRunner().invoke(program, ["bench", *words])


@pytest.fixture(scope="module")
def naming(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name a tiny family."""
    files = write_family(tmp_path_factory.mktemp("family"), seed=3)
    return [word for role, path in files.items() for word in (f"--{role}", str(path))]


@pytest.fixture
def random_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options that ask for random models, tiny ones."""
    monkeypatch.setattr(blocks, "POOL_BLOCKS", 4001)
    monkeypatch.setitem(SHAPES, "tiny", Shape("tiny", "nothing", 64, 2, 2, 1, 128, 1024, tied=True))
    return ["--shape", "tiny-f16", "tiny-f16", "--shape-folder", str(tmp_path)]


# --- formats ---


def cells(line: str) -> list[str]:
    """Of a line of a Markdown table."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_markdown(naming: list[str]) -> None:
    result = run(*naming, *SHORT)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    table, rest = lines[:10], lines[10:]
    assert all(line.startswith("| ") and line.endswith(" |") for line in table)
    header, rule, *body = map(cells, table)
    assert header == "model size params backend threads mode test t/s".split() + ["x base", "acceptance"]
    assert all(set(cell) <= {"-", ":"} for cell in rule)
    modes = ["base", "tuned", "eft"]
    assert [row[5:7] for row in body[:3]] == [[mode, "pp4"] for mode in modes]
    assert body[3][5:7] == ["eft-spec", "pp4"]
    assert body[7][5:7] == ["eft-spec (tuned, gumbel)", "tg6"]
    for row in body:
        average, deviation = row[7].split(" ± ")
        assert float(average) > 0
        assert float(deviation) == 0
        assert row[3:5] == ["CPU", "1"]
    assert [row[8] for row in body if row[5] == "base"] == ["1.00", "1.00"]
    assert rest[0] == ""
    assert rest[1].startswith("llama-cpp-python")
    assert len(rest) == 2


@pytest.mark.parametrize("words", [["--json"], ["-o", "json"]])
def test_json(naming: list[str], words: list[str]) -> None:
    rows = json.loads(run(*naming, *SHORT, "--modes", "base,eft", *words).stdout)
    assert [(row["mode"], row["test"]) for row in rows] == [
        ("base", "pp4"), ("eft", "pp4"), ("base", "tg6"), ("eft", "tg6"),
    ]  # fmt: skip  # a line


def test_jsonl(naming: list[str]) -> None:
    lines = run(*naming, *SHORT, "--modes", "base", "-o", "jsonl").stdout.splitlines()
    assert [json.loads(line)["test"] for line in lines] == ["pp4", "tg6"]


def test_csv(naming: list[str]) -> None:
    text = run(*naming, *SHORT, "-p", "0", "--n-draft", "2", "-o", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(text), strict=True))
    assert [row["mode"] for row in rows] == ["base", "tuned", "eft", "eft-spec"]
    assert json.loads(rows[0]["samples_ns"]) == [int(rows[0]["avg_ns"])]
    assert float(rows[3]["ratio_to_base"]) == pytest.approx(float(rows[3]["avg_ts"]) / float(rows[0]["avg_ts"]))
    assert (rows[0]["draft_lengths"], rows[3]["n_draft"]) == ("", "2")
    assert sum(json.loads(rows[3]["draft_lengths"]).values()) > 0


def test_nothing_but_errors_on_stderr(naming: list[str]) -> None:
    assert run(*naming, *SHORT, "--modes", "base").stderr == ""


# --- synthetic ---


def test_random_models_are_written_and_named(random_shapes: list[str], tmp_path: Path) -> None:
    words = [
        "-p",
        "0",
        "--modes",
        "base,eft-spec",
        "--vocab",
        "700",
        "--acceptance",
        ".5,adversarial",
        "--n-draft",
        "2",
    ]
    lines = run(*random_shapes, *SHORT, *words).stdout.splitlines()
    assert sorted(path.name for path in tmp_path.glob("*.gguf")) == [
        f"tiny-f16-vocab700-seed{n}.gguf" for n in range(3)
    ]
    base, coins, adversary = map(cells, lines[2:5])
    assert [row[0].endswith(", random") for row in (base, coins, adversary)] == [True] * 3
    assert base[9] == ""
    assert coins[9].endswith("(coins 0.5)")
    assert adversary[9] == "0.00 adversarial"
    weights = "synthetic: weights random, tiny-f16+tiny-f16, prompt random token ids"
    assert lines[-3:] == [weights, f"{weights}, acceptance 0.5", f"{weights}, acceptance adversarial"]


# --- options ---


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the verb hands to the bench, which then measures nothing."""
    found: dict[str, Any] = {}

    def measure(family: Family, plan: Plan, settings: ModelSettings, **more: Any) -> Any:
        found.update(family=family, plan=plan, settings=settings, **more)
        yield {"test": "none"}

    monkeypatch.setattr(bench, "measure", measure)
    return found


def test_defaults_are_llama_benchs_and_the_bundled_family(asked: dict[str, Any]) -> None:
    assert run("-o", "jsonl").exit_code == 0
    plan: Plan = asked["plan"]
    assert (plan.n_prompt, plan.n_gen, plan.n_depth, plan.repetitions) == ((512,), (128,), (0,), 5)
    assert (plan.modes, plan.drafters, plan.rules, plan.n_drafts, plan.acceptances) == (
        None, ("auto",), ("gumbel",), (None,), (None,),
    )  # fmt: skip  # a line
    assert (plan.sampling.seed, plan.sampling.temperature, plan.n_ctx) == (42, 0.8, None)
    assert (asked["family"].name, asked["settings"], asked["random_weights"]) == ("demo", ModelSettings(), False)
    assert {question.text for question in load_questions()} > set(plan.questions)
    assert len(set(plan.questions)) == 5


def test_every_option_arrives(asked: dict[str, Any], naming: list[str]) -> None:
    words = (
        "-p 0,8 -n 4 -d 0,16 -r 2 -t 3 -ngl 5 -ctk f32 -ctv bf16 --modes eft,eft-spec --drafter lookup,auto --n-ctx 99 "
        "--rule block,token --n-draft 3 --acceptance 0.8,adversarial --temperature 0 --seed 7 -o jsonl"
    ).split()
    assert run(*naming, *words, "--prompt", "a, b", "--prompt", "c").exit_code == 0
    plan: Plan = asked["plan"]
    assert [test.name for test in plan.tests] == ["pp8", "tg4", "pp8 @ d16", "tg4 @ d16"]
    assert (plan.repetitions, plan.modes, plan.drafters) == (2, ("eft", "eft-spec"), ("lookup", "auto"))
    assert (plan.rules, plan.n_drafts, plan.acceptances) == (("block", "token"), (3,), (0.8, "adversarial"))
    assert (plan.sampling.temperature, plan.sampling.seed) == (0, 7)
    assert (plan.questions, plan.n_ctx) == (("a, b", "c"), 99)
    assert asked["settings"] == ModelSettings(n_threads=3, n_gpu_layers=5, type_k="f32", type_v="bf16")
    assert asked["family"].base.endswith("base.gguf")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["-p", "8,x"], "whole numbers between commas, got '8,x'"),
        (["--acceptance", "often"], "numbers or 'adversarial'"),
        (["--acceptance", "2"], "acceptance"),
        (["--modes", "quick"], "modes"),
        (["--rule", "luck"], "rule"),
        (["-n", "0", "-p", "0"], "to read or to make"),
        (["--vocab", "600"], "--vocab: expected --shape"),
        (["--shape-folder", "x"], "--shape-folder: expected --shape"),
        (["--shape", "9b-q8_0", "135m-q8_0"], "9b"),
        (["--shape", "3b-q8_0", "135m-q8_0", "--family", "f.toml"], "--family"),
        (["-ctk", "q3"], "--type-k"),
        (["-t", "-1"], "n_threads"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(words: list[str], named: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert named in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
