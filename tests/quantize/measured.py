"""The composite's divergence by running models: logits of two families, combined a row at a time, in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eftlite.composite import Composite, Recipe, Roles
from eftlite.settings import Family, Knobs, ModelSettings
from eftlite_quantize.bases import scored_rows
from eftlite_quantize.evaluate import Evaluator
from eftlite_quantize.recorded import load_index, open_recording

RUN = ModelSettings(n_threads=1)


def divergence(folder: Path, family: Family, n_chunks: int | None = None) -> float:
    """Mean KLD of a family with one delta from the originals, on the text that a folder's recordings are of."""
    index = load_index(folder)
    with open_recording(folder, index, index.members["base"][0]) as one:
        tokens, n_vocab = one.tokens[:n_chunks], one.head.n_vocab
    composite = Composite(n_vocab, np.array(index.control, np.int32), np.array(index.masked, np.int32))
    recipe = Recipe.of(Knobs((family.deltas[0].alpha,)), Roles(3, 0, ((1, 2),)))
    originals = [index.members[name][0].path for name in ("base", "tuned", "reference")]
    chosen = [family.base, family.deltas[0].tuned, family.deltas[0].reference]

    def law(rows: list[np.ndarray]) -> np.ndarray:
        scores = composite.combine(list(rows), recipe, np.empty(n_vocab, np.float32)).astype(float)
        total: np.ndarray = scores - np.log(np.exp(scores - scores.max()).sum()) - scores.max()
        return total

    total = n = 0.0
    models = {path: Evaluator(path, tokens.shape[1], RUN) for path in {*originals, *chosen}}
    for ids in tokens:
        logits = {path: _rows(model, ids, n_vocab) for path, model in models.items()}
        for position in range(len(logits[originals[0]])):
            p, q = (law([logits[path][position] for path in files]) for files in (originals, chosen))
            total += float((np.exp(p) * np.where(np.isfinite(p), p - q, 0.0)).sum())
            n += 1
    for model in models.values():
        model.close()
    return total / n


def _rows(model: Evaluator, ids: np.ndarray, n_vocab: int) -> np.ndarray:
    """(n, n_vocab) logits of a chunk's scored positions."""
    return np.concatenate([piece[:, :n_vocab].copy() for piece in scored_rows(model, ids)])
