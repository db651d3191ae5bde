from __future__ import annotations

import ctypes
import json
import os
import pickle
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf as reference
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlite import gguf_types
from eftlite.errors import InputError, ModelFileError
from eftlite.gguf import ArrayInfo, Header, TensorInfo, check, describe, read_array, token_texts
from eftlite.gguf_types import shown
from tests import bad_gguf as bad
from tests.tiny_gguf import CHAT_TEMPLATE, gpt2_texts, spm_texts, write_model

MAX_SECONDS = 0.05
MAX_BYTES = 32 << 20
TOKENS = "tokenizer.ggml.tokens"
CHECKED = list(bad.bad_headers_with_reasons())


def refusal(path: Path) -> ModelFileError:
    """The error that check() raises, after looking at its form."""
    with pytest.raises(ModelFileError) as caught:
        check(path)
    error = caught.value
    assert str(error).isprintable(), "one line without control characters"
    assert error.message.startswith(f"{shown(path.name)}: expected ")
    assert str(path.parent) not in str(error)
    assert error.exit_code == 2
    return error


def write(folder: Path, data: bytes, name: str = "model.gguf") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# --- row 25: bad headers ---


def test_the_good_header_is_good(tmp_path: Path) -> None:
    """Else every refusal below would be for another reason."""
    header = check(write(tmp_path, bad.header()))
    assert (header.architecture, header.n_vocab, header.n_layers, header.n_embd) == ("llama", 3, 2, 32)


def test_there_are_at_least_40_kinds() -> None:
    assert len({name for name, _, _ in CHECKED}) == len({data for _, data, _ in CHECKED}) == len(CHECKED) >= 40


@pytest.mark.parametrize(("data", "words"), [case[1:] for case in CHECKED], ids=[case[0] for case in CHECKED])
def test_a_bad_header_is_refused_for_its_reason(tmp_path: Path, data: bytes, words: str) -> None:
    path = write(tmp_path, data)
    seconds = min(timed(lambda: refusal(path)) for _ in range(3))
    tracemalloc.start()
    try:
        error = refusal(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert words in error.message
    assert seconds < MAX_SECONDS
    assert peak < MAX_BYTES


def timed(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


@given(st.binary(max_size=400))
def test_random_bytes_after_the_magic_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = write(tmp_path_factory.getbasetemp(), b"GGUF" + data)
    refusal(path)


@given(st.integers(0, 5), st.integers(0, 5), st.binary(max_size=400))
def test_random_bytes_after_the_counts_are_refused(
    tmp_path_factory: pytest.TempPathFactory, n_tensors: int, n_keys: int, data: bytes
) -> None:
    path = write(tmp_path_factory.getbasetemp(), b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + data)
    refusal(path)


# --- row 27: headers that only their size makes bad ---


def test_400000_keys_are_refused_by_their_count(tmp_path: Path) -> None:
    keys = b"".join(bad.key(f"k{i}", bad.UINT8, 0) for i in range(400_000))
    path = write(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, 0, 400_000) + keys)
    assert path.stat().st_size > 7_000_000
    assert "got 400,000" in refusal(path).message
    assert min(timed(lambda: refusal(path)) for _ in range(3)) < MAX_SECONDS


def test_400000_tensors_are_refused_by_their_count(tmp_path: Path) -> None:
    tensors = b"".join(bad.tensor(f"t{i}", (8,), offset=32 * i) for i in range(400_000))
    path = write(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, 400_000, 0) + tensors)
    assert "got 400,000" in refusal(path).message
    assert min(timed(lambda: refusal(path)) for _ in range(3)) < MAX_SECONDS


def test_many_keys_and_tensors_take_linear_time(tmp_path: Path) -> None:
    keys: dict[str, bytes | None] = {f"k{i}": bad.key(f"k{i}", bad.UINT8, 0) for i in range(60_000)}
    tensors = [bad.tensor(f"t{i}", (8,), offset=32 * i) for i in range(16_000)]
    path = write(tmp_path, bad.header(keys, tensors, n_data=32 * 16_000))
    assert timed(lambda: check(path)) < 2.0


