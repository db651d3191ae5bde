"""A progress bar on a terminal's stderr, and nothing where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from eftlite.cli.output import Output, on_terminal

if TYPE_CHECKING:
    from eftlite_quantize.produce import Report


@contextmanager
def progress_bar(output: Output) -> Iterator[Report]:
    """What to call as things go on; the bar is taken away at the end."""
    if not on_terminal(sys.stderr):
        yield lambda what, done, total: None  # noqa: ARG005  # nobody looks
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), console=output.console(err=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
