"""Writes the table of presets into docs/presets.md: `python docs/generate_presets.py`."""

from __future__ import annotations

from pathlib import Path

from eftlite.hub.reference import title
from eftlite.inspection import size
from eftlite.presets import Catalogue, Preset

PAGE = Path(__file__).resolve().parent / "presets.md"
BEGIN = "<!-- table: written by docs/generate_presets.py -->\n"
END = "<!-- end of table -->\n"
HEAD = "| preset | base | delta: tuned − reference | template | answers end at | download | state | why |\n"


def row(preset: Preset) -> str:
    """A preset as a line of the table."""
    family = preset.family
    deltas = "; ".join(f"{title(one.tuned)} − {title(one.reference)}" for one in family.deltas)
    ends = " ".join(f"`{text}`" for text in (*preset.ends, *(repr(text)[1:-1] for text in family.stop)))
    template = f"`{family.template}`" if family.template else "its own"
    state = f"verified {preset.verified}" if preset.verified else "unverified"
    n_bytes = ("" if preset.measured else "≈ ") + size(preset.n_bytes or 0)
    cells = (f"`{preset.name}`", title(family.base), deltas, template, ends, n_bytes, state, preset.about)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def render(page: str) -> str:
    """The page with its table renewed; nothing of plugins or of the user's own is in it."""
    head, found, rest = page.partition(BEGIN)
    _, ended, tail = rest.partition(END)
    if not (found and ended):
        raise SystemExit(f"{PAGE.name} has lost its markers")
    catalogue = Catalogue(Path("none"))
    rows = "".join(row(catalogue.find(name)) for name in catalogue.registry.built_in)
    return f"{head}{BEGIN}\n{HEAD}|---|---|---|---|---|---:|---|---|\n{rows}\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
