"""``eftlite quantize plan``: which type for which member, given a memory budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eftlite.cli.output import Output
from eftlite.cli.verb import ModelOption, Verb
from eftlite_quantize.cli_bar import progress_bar
from eftlite_quantize.cli_tables import FORMATS, check_folder, write

if TYPE_CHECKING:
    from eftlite_quantize.plan import Choice


@click.command(
    "plan",
    cls=Verb,
    examples=(
        "eftlite quantize plan recorded --ram 8G --types Q8_0,Q6_K,Q4_K_M --write family.toml",
        "eftlite quantize plan recorded --ram 8G --plot plan.svg --json",
    ),
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--ram", "--vram", "ram", required=True, metavar="SIZE", help="For weights and caches, such as 8G.")
@click.option("--types", metavar="TYPE,...", help="Make and record these first.  [default: those recorded]")
@click.option("--ctx-size", "-c", "n_ctx", type=click.IntRange(min=1), default=4096, show_default=True, metavar="N",
              help="Tokens of the caches.")  # fmt: skip
@click.option("--write", "family", type=click.Path(path_type=Path), metavar="FILE", help="Write a family file.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw the front: .png or .svg.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
@click.option("--output", "-o", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write, do not print.")
@click.option("--threads", "-t", type=int, default=0, metavar="N", cls=ModelOption, help="[default: the cores]")
@click.pass_obj
def plan_command(
    output: Output, /, folder: Path, ram: str, types: str | None, n_ctx: int, family: Path | None, plot: Path | None,
    form: str | None, target: Path | None, threads: int,
) -> None:  # fmt: skip  # the options fit on three lines
    """Choose a type for each member from the recordings in FOLDER.

    The table has every combination that no other beats in both size and divergence; the one within the budget that
    diverges least is marked. Deltas of strength 0 do not count and are not in the family file.
    """
    from eftlite.settings import ModelSettings
    from eftlite_quantize import plan
    from eftlite_quantize.names import file_types
    from eftlite_quantize.plots import check_plot
    from eftlite_quantize.record import Run
    from eftlite_quantize.recorded import load_index
    from eftlite_quantize.variants import with_types

    n_bytes = plan.budget(ram)
    kinds = file_types(types) if types is not None else ()
    if plot is not None:
        check_plot(plot)
    check_folder(plot, target, family)
    index = load_index(folder)
    with progress_bar(output) as report:
        if kinds:
            index = with_types(kinds, Run(folder, ModelSettings(n_threads=threads), report))
        found = plan.front(folder, index, n_ctx, report)
    choice = plan.choose(found, n_bytes)
    values = {
        "family": index.family, "text_sha256": index.digest, "budget": n_bytes, "n_ctx": n_ctx,
        "choice": choice.as_json(), "front": [one.as_json() for one in found],
    }  # fmt: skip  # reads across
    write(output, cells(found, choice), values, form or "table", target)
    if family is not None:
        plan.write_family(index, choice, family)
        output.note(f"{family} written")
    if plot is not None:
        from eftlite_quantize.curves import draw_front

        draw_front(found, choice, plot)
        output.note(f"{plot} written")


def cells(found: Sequence[Choice], choice: Choice) -> list[list[str]]:
    """The table; the choice has a star."""
    from eftlite.inspection import size
    from eftlite_quantize.reports import with_error

    rows = [["", *found[0].kinds, "size", "KLD"]]
    for one in found:
        mark = "*" if one is choice else ""
        rows.append([mark, *one.kinds.values(), size(one.n_bytes), with_error(one.score.kld)])
    return rows
