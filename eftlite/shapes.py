"""Families that one has not downloaded: GGUF files of a known shape with random weights, to measure speed and memory.

What decoding costs depends on a model's shape and on its tensors' types, not on their values. So a file is written
straight as random quantized blocks (blocks.py), at the disk's speed and never as floats, with tensor types as
llama.cpp's quantizer chooses them.

Not guaranteed: anything about the text, which is noise. Real families agree far more than these do.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eftlite.blocks import POOL_BLOCKS, Pools
from eftlite.errors import InputError
from eftlite.gguf_types import DEFAULT_ALIGNMENT, TENSOR_TYPES
from eftlite.settings import Delta, Family

N_CTX_TRAIN = 8192
MIN_VOCABULARY = 512
MAX_VOCABULARY = POOL_BLOCKS - 1  # so that no two rows of the output matrix are equal
LOGIT_STD = 4.0

log = logging.getLogger("eftlite.shapes")
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Shape:
    """The sizes of a llama model.

    Attributes:
        like: the model it is the shape of.
        tied: whether the output matrix is the embedding.
        n_vocab: that model's; ``write_shape`` takes any.
    """

    name: str
    like: str
    n_embd: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    n_ff: int
    n_vocab: int
    tied: bool

    @property
    def n_embd_kv(self) -> int:
        """Length of a layer's keys, and of its values."""
        return self.n_embd // self.n_heads * self.n_kv_heads


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("135m", "SmolLM2-135M", 576, 30, 9, 3, 1536, 49152, tied=True),
        Shape("360m", "SmolLM2-360M", 960, 32, 15, 5, 2560, 49152, tied=True),
        Shape("1b", "TinyLlama-1.1B", 2048, 22, 32, 4, 5632, 32000, tied=False),
        Shape("1.7b", "SmolLM2-1.7B", 2048, 24, 32, 32, 8192, 49152, tied=True),
        Shape("3b", "Llama-3.2-3B", 3072, 28, 24, 8, 8192, 128256, tied=True),
        Shape("7b", "Llama-2-7B", 4096, 32, 32, 32, 11008, 32000, tied=False),
        Shape("8b", "Llama-3.1-8B", 4096, 32, 32, 8, 14336, 128256, tied=False),
    )
}


class _Quant(NamedTuple):
    """A file type: the type of most tensors, whether some get more bits, llama.cpp's number for it."""

    type: str
    mixed: bool
    file_type: int


QUANTS = {
    "f16": _Quant("F16", mixed=False, file_type=1),
    "q8_0": _Quant("Q8_0", mixed=False, file_type=7),
    "q6_k": _Quant("Q6_K", mixed=False, file_type=18),
    "q5_k_m": _Quant("Q5_K", mixed=True, file_type=17),
    "q4_k_m": _Quant("Q4_K", mixed=True, file_type=15),
    "q4_0": _Quant("Q4_0", mixed=False, file_type=2),
}
# For rows that are no multiple of 256.
FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_TYPE_NUMBERS = {kind.name: number for number, kind in TENSOR_TYPES.items()}


def parse_shape(text: str) -> tuple[Shape, str]:
    """``"3b-q8_0"`` -> (shape, quantization); InputError names what is known."""
    size, _, quant = text.strip().lower().partition("-")
    if size not in SHAPES:
        raise InputError(f"shape {text!r}: expected one of the sizes {', '.join(SHAPES)}, got {size!r}", _EXAMPLE)
    if quant not in QUANTS:
        raise InputError(f"shape {text!r}: expected one of the types {', '.join(QUANTS)}, got {quant!r}", _EXAMPLE)
    return SHAPES[size], quant


_EXAMPLE = "Write size and type like this: 3b-q8_0"


# ---- which tensors


class Tensor(NamedTuple):
    """One tensor of a file: ``n_rows`` rows of ``n_columns`` numbers; wanted is its type before the fallback."""

    name: str
    n_columns: int
    n_rows: int
    type: str
    wanted: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        kind = TENSOR_TYPES[_TYPE_NUMBERS[self.type]]
        return self.n_columns // kind.block_size * kind.block_bytes

    @property
    def n_bytes(self) -> int:
        """Bytes of its data in the file, without padding."""
        return self.row_bytes * self.n_rows


def tensors(shape: Shape, quant: str, n_vocab: int | None = None) -> list[Tensor]:
    """Every tensor of a file, in its order; types as in llama.cpp's quantizer (llama-quant.cpp)."""
    n_vocab = n_vocab or shape.n_vocab
    found = [_matrix("token_embd", shape.n_embd, n_vocab, quant, head=shape.tied)]
    for layer in range(shape.n_layers):
        found += _layer(shape, quant, layer)
    found.append(_norm("output_norm", shape.n_embd))
    if not shape.tied:
        found.append(_matrix("output", shape.n_embd, n_vocab, quant, head=True))
    return found


