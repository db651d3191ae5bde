"""llama-perplexity's files: the layout byte by byte, round trips, and files that are damaged or are none."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from eftlite.errors import EFTError, InputError
from eftlite_quantize.klbase import MAGIC, BaseReader, BaseWriter, parts, words
from eftlite_quantize.texts import Tokens, scored
from tests.quantize import perplexity

Rows = NDArray[np.float32]


def text(n_chunks: int = 3, n_ctx: int = 11, n_vocab: int = 21) -> tuple[Tokens, Rows]:
    """Chunks (n_chunks, n_ctx), and logits (n_chunks, n_scored, n_vocab) of their scored positions."""
    rng = np.random.default_rng(n_vocab)
    tokens = rng.integers(0, n_vocab, (n_chunks, n_ctx)).astype(np.int32)
    rows = rng.normal(0, 4, (n_chunks, scored(n_ctx), n_vocab)).astype(np.float32)
    return tokens, rows


def written(path: Path, tokens: Tokens, rows: Rows, size: int = 2) -> Path:
    """A file of these, written in pieces."""
    writer = BaseWriter(path, tokens, rows.shape[2])
    for chunk in rows:
        for start in range(0, len(chunk), size):
            writer.write(chunk[start : start + size])
    writer.close()
    return path


def literal(tokens: Tokens, rows: Rows) -> bytes:
    """The same file as the C++ source lays it out."""
    n_vocab = rows.shape[2]
    data = b"_logits_" + struct.pack("<Iii", tokens.shape[1], n_vocab, len(tokens))
    data += b"".join(struct.pack("<i", token) for token in tokens.ravel().tolist())
    heads, levels = perplexity.stored(rows.reshape(-1, n_vocab))
    for (scale, lowest), row in zip(heads.tolist(), levels.tolist(), strict=True):
        padding = [0] * (2 * ((n_vocab + 1) // 2) - n_vocab)
        data += struct.pack("<ff", scale, lowest) + struct.pack(f"<{n_vocab + len(padding)}H", *row, *padding)
    return data


@pytest.mark.parametrize("n_vocab", [20, 21])
def test_layout_is_llama_perplexitys(tmp_path: Path, n_vocab: int) -> None:
    tokens, rows = text(n_vocab=n_vocab)
    found, expected = written(tmp_path / "f", tokens, rows).read_bytes(), literal(tokens, rows)
    n_head = 20 + 4 * tokens.size
    assert (len(found), found[:n_head]) == (len(expected), expected[:n_head])
    ours, theirs = (np.frombuffer(data[n_head:], "<u2").reshape(-1, words(n_vocab)) for data in (found, expected))
    np.testing.assert_allclose(ours[:, :4].copy().view("<f4"), theirs[:, :4].copy().view("<f4"), rtol=1e-6)
    assert np.abs(ours[:, 4:].astype(int) - theirs[:, 4:]).max() <= 1


@pytest.mark.parametrize("size", [1, 2, 3, 64])
def test_what_was_written_is_read(tmp_path: Path, size: int) -> None:
    tokens, rows = text()
    with BaseReader(written(tmp_path / "f", tokens, rows)) as reader:
        assert (reader.n_ctx, reader.n_vocab, reader.n_chunk) == (11, 21, 3)
        np.testing.assert_array_equal(reader.tokens, tokens)
        for chunk in (2, 0, 1, 0):  # in any order
            pieces = [piece.copy() for piece in reader.pieces(chunk, size)]
            assert all(len(piece) == size for piece in pieces[:-1])
            heads, levels = parts(np.concatenate(pieces), 21)
            log_p = perplexity.restored(heads.astype(np.float64), levels.astype(np.int64))
            expected = perplexity.log_softmax(rows[chunk])
            expected = np.maximum(expected, expected.max(1, keepdims=True) - 16)
            np.testing.assert_allclose(log_p, expected, atol=16 / 65535)


def test_a_file_of_llama_perplexity_is_read(tmp_path: Path) -> None:
    tokens, rows = text()
    (tmp_path / "f").write_bytes(literal(tokens, rows))
    with BaseReader(tmp_path / "f") as reader:
        assert sum(len(piece) for chunk in range(3) for piece in reader.pieces(chunk, 4)) == 15


# ---- whole or not at all


def test_what_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    tokens, rows = text()
    with BaseWriter(tmp_path / "f", tokens, 21) as writer:
        writer.write(rows[0])
        assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    tokens, rows = text()
    (tmp_path / "f").write_bytes(b"old")
    with BaseWriter(tmp_path / "f", tokens, 21) as writer:
        writer.write(rows[0])
    assert (tmp_path / "f").read_bytes() == b"old"
    written(tmp_path / "f", tokens, rows)
    assert (tmp_path / "f").read_bytes()[:8] == MAGIC


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EFTError, match="f: cannot be written: No such file or directory"):
        BaseWriter(tmp_path / "none" / "f", text()[0], 21)


def test_a_disk_without_room_is_noticed_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, rows = text()
    n_bytes = len(literal(tokens, rows))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=n_bytes - 1))
    with pytest.raises(EFTError, match=r"f: expected \d+ B of free disk, got \d+ B"):
        BaseWriter(tmp_path / "f", tokens, 21)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=n_bytes))
    written(tmp_path / "f", tokens, rows)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("n_rows", [0, 1])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_rows: int
) -> None:
    tokens, rows = text(n_chunks=1 if n_rows else 20_000)  # the header alone is more than a buffer, or less
    opened = Path.open

    def on_full_disk(self: Path, mode: str) -> Any:
        self.touch()
        return opened(Path("/dev/full"), mode)

    monkeypatch.setattr(Path, "open", on_full_disk)
    with (
        pytest.raises(EFTError, match="f: cannot be written: No space left"),
        BaseWriter(tmp_path / "f", tokens, 21) as writer,
    ):
        writer.write(rows[0])
    assert list(tmp_path.iterdir()) == []


# ---- damage


def changed(path: Path, data: bytes) -> Path:
    """The file with other bytes."""
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, b"_logitz_", "expected a file that begins with _logits_"),
        (8, struct.pack("<i", 7), "n_ctx from 8 to"),
        (8, struct.pack("<i", -1), "n_ctx from 8 to"),
        (8, struct.pack("<i", 12), "bytes for 3 chunks of 12 tokens"),
        (12, struct.pack("<i", 0), "n_vocab from 2 to"),
        (12, struct.pack("<i", 23), "bytes for 3 chunks"),
        (16, struct.pack("<i", 0), "n_chunk from 1 to"),
        (16, struct.pack("<i", 2**31 - 1), "n_chunk from 1 to"),
        (20, struct.pack("<i", 21), "tokens from 0 to 20, got 21"),
        (24, struct.pack("<i", -1), "tokens from 0 to 20, got -1"),
    ],
)
def test_damaged_headers_are_refused(tmp_path: Path, offset: int, value: bytes, message: str) -> None:
    data = bytearray(written(tmp_path / "f", *text()).read_bytes())
    data[offset : offset + len(value)] = value
    with pytest.raises(InputError, match=message) as found:
        BaseReader(changed(tmp_path / "f", bytes(data)))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("damage", [float("nan"), float("inf"), -1.0])
def test_damaged_rows_are_refused(tmp_path: Path, damage: float) -> None:
    data = bytearray(written(tmp_path / "f", *text()).read_bytes())
    row = 20 + 4 * 33 + 2 * words(21) * 7  # of the second chunk
    data[row : row + 4] = struct.pack("<f", damage)
    with BaseReader(changed(tmp_path / "f", bytes(data))) as reader:
        assert len(list(reader.pieces(0, 64))) == 1
        with pytest.raises(InputError, match="finite scales in chunk 2"):
            list(reader.pieces(1, 64))


def test_a_file_that_is_cut_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "f", *text(n_chunks=100))  # more than a buffer
    with BaseReader(path) as reader:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 10)
        with pytest.raises(InputError, match="the rows of chunk 100"):
            list(reader.pieces(99, 64))


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            BaseReader(path)


@settings(max_examples=150)
@given(st.data())
def test_any_damage_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Cut, lengthened or with other bytes: an InputError, or rows of the right shape that are numbers."""
    path = tmp_path_factory.getbasetemp() / "fuzz"
    whole = bytearray(literal(*text()))
    kind = data.draw(st.sampled_from(["cut", "longer", "bytes"]))
    if kind == "cut":
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    elif kind == "longer":
        whole += data.draw(st.binary(min_size=1, max_size=50))
    else:
        for place, byte in data.draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=8)):
            whole[place] = byte
    path.write_bytes(whole)
    try:
        with BaseReader(path) as reader:
            rows = [piece.copy() for chunk in range(reader.n_chunk) for piece in reader.pieces(chunk, 3)]
            n_vocab = reader.n_vocab
    except InputError:
        return
    assert kind == "bytes"
    heads, levels = parts(np.concatenate(rows), n_vocab)
    assert np.isfinite(heads).all()
    assert levels.shape == (15, n_vocab)
