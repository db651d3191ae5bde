"""Which layers of which member go to a GPU, and what that takes there and in RAM.

llama.cpp puts layers there from the last to the first, the output first of all; the matrix that tokens are looked up in
stays in RAM. So a member's memory is a list, and a number of layers says where it is cut. Small members come first:
they run most often, since they also draft.

Knows headers and sizes, never devices: nobody asks a GPU here, and what llama.cpp needs for computing is not counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from eftlite.errors import InputError
from eftlite.gguf import Header
from eftlite.inspection import cache_bytes, size
from eftlite_quantize.names import EMBEDDINGS, OUTPUT

_BLOCK = re.compile(r"blk\.(\d+)\.")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Load:
    """What a model takes, by the parts that can be put somewhere.

    Attributes:
        embedding: bytes of what stays in RAM.
        layers: bytes of each layer's weights and its share of the cache, the first layer first.
        output: bytes of what comes after the layers.
        tied: the embedding is the output's matrix too, so that a GPU gets a copy of it.
        cache_known: the header says how large a cache is; otherwise none is counted.
    """

    embedding: int
    layers: tuple[int, ...]
    output: int
    tied: bool
    cache_known: bool

    @classmethod
    def of(cls, header: Header, n_ctx: int) -> Load:
        """From a file's header, with an f16 cache of ``n_ctx`` tokens."""
        cache = cache_bytes(header, n_ctx)
        layers = [0] * header.n_layers
        embedding = output = 0
        for one in header.tensors:
            block = _BLOCK.match(one.name)
            if block and int(block[1]) < len(layers):
                layers[int(block[1])] += one.n_bytes
            elif one.name in EMBEDDINGS:
                embedding += one.n_bytes
            else:
                output += one.n_bytes
        shares = [(cache or 0) * (i + 1) // len(layers) - (cache or 0) * i // len(layers) for i in range(len(layers))]
        tied = all(one.name != OUTPUT for one in header.tensors)
        weights = tuple(one + share for one, share in zip(layers, shares, strict=True))
        return cls(embedding, weights, output, tied, cache is not None)

    @property
    def total(self) -> int:
        """Bytes without a GPU."""
        return self.embedding + sum(self.layers) + self.output

    @cached_property
    def on_gpu(self) -> tuple[int, ...]:
        """Bytes there with ``n_gpu_layers`` 0, 1 (the output) … all of them."""
        output = self.output + self.tied * self.embedding
        return (0, *accumulate(reversed(self.layers), initial=output))

    def in_ram(self, n_gpu_layers: int) -> int:
        """Bytes in RAM with as many layers on the GPU."""
        copied = self.embedding if self.tied and n_gpu_layers else 0
        return self.total - (self.on_gpu[n_gpu_layers] - copied)


@dataclass(frozen=True)
class Placement:
    """Where a combination goes.

    Attributes:
        n_gpu_layers: of each member; none where there is no GPU.
        ram, vram: bytes.
    """

    n_gpu_layers: Mapping[str, int]
    ram: int
    vram: int


@dataclass(frozen=True)
class Budget:
    """Bytes for weights and caches.

    Attributes:
        ram: None for no limit.
        vram: on the GPU; None for no GPU. Without a limit of RAM every layer must fit there.

    Raises:
        InputError: neither is limited.
    """

    ram: int | None = None
    vram: int | None = None

    def __post_init__(self) -> None:
        if self.ram is None and self.vram is None:
            raise InputError("--ram: expected a size, or --vram, or both, got neither", "For example --ram 8G")

    def place(self, loads: Mapping[str, Load]) -> Placement:
        """Small members first, each with as many layers on the GPU as still fit there."""
        if self.vram is None:
            return Placement({}, sum(one.total for one in loads.values()), 0)
        free, layers = self.vram, {}
        for name, load in sorted(loads.items(), key=lambda item: item[1].total):
            layers[name] = max(n for n, taken in enumerate(load.on_gpu) if taken <= free)
            free -= load.on_gpu[layers[name]]
        ram = sum(load.in_ram(layers[name]) for name, load in loads.items())
        return Placement({name: layers[name] for name in loads}, ram, self.vram - free)

    def fits(self, loads: Mapping[str, Load], placement: Placement) -> bool:
        """Whether there is room for all of it."""
        if self.ram is None:
            return all(n == len(loads[name].layers) + 1 for name, n in placement.n_gpu_layers.items())
        return placement.ram <= self.ram

    def too_small(self, loads: Mapping[str, Load]) -> InputError:
        """What to say when not even these fit."""
        if self.ram is not None:
            return InputError(
                f"--ram: expected at least {size(self.place(loads).ram)}, got {size(self.ram)}",
                "Record smaller types with --types, or ask for a shorter context with -c",
            )
        need = sum(one.on_gpu[-1] for one in loads.values())
        return InputError(
            f"--vram: expected at least {size(need)}, got {size(self.vram or 0)}",
            "Give --ram too, for what does not fit; or record smaller types, or ask for a shorter context with -c",
        )


def parse_size(option: str, text: str) -> int:
    """Bytes of ``8G``, ``3.5GiB``, ``900M``; units are powers of 1024. InputError for anything else."""
    number = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = number[-1:] if number[-1:] in _UNITS else ""
    try:
        n = round(float(number.removesuffix(unit)) * _UNITS[unit])
    except (ValueError, OverflowError):
        n = 0
    if n <= 0:
        raise InputError(f"{option}: expected a size, got {text!r}", "For example 8G or 900M")
    return n
