"""``eftlite presets``: the families that are known by name, and whether the hub still has them as they are known."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eftlite.cli.output import Output, StatusLine, on_terminal
from eftlite.cli.verb import Verb, VerbGroup
from eftlite.errors import InputError

if TYPE_CHECKING:
    from eftlite.presets import Preset
    from eftlite.verification import Verdict

EXAMPLES = (
    "eftlite presets list",
    "eftlite presets show qwen2.5-7b",
    "eftlite presets show qwen2.5-7b --toml > mine.toml",
    "eftlite presets verify qwen2.5-7b",
)


@click.group("presets", cls=VerbGroup, examples=EXAMPLES, no_args_is_help=False)
def presets_command() -> None:
    """List, show and check the families that are known by name.

    Every command that loads models takes one with --preset NAME. Those of your own are family files in the folder
    "presets" of your configuration (EFTLITE_CONFIG_DIR changes it): presets/NAME.toml.
    """


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


# ---- looking


@presets_command.command("list", cls=Verb, examples=("eftlite presets list", "eftlite presets list --json"))
@_json_option
@click.pass_obj
def list_command(output: Output, as_json: bool) -> None:
    """List all presets, with what there is to download.

    A size with a tilde is estimated from the number of parameters.
    """
    found = _every(output)
    if as_json:
        output.answer(json.dumps([one.as_json() for one in found], ensure_ascii=False, indent=2), newline=True)
    elif on_terminal(sys.stdout):
        _print_table(output, found)
    else:
        for one in found:
            output.answer("\t".join(_row(one)), newline=True)


@presets_command.command("show", cls=Verb, examples=EXAMPLES[1:3])
@click.argument("name", metavar="NAME[:TYPE]")
@click.option("--toml", is_flag=True, help="Print a family file, to change and to keep.")
@_json_option
@click.pass_obj
def show_command(output: Output, name: str, toml: bool, as_json: bool) -> None:
    """Show one preset: its models, why these, and what is known of their files."""
    from eftlite.presets import Catalogue, family_file

    preset = Catalogue().find(name)
    if toml:
        output.answer(family_file(preset))
    elif as_json:
        output.json(preset.as_json())
    else:
        _print_preset(output, preset)


# ---- checking


@presets_command.command("verify", cls=Verb, examples=(*EXAMPLES[3:], "eftlite presets verify --write verified.toml"))
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--write", "file", type=click.Path(path_type=Path), metavar="FILE", help="Write marks of what is right.")
@_json_option
@click.pass_obj
def verify_command(output: Output, names: tuple[str, ...], file: Path | None, as_json: bool) -> int:
    """Check presets against the hub: files, sizes, hashes, vocabularies, end tokens and templates.

    Only listings and headers are fetched, some megabytes for each model. Without names, every preset is checked. What
    is right can be written down as marks: into verified.toml of your configuration, where eftlite reads them, or
    into a copy for others. The exit code is 1 when anything is wrong.
    """
    from eftlite.presets import Catalogue
    from eftlite.verification import Verifier, marks, write_marks

    presets = [Catalogue().find(name) for name in names] if names else _every(output)
    verifier, verdicts, line = Verifier(), [], StatusLine()
    for preset in presets:
        line.show(f"asking the hub about {preset.name} …")
        verdicts.append(verifier.verify(preset))
        line.clear()
        if not as_json:
            _print_verdict(output, verdicts[-1])
    if as_json:
        output.json({"presets": [verdict.as_json() for verdict in verdicts], "marks": marks(verdicts)})
    elif file is None and any(verdict.files for verdict in verdicts):
        output.heading("Marks, for verified.toml")
        output.answer(marks(verdicts))
    if file is not None:
        write_marks(file, verdicts)
        output.note(f"(written: {file})")
    return 0 if all(verdict.ok for verdict in verdicts) else 1


# ---- words


def _every(output: Output) -> list[Preset]:
    """All presets; a file of the user's that is wrong is named, and does not hide the others."""
    from eftlite.presets import Catalogue

    catalogue = Catalogue()

    def read(name: str) -> Preset | None:
        try:
            return catalogue.find(name)
        except InputError as error:
            output.error(str(error))
            return None

    return [preset for preset in map(read, catalogue.names) if preset is not None]


def _row(preset: Preset) -> tuple[str, ...]:
    """Name, base, delta, size and state."""
    from eftlite.hub.reference import title

    deltas = (f"{title(one.tuned)} − {title(one.reference)}" for one in preset.family.deltas)
    state = f"verified {preset.verified}" if preset.verified else "unverified"
    return preset.name, title(preset.family.base), ", ".join(deltas) or "none", _size(preset), state


def _size(preset: Preset) -> str:
    from eftlite.inspection import size

    if preset.n_bytes is None:
        return "unknown"
    return ("" if preset.measured else "~") + size(preset.n_bytes)


def _print_table(output: Output, found: Sequence[Preset]) -> None:
    from rich.table import Table
    from rich.text import Text

    from eftlite.cli.output import printable

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for heading in ("preset", "base", "delta", "download", "state"):
        table.add_column(heading, justify="right" if heading == "download" else "left", overflow="fold")
    for one in found:
        table.add_row(*(Text(printable(cell)) for cell in _row(one)))
    output.console().print(table)


def _print_preset(output: Output, preset: Preset) -> None:
    from eftlite.inspection import size

    family = preset.family
    output.heading(preset.name)
    if preset.about:
        output.prose(preset.about)
    rows = [("  base", family.base)]
    for delta in family.deltas:
        tuned = f"{delta.reference} with {delta.adapter}" if delta.adapter else delta.tuned
        rows += [(f"  {delta.name}", f"{tuned}\n− {delta.reference}\nalpha {delta.alpha:g}")]
    rows += [
        ("  template", (family.template or "the tuned model's own").split("\n")[0]),
        ("  stop", ", ".join(repr(text) for text in family.stop)),
        ("  end tokens", " ".join(preset.ends)),
        ("  types", " ".join(preset.quants)),
        ("  download", _size(preset)),
        ("  state", _row(preset)[-1]),
        ("  from", preset.source),
    ]
    output.pairs([row for row in rows if row[1]])
    output.heading("Files")
    for file in preset.files:
        known = [size(file.size)] if file.size else [f"~{size(file.n_bytes)}"] if file.n_bytes else []
        known += [f"SHA-256 {one[:12]}…" for one in file.sha256] + (
            [f"at {file.revision[:12]}"] if file.revision else []
        )
        seen = f"its {file.seen} was seen in public files" if file.seen else "nothing was seen of it"
        known.append(f"verified {file.verified}" if file.verified else f"unverified: {seen}")
        output.pairs([(f"  {file.reference}", ", ".join(known))])


def _print_verdict(output: Output, verdict: Verdict) -> None:
    """What was found, what is wrong marked."""
    output.heading(f"{verdict.preset.name}: {'all is right' if verdict.ok else 'something is wrong'}")
    output.pairs([("  ok" if one.ok else "  WRONG", f"{one.subject}: {one.text}") for one in verdict.findings])
