"""Plans on a tiny family: the best of all combinations, what runs is what was planned, and the family file."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import pytest
from click.testing import CliRunner

from eftlite.cli import program
from eftlite.errors import InputError
from eftlite.family import load_family
from eftlite_quantize import offload
from eftlite_quantize.offload import Budget, Load
from eftlite_quantize.plan import Choice, Plan, plan, write_family
from eftlite_quantize.recorded import Index, load_index
from eftlite_quantize.replay import Setting, replay, usual
from eftlite_quantize.roles import files_of
from tests.quantize.commands import quantize
from tests.quantize.measured import divergence
from tests.quantize.tiny_recordings import MEMBERS, with_types

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

N_CTX = 64
Every = list[tuple[dict[str, str], dict[str, Load], float]]  # types, what members take, KLD
EVERYTHING = Budget(ram=2**40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of a tiny family and of two types of each member."""
    return with_types(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def every(folder: Path) -> Every:
    """All combinations with what their members take and their divergence, by replaying each."""
    index = load_index(folder)
    kinds = [[one.kind for one in index.members[name]] for name in MEMBERS]
    found = [dict(zip(MEMBERS, chosen, strict=True)) for chosen in product(*kinds)]
    scores = replay(folder, index, [Setting("", usual(index).knobs, files_of(index, one)) for one in found])
    loads = [{name: load(index, name, kind) for name, kind in one.items()} for one in found]
    return [(one, each, score.kld.value) for one, each, score in zip(found, loads, scores, strict=True)]


def load(index: Index, name: str, kind: str) -> Load:
    from eftlite.gguf import check

    return Load.of(check(index.find(name, kind).path), N_CTX)


def total(loads: dict[str, Load]) -> int:
    return sum(one.total for one in loads.values())


def test_the_front_is_that_of_all_combinations(folder: Path, every: Every) -> None:
    points = [(total(loads), kld) for _, loads, kld in every]
    best = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    found = plan(folder, load_index(folder), N_CTX, EVERYTHING).choices
    assert {(one.n_bytes, one.score.kld.value) for one in found} == best
    assert [one.n_bytes for one in found] == sorted(one.n_bytes for one in found)


def budgets(every: Every) -> list[Budget]:
    """Tight and wide ones, in RAM, on a GPU, and on both."""
    sizes = sorted(total(loads) for _, loads, _ in every)
    found = [Budget(ram=sizes[i]) for i in (0, 3, 13, 20, 26)]
    on_gpu = sorted(sum(one.on_gpu[-1] for one in loads.values()) for _, loads, _ in every)
    found += [Budget(vram=on_gpu[i]) for i in (0, 13, 26)]
    return found + [Budget(ram=sizes[i] - sizes[0] // 2, vram=sizes[0] // 2) for i in (2, 13, 26)]


def test_no_combination_within_the_budget_is_better(folder: Path, every: Every) -> None:
    for budget in budgets(every):
        fitting = [(kld, total(loads), one) for one, loads, kld in every if budget.fits(loads, budget.place(loads))]
        found = plan(folder, load_index(folder), N_CTX, budget)
        best = min(fitting, key=lambda one: one[:2])
        assert (found.chosen.score.kld.value, found.chosen.n_bytes) == best[:2], budget
        assert dict(found.chosen.kinds) == best[2], budget
        assert found.chosen in found.choices
        assert 1 <= len(fitting) <= len(every)


def test_nothing_fits(folder: Path, every: Every) -> None:
    least = min(total(loads) for _, loads, _ in every)
    with pytest.raises(InputError, match="--ram: expected at least"):
        plan(folder, load_index(folder), N_CTX, Budget(ram=least - 1))
    with pytest.raises(InputError, match="--vram: expected at least"):
        plan(folder, load_index(folder), N_CTX, Budget(vram=100))


@pytest.mark.parametrize("part", [0.0, 0.5, 0.8])
def test_what_is_planned_is_what_runs(folder: Path, tmp_path: Path, part: float, every: Every) -> None:
    sizes = sorted(total(loads) for _, loads, _ in every)
    limit = sizes[int(part * (len(sizes) - 1))]
    result = quantize("plan", folder, "--ram", limit, "-c", N_CTX, "--write", tmp_path / "f.toml", "--json")
    assert result.exit_code == 0, result.output
    planned = json.loads(result.stdout)["choice"]
    assert planned["bytes"] == planned["ram"] <= limit
    measured = divergence(folder, load_family(tmp_path / "f.toml"))
    assert measured > 0
    assert planned["kld"]["value"] == pytest.approx(measured, rel=0.05)


# ---- the family file


def test_every_verb_takes_the_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFTLITE_CACHE_DIR", str(tmp_path))
    file = tmp_path / "f.toml"
    result = quantize("plan", folder, "--ram", "1G", "-c", N_CTX, "--write", file)
    assert result.exit_code == 0, result.output
    text = tmp_path / "text.txt"
    text.write_text("a lazy dog and a quick fox " * 30)
    for words in (
        ["inspect", "--family", str(file)],
        ["run", "--family", str(file), "--no-speculative", "--max-tokens", "2", "-t", "1", "a dog"],
        ["quantize", "record", "--family", str(file), "--text", str(text), "-c", "120", "-o", str(tmp_path / "again")],
    ):
        result = CliRunner().invoke(program, words)
        assert result.exit_code == 0, (words, result.output)
    assert load_index(tmp_path / "again").members["base"][0].sha256 == load_index(folder).members["base"][0].sha256


def test_names_that_toml_must_escape(folder: Path, tmp_path: Path) -> None:
    index = load_index(folder)
    awkward = 'a "b" \\ \U0001f600 \x7f\n'
    index = replace(index, family=awkward, stop=(awkward, "x"), template=awkward)
    found = plan(folder, index, N_CTX, EVERYTHING).chosen
    write_family(index, found, tmp_path / "f.toml")
    family = load_family(tmp_path / "f.toml")
    assert (family.name, family.template, family.stop) == (awkward, awkward, (awkward, "x"))
    assert family.deltas[0].name == "helpful"
    assert Path(family.base).samefile(index.find("base", found.kinds["base"]).path)


def test_models_below_the_file_are_named_from_there(folder: Path, tmp_path: Path) -> None:
    index = load_index(folder)
    chosen = plan(folder, index, N_CTX, EVERYTHING).chosen
    small = replace(chosen, kinds=dict.fromkeys(MEMBERS, "Q4_0"))
    for place, below in ((folder / "f.toml", True), (tmp_path / "f.toml", False)):
        write_family(index, small, place)
        base = tomllib.loads(place.read_text())["base"]
        assert Path(base).is_absolute() != below
        assert Path(load_family(place).base).samefile(index.find("base", "Q4_0").path)


def test_layers_stand_in_the_file(folder: Path, tmp_path: Path, every: Every) -> None:
    _, loads, _ = max(every, key=lambda one: total(one[1]))
    small = sum(loads[name].on_gpu[-1] for name in ("tuned", "reference"))
    vram = small + loads["base"].on_gpu[2]
    result = quantize(
        "plan", folder, "--ram", "1G", "--vram", vram, "-c", N_CTX, "--write", tmp_path / "f.toml", "--json"
    )
    assert result.exit_code == 0, result.output
    choice = json.loads(result.stdout)["choice"]
    assert choice["vram"] == vram
    assert choice["vram"] + choice["ram"] == choice["bytes"]
    assert choice["n_gpu_layers"] == {"base": 2, "tuned": 3, "reference": 3}
    settings = load_family(tmp_path / "f.toml").settings
    assert settings == {name: {"n_gpu_layers": n} for name, n in choice["n_gpu_layers"].items()}
    assert "[settings.base]" in (tmp_path / "f.toml").read_text()


# ---- the verb


def test_the_table(folder: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "plan.svg"
    result = quantize("plan", folder, "--ram", "1G", "--vram", "1G", "-c", N_CTX, "--plot", drawn)
    assert result.exit_code == 0, result.output
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["base", "tuned", "reference", "size", "on", "the", "GPU", "in", "RAM", "KLD"]
    assert [line[0] for line in lines].count("*") == 2  # the choice, and what the star means
    assert "layers on the GPU: base 4, tuned 3, reference 3" in result.stdout
    text = drawn.read_text()
    for word in ("Q4_0", "Q8_0", "type of the base", "mean KLD of the composite, nats"):
        assert f"<!-- {word} -->" in text, word


def test_a_cache_of_unknown_size_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "cache_bytes", lambda header, n_ctx: None)
    result = quantize("plan", folder, "--ram", "1G")
    assert result.exit_code == 0, result.output
    assert "not counted, since the header does not say how large it is: the cache of base, tuned, reference" in (
        " ".join(result.stdout.split())
    )


@pytest.mark.parametrize("words", [(), ("--ram", ""), ("--ram", "8X"), ("--vram", "0"), ("--ram", "1")])
def test_budgets_that_are_refused(folder: Path, words: tuple[str, ...]) -> None:
    result = quantize("plan", folder, *words)
    assert result.exit_code == 2, result.output
    assert "ram: expected" in result.stderr
    assert "Traceback" not in result.output


def test_the_chosen_one_stands_in_the_table_though_it_is_not_on_the_front(folder: Path, every: Every) -> None:
    found: list[Plan] = [plan(folder, load_index(folder), N_CTX, budget) for budget in budgets(every)]
    for one in found:
        assert sum(choice is one.chosen for choice in one.choices) == 1
        rest: list[Choice] = [choice for choice in one.choices if choice is not one.chosen]
        assert all(a.score.kld.value > b.score.kld.value for a, b in pairwise(rest))


def test_what_alone_fits_is_chosen_though_others_beat_it(
    folder: Path, every: Every, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU less may fit than sizes say; a combination that would have been left out is the best that there is."""
    index = load_index(folder)
    original = index.members["tuned"][0].kind
    awkward = {"base": "Q4_0", "tuned": original, "reference": original}
    loads = next(loads for kinds, loads, _ in every if kinds == awkward)
    monkeypatch.setattr(Budget, "fits", lambda self, found, placement: found == loads)
    assert dict(plan(folder, index, N_CTX, EVERYTHING).chosen.kinds) == awkward
