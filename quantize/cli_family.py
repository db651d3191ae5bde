"""``eftlite quantize family``: what quantizing each member does to the composite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eftlite.cli.output import Output
from eftlite.cli.verb import Verb
from eftlite_quantize.cli_bar import progress_bar
from eftlite_quantize.cli_options import Reporting, Running, report_options, running_options

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
@report_options("divergence by role")
@running_options
@click.pass_obj
def family_command(output: Output, /, folder: Path, types: str | None, reporting: Reporting, running: Running) -> None:
    """Compare the composite with quantized members to the one at full precision, on the recordings in FOLDER.

    Members are quantized one at a time, the small ones together with one type and with two, and all. Types that are
    not recorded are made from the originals and recorded first. The last column is KLD over the sum of the KLDs of
    the same members quantized alone: below 1, their errors cancel in part.
    """
    from eftlite_quantize.names import file_types
    from eftlite_quantize.record import Run
    from eftlite_quantize.recorded import load_index
    from eftlite_quantize.roles import recorded_types, swaps
    from eftlite_quantize.tables import Table
    from eftlite_quantize.variants import with_types

    kinds = file_types(types) if types is not None else ()
    reporting.check()
    index = load_index(folder)
    with progress_bar(output) as report:
        if kinds:
            index = with_types(kinds, Run(folder, running.settings, report))
        found = swaps(folder, index, [one.name for one in kinds] or recorded_types(index), report)
    values = {"family": index.family, "text_sha256": index.digest, "combinations": [one.as_json() for one in found]}
    reporting.write(output, Table(cells(found), values))
    if reporting.plot is not None:
        from eftlite_quantize.curves import draw_roles

        draw_roles(found, reporting.plot)
        output.note(f"{reporting.plot} written")


def cells(found: Sequence[Swap]) -> list[list[str]]:
    """The table."""
    from eftlite_quantize.reports import with_error

    rows = [["quantized", "types", "KLD", "over sum"]]
    for one in found:
        kinds = ", ".join(dict.fromkeys(one.kinds.values()))
        ratio = "" if one.over_sum is None else with_error(one.over_sum)
        rows.append([one.what, kinds, with_error(one.score.kld), ratio])
    return rows
