"""``llm eftlite list`` and ``llm eftlite add``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from eftlite.errors import EFTError, InputError
from eftlite.family import BUNDLED_NAME, load_family
from eftlite.hub.reference import parse, title
from eftlite.presets import Catalogue, Preset, family_file
from eftlite.settings import Family
from llm_eftlite.sources import Source, folder, missing, sources

_NAME = re.compile(r"[\w-][\w.-]*")


@click.group("eftlite")
def eftlite_command() -> None:
    """Emulated fine-tuning on GGUF models: list and add families."""


@eftlite_command.command("list")
@click.option("json_", "--json", is_flag=True, help="Output as JSON")
def list_command(json_: bool) -> None:
    """List the families that can be asked, as eftlite/NAME."""
    found = sources()
    if json_:
        click.echo(json.dumps([_as_json(source) for source in found], indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("model", "base", "from", "state"):
        table.add_column(heading, overflow="fold")
    for source in found:
        base = title(source.family.base) if source.family else ""
        table.add_row(*map(Text, (source.model_id, base, source.origin, _state(source))))
    Console().print(table)


@eftlite_command.command("add")
@click.argument("what", metavar="NAME|FILE")
@click.option("--name", help="Another name than the preset's or the family file's")
@click.option("--base", metavar="MODEL", help="The large pre-trained model: a GGUF file, or org/repo:TYPE")
@click.option("--tuned", metavar="MODEL", help="The small fine-tuned model")
@click.option("--reference", metavar="MODEL", help="The small model before its fine-tuning")
@click.option("adapter", "--lora", metavar="FILE", help="A LoRA adapter that makes the reference the tuned model")
def add_command(
    what: str, name: str | None, base: str | None, tuned: str | None, reference: str | None, adapter: str | None
) -> None:
    r"""Add a family: a preset (`eftlite presets list`), a family file, or under a new NAME the models of the options.

    \b
    llm eftlite add qwen2.5-7b
    llm eftlite add family.toml --name mine
    llm eftlite add mine --base 7B.gguf --tuned 1B-instruct.gguf --reference 1B.gguf
    """
    with _explained():
        if base or tuned or reference or adapter:
            family = _family_of(base, tuned, reference, adapter)
            name = name or what
        elif what.endswith(".toml"):
            family = load_family(Path(what).expanduser().absolute())
            name = name or family.name
        else:
            preset = Catalogue().find(what)
            family, name = preset.pinned, name or preset.name
        path = _write(name, family)
    click.echo(f"Added eftlite/{name}. Edit or delete it in {path}")
    to_fetch = missing(family)
    if to_fetch:
        click.echo(f"The first prompt fetches {', '.join(to_fetch)}; `eftlite pull --family FILE` does it now")


@contextmanager
def _explained() -> Iterator[None]:
    """A user's mistake as click tells it."""
    try:
        yield
    except EFTError as error:
        raise click.ClickException(str(error)) from None


def _family_of(base: str | None, tuned: str | None, reference: str | None, adapter: str | None) -> Family:
    """The family of these models, with paths that hold in any folder."""
    from eftlite.arguments import family_of

    found = [
        text if text is None or parse(text) else str(Path(text).expanduser().absolute())
        for text in (base, tuned, reference, adapter)
    ]
    return family_of(found[0], found[1], found[2], None, found[3])


def _write(name: str, family: Family) -> Path:
    """Keep a family under a name; InputError if it cannot be.

    Nothing that is there is overwritten, and local files must exist.
    """
    path = folder() / f"{name}.toml"
    if not _NAME.fullmatch(name):
        raise InputError(f"name: expected letters, digits, dots and dashes, got {name!r}", "Give one by --name")
    if name == BUNDLED_NAME or path.exists():
        raise InputError(f"name: there is an eftlite/{name} already", "Give another by --name, or delete its file")
    absent = [text for text in missing(family) if parse(text) is None]
    if absent:
        raise InputError(f"{absent[0]}: there is no such file")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(family_file(Preset(name, replace(family, name=name))), encoding="utf-8")
    return path


def _state(source: Source) -> str:
    if source.error:
        return source.error
    return f"to fetch: {', '.join(map(title, source.missing))}" if source.missing else "here"


def _as_json(source: Source) -> dict[str, object]:
    base = source.family.base if source.family else None
    return {
        "model": source.model_id,
        "from": source.origin,
        "base": base,
        "missing": list(source.missing),
        "error": source.error or None,
    }
