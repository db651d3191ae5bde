"""Bounded check of a LoRA adapter's GGUF file: whether it is one, and whether it fits a model.

llama.cpp asks less of an adapter than of a model: a number of the wrong type, matrices whose ranks differ, or one on
an embedding that is the output as well end the process when the first token is computed. So all of it is checked
here, by the same reader as models (gguf_header), before llama.cpp opens the file.

Not guaranteed: that the adapter was made for these weights. Another model of the same shape takes it too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eftlite.errors import ModelFileError
from eftlite.gguf import Header, named
from eftlite.gguf_header import RawHeader, read_header
from eftlite.gguf_reader import open_regular
from eftlite.gguf_types import TensorInfo, Value, bad, shown

# What llama.cpp's converter writes; its products of other types are not needed for matrices this small.
TYPES = ("F32", "F16", "BF16", "Q8_0")
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
_PARTS = (".lora_a", ".lora_b")


@dataclass(frozen=True)
class AdapterHeader:
    """What a LoRA adapter's file says, checked.

    Attributes:
        path: the file.
        architecture: of the models it is for.
        name: as its maker calls it, or empty.
        alpha: the low-rank product is scaled by alpha / rank, or not at all where alpha is 0.
        rank: the largest of its matrices'.
        pairs: by the name of the model's tensor that is changed, its two factors (a, b).
        ignored: norms in the file, which llama.cpp does not apply.
        n_params: numbers in all factors.
        n_bytes: bytes of all factors.
        file_bytes: size of the file.
    """

    path: Path
    architecture: str
    name: str
    alpha: float
    rank: int
    pairs: Mapping[str, tuple[TensorInfo, TensorInfo]]
    ignored: tuple[str, ...]
    n_params: int
    n_bytes: int
    file_bytes: int

    @property
    def targets(self) -> tuple[str, ...]:
        """The kinds of tensor it changes, without layers, e.g. ``attn_q``; in the file's order."""
        kinds = (name.removesuffix(".weight").rpartition(".")[2] for name in self.pairs)
        return tuple(dict.fromkeys(kinds))


def is_adapter(path: str | os.PathLike[str]) -> bool:
    """Whether a readable GGUF file calls itself an adapter; it may still be a bad one."""
    try:
        return _read(Path(path)).metadata.get("general.type") == "adapter"
    except ModelFileError:
        return False


def check_adapter(path: str | os.PathLike[str]) -> AdapterHeader:
    """Check a LoRA adapter's file by itself, within bounds of time and memory.

    Raises:
        ModelFileError: one line: the file's name, what was expected, what came.
    """
    file = Path(path)
    with named(file):
        raw = _read(file)
        alpha = _check_metadata(raw.metadata)
        pairs = _pairs(raw.tensors)
        for target, (a, b) in pairs.items():
            _check_factors(target, a, b)
    factors = [factor for pair in pairs.values() for factor in pair]
    name = raw.metadata.get("general.name")
    return AdapterHeader(
        path=file,
        architecture=str(raw.metadata["general.architecture"]),
        name=shown(name, 200) if isinstance(name, str) else "",
        alpha=alpha,
        rank=max(b.shape[0] for _, b in pairs.values()),
        pairs=pairs,
        ignored=tuple(one.name for one in raw.tensors if _is_norm(one.name)),
        n_params=sum(one.n_elements for one in factors),
        n_bytes=sum(one.n_bytes for one in factors),
        file_bytes=raw.file_bytes,
    )


def check_fit(adapter: AdapterHeader, model: Header) -> None:
    """Raise ModelFileError unless llama.cpp can put the adapter on the model."""
    with named(adapter.path):
        where = shown(model.path.name)
        if adapter.architecture != model.architecture:
            kinds = f"{shown(model.architecture)} as {where} is, got {shown(adapter.architecture)}"
            raise bad(f"expected an adapter for the architecture {kinds}", "It was made for another model")
        tensors = {one.name: one for one in model.tensors}
        for target, (a, b) in adapter.pairs.items():
            if target not in tensors:
                raise bad(f"expected tensors of {where}, got one for {target}", "It was made for another model")
            _check_target(tensors[target], a, b, where)
        if EMBEDDING in adapter.pairs and OUTPUT not in tensors:
            hint = "Merge the adapter into the model, or train it without the embedding"
            raise bad(f"expected no change of {EMBEDDING}, which is the output of {where} as well", hint)