def _layer(shape: Shape, quant: str, layer: int) -> Iterator[Tensor]:
    n, ff, kv = shape.n_embd, shape.n_ff, shape.n_embd_kv
    eighth = shape.n_layers // 8
    more = layer < eighth or layer >= 7 * shape.n_layers // 8 or (layer - eighth) % 3 == 2
    yield _norm(f"blk.{layer}.attn_norm", n)
    for name, n_columns, n_rows, favoured in (
        ("attn_q", n, n, False), ("attn_k", n, kv, False), ("attn_v", n, kv, more), ("attn_output", n, n, False),
        ("ffn_gate", n, ff, False), ("ffn_up", n, ff, False), ("ffn_down", ff, n, more),
    ):  # fmt: skip  # a table that reads across
        yield _matrix(f"blk.{layer}.{name}", n_columns, n_rows, quant, favoured=favoured)
    yield _norm(f"blk.{layer}.ffn_norm", n)


def _norm(name: str, n_columns: int) -> Tensor:
    return Tensor(f"{name}.weight", n_columns, 1, "F32", "F32")


def _matrix(name: str, n_columns: int, n_rows: int, quant: str, head: bool = False, favoured: bool = False) -> Tensor:
    """A matrix with its type; head: the output matrix; favoured: one that the mixed types give more bits."""
    wanted, mixed, _ = QUANTS[quant]
    if wanted not in ("F16", "Q8_0") and (head or (mixed and favoured)):
        wanted = "Q6_K"
    fits = n_columns % TENSOR_TYPES[_TYPE_NUMBERS[wanted]].block_size == 0
    return Tensor(f"{name}.weight", n_columns, n_rows, wanted if fits else FALLBACKS[wanted], wanted)


def notes(shape: Shape, quant: str) -> list[str]:
    """What a reader of figures must know about the types: tensors that fell back, one line for each pair of types."""
    pairs = Counter((one.wanted, one.type, one.n_columns) for one in tensors(shape, quant) if one.wanted != one.type)
    return [
        f"{shape.name}-{quant}: {count} tensors in {got}, not {wanted}: rows of {n_columns} are no multiple of 256"
        for (wanted, got, n_columns), count in sorted(pairs.items())
    ]


def data_bytes(shape: Shape, quant: str, n_vocab: int | None = None) -> int:
    """Bytes of all tensors in the file, padding included; metadata and vocabulary come on top."""
    return sum(_padded(one.n_bytes) for one in tensors(shape, quant, n_vocab))


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT


def _file_bytes(shape: Shape, quant: str, n_vocab: int) -> int:
    """An upper bound of a file's size."""
    return data_bytes(shape, quant, n_vocab) + 64 * n_vocab + (1 << 20)


# ---- the file


