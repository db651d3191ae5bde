"""``eftlite quantize family``: what quantizing each member does to the composite."""

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
    from eftlite_quantize.roles import Swap


@click.command(
    "family",
    cls=Verb,
    examples=(
        "eftlite quantize family recorded --types Q8_0,Q4_K_M,Q4_0 --plot roles.svg",
        "eftlite quantize family recorded --format md -o roles.md",
    ),
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--types", metavar="TYPE,...", help="Types to compare.  [default: those recorded]")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw divergence by role: .png or .svg.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
@click.option("--output", "-o", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write, do not print.")
@click.option("--threads", "-t", type=int, default=0, metavar="N", cls=ModelOption, help="[default: the cores]")
@click.pass_obj
def family_command(
    output: Output, /, folder: Path, types: str | None, plot: Path | None, form: str | None, target: Path | None,
    threads: int,
) -> None:  # fmt: skip  # the options fit on two lines
    """Compare the composite with quantized members to the one at full precision, on the recordings in FOLDER.

    Members are quantized one at a time, the small ones together with one type and with two, and all. Types that are
    not recorded are made from the originals and recorded first. The last column is KLD over the sum of the KLDs of
    the same members quantized alone: below 1, their errors cancel in part.
    """
    from eftlite.settings import ModelSettings
    from eftlite_quantize.names import file_types
    from eftlite_quantize.record import Run
    from eftlite_quantize.recorded import load_index
    from eftlite_quantize.roles import recorded_types, swaps
    from eftlite_quantize.variants import with_types

    kinds = file_types(types) if types is not None else ()
    if plot is not None:
        from eftlite_quantize.plots import check_plot

        check_plot(plot)
    check_folder(plot, target)
    index = load_index(folder)
    with progress_bar(output) as report:
        if kinds:
            index = with_types(kinds, Run(folder, ModelSettings(n_threads=threads), report))
        found = swaps(folder, index, [one.name for one in kinds] or recorded_types(index), report)
    values = {"family": index.family, "text_sha256": index.digest, "combinations": [one.as_json() for one in found]}
    write(output, cells(found), values, form or "table", target)
    if plot is not None:
        from eftlite_quantize.curves import draw_roles

        draw_roles(found, plot)
        output.note(f"{plot} written")


def cells(found: Sequence[Swap]) -> list[list[str]]:
    """The table."""
    from eftlite_quantize.reports import with_error

    rows = [["quantized", "types", "KLD", "over sum"]]
    for one in found:
        kinds = ", ".join(dict.fromkeys(one.kinds.values()))
        ratio = "" if one.ratio is None or len(one.kinds) == 1 else f"{one.ratio:.2f}"
        rows.append([one.what, kinds, with_error(one.score.kld), ratio])
    return rows
