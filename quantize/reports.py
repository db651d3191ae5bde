"""A comparison as a table, which has the figures that one decides by, and for CSV and JSON all of them.

Knows figures and their names, never terminals or files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from eftlite.inspection import size
from eftlite_quantize.comparison import FACTS, Comparison, Entry
from eftlite_quantize.metrics import FIGURES, Figure
from eftlite_quantize.tables import Table

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


def table(comparison: Comparison) -> Table:
    """All of it."""
    return Table(rows(comparison), comparison.as_json(), figures(comparison), footnotes(comparison), _LESS_IMPORTANT)


def figures(comparison: Comparison) -> list[list[str]]:
    """A line a model, the base first; what is not known is empty, and columns of nothing known are left out."""
    entries = (comparison.base, *comparison.variants)
    columns: dict[str, list[float | None]] = {}
    for name in (*FACTS, *FIGURES):
        found = [one.all().get(name) for one in entries]
        for kind in ("value", "gaussian", "bootstrap"):
            title = name if kind == "value" else f"{name}_{kind}"
            columns[title] = [getattr(figure, kind, None) for figure in found]
    known = {title: values for title, values in columns.items() if any(value is not None for value in values)}
    lines = [["name", "file", "quantization", *known]]
    for index, one in enumerate(entries):
        numbers = (values[index] for values in known.values())
        lines.append([one.name, one.file, one.quantization, *("" if n is None else str(n) for n in numbers)])
    return lines
