"""`python -m lab.rounding RECORDED`: are the rounding errors of a tuned model and its reference the same ones?

For every type that a folder of recordings has of both: how large the errors of the weights are, how large the tuned
model's change is in comparison, and how the two models' errors correlate. It needs neither torch nor llama.cpp.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray

Weights = NDArray[np.float64]


def matrices(path: str) -> Weights:
    """(n,) all matrices of a model, one after the other, by name."""
    tensors = sorted(GGUFReader(path).tensors, key=lambda one: one.name)
    return np.concatenate(
        [dequantize(t.data, t.tensor_type).astype(np.float64).ravel() for t in tensors if t.data.ndim > 1]
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m lab.rounding", description=__doc__)
    parser.add_argument("folder", type=Path, help="made by `eftlite quantize record` and `family --types`")
    index = json.loads((parser.parse_args().folder / "recordings.json").read_text(encoding="utf-8"))
    delta = next(one for one in index["deltas"] if one["alpha"])
    tuned, reference = (
        {one["kind"]: one["path"] for one in index["members"][delta[part]]} for part in ("tuned", "reference")
    )
    original, *kinds = (kind for kind in tuned if kind in reference)
    exact = matrices(tuned[original]), matrices(reference[original])
    change = np.sqrt(np.mean((exact[0] - exact[1]) ** 2))
    print("| type | RMS error | change of tuned / error | correlation of the errors |\n|---|---:|---:|---:|")
    for kind in kinds:
        own, other = (matrices(files[kind]) - one for files, one in zip((tuned, reference), exact, strict=True))
        size = np.sqrt(np.mean(other**2))
        print(f"| {kind} | {size:.5f} | {change / size:.1f} | {np.corrcoef(own, other)[0, 1]:.2f} |")


if __name__ == "__main__":
    main()
