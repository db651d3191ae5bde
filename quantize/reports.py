"""A comparison in words: a table, Markdown, CSV, JSON.

A table has the figures that one decides by; CSV and JSON have all of them, with both kinds of ±.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping

from eftlite.inspection import size
from eftlite_quantize.comparison import FACTS, Comparison, Entry
from eftlite_quantize.metrics import FIGURES, Figure

_MOST_DIGITS = 5
# What a narrow terminal does without, the first first.
_LESS_IMPORTANT = ("Max KLD", "RMS Δp", "BPW", "pp t/s", "tg t/s", "99% KLD", "PPL ratio", "PPL")


def with_error(figure: Figure) -> str:
    """``0.0054 ± 0.0008``, ``1.84e-05 ± 8e-07``: the ± of the bootstrap, or the only one there is, with one digit."""
    error = figure.gaussian if figure.bootstrap is None else figure.bootstrap
    if not error or not math.isfinite(error):
        return f"{figure.value:.2g}"
    last = math.floor(math.log10(error))  # the decimal place of its first digit
    if last < -_MOST_DIGITS and figure.value:
        digits = max(math.floor(math.log10(abs(figure.value))) - last, 0)
        return f"{figure.value:.{digits}e} ± {error:.0e}"
    return f"{figure.value:.{max(-last, 0)}f} ± {error:.{max(-last, 0)}f}"


# Title of a column, the figure in it, and how it is written.
COLUMNS: Mapping[str, tuple[str, Callable[[Figure], str]]] = {
    "size": ("size_bytes", lambda one: size(round(one.value))),
    "BPW": ("bits_per_weight", lambda one: f"{one.value:.2f}"),
    "PPL": ("ppl", lambda one: f"{one.value:.4g}"),
    "PPL ratio": ("ppl_ratio", lambda one: f"{one.value:.4f}"),
    "Mean KLD": ("kld_mean", with_error),
    "99% KLD": ("kld_p99", lambda one: f"{one.value:.2g}"),
    "Max KLD": ("kld_max", lambda one: f"{one.value:.2g}"),
    "Same top p": ("same_top", lambda one: f"{one.value:.2f}%"),
    "RMS Δp": ("dp_rms", lambda one: f"{one.value:.2f}%"),
    "pp t/s": ("pp_ts", lambda one: f"{one.value:.4g}"),
    "tg t/s": ("tg_ts", lambda one: f"{one.value:.4g}"),
}


def rows(comparison: Comparison) -> list[list[str]]:
    """The table: titles, then the base and the variants, a line each; columns of nothing known are left out."""
    entries = (comparison.base, *comparison.variants)
    known = {title: how for title, how in COLUMNS.items() if any(how[0] in one.all() for one in entries)}
    return [["model", *known], *([one.name, *(_cell(one, *how) for how in known.values())] for one in entries)]


def narrowed(table: list[list[str]], width: int) -> list[list[str]]:
    """A table without as many of the less important columns as it takes to be no wider than ``width``."""
    for title in _LESS_IMPORTANT:
        if sum(max(len(line[i]) for line in table) + 1 for i in range(len(table[0]))) <= width:
            break
        table = [[cell for cell, head in zip(line, table[0], strict=True) if head != title] for line in table]
    return table


def _cell(entry: Entry, name: str, written: Callable[[Figure], str]) -> str:
    figure = entry.all().get(name)
    return "" if figure is None else written(figure)


def footnotes(comparison: Comparison) -> list[str]:
    """What the reader must know to take the table for what it is."""
    n = comparison
    lines = [f"{n.text}: {n.n_chunks} chunks of {n.n_ctx} tokens, {n.n_scored} predictions scored"]
    if n.variants:
        lines.append("± is the standard error over resampled chunks; CSV and JSON have that of all figures")
    return [*lines, *n.notes]


def markdown(comparison: Comparison) -> str:
    """A table for a page."""
    head, *body = rows(comparison)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    table = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return "\n".join(table) + "\n\n" + "  \n".join(footnotes(comparison)) + "\n"


def as_csv(comparison: Comparison) -> str:
    """A line a model, the base first; what is not known is empty, and columns of nothing known are left out."""
    entries = (comparison.base, *comparison.variants)
    columns: dict[str, list[float | None]] = {}
    for name in (*FACTS, *FIGURES):
        figures = [one.all().get(name) for one in entries]
        for kind in ("value", "gaussian", "bootstrap"):
            title = name if kind == "value" else f"{name}_{kind}"
            columns[title] = [getattr(figure, kind, None) for figure in figures]
    known = {title: values for title, values in columns.items() if any(value is not None for value in values)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "file", "quantization", *known])
    for index, one in enumerate(entries):
        writer.writerow([one.name, one.file, one.quantization, *(values[index] for values in known.values())])
    return text.getvalue()


def as_json(comparison: Comparison) -> str:
    """One object."""
    return json.dumps(comparison.as_json(), ensure_ascii=False, indent=2, allow_nan=False) + "\n"