def write_shape(
    path: str | os.PathLike[str],
    shape: Shape,
    quant: str,
    *,
    n_vocab: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Write a model; readers see no file or the whole one.

    Args:
        quant: one of ``QUANTS``.
        n_vocab: tokens, from 512 to 200,002; the shape's own by default. The vocabulary depends on nothing else.
        seed: files of different seeds have different weights.
        progress: called with the file's name and 0..1.

    Raises:
        InputError: gguf is not installed, a value cannot be used, or the disk is too small.
    """
    path, n_vocab = Path(path), n_vocab or shape.n_vocab
    if quant not in QUANTS:
        raise InputError(f"quantization: expected one of {', '.join(QUANTS)}, got {quant!r}")
    if not MIN_VOCABULARY <= n_vocab <= MAX_VOCABULARY:
        raise InputError(f"n_vocab: expected {MIN_VOCABULARY} to {MAX_VOCABULARY}, got {n_vocab}")
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_space(path.parent, _file_bytes(shape, quant, n_vocab))
        _write(partial, shape, quant, n_vocab, seed, lambda done: progress(path.name, done) if progress else None)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path.name}: cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # the folder may be what is wrong
            partial.unlink()
    for note in notes(shape, quant):
        log.info("%s", note)
    return path


def _write(path: Path, shape: Shape, quant: str, n_vocab: int, seed: int, report: Callable[[float], None]) -> None:
    plan, pools = tensors(shape, quant, n_vocab), Pools(seed)
    _write_header(path, shape, quant, n_vocab, plan)
    head, std = plan[0 if shape.tied else -1].name, shape.n_embd**-0.5
    with path.open("ab") as handle:
        handle.write(bytes(_padded(handle.tell()) - handle.tell()))
        total, done = sum(one.n_bytes for one in plan), 0
        for one in plan:
            if one.type == "F32":
                handle.write(np.ones(one.n_columns, "<f4").data)
            elif one.name == head:
                # The end token's row is zero. Its logit is 0, far below the best ones: no answer ends by itself.
                pools.write(handle, one.type, std * LOGIT_STD, one.n_bytes - one.row_bytes)
                handle.write(bytes(one.row_bytes))
            else:
                pools.write(handle, one.type, std, one.n_bytes)
            handle.write(bytes(_padded(one.n_bytes) - one.n_bytes))
            done += one.n_bytes
            report(done / total)


def _write_header(path: Path, shape: Shape, quant: str, n_vocab: int, plan: list[Tensor]) -> None:
    """Metadata, vocabulary and the tensors' descriptions."""
    gguf = _gguf()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"random {shape.name} {quant}")
    writer.add_description(f"Random weights in the shape of {shape.like}, for measuring speed and memory")
    writer.add_file_type(QUANTS[quant].file_type)
    writer.add_vocab_size(n_vocab)
    writer.add_context_length(N_CTX_TRAIN)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_rope_dimension_count(shape.n_embd // shape.n_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    _write_vocabulary(writer, gguf.TokenType, n_vocab)
    for one in plan:
        size = (one.n_columns,) if one.type == "F32" else (one.n_rows, one.n_columns)
        kind = gguf.GGMLQuantizationType(_TYPE_NUMBERS[one.type])
        writer.add_tensor_info(one.name, size, np.dtype(np.float32), one.n_bytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def _write_vocabulary(writer: Any, token_type: Any, n_vocab: int) -> None:
    """Bytes, short words, and two control tokens at the end: a byte-level vocabulary that reads any text."""
    texts = token_texts(n_vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(texts)
    writer.add_token_types([token_type.NORMAL] * (n_vocab - 2) + [token_type.CONTROL] * 2)
    writer.add_token_merges([f"{texts[256][0]} {texts[256][1]}"])  # llama.cpp wants some
    writer.add_bos_token_id(n_vocab - 2)
    writer.add_eos_token_id(n_vocab - 1)
    writer.add_add_bos_token(value=False)
    writer.add_add_eos_token(value=False)


def token_texts(n_vocab: int) -> list[str]:
    """Texts as a gpt2 vocabulary writes them: 256 bytes, then words `` a`` … `` b`` … `` aa`` …, then two controls."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in plain]
    bytes_ = [chr(byte) if byte in plain else chr(256 + hidden.index(byte)) for byte in range(256)]
    words = [bytes_[32] + _word(i) for i in range(n_vocab - 258)]
    return [*bytes_, *words, "<|begin|>", "<|end|>"]


def _word(number: int) -> str:
    """a, b, … z, aa, ab, …"""
    text = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        text = chr(97 + letter) + text
    return text


def _gguf() -> Any:
    """The package that writes headers; an extra, because only measuring needs it."""
    try:
        import gguf
    except ImportError:
        raise InputError(
            "gguf: expected this package, which writes model files, got none", "pip install 'eftlite[bench]'"
        ) from None
    return gguf


def _check_space(folder: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise InputError(
            f"{folder.name or folder}: expected {n_bytes / 1e9:.1f} GB of free disk for random models, "
            f"got {free / 1e9:.1f} GB",
            "Choose another folder or a smaller shape",
        )


# ---- a family


def shape_family(
    folder: str | os.PathLike[str],
    base: str = "3b-q8_0",
    small: str = "135m-q8_0",
    n_vocab: int | None = None,
    progress: Progress | None = None,
) -> Family:
    """A base, a tuned and a reference model of these shapes, three different files; written unless they are there.

    Args:
        folder: where the files are kept.
        base, small: such as "3b-q8_0"; tuned and reference are both ``small``.
        n_vocab: of all three; the base's own by default.
        progress: called with a file's name and 0..1 while it is written.

    Raises:
        InputError: as ``write_shape`` and ``parse_shape`` do.
    """
    folder = Path(folder)
    large, little = parse_shape(base), parse_shape(small)
    n_vocab = n_vocab or large[0].n_vocab
    plan = {
        folder / f"{shape.name}-{quant}-vocab{n_vocab}-seed{seed}.gguf": (shape, quant, seed)
        for seed, (shape, quant) in enumerate((large, little, little))
    }
    missing = {path: what for path, what in plan.items() if not path.exists()}
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(folder, sum(_file_bytes(shape, quant, n_vocab) for shape, quant, _ in missing.values()))
    for path, (shape, quant, seed) in missing.items():
        write_shape(path, shape, quant, n_vocab=n_vocab, seed=seed, progress=progress)
    names = [str(path) for path in plan]
    name = "+".join(f"{shape.name}-{quant}" for shape, quant in (large, little))
    return Family(name, base=names[0], deltas=(Delta("tuned", tuned=names[1], reference=names[2]),))
