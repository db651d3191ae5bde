"""A table in the forms that verbs offer: for the terminal, Markdown, CSV, JSON. Knows cells, not what they mean."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FORMATS = ("table", "md", "csv", "json")
Cells = Sequence[Sequence[str]]  # titles, then rows
_WIDEST = 100_000


@dataclass(frozen=True)
class Table:
    """What a verb found.

    Attributes:
        cells: what people read.
        values: what JSON gets.
        figures: what CSV gets, where that is more than people read.
        notes: lines below the table.
        spare: titles of columns that a narrow terminal does without, the first first.
    """

    cells: Cells
    values: Mapping[str, Any]
    figures: Cells | None = None
    notes: Sequence[str] = ()
    spare: Sequence[str] = ()

    def text(self, form: str, width: int | None = None) -> str:
        """The table in one of ``FORMATS``; "table" is made for a terminal of ``width`` columns, None for any."""
        return {"table": lambda: self._plain(width), "md": self._markdown, "csv": self._csv, "json": self._json}[form]()

    def _plain(self, width: int | None) -> str:
        """Columns, as rich lays them out."""
        from rich.console import Console
        from rich.table import Table as Columns

        (first, *titles), *body = self.cells if width is None else narrowed(self.cells, self.spare, width)
        table = Columns(box=None, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column(first, overflow="fold")
        for title in titles:
            table.add_column(title, justify="right", overflow="fold")
        for line in body:
            table.add_row(*line)
        printed = io.StringIO()
        Console(file=printed, width=width or _WIDEST, markup=False, highlight=False, emoji=False).print(table)
        return "".join(f"{line.rstrip()}\n" for line in [*printed.getvalue().splitlines(), *self.notes])

    def _markdown(self) -> str:
        head, *body = self.cells
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
        table = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
        return table + ("\n" + "  \n".join(self.notes) + "\n" if self.notes else "")

    def _csv(self) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self.cells if self.figures is None else self.figures)
        return text.getvalue()

    def _json(self) -> str:
        return json.dumps(self.values, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def narrowed(cells: Cells, spare: Sequence[str], width: int) -> Cells:
    """Cells without as many of the spare columns as it takes to be no wider than ``width``."""
    for title in spare:
        if sum(max(map(len, column)) + 1 for column in zip(*cells, strict=True)) <= width:
            break
        cells = [[cell for cell, head in zip(line, cells[0], strict=True) if head != title] for line in cells]
    return cells
