"""Recordings of a tiny family on 4 chunks of 120 tokens, and of types that the verbs made of it."""

from __future__ import annotations

import json
from pathlib import Path

from eftlite.settings import Delta, Family, ModelSettings
from eftlite_quantize.record import Run, Text, record
from eftlite_quantize.roles import combinations
from tests.quantize.commands import quantize
from tests.tiny_gguf import write_family

MEMBERS = ("base", "tuned", "reference")
TYPES = ["Q8_0", "Q4_0"]
RUN = ModelSettings(n_threads=1)


def tiny_family(folder: Path) -> Family:
    """The family, written to a folder."""
    write_family(folder, seed=3)
    base, tuned, reference = (str(folder / f"{name}.gguf") for name in MEMBERS)
    return Family("tiny", base, (Delta("helpful", tuned, reference),))


def recordings(folder: Path) -> Path:
    """The folder of the originals' recordings."""
    (folder / "text.txt").write_text("a lazy dog and a quick fox " * 30)
    record(tiny_family(folder), Text(folder / "text.txt", n_ctx=120, n_chunks=4), Run(folder / "out", RUN))
    return folder / "out"


def with_types(folder: Path) -> Path:
    """The same with ``TYPES`` of each member, made by ``family``."""
    made = recordings(folder)
    result = quantize("family", made, "--types", ",".join(TYPES), "-t", "1", "--json")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["combinations"]) == len(combinations(MEMBERS, TYPES))
    return made
