"""Random-weight files: sizes and types as llama.cpp has them, blocks with the right numbers, families loaded whole."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from eftlite import EFT, Limits, Sampling, blocks, shapes
from eftlite.errors import InputError
from eftlite.gguf import check, token_texts
from eftlite.llama import Model, library
from eftlite.member import Member
from eftlite.shapes import QUANTS, SHAPES, Shape, data_bytes, notes, parse_shape, shape_family, tensors, write_shape

# 11 layers, so that the recipes' eighths and thirds differ; 288 is a multiple of 32 but not of 256.
TINY = Shape("tiny", "nothing", 256, 11, 4, 2, 256, 512, tied=False)
NARROW = Shape("narrow", "nothing", 288, 3, 4, 2, 512, 512, tied=True)

# Published sizes: of each model's card, or counted from its safetensors index.
PARAMETERS = {
    "135m": 134_515_008,
    "360m": 361_821_120,
    "1b": 1_100_048_384,
    "1.7b": 1_711_376_384,
    "3b": 3_212_749_824,
    "7b": 6_738_415_616,
    "8b": 8_030_261_248,
}


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_are_those_of_the_model_named(name: str) -> None:
    shape = SHAPES[name]
    assert sum(one.n_columns * one.n_rows for one in tensors(shape, "f16")) == PARAMETERS[name]
    assert shape.n_vocab < shapes.MAX_VOCABULARY


@pytest.fixture(autouse=True)
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "POOL_BLOCKS", 4001)


def test_3b_q8_0_takes_three_gigabytes() -> None:
    assert data_bytes(*parse_shape("3b-q8_0")) == pytest.approx(3_212_749_824 * 34 / 32, rel=1e-3)


@pytest.mark.parametrize("text", ["3b-q8_0", "3B-Q8_0", " 3b-q8_0 "])
def test_parse(text: str) -> None:
    assert parse_shape(text) == (SHAPES["3b"], "q8_0")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("4b-q8_0", "'4b'"),
        ("3b", "got ''"),
        ("3b-q9", "'q9'"),
        ("", "135m"),
        ("q8_0-3b", "'q8_0'"),
        ("3b-q8_0-x", "'q8_0-x'"),
    ],
)
def test_parse_errors_name_what_is_known(text: str, named: str) -> None:
    with pytest.raises(InputError, match="3b-q8_0") as caught:
        parse_shape(text)
    assert named in caught.value.message


# ---- types


def quantized_by_llama(source: Path, quant: str) -> dict[str, str]:
    """Types of the tensors after llama.cpp's own quantizer."""
    library.open()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = QUANTS[quant].file_type, 1
    target = source.with_name("quantized.gguf")
    code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    assert code == 0
    return {one.name: one.type for one in check(target).tensors}


@pytest.mark.parametrize("shape", [TINY, NARROW], ids=lambda shape: shape.name)
def test_types_are_those_of_llamas_quantizer(shape: Shape, tmp_path: Path) -> None:
    source = write_shape(tmp_path / "f16.gguf", shape, "f16")
    for quant in QUANTS:
        expected = {one.name: one.type for one in tensors(shape, quant)}
        assert quantized_by_llama(source, quant) == expected, quant


def test_fallbacks_are_told() -> None:
    assert notes(SHAPES["3b"], "q4_k_m") == []
    assert notes(SHAPES["135m"], "q8_0") == []
    assert notes(NARROW, "q4_k_m") == [
        "narrow-q4_k_m: 17 tensors in Q5_0, not Q4_K: rows of 288 are no multiple of 256",
        "narrow-q4_k_m: 2 tensors in Q8_0, not Q6_K: rows of 288 are no multiple of 256",
    ]


# ---- files


@pytest.mark.parametrize("quant", QUANTS)
def test_llama_cpp_reads_it(quant: str, tmp_path: Path) -> None:
    path = write_shape(tmp_path / "model.gguf", TINY, quant, n_vocab=600)
    header = check(path)
    assert {one.name: one.type for one in header.tensors} == {one.name: one.type for one in tensors(TINY, quant, 600)}
    assert 0 < path.stat().st_size - data_bytes(TINY, quant, 600) < 40_000
    model = Model(path)
    member = Member(model, n_ctx=32)
    member.decode(0, [*model.tokenize(b"Hello"), 599], n_rows=2)
    rows = np.stack([member.row(0, 5), member.row(0, 6)])  # (2, n_vocab)
    assert np.isfinite(rows).all()
    assert rows[0].std() == pytest.approx(shapes.LOGIT_STD, rel=0.2)
    assert not np.array_equal(rows[0], rows[1])
    assert rows[:, -1].tolist() == [0.0, 0.0]  # the end token
    assert len(np.unique(rows[0])) > 590
    member.close()
    model.close()


