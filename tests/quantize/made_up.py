"""Comparisons that nobody measured, for reports, plots and conditions."""

from __future__ import annotations

from eftlite_quantize.comparison import Comparison, Entry
from eftlite_quantize.metrics import FIGURES, Figure


def variant(name: str, size: float, kld: float, quantization: str | None = None, speed: bool = False) -> Entry:
    """A model with a divergence; its other figures are 0.5 ± 0.05 (0.1)."""
    figures = dict.fromkeys(FIGURES, Figure(0.5, 0.05, 0.1)) | {"kld_mean": Figure(kld, kld / 20, kld / 10)}
    facts = {"size_bytes": Figure(size), "bits_per_weight": Figure(4.5)}
    if speed:
        facts |= {"pp_ts": Figure(1234.5, 10.0), "tg_ts": Figure(99.25, 1.0)}
    return Entry(name, f"{name}.gguf", name if quantization is None else quantization, figures, facts)


def base() -> Entry:
    """A reference."""
    facts = {"size_bytes": Figure(12.6e6), "bits_per_weight": Figure(16.0)}
    return Entry("base", "base.gguf", "F16", {"ppl": Figure(4.6, 0.4, 0.2)}, facts)


def comparison(*variants: Entry, reference: Entry | None = None) -> Comparison:
    """A comparison of these."""
    return Comparison(reference or base(), variants, "wiki.txt", "0" * 64, 512, 10, 2550, ("a note",))
