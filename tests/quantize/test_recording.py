"""Recordings: what is written is read, damage is told by name, and a killed run leaves nothing that counts."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from eftlite.errors import EngineError, InputError
from eftlite.settings import Delta, Family, ModelSettings
from eftlite_quantize.evaluate import Evaluator
from eftlite_quantize.record import Run, Text, Variant, add, record
from eftlite_quantize.recorded import INDEX, load_index, open_recording
from eftlite_quantize.recording import Recording
from eftlite_quantize.recording_writer import stored
from tests.quantize.commands import quantize, start
from tests.tiny_gguf import write_family, write_model

RUN = ModelSettings(n_threads=1)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A tiny family with a text beside it."""
    folder = tmp_path_factory.mktemp("family")
    write_family(folder, seed=3)
    (folder / "text.txt").write_text("a lazy dog and a quick fox " * 40)
    base, tuned, reference = (str(folder / f"{name}.gguf") for name in ("base", "tuned", "reference"))
    return Family("tiny", base, (Delta("helpful", tuned, reference),))


def text_of(family: Family) -> Path:
    return Path(family.base).with_name("text.txt")


@pytest.fixture(scope="module")
def folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its recordings."""
    folder = tmp_path_factory.mktemp("recorded")
    record(family, Text(text_of(family), n_ctx=160), Run(folder, RUN))
    return folder


def log_softmax(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    top = rows.max(1, keepdims=True)
    found: np.ndarray = rows - top - np.log(np.exp(rows - top).sum(1, keepdims=True))
    return found


def test_levels_are_close_to_the_log_probabilities_down_to_the_depth() -> None:
    rows = np.random.default_rng(0).normal(0, 6, (5, 300)).astype(np.float32)
    heads, levels = stored(rows)
    found = levels * heads[:, :1] + heads[:, 1:]
    assert np.abs(found - log_softmax(rows)).max() <= heads[:, 0].max()
    rows[0, 7] = -1e4
    heads, levels = stored(rows)
    assert levels[0, 7] == 0
    assert heads[0, 1] > -80


def test_equal_logits_and_no_numbers() -> None:
    heads, levels = stored(np.full((1, 8), 3.0, np.float32))
    assert np.allclose(levels * heads[:, :1] + heads[:, 1:], -np.log(8))
    with pytest.raises(EngineError, match="finite"):
        stored(np.array([[0.0, np.nan]], np.float32))


def test_rows_are_the_models(family: Family, folder: Path) -> None:
    index = load_index(folder)
    assert list(index.members) == ["base", "tuned", "reference"]
    for member, path in (("base", family.base), ("tuned", family.deltas[0].tuned)):
        with open_recording(folder, index, index.members[member][0]) as found, Evaluator(path, 160, RUN) as model:
            ids = found.tokens[1][:-1]
            rows = np.concatenate([piece.copy() for piece in model.rows(ids, 80)])
            read = np.concatenate(list(found.pieces(1)))
            assert np.abs(read - log_softmax(rows)).max() < 1e-3


def test_a_variant_is_added_without_touching_the_others(family: Family, folder: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.rec")}
    near = tmp_path / "near.gguf"
    near.write_bytes(Path(family.deltas[0].tuned).read_bytes() + b"\0" * 32)  # another file, the same weights
    index = add([Variant("tuned", near)], Run(folder, RUN))
    assert [one.kind for one in index.members["tuned"]][1] == "near"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    again = add([Variant("tuned", near)], Run(folder, RUN))
    assert again == index == load_index(folder)


def test_another_vocabulary_or_member_is_refused(folder: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.gguf", seed=1, n_vocab=300)
    with pytest.raises(InputError, match="vocabulary"):
        add([Variant("base", other)], Run(folder, RUN))
    with pytest.raises(InputError, match="no member is called"):
        add([Variant("basis", other)], Run(folder, RUN))


def test_another_text_needs_another_folder(family: Family, folder: Path) -> None:
    with pytest.raises(InputError, match="another's recordings"):
        record(family, Text(text_of(family), n_ctx=64), Run(folder, RUN))


def damaged(folder: Path, tmp_path: Path, change: slice, value: bytes) -> Path:
    """A recording with other bytes in place of some; none cut it short."""
    data = bytearray((folder / load_index(folder).members["base"][0].file).read_bytes())
    data[change] = value
    path = tmp_path / "damaged.rec"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("change", "value", "message"),
    [
        (slice(-1, None), b"", "cut short"),
        (slice(20, None), b"", "whole head"),
        (slice(5, None), b"", "a recording, which begins"),
        (slice(0, 8), b"_logits_", "a recording, which begins"),
        (slice(30, 31), b"\xff", "whole head"),
    ],
)
def test_damage_is_named(folder: Path, tmp_path: Path, change: slice, value: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Recording(damaged(folder, tmp_path, change, value))


def test_a_flipped_bit_is_found_in_its_chunk_and_recorded_again(family: Family, folder: Path, tmp_path: Path) -> None:
    path = damaged(folder, tmp_path, slice(-1, None), b"\xfe")
    with Recording(path) as found, pytest.raises(InputError, match="chunk 4 as recorded"):
        found.check()
    own = folder / load_index(folder).members["base"][0].file
    whole = own.read_bytes()
    own.write_bytes(path.read_bytes())
    record(family, Text(text_of(family), n_ctx=160), Run(folder, RUN))
    assert own.read_bytes() == whole


def test_a_killed_run_leaves_no_recording_and_the_next_goes_on(family: Family, tmp_path: Path) -> None:
    text = tmp_path / "long.txt"
    text.write_text("a lazy dog and a quick fox " * 20000)
    names = {"base": family.base, "tuned": family.deltas[0].tuned, "reference": family.deltas[0].reference}
    models = [word for name, path in names.items() for word in (f"--{name}", path)]
    words = ["record", *models, "--text", text, "-c", "64", "-t", "1", "-o", tmp_path / "out"]
    process = start(*words)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("*.part")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM if not hasattr(signal, "SIGKILL") else signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out" / INDEX).exists()
    assert len(list((tmp_path / "out").glob("*.part"))) == 1
    result = quantize(*words, "--chunks", "2")
    assert result.exit_code == 0, result.output
    assert not list((tmp_path / "out").glob("*.part"))
    assert len(list((tmp_path / "out").glob("*.rec"))) == 3


@pytest.mark.parametrize("content", ["", "{}", '{"format": 2}', "[]", '{"format": 1, "members": {}}'])
def test_a_damaged_index(tmp_path: Path, content: str) -> None:
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(InputError):
        load_index(tmp_path)


def test_the_verb_refuses_what_cannot_work(family: Family, tmp_path: Path) -> None:
    for words in ([], ["--add"], ["--text", str(text_of(family)), "--variant", "base"]):
        result = quantize("record", "-o", tmp_path / "out", *words)
        assert result.exit_code == 2, result.output
    assert not (tmp_path / "out").exists()


def test_the_index_is_json_with_a_format(folder: Path) -> None:
    assert json.loads((folder / INDEX).read_text())["format"] == 1
