"""Where words go: answers to stdout, everything else to stderr; colour and progress only on a terminal.

Knows streams and colours, never models.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console

COLOR_CHOICES = ("auto", "always", "never")
# Control characters other than tab and line feed: a model's text or a file's metadata must not command the terminal.
_UNSAFE = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "\N{REPLACEMENT CHARACTER}")


def on_terminal(stream: TextIO | None) -> bool:
    """Whether a stream, which Windows services may lack, is a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def printable(text: str) -> str:
    """The text without characters that a terminal would obey."""
    return text.translate(_UNSAFE)


@dataclass(frozen=True)
class Output:
    """How this run prints.

    Attributes:
        color: "auto", "always" or "never".
    """

    color: str = "auto"

    @property
    def forced(self) -> bool | None:
        """click's way to say it: True always, False never, None where the stream is a terminal."""
        if self.color == "auto":
            return False if os.environ.get("NO_COLOR") else None
        return self.color == "always"

    @property
    def width(self) -> int:
        """Columns of the terminal, or of lines where none is."""
        return max(shutil.get_terminal_size().columns, 20)

    # ---- answers

    def answer(self, text: str, newline: bool = False) -> None:
        """A piece of an answer, at once; control characters are taken out where a terminal would obey them."""
        click.echo(printable(text) if on_terminal(sys.stdout) else text, nl=newline)

    def json(self, value: Mapping[str, Any]) -> None:
        """One object."""
        click.echo(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False))

    def heading(self, text: str) -> None:
        """A line above an answer."""
        click.secho(printable(text), bold=True, color=self.forced)

    def pairs(self, rows: Iterable[tuple[str, str]]) -> None:
        """Names and what they mean, in two columns; long values are wrapped."""
        found = list(rows)
        indent = max((len(name) for name, _ in found), default=0) + 2
        width = max(self.width - indent, 20)
        for name, value in found:
            lines = [part for line in printable(value).split("\n") for part in textwrap.wrap(line, width) or [""]]
            head = click.style(name, bold=True) + " " * (indent - len(name))
            click.echo(head + f"\n{'':{indent}}".join(lines), color=self.forced)

    def prose(self, text: str) -> None:
        """Paragraphs, wrapped."""
        for paragraph in text.split("\n"):
            click.echo(textwrap.fill(printable(paragraph), self.width))

    # ---- everything else

    def note(self, text: str) -> None:
        """A dim line on stderr."""
        click.secho(printable(text), err=True, dim=True, color=self.forced)

    def error(self, text: str) -> None:
        """``error: …`` on one line of stderr."""
        head = click.style("error:", fg="red", bold=True)
        click.echo(f"{head} {printable(' '.join(text.split()))}", err=True, color=self.forced)

    def console(self, err: bool = False) -> Console:
        """rich's console for tables (stdout) and progress bars (stderr)."""
        from rich.console import Console

        return Console(
            stderr=err,
            force_terminal={True: True, False: None, None: None}[self.forced],
            no_color=self.forced is False,
            highlight=False,
            markup=False,
            emoji=False,
        )


def current() -> Output:
    """The output of the command that runs; the defaults outside of one."""
    context = click.get_current_context(silent=True)
    found = context.find_object(Output) if context else None
    return found or Output()


class StatusLine:
    """One line on a terminal's stderr while something takes long enough to be noticed."""

    DELAY_S = 0.5

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._shown = ""

    def show(self, text: str) -> None:
        """Say what is going on."""
        if on_terminal(sys.stderr) and time.monotonic() - self._began > self.DELAY_S:
            self._write(text)

    def clear(self) -> None:
        """Take the line away."""
        self._write("")

    def _write(self, text: str) -> None:
        if text != self._shown:
            # Spaces, not an escape sequence: older Windows consoles know none.
            click.echo(f"\r{text.ljust(len(self._shown))}" + ("" if text else "\r"), nl=False, err=True)
            self._shown = text


class LoadingLine(StatusLine):
    """Says how loading goes on: "loading base 43%"."""

    def __call__(self, member: str, done: float) -> None:
        """Show how far a member is, or what else is done to it ("timing base"); ``done`` is 0..1."""
        self.show(f"{member} …" if " " in member else f"loading {member} {done:.0%}")
