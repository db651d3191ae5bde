"""``eftlite quantize produce``: quantized files of a model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eftlite.cli.output import Output
from eftlite.cli.verb import Verb
from eftlite.errors import InputError
from eftlite_quantize.cli_bar import progress_bar
from eftlite_quantize.names import TYPES, file_types, tensor_type

if TYPE_CHECKING:
    from eftlite_quantize.produce import Outcome

_HELP = f"""Make quantized files of a GGUF model that has F32, F16 or BF16 weights.

    Each file is called NAME-TYPE.gguf and appears only when it is whole. A file that is there already, made from the
    same source in the same way, is checked and kept; so the same command goes on where it was stopped.

    Types, the smallest first: {", ".join(TYPES)}.
    Those that need an importance matrix: {", ".join(one.name for one in TYPES.values() if one.needs_imatrix)}.
    """


@click.command(
    "produce",
    cls=Verb,
    help=_HELP,
    examples=(
        "eftlite quantize produce model-f16.gguf --types Q4_K_M,Q8_0",
        "eftlite quantize produce model-f16.gguf --types IQ2_XS,Q4_K_M --imatrix imatrix.gguf -o quants",
        "eftlite quantize produce model-f16.gguf --types Q4_K_M --tensor-type ffn_down=Q6_K --dry-run",
    ),
)
@click.argument("source", metavar="IN")
@click.option("--types", required=True, metavar="TYPE[,…]", help="What to make.")
@click.option(
    "--output", "-o", "folder", type=click.Path(path_type=Path), metavar="DIR", help="Where.  [default: IN's]"
)
@click.option("--imatrix", type=click.Path(path_type=Path), metavar="FILE", help="Use this importance matrix.")
@click.option("--tensor-type", multiple=True, metavar="NAME=TYPE", help="Type of tensors like NAME; repeatable.")
@click.option("--output-tensor-type", metavar="TYPE", help="Type of the output tensor.")
@click.option("--token-embedding-type", metavar="TYPE", help="Type of the token embeddings.")
@click.option("--pure", is_flag=True, help="No mixture: one type for all tensors.")
@click.option("--leave-output-tensor", is_flag=True, help="Leave the output tensor as it is.")
@click.option("--allow-requantize", is_flag=True, help="Take a source that is quantized already.")
@click.option("--threads", "-t", type=int, default=0, metavar="N", help="Threads.  [default: all]")
@click.option("--dry-run", is_flag=True, help="Only tell what would be made, and its size.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@click.pass_obj
def produce_command(
    output: Output,
    /,
    source: str,
    types: str,
    folder: Path | None,
    threads: int,
    dry_run: bool,
    force: bool,
    as_json: bool,
    **recipe: Any,
) -> None:
    """Make quantized files of a GGUF model."""
    from eftlite_quantize.produce import produce

    if threads < 0:
        raise InputError(f"--threads: expected a number of threads, or 0 for all, got {threads}")
    kinds, how = file_types(types), _recipe(**recipe)
    if folder is not None and folder.suffix.lower() == ".gguf" and not folder.is_dir():
        raise InputError(f"-o: expected a folder, got {str(folder)!r}", "Files are named NAME-TYPE.gguf in it")
    with progress_bar(output) as report:
        running = produce(source, kinds, how, folder, threads=threads, force=force, dry_run=dry_run, report=report)
        with closing(running):
            outcomes = list(running)
    if as_json:
        output.json({"source": Path(source).name, "files": [one.as_json() for one in outcomes]})
    else:
        _print(output, outcomes)


def _recipe(
    imatrix: Path | None,
    tensor_type: tuple[str, ...],
    output_tensor_type: str | None,
    token_embedding_type: str | None,
    pure: bool,
    leave_output_tensor: bool,
    allow_requantize: bool,
) -> Any:
    from eftlite_quantize.recipe import Recipe

    return Recipe(
        tensor_types=tuple(_named_type(text) for text in tensor_type),
        output_type=_type("--output-tensor-type", output_tensor_type),
        embedding_type=_type("--token-embedding-type", token_embedding_type),
        pure=pure,
        leave_output=leave_output_tensor,
        allow_requantize=allow_requantize,
        imatrix=imatrix,
    )


def _named_type(text: str) -> tuple[str, str]:
    """NAME=TYPE, taken apart."""
    name, equals, kind = text.rpartition("=")
    if not equals or not name.strip():
        raise InputError(f"--tensor-type: expected NAME=TYPE, for example ffn_down=Q6_K, got {text!r}")
    return name.strip(), _type("--tensor-type", kind) or ""


def _type(option: str, name: str | None) -> str | None:
    """A tensor type that an option names."""
    try:
        return None if name is None else tensor_type(name)
    except InputError as error:
        raise InputError(f"{option}: {error.message}", error.hint) from None


def _print(output: Output, outcomes: Sequence[Outcome]) -> None:
    """A line for each file."""
    from rich.table import Table

    from eftlite.inspection import size

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("file", overflow="fold")
    for title in ("size", "bits per weight", "seconds"):
        table.add_column(title, justify="right")
    table.add_column("fell back", overflow="fold")
    for one in outcomes:
        fallbacks = [f"{n} to {kind}" for kind, n in one.plan.fallback_counts().items()]
        seconds = one.state if one.seconds is None else f"{one.seconds:.1f}"
        bits = f"{one.plan.bits_per_weight:.2f}"
        table.add_row(one.plan.path.name, size(one.n_bytes), bits, seconds, ", ".join(fallbacks) or "none")
    output.console().print(table)
