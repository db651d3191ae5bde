"""Options that several verbs of ``quantize`` share, each group read into one frozen object, as in eftlite.cli.options.

``@report_options("…")`` gives a command the argument ``reporting``, ``@chunk_options`` ``chunking``, and
``@running_options`` ``running``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from eftlite.cli.options import bundle
from eftlite.cli.output import Output, on_terminal
from eftlite.cli.verb import ModelOption
from eftlite.errors import InputError
from eftlite.settings import ModelSettings, from_options
from eftlite_quantize.tables import FORMATS, Table

Command = Callable[..., Any]


@dataclass(frozen=True)
class Reporting:
    """Where a table goes, in which form, and a picture beside it."""

    form: str | None = None
    target: Path | None = None
    plot: Path | None = None

    def check(self, *others: Path | None) -> None:
        """Raise InputError for files, ``others`` too, that could not be written after hours of work."""
        if self.plot is not None:
            from eftlite_quantize.plots import check_plot

            check_plot(self.plot)
        for path in (self.target, self.plot, *others):
            if path is None:
                continue
            if not path.absolute().parent.is_dir():
                raise InputError(f"{path.name}: expected a folder for it at {path.parent}, got none")
            if path.is_dir():
                raise InputError(f"{path.name}: expected a file's name, got a folder's")

    def write(self, output: Output, table: Table) -> None:
        """Print the table, or write it to the file; EFTError when it cannot be written."""
        if self.target is None:
            output.answer(table.text(self.form or "table", output.width if on_terminal(sys.stdout) else None))
            return
        from eftlite_quantize.newfile import write_text

        write_text(self.target, table.text(self.form or _form_of(self.target)))
        output.note(f"{self.target} written")


@dataclass(frozen=True)
class Chunking:
    """How a text is read and cut."""

    chat: bool = False
    n_ctx: int | None = None
    n_chunks: int | None = None


@dataclass(frozen=True)
class Running:
    """Where models run."""

    threads: int | None = None
    n_gpu_layers: int | None = None

    @property
    def settings(self) -> ModelSettings:
        """How each model is loaded; InputError for a value that cannot be used."""
        options = {"n_threads": self.threads, "n_gpu_layers": self.n_gpu_layers}
        settings: ModelSettings = from_options(ModelSettings, options)
        return settings


def _form_of(target: Path) -> str:
    """The format that a file's name asks for."""
    found = target.suffix.lstrip(".").lower()
    return found if found in FORMATS else "table"


_path = click.Path(path_type=Path)

_CHUNK_OPTIONS = (
    click.option("--chat", is_flag=True, help="The text holds conversations as JSON; a chat template writes them."),
    click.option("--ctx-size", "-c", "n_ctx", type=int, metavar="N", help="Tokens of a chunk.  [default: 512]"),
    click.option(
        "--chunks", "n_chunks", type=click.IntRange(min=1), metavar="N", help="Read N chunks.  [default: all]"
    ),
)

_RUNNING_OPTIONS = (
    click.option("--threads", "-t", type=int, metavar="N", cls=ModelOption, help="[default: the physical cores]"),
    click.option("--n-gpu-layers", "-ngl", type=int, metavar="N", cls=ModelOption, help="On the GPU; -1: all."),
)


def report_options(drawn: str) -> Callable[[Command], Command]:
    """Give a command the options of what it prints, as ``reporting``; ``drawn`` says what its picture shows."""
    options = (
        click.option("--plot", type=_path, metavar="FILE", help=f"Draw {drawn}: .png or .svg."),
        click.option("--format", "form", type=click.Choice(FORMATS), help="[default: by the name of -o, else table]"),
        click.option("--json", "form", flag_value="json", help="The same as --format json."),
        click.option("--output", "-o", "target", type=_path, metavar="FILE", help="Write, do not print."),
    )
    return functools.partial(bundle, Reporting, "reporting", options)


def chunk_options(command: Command) -> Command:
    """Give a command the options of how a text is read and cut, as ``chunking``."""
    return bundle(Chunking, "chunking", _CHUNK_OPTIONS, command)


def running_options(command: Command) -> Command:
    """Give a command the options of where models run, as ``running``."""
    return bundle(Running, "running", _RUNNING_OPTIONS, command)