def test_vocabulary_reads_any_text(tmp_path: Path) -> None:
    path = write_shape(tmp_path / "model.gguf", TINY, "q8_0", n_vocab=1500)
    texts = token_texts(check(path))
    assert len(set(texts)) == 1500
    assert texts[256:259] + texts[281:283] == ["Ġa", "Ġb", "Ġc", "Ġz", "Ġaa"]
    model = Model(path)
    text = "Grüße, 世界 \x00 aa"
    assert model.detokenize(model.tokenize(text.encode())).decode() == text
    assert model.detokenize([256, 282]) == b" a aa"
    model.close()


def test_seed_decides_the_weights(tmp_path: Path) -> None:
    seeds = {"a": 0, "b": 0, "c": 1}
    one, again, other = (write_shape(tmp_path / name, TINY, "q4_0", seed=seed) for name, seed in seeds.items())
    assert one.read_bytes() == again.read_bytes()
    weights, others = (np.frombuffer(path.read_bytes()[-100_000:-1000], np.uint8) for path in (one, other))
    assert np.mean(weights == others) < 0.15  # sub-scales are the same everywhere


def test_progress_ends_at_one(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    write_shape(tmp_path / "x.gguf", NARROW, "q8_0", progress=lambda name, done: seen.append((name, done)))
    assert seen[-1] == ("x.gguf", 1.0)
    assert [done for _, done in seen] == sorted(done for _, done in seen)


# ---- what goes wrong


def test_a_full_disk_is_told_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000_000))
    with pytest.raises(InputError, match=r"expected 3\.\d GB of free disk .* got 1\.0 GB"):
        write_shape(tmp_path / "x.gguf", *parse_shape("3b-q8_0"))
    with pytest.raises(InputError, match=r"expected 3\.\d GB"):
        shape_family(tmp_path)
    assert not list(tmp_path.iterdir())


def test_gguf_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"eftlite\[bench\]"):
        write_shape(tmp_path / "x.gguf", TINY, "q8_0")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_file_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(name: str, done: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shape(tmp_path / "x.gguf", TINY, "q8_0", progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"x\.gguf: cannot be written"):
        write_shape(tmp_path / "file" / "x.gguf", TINY, "q8_0")


@pytest.mark.parametrize(("quant", "n_vocab"), [("q9", 512), ("q8_0", 511), ("q8_0", 200_003)])
def test_values_that_cannot_be(quant: str, n_vocab: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected .* got"):
        write_shape(tmp_path / "x.gguf", TINY, quant, n_vocab=n_vocab)


# ---- families


@pytest.fixture
def small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "tiny", TINY)
    monkeypatch.setitem(SHAPES, "narrow", NARROW)


@pytest.mark.usefixtures("small_shapes")
def test_family_answers_without_end(tmp_path: Path) -> None:
    family = shape_family(tmp_path, "tiny-q4_k_m", "narrow-q8_0", n_vocab=700)
    with EFT(family=family, n_ctx=64, speculative=False) as eft:
        assert eft.n_vocab == 700
        for temperature in (0.0, 1.0):
            limits, sampling = Limits(max_tokens=20), Sampling(temperature=temperature, seed=1)
            answer = eft.complete([5, 6, 7], limits=limits, sampling=sampling)
            assert len(list(answer)) == 20
            assert answer.statistics.finish_reason == "length"


@pytest.mark.usefixtures("small_shapes")
def test_family_is_written_once(tmp_path: Path) -> None:
    family = shape_family(tmp_path, "tiny-q4_0", "narrow-q8_0")
    files = sorted(tmp_path.iterdir())
    assert len(files) == len({family.base, family.deltas[0].tuned, family.deltas[0].reference}) == 3
    assert len({path.read_bytes() for path in files}) == 3
    before = [path.stat().st_mtime_ns for path in files]
    assert shape_family(tmp_path, "tiny-q4_0", "narrow-q8_0") == family
    assert [path.stat().st_mtime_ns for path in files] == before
    shape_family(tmp_path, "tiny-q4_0", "narrow-q8_0", n_vocab=513)
    assert len(list(tmp_path.iterdir())) == 6
