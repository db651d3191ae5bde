"""What a comparison found, as data; reports, plots and conditions read it. Knows nothing of how it was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eftlite_quantize.metrics import FIGURES, Figure

# Facts of a model that are no statistics: name and what it is.
FACTS: Mapping[str, str] = {
    "size_bytes": "bytes of all tensors",
    "bits_per_weight": "bits per weight",
    "pp_ts": "tokens read per second",
    "tg_ts": "tokens made per second",
}


@dataclass(frozen=True)
class Entry:
    """One model of a comparison.

    Attributes:
        name: as tables and plots call it.
        quantization: such as "Q4_K_M"; empty for a base file, which says nothing about its model.
        figures: by the names of ``FIGURES``; of a base only ``ppl``.
        facts: by the names of ``FACTS``; what is not known or was not measured is missing.
    """

    name: str
    file: str
    quantization: str
    figures: Mapping[str, Figure]
    facts: Mapping[str, Figure]

    def all(self) -> dict[str, Figure]:
        """Figures and facts, by name."""
        return {**self.figures, **self.facts}

    def as_json(self) -> dict[str, Any]:
        """Stable keys, values that JSON takes."""
        numbers = {name: figure.as_json() for name, figure in self.all().items()}
        return {"name": self.name, "file": self.file, "quantization": self.quantization or None, **numbers}


@dataclass(frozen=True)
class Comparison:
    """A base and its variants on one text.

    Attributes:
        text: the text's file name.
        digest: SHA-256 of its token ids (int32, little-endian), those of all chunks.
        n_scored: predictions that count, of all chunks.
        notes: what the reader should know, a line each.
    """

    base: Entry
    variants: tuple[Entry, ...]
    text: str
    digest: str
    n_ctx: int
    n_chunks: int
    n_scored: int
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Stable keys, values that JSON takes."""
        return {
            "text": self.text,
            "tokens_sha256": self.digest,
            "n_ctx": self.n_ctx,
            "n_chunks": self.n_chunks,
            "n_scored": self.n_scored,
            "base": self.base.as_json(),
            "variants": [one.as_json() for one in self.variants],
            "notes": list(self.notes),
            "units": {**FIGURES, **FACTS},
        }
