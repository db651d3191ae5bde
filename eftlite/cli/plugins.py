"""``eftlite plugins``: what other packages add to eftlite, and whether it can be used."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import click

from eftlite.cli.output import Output, on_terminal
from eftlite.cli.verb import Verb, VerbGroup
from eftlite.errors import InputError

if TYPE_CHECKING:
    from eftlite.plugins import Entry

EXAMPLES = ("eftlite plugins list", "eftlite plugins list --json")
COLUMNS = ("name", "kind", "distribution", "version", "state", "reason")


@click.group("plugins", cls=VerbGroup, examples=EXAMPLES, no_args_is_help=False)
def plugins_command() -> None:
    """List what other packages add to eftlite: drafters, presets and commands."""


@plugins_command.command("list", cls=Verb, examples=EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_command(output: Output, as_json: bool) -> None:
    """Try every plugin, and tell what is wrong with those that are broken.

    Drafters are made for the family that comes with eftlite. A plugin with a name that is taken is never used.
    """
    rows = [_row(entry, check) for entry, check in _installed()]
    if as_json:
        tables = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        output.answer(json.dumps(tables, ensure_ascii=False, indent=2), newline=True)
    elif not rows:
        output.note("(no plugins are installed)")
    elif on_terminal(sys.stdout):
        _print_table(output, rows)
    else:
        for row in rows:
            output.answer("\t".join(row), newline=True)


def _installed() -> Iterator[tuple[Entry, Callable[[Entry], object]]]:
    """Every plugin, and what raises InputError if it cannot be used."""
    from eftlite.cli import COMMANDS, command_of
    from eftlite.drafters import DRAFTERS
    from eftlite.presets import Catalogue, preset_of

    for registry, check in ((DRAFTERS, _make_drafter), (Catalogue().registry, preset_of), (COMMANDS, command_of)):
        for entry in registry.installed():
            yield entry, check


def _make_drafter(entry: Entry) -> None:
    from eftlite.drafters import build
    from eftlite.family import bundled_family
    from eftlite.loading import load
    from eftlite.settings import ModelSettings

    with closing(load(bundled_family(), 64, 1, ModelSettings(n_threads=1))) as engine:
        build(entry, engine.ensemble)


def _row(entry: Entry, check: Callable[[Entry], object]) -> tuple[str, ...]:
    state, reason = "ready", ""
    if entry.problem:
        state, reason = "unused", entry.problem
    else:
        try:
            check(entry)
        except InputError as error:
            state, reason = "broken", error.message.removeprefix(f"{entry}: ")
    return entry.name, entry.kind, str(entry.distribution), entry.version, state, reason


def _print_table(output: Output, rows: Sequence[tuple[str, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from eftlite.cli.output import printable

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for heading in COLUMNS:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    output.console().print(table)
