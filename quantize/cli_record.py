"""``eftlite quantize record``: what every member of a family makes of a text, recorded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from eftlite.cli.options import Members
from eftlite.cli.output import Output
from eftlite.cli.verb import ModelOption, Verb
from eftlite.errors import InputError
from eftlite_quantize.cli_bar import progress_bar
from eftlite_quantize.cli_options import Chunking, chunk_options


@click.command(
    "record",
    cls=Verb,
    examples=(
        "eftlite quantize record --family family.toml --text chats.jsonl --chat -o recorded",
        "eftlite quantize record -o recorded --add --variant base=base-Q4_K_M.gguf --variant tuned=tuned-Q8_0.gguf",
    ),
)
@click.option("--text", type=click.Path(path_type=Path), metavar="FILE", help="What the members read: a UTF-8 text.")
@chunk_options
@click.option("--output", "-o", "folder", type=click.Path(path_type=Path), required=True, metavar="FOLDER")
@click.option("--variant", "variants", multiple=True, metavar="MEMBER=FILE", help="Record this too; repeatable.")
@click.option("--add", is_flag=True, help="Only add variants to a FOLDER that is there.")
@click.option("--family", metavar="FILE", cls=ModelOption, help="A family file (TOML) that names all models.")
@click.option("--base", metavar="FILE", cls=ModelOption, help="The large pre-trained model (GGUF).")
@click.option("--tuned", metavar="FILE", cls=ModelOption, help="The small fine-tuned model.")
@click.option("--reference", metavar="FILE", cls=ModelOption, help="The small pre-trained model.")
@click.option("--threads", "-t", type=int, metavar="N", cls=ModelOption, help="[default: the physical cores]")
@click.option("--n-gpu-layers", "-ngl", type=int, metavar="N", cls=ModelOption, help="On the GPU; -1: all.")
@click.pass_obj
def record_command(
    output: Output,
    /,
    text: Path | None,
    chunking: Chunking,
    folder: Path,
    variants: tuple[str, ...],
    add: bool,
    **models: Any,
) -> None:
    """Record the log-probabilities of every member of a family on a text.

    A folder gets one file for each model, and an index. Members read the text one after the other; the same command
    goes on where it was stopped: members recorded already are kept, the one that was being recorded begins anew.
    `replay`, `family` and `plan` work on the folder, without the models.
    """
    from eftlite.settings import Family, from_options
    from eftlite_quantize import record

    members = Members(**models)
    family = Family("", "") if add else members.resolve()
    more = [record.Variant(*_variant(one)) for one in variants]
    if add and (text is not None or chunking != Chunking() or not more):
        raise InputError("--add: expected --variant beside it, and nothing about a text: the folder has one")
    if not add and text is None:
        raise InputError("--text: expected a text for the members to read, got none", "Or add variants with --add")
    with progress_bar(output) as report:
        run = record.Run(folder, members.settings(family), report)
        if text is not None:
            record.record(family, from_options(record.Text, {"path": text, **vars(chunking)}), run)
        index = record.add(more, run)
    for name, entries in index.members.items():
        output.answer(f"{name}: {', '.join(one.kind for one in entries)}", newline=True)


def _variant(text: str) -> tuple[str, Path]:
    """MEMBER=FILE, taken apart."""
    member, equals, path = text.partition("=")
    if not (member and equals and path):
        raise InputError(f"--variant: expected MEMBER=FILE, got {text!r}")
    return member.strip(), Path(path)
