"""``eftlite quantize plan``: which type for which member, given a memory budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from eftlite.cli.output import Output
from eftlite.cli.verb import Verb
from eftlite_quantize.cli_bar import progress_bar
from eftlite_quantize.cli_options import Reporting, Running, report_options, running_options

if TYPE_CHECKING:
    from eftlite_quantize.offload import Budget
    from eftlite_quantize.plan import Choice, Plan


@click.command(
    "plan",
    cls=Verb,
    examples=(
        "eftlite quantize plan recorded --ram 8G --types Q8_0,Q6_K,Q4_K_M --write family.toml",
        "eftlite quantize plan recorded --vram 6G --ram 8G --plot plan.svg --json",
    ),
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--ram", metavar="SIZE", help="For weights and caches outside of a GPU, such as 8G.")
@click.option("--vram", metavar="SIZE", help="On the GPU; without --ram every layer must fit there.")
@click.option("--types", metavar="TYPE,...", help="Make and record these first.  [default: those recorded]")
@click.option("--ctx-size", "-c", "n_ctx", type=click.IntRange(min=1), default=4096, show_default=True, metavar="N",
              help="Tokens of the caches.")  # fmt: skip
@click.option("--write", "family", type=click.Path(path_type=Path), metavar="FILE", help="Write a family file.")
@report_options("divergence against size")
@running_options
@click.pass_obj
def plan_command(
    output: Output, /, folder: Path, ram: str | None, vram: str | None, types: str | None, n_ctx: int,
    family: Path | None, reporting: Reporting, running: Running,
) -> None:  # fmt: skip  # the options fit on three lines
    """Choose a type for each member from the recordings in FOLDER.

    The table has every combination that no other beats in both size and divergence; the one within the budget that
    diverges least is marked. Deltas of strength 0 do not count and are not in the family file.

    With --vram, members' last layers go to the GPU, small members first; how many is in the family file.
    """
    from eftlite_quantize.names import file_types
    from eftlite_quantize.offload import Budget, parse_size
    from eftlite_quantize.plan import plan, write_family
    from eftlite_quantize.record import Run
    from eftlite_quantize.recorded import load_index
    from eftlite_quantize.tables import Table
    from eftlite_quantize.variants import with_types

    budget = Budget(
        None if ram is None else parse_size("--ram", ram), None if vram is None else parse_size("--vram", vram)
    )
    kinds = file_types(types) if types is not None else ()
    reporting.check(family)
    index = load_index(folder)
    with progress_bar(output) as report:
        if kinds:
            index = with_types(kinds, Run(folder, running.settings, report))
        found = plan(folder, index, n_ctx, budget, report)
    values = {
        "family": index.family, "text_sha256": index.digest, "budget": vars(budget), "n_ctx": n_ctx,
        "cache_unknown": list(found.cache_unknown),
        "choice": found.chosen.as_json(), "front": [one.as_json() for one in found.choices],
    }  # fmt: skip  # reads across
    reporting.write(output, Table(cells(found, budget), values, notes=notes(found, budget)))
    if family is not None:
        write_family(index, found.chosen, family)
        output.note(f"{family} written")
    if reporting.plot is not None:
        from eftlite_quantize.curves import draw_front

        draw_front(found, reporting.plot)
        output.note(f"{reporting.plot} written")


def cells(found: Plan, budget: Budget) -> list[list[str]]:
    """The table; the choice has a star."""
    from eftlite.inspection import size
    from eftlite_quantize.reports import with_error

    places = ["on the GPU", "in RAM"] if budget.vram is not None else []
    rows = [["", *found.chosen.kinds, "size", *places, "KLD"]]
    for one in found.choices:
        taken = [size(one.placement.vram), size(one.placement.ram)] if places else []
        mark = "*" if one is found.chosen else ""
        rows.append([mark, *one.kinds.values(), size(one.n_bytes), *taken, with_error(one.score.kld)])
    return rows


def notes(found: Plan, budget: Budget) -> list[str]:
    """What the reader must know besides."""
    lines = ["* the least divergence within the budget"]
    if budget.vram is not None:
        lines.append(f"layers on the GPU: {_layers(found.chosen)}")
    if found.cache_unknown:
        names = ", ".join(found.cache_unknown)
        lines.append(f"not counted, since the header does not say how large it is: the cache of {names}")
    return lines


def _layers(choice: Choice) -> str:
    return ", ".join(f"{name} {n}" for name, n in choice.placement.n_gpu_layers.items())
