"""Memory of a comparison does not grow with the text. About four minutes on one core."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_gguf import gpt2_texts, write_model

pytestmark = [pytest.mark.stress, pytest.mark.skipif(sys.platform == "win32", reason="reads the peak as Unix has it")]

# Prints the peak resident set in bytes: of the process's whole life, so each text gets a process of its own.
MEASURE = """
import resource, sys
from eftlite_quantize.compare import Plan, compare
from eftlite_quantize.reports import as_json
from eftlite.settings import ModelSettings
base, text, *variants = sys.argv[1:]
found = compare(base, variants, text, Plan(bench=False, settings=ModelSettings(n_threads=1)))
as_json(found)
unit = 1 if sys.platform == "darwin" else 1024
print(found.n_chunks * found.n_ctx, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
"""


def peak(base: Path, variants: list[Path], text: Path) -> tuple[int, int]:
    """(tokens, peak bytes) of comparing."""
    command = [sys.executable, "-c", MEASURE, str(base), str(text), *map(str, variants)]
    tokens, n_bytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(tokens), int(n_bytes)


def test_memory_is_flat_from_10_k_to_200_k_tokens(demo_family: dict[str, Path], tmp_path: Path) -> None:
    """The bundled small models: the reference, and its two tunes as variants."""
    base, variants = demo_family["reference"], [demo_family["tuned"], demo_family["refusing"]]
    sentence = "The river at Marwater is the Farrow. Glenwater is famous for saddlery. "
    peaks = []
    for n, low in ((640, 10_000), (12_800, 200_000)):
        path = tmp_path / f"{n}.txt"
        path.write_text(sentence * n)
        tokens, n_bytes = peak(base, variants, path)
        print(f"{tokens} tokens: {n_bytes / 2**20:.1f} MiB")
        assert tokens >= low
        peaks.append(n_bytes)
    assert peaks[1] < 1.05 * peaks[0]


def test_rows_of_a_large_vocabulary_are_not_kept(tmp_path: Path) -> None:
    """At 50,000 tokens a chunk's rows of one model are 51 MB; pieces of 64 are 13 MB for each model."""
    texts = [*(f"w{i}" for i in range(49_997)), "<|user|>", "<|assistant|>", "<|end|>"]
    texts[:256] = gpt2_texts()[:256]
    models = [write_model(tmp_path / f"{i}.gguf", seed=1, noise=0.1 * i, texts=texts, n_ctx=512) for i in range(3)]
    peaks = []
    for n in (1200, 12_000):
        path = tmp_path / f"{n}.txt"
        path.write_text("a b c " * (n // 6))
        peaks.append(peak(models[0], models[1:], path))
        print(f"{peaks[-1][0]} tokens: {peaks[-1][1] / 2**20:.1f} MiB")
    assert peaks[1][1] < 1.05 * peaks[0][1]