@pytest.mark.parametrize("body", [b"", b"x" * 200], ids=["empty", "long"])
def test_many_strings_are_walked_in_bounds(tmp_path: Path, body: bytes) -> None:
    """A window full of empty strings holds most of them; memory must not follow the file's size."""
    n = 300_000 if not body else 50_000
    data = bad.key("x", bad.ARRAY, struct.pack("<IQ", bad.STRING, n) + bad.text(body) * n)
    path = write(tmp_path, bad.header({"x": data}))
    tracemalloc.start()
    try:
        check(path)
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()
    assert timed(lambda: check(path)) < 2.0


def test_a_header_full_of_short_values_stays_small_in_memory(tmp_path: Path) -> None:
    """Kept values have a budget; what is over it is only described."""
    text = bad.text("x" * 60_000)
    keys = {f"k{i}": bad.key(f"k{i}", bad.STRING, text) for i in range(600)}
    path = write(tmp_path, bad.header(keys))
    tracemalloc.start()
    try:
        header = check(path)
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()
    assert len({type(header.metadata[key]) for key in keys}) == 2
    described = next(key for key in keys if isinstance(header.metadata[key], ArrayInfo))
    assert read_array(header, described) == "x" * 60_000


# --- row 28: files that are no models ---


def test_truncated_weights_are_named_with_both_sizes(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", seed=1)
    data = path.read_bytes()
    write(tmp_path, data[: len(data) // 2])
    error = refusal(path)
    assert f"expected {len(data):,} bytes" in error.message
    assert f"{len(data) // 2:,} bytes" in error.message
    assert "download" in error.hint


def test_swapped_files_are_named_with_both_sizes(tmp_path: Path) -> None:
    """One model's header before another's weights."""
    small = write_model(tmp_path / "a.gguf", seed=1).read_bytes()
    large = write_model(tmp_path / "b.gguf", seed=1, n_layers=4).read_bytes()
    header_of_small = check(tmp_path / "a.gguf").tensors[0].offset
    header_of_large = check(tmp_path / "b.gguf").tensors[0].offset
    swapped = write(tmp_path, small[:header_of_small] + large[header_of_large:])
    assert f"expected {len(small):,} bytes" in refusal(swapped).message
    assert "different files" in refusal(swapped).hint
    swapped = write(tmp_path, large[:header_of_large] + small[header_of_small:])
    assert f"expected {len(large):,} bytes" in refusal(swapped).message


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    assert "empty one (0 bytes)" in refusal(write(tmp_path, b"")).message


FOREIGN = {
    "html": (b"<!DOCTYPE html>\n<html><head>", "HTML"),
    "html_indented": (b"\r\n  <HTML lang='en'>", "HTML"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied', "XML"),
    "json": (b'{"error":"Repository not found"}', "JSON"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git-lfs pointer"),
    "safetensors": (struct.pack("<Q", 60) + b'{"__metadata__":{"format":"pt"}}', "safetensors"),
    "pytorch": (b"PK\x03\x04\0\0\0\0archive/data.pkl", "PyTorch"),
    "pickle": (b"\x80\x02}q\0", "pickle"),
    "gzip": (b"\x1f\x8b\x08\0", "gzip"),
    "ggml": (b"lmgg\0\0\0\0", "ggml"),
    "ggmf": (b"fmgg\x01\0\0\0", "ggmf"),
    "ggjt": (b"tjgg\x03\0\0\0", "ggjt"),
    "lora": (b"algg\x01\0\0\0", "ggla"),
    "zeros": (bytes(5000), "begins with zeros"),
    "short": (b"GG", "begins with 'GG'"),
    "escape": (b"\x1b[2J\n\xff\xfe", r"begins with '\x1b[2J\n\xff\xfe'"),
}


@pytest.mark.parametrize(("data", "words"), FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_recognised(tmp_path: Path, data: bytes, words: str) -> None:
    assert words in refusal(write(tmp_path, data)).message


def in_time(path: Path) -> ModelFileError:
    """refusal() in a thread, so that a hang fails instead of hanging."""
    errors: list[ModelFileError] = []
    thread = threading.Thread(target=lambda: errors.append(refusal(path)), daemon=True)
    thread.start()
    thread.join(timeout=5)
    assert errors, f"check() hangs or accepts {path.name}"
    return errors[0]


def test_a_directory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.mkdir()
    assert "got a directory" in in_time(path).message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in in_time(tmp_path / "model.gguf").message
    assert "NUL" in in_time(tmp_path / "a\0b").message
    assert "too long" in in_time(tmp_path / ("x" * 5000)).message
    assert "part of the path is not a directory" in in_time(write(tmp_path, b"x", "file") / "model.gguf").message


def link(path: Path, target: str) -> Path:
    try:
        path.symlink_to(target)
    except OSError:  # Windows without the privilege
        pytest.skip("this system gives no symbolic links")
    return path


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    write_model(tmp_path / "real.gguf", seed=1)
    assert check(link(tmp_path / "model.gguf", "real.gguf")).n_vocab == 512


def test_a_loop_of_symbolic_links_is_named(tmp_path: Path) -> None:
    link(tmp_path / "b.gguf", "a.gguf")
    assert "loop" in in_time(link(tmp_path / "a.gguf", "b.gguf")).message


def test_a_broken_symbolic_link_is_named(tmp_path: Path) -> None:
    assert "link to a file that does not exist" in in_time(link(tmp_path / "model.gguf", "gone")).message


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no FIFO among its files")
def test_pipes_sockets_and_devices_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.gguf")
    assert "a named pipe" in in_time(tmp_path / "model.gguf").message
    for name in ("null", "zero"):
        assert "a character device" in in_time(Path("/dev", name)).message
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(tmp_path, os.O_RDONLY)
        try:  # a socket's path must be short
            listener.bind(f"/proc/self/fd/{folder}/socket" if sys.platform == "linux" else str(tmp_path / "socket"))
        finally:
            os.close(folder)
        assert "a socket" in in_time(tmp_path / "socket").message


@pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, bad.header())
    path.chmod(0)
    assert "no permission" in refusal(path).message


def test_a_name_with_control_characters_stays_on_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        check(tmp_path / "a\nb\x1b[2J.gguf")
    assert str(caught.value).isprintable()
    assert shown("a\nb" + "x" * 100) == "a\\nb" + "x" * 56 + "…"


# --- what a good file says ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Header:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    return check(write_model(path, seed=1, dtype="q8_0", n_kv_heads=2, chat_template=CHAT_TEMPLATE))


def test_a_header_agrees_with_the_gguf_package(model: Header) -> None:
    """Every key, every tensor, against the package that writes them."""
    other = reference.GGUFReader(model.path)
    assert [
        (one.name, tuple(map(int, one.shape)), one.tensor_type.name, int(one.data_offset), int(one.n_bytes))
        for one in other.tensors
    ] == [(one.name, one.shape, one.type, one.offset, one.n_bytes) for one in model.tensors]
    for name, field in other.fields.items():
        if not name.startswith("GGUF."):
            value = model.metadata[name]
            mine = list(np.atleast_1d(np.asarray(read_array(model, name) if isinstance(value, ArrayInfo) else value)))
            theirs = field.contents()
            assert mine == (theirs if isinstance(theirs, list) else [theirs]), name
    assert {name for name in other.fields if not name.startswith("GGUF.")} == set(model.metadata)


def test_a_header_knows_its_sizes(model: Header) -> None:
    assert model.version == 3
    assert (model.n_ctx_train, model.n_vocab, model.n_layers, model.n_embd) == (256, 512, 2, 64)
    assert model.n_params == sum(one.n_elements for one in model.tensors)
    assert model.file_bytes == model.path.stat().st_size
    assert model.chat_template == CHAT_TEMPLATE
    assert model.split is None


def test_a_header_can_be_sent_to_another_process(model: Header) -> None:
    assert pickle.loads(pickle.dumps(model)) == model


def test_describe_has_stable_keys_that_json_takes(model: Header) -> None:
    described = json.loads(json.dumps(describe(model)))
    assert described == {
        "file": "tiny.gguf", "architecture": "llama", "name": "tiny", "quantization": "Q8_0",
        "parameters": model.n_params, "bytes": model.file_bytes, "bits_per_weight": 8.55, "context": 256,
        "vocabulary": 512, "layers": 2, "embedding": 64, "heads": 4, "chat_template": True, "license": None,
        "split": None,
    }  # fmt: skip  # reads across


def test_token_texts_are_read_when_asked(model: Header) -> None:
    assert token_texts(model) == gpt2_texts(512)
    assert read_array(model, TOKENS) == gpt2_texts(512)
    kinds = read_array(model, "tokenizer.ggml.token_type")
    assert isinstance(kinds, np.ndarray)
    assert kinds.dtype == np.int32
    assert kinds[-3:].tolist() == [3, 3, 3]
    with pytest.raises(InputError, match="expected the key of a long array"):
        read_array(model, "general.name")


def test_token_texts_notice_a_file_that_was_cut(tmp_path: Path) -> None:
    header = check(write_model(tmp_path / "model.gguf", seed=1))
    os.truncate(header.path, 1500)
    with pytest.raises(ModelFileError, match=r"^model.gguf: expected "):
        token_texts(header)
    with pytest.raises(ModelFileError, match=r"^model.gguf: expected "):
        read_array(header, "tokenizer.ggml.token_type")


def test_texts_that_are_no_utf8_stay_different(tmp_path: Path) -> None:
    raw = struct.pack("<IQ", bad.STRING, 3) + bad.text(b"\xff") + bad.text(b"\xfe") + bad.text("ä")
    header = check(write(tmp_path, bad.header({TOKENS: bad.key(TOKENS, bad.ARRAY, raw)})))
    assert token_texts(header) == ["\udcff", "\udcfe", "ä"]


def test_short_arrays_are_kept_and_long_ones_described(tmp_path: Path) -> None:
    keys: dict[str, bytes | None] = {
        "few": bad.numbers("few", bad.FLOAT32, (0.5, 1.5)),
        "flags": bad.numbers("flags", bad.BOOL, (1, 0)),
        "many": bad.numbers("many", bad.UINT16, range(2000)),
        "tags": bad.strings("tags", ("a", "ä")),
        "none": bad.strings("none", ()),
        "lines": bad.strings("lines", [str(i) for i in range(2000)]),
    }
    header = check(write(tmp_path, bad.header(keys)))
    assert header.metadata["few"] == (0.5, 1.5)
    assert header.metadata["flags"] == (True, False)
    assert header.metadata["tags"] == ("a", "ä")
    assert header.metadata["none"] == ()
    many = header.metadata["many"]
    assert isinstance(many, ArrayInfo)
    assert (many.type, many.length) == ("uint16", 2000)
    assert np.array_equal(np.asarray(read_array(header, "many")), np.arange(2000))
    assert read_array(header, "lines") == [str(i) for i in range(2000)]


def test_strings_longer_than_a_window_are_walked_or_refused(tmp_path: Path) -> None:
    header = check(write(tmp_path, bad.header({"x": bad.strings("x", ("a" * 900_000, "b", "c" * 900_000, "d"))})))
    assert isinstance(header.metadata["x"], tuple)
    assert list(map(len, map(str, header.metadata["x"]))) == [900_000, 1, 900_000, 1]
    path = write(tmp_path, bad.header({"x": bad.strings("x", ("a" * 2_000_000,))}))
    assert "got 2,000,000" in refusal(path).message


def test_version_2_other_alignments_and_padding_pass(tmp_path: Path) -> None:
    assert check(write(tmp_path, bad.header(start=b"GGUF\x02\0\0\0"))).version == 2
    assert check(write(tmp_path, bad.header(n_data=bad.N_DATA + 4096))).n_vocab == 3
    alignment: dict[str, bytes | None] = {"general.alignment": bad.key("general.alignment", bad.UINT32, 64)}
    assert check(write(tmp_path, bad.header(alignment, alignment=64))).tensors[0].offset % 64 == 0


def test_a_sentencepiece_vocabulary_passes(tmp_path: Path) -> None:
    header = check(write_model(tmp_path / "model.gguf", seed=1, tokenizer="llama"))
    assert token_texts(header) == spm_texts(512)


@pytest.mark.parametrize(
    ("declared", "types", "name"),
    [
        (15, {"Q4_K": 10, "Q6_K": 3}, "Q4_K_M"),
        (7, {"Q8_0": 1}, "Q8_0"),
        (1, {"Q8_0": 1}, "Q8_0"),
        (None, {"Q4_K": 1, "Q6_K": 3}, "Q6_K"),
        (29, {"IQ2_S": 2, "Q4_K": 1}, "IQ2_M"),
        (999, {"BF16": 1}, "BF16"),
    ],
)
def test_quantization_is_what_people_call_it(declared: int | None, types: dict[str, int], name: str) -> None:
    from eftlite.gguf import _quantization

    tensors = tuple(TensorInfo(f"t{kind}{i}", (8, 8), kind, 0, 0) for kind, n in types.items() for i in range(n))
    assert _quantization({} if declared is None else {"general.file_type": declared}, tensors) == name


def test_a_vocabulary_alone_passes_only_when_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, bad.header(tensors=(), n_data=0))
    assert "without any" in refusal(path).message
    header = check(path, require_weights=False)
    assert (header.n_vocab, header.n_params, header.quantization) == (3, 0, "")
    assert describe(header)["bits_per_weight"] is None
    path = write(tmp_path, bad.header({"llama.block_count": None}, tensors=(), n_data=0))
    assert check(path, require_weights=False).n_layers == 0


def test_heads_may_be_given_layer_by_layer(tmp_path: Path) -> None:
    per_layer: dict[str, bytes | None] = {
        name: bad.numbers(name, bad.UINT32, values)
        for name, values in (("llama.attention.head_count", (4, 2)), ("llama.attention.head_count_kv", (2, 0)))
    }
    assert describe(check(write(tmp_path, bad.header(per_layer))))["heads"] == 4


def test_a_hostile_name_is_shown_on_one_line(tmp_path: Path) -> None:
    name = {"general.name": bad.key("general.name", bad.STRING, b"\x03\0\0\0\0\0\0\0a\n\xff")}
    assert check(write(tmp_path, bad.header(name))).name == "a\\n\\udcff"


# --- split models ---


def split_model(folder: Path, n_tensors: int = 2, second: int = 1, count: int = 2) -> Path:
    """The good model in two files."""

    def keys(index: int) -> dict[str, bytes | None]:
        return {
            "split.no": bad.key("split.no", bad.UINT16, index),
            "split.count": bad.key("split.count", bad.UINT16, count),
            "split.tensors.count": bad.key("split.tensors.count", bad.INT32, n_tensors),
        }

    embedding, norm = bad.tensor("token_embd.weight", (32, 3)), bad.tensor("output_norm.weight", (32,))
    path = write(folder, bad.header(keys(0), (embedding,), n_data=384), "m-00001-of-00002.gguf")
    only = {**dict.fromkeys(bad.GOOD_KEYS), **keys(second)}
    write(folder, bad.header(only, (norm,), n_data=128), "m-00002-of-00002.gguf")
    return path


def test_a_split_model_is_checked_as_a_whole(tmp_path: Path) -> None:
    header = check(split_model(tmp_path))
    assert header.split == (0, 2)
    assert describe(header)["split"] == [0, 2]
    assert [(one.name, one.part) for one in header.tensors] == [("token_embd.weight", 0), ("output_norm.weight", 1)]
    assert header.file_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert header.n_params == 128


def test_a_split_model_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    path = split_model(tmp_path)
    assert "got part 2 of 2" in refusal(tmp_path / "m-00002-of-00002.gguf").message
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelFileError, match=r"^m-00002-of-00002.gguf: expected 4 bytes of the version"):
        check(path)
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(ModelFileError, match=r"^m-00002-of-00002.gguf: .*no such file"):
        check(path)
    assert "-00001-of-00002.gguf" in refusal(path.rename(tmp_path / "other.gguf")).message


def test_parts_of_different_models_are_refused(tmp_path: Path) -> None:
    assert "expected 3 different tensors in all parts, got 2" in refusal(split_model(tmp_path, n_tensors=3)).message
    with pytest.raises(ModelFileError, match="expected part 2 of 2, got another"):
        check(split_model(tmp_path, second=0))
    assert "at most 1,000" in refusal(split_model(tmp_path, count=60_000)).message


# --- tables and speed ---


def test_tensor_types_are_those_of_the_gguf_package() -> None:
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in reference.GGML_QUANT_SIZES.items()}
    mine = {number: tuple(kind) for number, kind in gguf_types.TENSOR_TYPES.items()}
    # The package says 40 bytes for Q8_1, which is not stored in files; ggml's block has 36 (the next test).
    assert theirs.pop(9) == ("Q8_1", 32, 40)
    assert {number: mine.get(number) for number in theirs} == theirs
    files = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in reference.LlamaFileType}
    assert {number: gguf_types.FILE_TYPES.get(number) for number in files if number != 1024} == {
        number: name for number, name in files.items() if number != 1024
    }


def test_tensor_types_are_those_of_the_library_that_loads_them() -> None:
    """ggml's own block sizes, for every type it has and none that it has not."""
    from llama_cpp._ggml import libggml

    libggml.ggml_blck_size.restype = ctypes.c_int64
    libggml.ggml_type_size.restype = ctypes.c_size_t
    sizes = {number: (libggml.ggml_blck_size(number), libggml.ggml_type_size(number)) for number in range(43)}
    there = {number: size for number, size in sizes.items() if size[1]}
    assert there == {number: kind[1:] for number, kind in gguf_types.TENSOR_TYPES.items()}


def test_a_real_vocabularys_header_is_checked_fast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """152,064 tokens and 151,387 merges, as Qwen2.5 has; 75 ms of CPU on the machine it was written on."""
    rng, n = random.Random(0), 152_064
    tokens = [f"{i}" + "x" * rng.randrange(8) for i in range(n)]
    types = "tokenizer.ggml.token_type"
    keys: dict[str, bytes | None] = {
        TOKENS: bad.strings(TOKENS, tokens),
        types: bad.numbers(types, bad.INT32, [1] * n),
        "tokenizer.ggml.merges": bad.strings("tokenizer.ggml.merges", [f"{t[:2]} {t[2:]}" for t in tokens[:151_387]]),
    }
    path = write(tmp_path, bad.header(keys, (bad.tensor("token_embd.weight", (1, n)),), n_data=4 * n))
    seconds = min(timed(lambda: check(path)) for _ in range(3))
    with capsys.disabled():
        print(f"\na header of {path.stat().st_size:,} bytes with {n:,} tokens: {1000 * seconds:.0f} ms")
    assert seconds < 0.5
    tokens[-1] = tokens[7]
    keys[TOKENS] = bad.strings(TOKENS, tokens)
    path = write(tmp_path, bad.header(keys, (bad.tensor("token_embd.weight", (1, n)),), n_data=4 * n))
    assert f"as 7 and {n - 1}" in refusal(path).message


def test_checking_imports_no_llama() -> None:
    """The check must not bring in the library that it protects from."""
    program = "import sys, eftlite.gguf; print(*{'llama_cpp', 'gguf', 'numba'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.split() == []
