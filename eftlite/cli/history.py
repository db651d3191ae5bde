"""``eftlite history``: the conversations that ``eftlite chat`` and the page of ``eftlite serve`` have kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

import click

from eftlite.cli.output import Output, on_terminal
from eftlite.cli.verb import Verb, VerbGroup
from eftlite.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from eftlite.history import Conversation, History, Summary

LAST = "last"  # a name for the conversation in which something was said last
ALL = 1 << 31
EXAMPLES = (
    "eftlite history list",
    "eftlite history search Kelworth",
    "eftlite history show last",
    "eftlite history export last --format json -o talk.json",
)


def find(history: History, name: str) -> Conversation:
    """A conversation by its id, the beginning of it, or "last"; NotFoundError says what there is none of."""
    if name == LAST:
        latest = history.latest()
        if latest is None:
            raise NotFoundError("history: expected a conversation, got none yet", "Begin one: eftlite chat")
        name = latest
    return history.get(name)


@click.group("history", cls=VerbGroup, examples=EXAMPLES, no_args_is_help=False)
def history_command() -> None:
    """List, search, show, export and delete the conversations that were kept.

    They are in one file, history.db in the user's state folder (EFTLITE_STATE_DIR changes the folder), which only the
    user can read. A conversation is named by its ID, by the beginning of it, or by "last".
    """


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_limit_option = click.option(
    "--limit", "-n", type=click.IntRange(1, ALL), default=20, show_default=True, metavar="N", help="At most so many."
)


# ---- looking


@history_command.command("list", cls=Verb, examples=("eftlite history list", "eftlite history list --limit 100 --json"))
@_limit_option
@_json_option
@click.pass_obj
def list_command(output: Output, limit: int, as_json: bool) -> None:
    """List conversations, the latest first."""
    _print_summaries(output, _summaries("", limit), as_json)


@history_command.command("search", cls=Verb, examples=("eftlite history search Kelworth river",))
@click.argument("words", nargs=-1, required=True)
@_limit_option
@_json_option
@click.pass_obj
def search_command(output: Output, words: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List conversations in which all WORDS occur.

    In upper or lower case, in the title or in any message.
    """
    _print_summaries(output, _summaries(" ".join(words), limit), as_json)


@history_command.command("show", cls=Verb, examples=("eftlite history show last", "eftlite history show 3fa9 --json"))
@click.argument("name", metavar="ID")
@_json_option
@click.pass_obj
def show_command(output: Output, name: str, as_json: bool) -> None:
    """Print a conversation."""
    from eftlite.history import History, export_json

    with History() as history:
        conversation = find(history, name)
    if as_json:
        output.answer(export_json(conversation))
    else:
        _print_conversation(output, conversation)


# ---- files


@history_command.command("export", cls=Verb, examples=EXAMPLES[-1:])
@click.argument("name", metavar="ID")
@click.option("--format", "kind", type=click.Choice(("md", "json")), default="md", show_default=True, help="Its form.")
@click.option("--output", "-o", "file", metavar="FILE", help="Write a new file instead of stdout.")
@click.pass_obj
def export_command(output: Output, name: str, kind: str, file: str | None) -> None:
    """Write a conversation as Markdown or JSON.

    `eftlite chat --load` reads the JSON, which also holds what was edited or answered again.
    """
    from eftlite.cli.conversation import write_new
    from eftlite.history import History, export_json, export_markdown

    with History() as history:
        conversation = find(history, name)
    text = (export_json if kind == "json" else export_markdown)(conversation)
    if file is None:
        output.answer(text)
    else:
        output.note(f"(written: {write_new(file, text, may_replace=False)})")


@history_command.command("delete", cls=Verb, examples=("eftlite history delete 3fa9", "eftlite history delete --all"))
@click.argument("names", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="Delete every conversation.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete_command(output: Output, names: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Delete conversations for good."""
    if bool(names) == everything:
        raise InputError("delete: expected IDs or --all, got " + ("both" if names else "neither"))
    from eftlite.history import History

    with History() as history:
        if everything:
            found = {summary.id: summary.title for summary in history.list(limit=ALL)}
        else:
            found = {one.id: one.title for one in (find(history, name) for name in names)}
        if not yes and found:
            what = f"all {len(found)} conversations" if everything else ", ".join(f'"{t}"' for t in found.values())
            click.confirm(f"Delete {what}?", abort=True, err=True)
        for name in found:
            history.delete(name)
        output.note(f"({len(found)} deleted)")
        for copy in sorted(history.path.parent.glob(f"{history.path.name}.v*.bak")):
            output.note(f"(still in a copy from before an upgrade: {copy})")


# ---- printing


def _summaries(query: str, limit: int) -> list[Summary]:
    from eftlite.history import History

    with History() as history:
        return history.list(query, limit)


def _print_summaries(output: Output, found: Sequence[Summary], as_json: bool) -> None:
    """A table on a terminal; elsewhere one line for each, its fields separated by tabs."""
    if as_json:
        output.answer(json.dumps([asdict(one) for one in found], ensure_ascii=False, indent=2), newline=True)
    elif on_terminal(sys.stdout):
        _print_table(output, found)
    else:
        for one in found:
            fields = (one.id, _when(one.updated), str(one.n_messages), one.title, one.preview)
            output.answer("\t".join(" ".join(field.split()) for field in fields), newline=True)


def _print_table(output: Output, found: Sequence[Summary]) -> None:
    from rich.table import Table
    from rich.text import Text

    from eftlite.cli.output import printable

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False, expand=True)
    for heading in ("id", "last", "messages"):
        table.add_column(heading, no_wrap=True, justify="right" if heading == "messages" else "left")
    for heading, style in (("title", ""), ("text", "dim")):
        table.add_column(heading, no_wrap=True, ratio=1, style=style)
    for one in found:
        cells = (one.id, _when(one.updated), str(one.n_messages), one.title, one.preview)
        table.add_row(*(Text(printable(" ".join(cell.split()))) for cell in cells))
    output.console().print(table)


def _print_conversation(output: Output, conversation: Conversation) -> None:
    """As it looked in the terminal, with a heading."""
    output.heading(conversation.title)
    output.note(f"{conversation.id} · {conversation.family} · {_when(conversation.created)}")
    if conversation.system:
        output.note(f"system: {conversation.system}")
    for message in conversation.path():
        if message.role == "user":
            output.answer("\n> " + message.content.replace("\n", "\n… "), newline=True)
        elif message.content:
            output.answer(message.content, newline=True)
        if message.state != "complete":
            output.note(f"({message.state})")


def _when(seconds: float) -> str:
    """A moment as the user's clock has it."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")
