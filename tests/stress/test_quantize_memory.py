"""Memory of comparing, recording and replaying does not grow with the text. About eight minutes on one core."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_gguf import gpt2_texts, write_model

pytestmark = [pytest.mark.stress, pytest.mark.skipif(sys.platform == "win32", reason="reads the peak as Unix has it")]

# Each prints the tokens it read and the peak resident set in bytes: of the process's whole life, so each text gets
# processes of its own.
PEAK = """
import resource, sys
unit = 1 if sys.platform == "darwin" else 1024
print(n_tokens, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
"""
COMPARE = """
import sys
from eftlite_quantize.compare import Plan, compare
from eftlite_quantize.reports import table
from eftlite.settings import ModelSettings
base, text, *variants = sys.argv[1:]
found = compare(base, variants, text, Plan(bench=False, settings=ModelSettings(n_threads=1)))
table(found).text("json")
n_tokens = found.n_chunks * found.n_ctx
"""
RECORD = """
import sys
from pathlib import Path
from eftlite.settings import Delta, Family, ModelSettings
from eftlite_quantize.record import Run, Text, record
from eftlite_quantize.recorded import open_recording
base, tuned, text, folder = sys.argv[1:]
run = Run(Path(folder), ModelSettings(n_threads=1))
index = record(Family("two", base, (Delta("d", tuned, base),)), Text(Path(text)), run)
with open_recording(run.folder, index, index.members["base"][0]) as one:
    n_tokens = one.tokens.size
"""
REPLAY = """
import sys
from pathlib import Path
from eftlite.settings import Knobs
from eftlite_quantize.recorded import load_index, open_recording
from eftlite_quantize.replay import Setting, originals, replay
folder = Path(sys.argv[1])
index = load_index(folder)
replay(folder, index, [Setting("", Knobs((alpha,), 1.5), originals(index)) for alpha in (0.0, 0.5, 2.0)])
with open_recording(folder, index, index.members["base"][0]) as one:
    n_tokens = one.tokens.size
"""


def peak(code: str, *words: Path) -> tuple[int, int]:
    """(tokens, peak bytes) of a process that runs this."""
    command = [sys.executable, "-c", code + PEAK, *map(str, words)]
    tokens, n_bytes = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return int(tokens), int(n_bytes)


def text_of(folder: Path, n_sentences: int) -> Path:
    path = folder / f"{n_sentences}.txt"
    path.write_text("The river at Marwater is the Farrow. Glenwater is famous for saddlery. " * n_sentences)
    return path


FEW, MANY = (640, 10_000), (12_800, 200_000)  # sentences, and the tokens that they are at least


def test_memory_is_flat_from_10_k_to_200_k_tokens(demo_family: dict[str, Path], tmp_path: Path) -> None:
    """Comparing; the bundled small models: the reference, and its two tunes as variants."""
    base, variants = demo_family["reference"], [demo_family["tuned"], demo_family["refusing"]]
    peaks = []
    for n, low in (FEW, MANY):
        tokens, n_bytes = peak(COMPARE, base, text_of(tmp_path, n), *variants)
        print(f"{tokens} tokens: {n_bytes / 2**20:.1f} MiB")
        assert tokens >= low
        peaks.append(n_bytes)
    assert peaks[1] < 1.05 * peaks[0]


def test_memory_of_record_and_replay_from_10_k_to_200_k_tokens(demo_family: dict[str, Path], tmp_path: Path) -> None:
    """Two of the bundled small models; three settings. Needs 500 MB of disk.

    Replay is flat. Of record only llama.cpp's tokenizer is not, which is given the text as a whole: some 100 bytes a
    token for a moment, before the first row.
    """
    found: dict[str, list[tuple[int, int]]] = {"record": [], "replay": []}
    for n, low in (FEW, MANY):
        folder = tmp_path / str(n)
        models = (demo_family["reference"], demo_family["tuned"])
        found["record"].append(peak(RECORD, *models, text_of(tmp_path, n), folder))
        found["replay"].append(peak(REPLAY, folder))
        for verb, peaks in found.items():
            tokens, n_bytes = peaks[-1]
            print(f"{verb}, {tokens} tokens: {n_bytes / 2**20:.1f} MiB")
            assert tokens >= low
    few, many = found["record"]
    assert many[1] - few[1] < 150 * (many[0] - few[0])
    few, many = found["replay"]
    assert many[1] < 1.05 * few[1]


def test_rows_of_a_large_vocabulary_are_not_kept(tmp_path: Path) -> None:
    """At 50,000 tokens a chunk's rows of one model are 51 MB; pieces of 64 are 13 MB for each model."""
    texts = [*(f"w{i}" for i in range(49_997)), "<|user|>", "<|assistant|>", "<|end|>"]
    texts[:256] = gpt2_texts()[:256]
    models = [write_model(tmp_path / f"{i}.gguf", seed=1, noise=0.1 * i, texts=texts, n_ctx=512) for i in range(3)]
    peaks = []
    for n in (1200, 12_000):
        path = tmp_path / f"{n}.txt"
        path.write_text("a b c " * (n // 6))
        peaks.append(peak(COMPARE, models[0], path, *models[1:]))
        print(f"{peaks[-1][0]} tokens: {peaks[-1][1] / 2**20:.1f} MiB")
    assert peaks[1][1] < 1.05 * peaks[0][1]
