"""Tables of recordings' verbs: for the terminal, as Markdown, CSV or JSON; printed or written to a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eftlite.cli.output import Output
from eftlite.errors import EFTError, InputError

FORMATS = ("table", "md", "csv", "json")
Cells = Sequence[Sequence[str]]  # titles, then rows


def check_folder(*paths: Path | None) -> None:
    """InputError for files that could not be written after the work."""
    for path in paths:
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise InputError(f"{path.name}: expected the name of a file in a folder that there is")


def write(output: Output, cells: Cells, values: Mapping[str, Any], form: str, target: Path | None) -> None:
    """Print a table, or write it; ``values`` is what JSON gets in its place."""
    text = json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n" if form == "json" else ""
    text = text or {"table": _table, "md": markdown, "csv": as_csv}[form](cells)
    if target is None:
        output.answer(text)
        return
    try:
        target.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise EFTError(f"{target.name}: cannot be written: {error.strerror}") from None
    output.note(f"{target} written")


def markdown(cells: Cells) -> str:
    """A table for a page."""
    head, *body = cells
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def as_csv(cells: Cells) -> str:
    """The same, a line each."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(cells)
    return text.getvalue()


def _table(cells: Cells) -> str:
    """Columns as wide as their widest cell, all but the first to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    sized = (list(zip(line, widths, strict=True)) for line in cells)
    lines = (
        " ".join([first.ljust(wide), *(cell.rjust(width) for cell, width in rest)]) for (first, wide), *rest in sized
    )
    return "".join(line.rstrip() + "\n" for line in lines)
