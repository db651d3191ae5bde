"""Importance matrices as files: both formats, and what is none."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from eftlite.errors import InputError
from eftlite_quantize.imatrix import Entry, ImportanceMatrix, read_imatrix, write_imatrix
from tests.tiny_gguf import write_model

ENTRIES = {
    "blk.0.attn_q.weight": Entry(np.array([[2.0, 4.0, 6.0]], np.float32), np.array([2], np.float32)),
    "blk.0.ffn_up_exps.weight": Entry(
        np.array([[8.0, 4.0], [0.0, 0.0]], np.float32),
        np.array([4, 0], np.float32),  # the second expert was never used
    ),
}
MATRIX = ImportanceMatrix(ENTRIES, ("calibration.txt",), 3, 512)
WEIGHTS = {"blk.0.attn_q.weight": [1.0, 2.0, 3.0], "blk.0.ffn_up_exps.weight": [2.0, 1.0, 1.0, 1.0]}


def legacy(entries: dict[str, tuple[int, list[float]]], end: bytes = b"") -> bytes:
    """A legacy file: values are means times calls."""
    data = struct.pack("<i", len(entries))
    for name, (n_calls, values) in entries.items():
        data += struct.pack("<i", len(name)) + name.encode()
        data += struct.pack("<ii", n_calls, len(values)) + np.array(values, "<f4").tobytes()
    return data + end


def test_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    write_imatrix(path, MATRIX)
    found = read_imatrix(path)
    assert (found.datasets, found.n_chunks, found.chunk_size) == (("calibration.txt",), 3, 512)
    assert list(found.entries) == list(ENTRIES)
    for name, entry in ENTRIES.items():
        np.testing.assert_array_equal(found.entries[name].sums, entry.sums)
        np.testing.assert_array_equal(found.entries[name].counts, entry.counts)
    assert {name: weights.tolist() for name, weights in found.weights().items()} == WEIGHTS
    assert [one.name for one in tmp_path.iterdir()] == ["imatrix.gguf"]


def test_the_file_is_laid_out_as_llama_imatrix_does(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    write_imatrix(path, MATRIX)
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert keys == {
        "general.type": "imatrix",
        "imatrix.datasets": ["calibration.txt"],
        "imatrix.chunk_count": 3,
        "imatrix.chunk_size": 512,
    }
    assert [(one.name, one.shape.tolist()) for one in reader.tensors] == [
        ("blk.0.attn_q.weight.in_sum2", [3]),
        ("blk.0.attn_q.weight.counts", [1]),
        ("blk.0.ffn_up_exps.weight.in_sum2", [2, 2]),
        ("blk.0.ffn_up_exps.weight.counts", [1, 2]),
    ]


@pytest.mark.parametrize(
    ("end", "n_chunks", "datasets"),
    [
        (b"", 0, ()),
        (struct.pack("<i", 7), 7, ()),
        (struct.pack("<ii", 7, 5) + b"a.txt", 7, ("a.txt",)),
    ],
)
def test_legacy_files(tmp_path: Path, end: bytes, n_chunks: int, datasets: tuple[str, ...]) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(legacy({"blk.0.attn_q.weight": (2, [2.0, 4.0]), "never": (0, [5.0])}, end))
    found = read_imatrix(path)
    assert {name: weights.tolist() for name, weights in found.weights().items()} == {
        "blk.0.attn_q.weight": [1.0, 2.0],
        "never": [5.0],
    }
    assert (found.n_chunks, found.datasets, found.chunk_size) == (n_chunks, datasets, 0)


def test_files_that_are_none(tmp_path: Path) -> None:
    """Each is one InputError that names the file."""
    (tmp_path / "text.txt").write_text("The town of Kelworth lies on the river Ashe.")
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "nothing.dat").write_bytes(legacy({}))
    (tmp_path / "infinite.dat").write_bytes(legacy({"a": (1, [float("inf")])}))
    (tmp_path / "negative.dat").write_bytes(struct.pack("<ii", 1, -5) + b"x" * 40)
    (tmp_path / "folder").mkdir()
    write_model(tmp_path / "model.gguf", seed=1)
    for path in [*tmp_path.iterdir(), tmp_path / "missing.gguf"]:
        with pytest.raises(InputError) as caught:
            read_imatrix(path)
        assert caught.value.message.startswith(path.name)
        assert "\n" not in str(caught.value)


def test_entries_must_belong_together(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_uint32("imatrix.chunk_size", 512)
    writer.add_tensor("a.in_sum2", np.ones(4, np.float32))
    writer.add_tensor("b.counts", np.ones(1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"expected a tensor \*\.counts beside"):
        read_imatrix(path)


@pytest.mark.parametrize("form", ["gguf", "legacy"])
def test_damaged_files_are_errors_and_nothing_worse(tmp_path: Path, form: str) -> None:
    """Cut anywhere, or with bytes changed: read or refused."""
    path = tmp_path / "imatrix.gguf"
    if form == "gguf":
        write_imatrix(path, MATRIX)
        whole = path.read_bytes()
    else:
        whole = legacy({"blk.0.attn_q.weight": (2, [2.0, 4.0])}, struct.pack("<ii", 7, 5) + b"a.txt")
    for n in range(0, len(whole), 5):
        path.write_bytes(whole[:n])
        if form == "gguf" and n < len(whole) - 32:  # a legacy file may lack its end; padding carries nothing
            with pytest.raises(InputError):
                read_imatrix(path)
    draw = random.Random(1)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.choice((0, 1, 127, 255, draw.randrange(256)))
        path.write_bytes(data)
        try:
            found = read_imatrix(path)
        except InputError:
            continue
        assert all(np.isfinite(values).all() for values in found.weights().values())


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_imatrix(tmp_path / "no" / "imatrix.gguf", MATRIX)
