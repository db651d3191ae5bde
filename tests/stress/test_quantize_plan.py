"""A plan of the bundled family, held against all combinations and against the models themselves.

pytest -m stress tests/stress/test_quantize_plan.py -s        about 6 minutes
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from random import Random

import pytest

from eftlite.family import bundled_family, load_family
from eftlite.gguf import check
from eftlite.inspection import size
from eftlite_quantize.names import file_types
from eftlite_quantize.offload import Budget, Load
from eftlite_quantize.plan import plan, write_family
from eftlite_quantize.record import Run, Text, Variant, add, record
from eftlite_quantize.recorded import Index, load_index
from eftlite_quantize.replay import Setting, replay, usual
from eftlite_quantize.roles import files_of
from eftlite_quantize.variants import playing, with_types
from lab.train.sample import articles
from lab.train.world import make_world
from tests.quantize.measured import RUN, divergence

pytestmark = pytest.mark.stress

TYPES = file_types("Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q4_0,Q3_K_M,Q2_K")
N_CTX, N_CHUNKS, CACHES = 512, 40, 512
BUDGETS = [Budget(ram=n * 2**20) for n in (12, 8, 6)]


def text(path: Path, seed: int) -> Text:
    """What `python -m lab.train.sample --seed SEED` prints."""
    lines = articles(make_world(1), 250_000, Random(f"sample {seed}"))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return Text(path, n_ctx=N_CTX, n_chunks=N_CHUNKS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of the family in eight types."""
    place = tmp_path_factory.mktemp("bundled")
    record(bundled_family(), text(place / "world.txt", 1), Run(place / "recorded", RUN))
    with_types(TYPES, Run(place / "recorded", RUN))
    return place / "recorded"


def loads(index: Index, kinds: dict[str, str]) -> dict[str, Load]:
    return {name: Load.of(check(index.find(name, kind).path), CACHES) for name, kind in kinds.items()}


def test_no_combination_within_a_budget_is_better(folder: Path) -> None:
    """Every combination of eight types, replayed; about a minute."""
    index = load_index(folder)
    members = playing(index)
    found = [dict(zip(members, one, strict=True)) for one in product(*(_kinds(index, name) for name in members))]
    scores = replay(folder, index, [Setting("", usual(index).knobs, files_of(index, one)) for one in found])
    sizes = [sum(one.total for one in loads(index, kinds).values()) for kinds in found]
    for budget in BUDGETS:
        fitting = [(s.kld.value, n, k) for s, n, k in zip(scores, sizes, found, strict=True) if n <= (budget.ram or 0)]
        best = min(fitting, key=lambda one: one[:2])
        chosen = plan(folder, index, CACHES, budget).chosen
        print(f"{size(budget.ram or 0)}: {len(fitting)} of {len(found)} fit; best {best[2]}, chosen {chosen.kinds}")
        assert dict(chosen.kinds) == best[2]
        assert chosen.score.kld.value == pytest.approx(best[0])


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda one: size(one.ram))
def test_what_is_planned_is_what_runs(folder: Path, tmp_path: Path, budget: Budget) -> None:
    """The chosen files run beside the originals on the text, and on one that was not planned on; a minute each."""
    index = load_index(folder)
    chosen = plan(folder, index, CACHES, budget).chosen
    write_family(index, chosen, tmp_path / "f.toml")
    measured = divergence(folder, load_family(tmp_path / "f.toml"))
    elsewhere = other_text(folder, index, tmp_path, dict(chosen.kinds))
    print(
        f"{size(budget.ram or 0)} {dict(chosen.kinds)}: planned {chosen.score.kld.value:.6g}, measured {measured:.6g}"
    )
    print(f"  sum of the members' own {chosen.predicted:.6g}; on another text {elsewhere}")
    assert chosen.score.kld.value == pytest.approx(measured, rel=0.05)


def other_text(folder: Path, index: Index, place: Path, kinds: dict[str, str]) -> str:
    """KLD of a combination on new draws from the same world."""
    full = load_index(folder)
    record(bundled_family(), text(place / "other.txt", 2), Run(place / "other", RUN))
    changed = {name: kind for name, kind in kinds.items() if kind != full.members[name][0].kind}
    found = add(
        [Variant(name, Path(index.find(name, kind).path)) for name, kind in changed.items()], Run(place / "other", RUN)
    )
    (score,) = replay(place / "other", found, [Setting("", usual(found).knobs, files_of(found, changed))])
    return f"{score.kld.value:.6g} ± {score.kld.bootstrap or 0:.2g}"


def _kinds(index: Index, name: str) -> list[str]:
    return [one.kind for one in index.members[name]]