def describe_adapter(adapter: AdapterHeader) -> dict[str, object]:
    """What ``eftlite inspect`` prints: stable keys, values that JSON takes."""
    return {
        "file": adapter.path.name,
        "architecture": adapter.architecture,
        "name": adapter.name,
        "rank": adapter.rank,
        "alpha": adapter.alpha or None,
        "targets": list(adapter.targets),
        "tensors": len(adapter.pairs),
        "ignored": list(adapter.ignored),
        "parameters": adapter.n_params,
        "bytes": adapter.file_bytes,
    }


def _read(path: Path) -> RawHeader:
    """The file's header."""
    with open_regular(path) as (handle, n_bytes):
        return read_header(handle, n_bytes)


def _check_metadata(metadata: Mapping[str, Value]) -> float:
    """The scale's alpha of a file that says it is a LoRA adapter; 0 where it has none."""
    kind = metadata.get("general.type", "model")
    if kind != "adapter":
        got = "a model" if kind == "model" else f"'{shown(str(kind))}'"
        raise bad(f"expected a LoRA adapter, got {got}", "Give the adapter's GGUF file; llama.cpp converts PEFT's")
    method = metadata.get("adapter.type")
    if method != "lora":
        raise bad(f"expected adapter.type to be lora, got {'nothing' if method is None else shown(str(method))}")
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture.isprintable() or not 0 < len(architecture) <= 64:
        raise bad(f"expected general.architecture to name the architecture, got {shown(str(architecture))}")
    if "adapter.alora.invocation_tokens" in metadata:
        hint = "It works from certain words on only; eftlite applies adapters to whole texts"
        raise bad("expected a plain LoRA adapter, got an activated one (aLoRA)", hint)
    alpha = metadata.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise bad(f"expected adapter.lora.alpha to be a number, got {shown(str(alpha))}")
    return alpha


def _is_norm(name: str) -> bool:
    return name.endswith("_norm.weight")


def _pairs(tensors: Sequence[TensorInfo]) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    """Both factors of each changed tensor, by its name."""
    factors: dict[str, dict[str, TensorInfo]] = {}
    for one in tensors:
        target, part = one.name[:-7], one.name[-7:]
        if part in _PARTS:
            factors.setdefault(target, {})[part] = one
        elif not _is_norm(one.name):
            raise bad(f"expected names that end in {' or '.join(_PARTS)}, got {one.name}")
    for target, found in factors.items():
        if len(found) < len(_PARTS):
            raise bad(f"expected both factors for {target}, got {next(iter(found.values())).name} alone")
    if not factors:
        raise bad("expected a change of a tensor at least, got none", "The adapter is empty")
    return {target: (found[_PARTS[0]], found[_PARTS[1]]) for target, found in factors.items()}


def _check_factors(target: str, a: TensorInfo, b: TensorInfo) -> None:
    """Factors of types that can be multiplied, and of one rank; an embedding's first one lies on its side."""
    for one in (a, b):
        if one.type not in TYPES:
            raise bad(f"expected {one.name} in {', '.join(TYPES)}, got {one.type}")
    ranks = _sizes(a)[0 if target == EMBEDDING else 1], _sizes(b)[0]
    if ranks[0] != ranks[1]:
        raise bad(f"expected one rank in both factors for {target}, got {ranks[0]:,} and {ranks[1]:,}")


def _check_target(target: TensorInfo, a: TensorInfo, b: TensorInfo, where: str) -> None:
    """The product of the factors has the shape of the model's matrix."""
    if len(target.shape) < 2 or target.type == "NVFP4":
        what = "a vector" if len(target.shape) < 2 else target.type
        raise bad(f"expected matrices that llama.cpp can adapt, got {target.name} of {where}, {what}")
    columns, rows, *more = _sizes(target)
    product = (_sizes(b)[1], _sizes(a)[1]) if target.name == EMBEDDING else (_sizes(a)[0], _sizes(b)[1])
    if product != (columns, rows) or not _sizes(a)[2:] == _sizes(b)[2:] == tuple(more):
        want, got = " × ".join(map(str, target.shape)), " × ".join(map(str, (*product, *a.shape[2:])))
        raise bad(f"expected {target.name} of {want} as in {where}, got {got}", "It was made for another model")


def _sizes(tensor: TensorInfo) -> tuple[int, ...]:
    """The shape in four dimensions, as ggml has it."""
    return (*tensor.shape, *(1,) * (4 - len(tensor.shape)))
