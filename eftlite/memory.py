"""Bytes that a model will take on each device, from its header alone: weights, cache, buffers, vocabulary.

What llama.cpp 0c1e57098 allocates for the processor, followed from its sources and held to what it does: to the peak
memory of processes in benchmarks/memory_estimates.py.

Knows headers and numbers; what there is, is available.py's, and what to do about it placement.py's.

Not guaranteed: GPUs, for which the same sizes are assumed; on none was it ever measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate

from eftlite.amx import extra_buffers_work
from eftlite.buffers import F32, MAX_ROWS, cache_bytes, compute_bytes, graph_nodes
from eftlite.gguf import Header
from eftlite.gguf_types import ArrayInfo, TensorInfo
from eftlite.layers import sizes
from eftlite.llama import system_info
from eftlite.member import physical_cores
from eftlite.settings import ModelSettings

CPU = "CPU"
_LAYER = re.compile(r"blk\.(\d+)\.")
_INPUTS = ("token_embd", "token_types", "position_embd", "per_layer_token_embd")  # looked up, never multiplied with

# Weights that llama.cpp repacks for the processor (repack.cpp, amx.cpp), by what it must have: multiples of rows.
_REPACKED = {
    "AVX2": {"Q4_0": 8, "Q4_K": 8, "IQ4_NL": 8, "MXFP4": 8},
    "AVX512": {"Q2_K": 8},
    "DOTPROD": {"Q4_0": 4, "Q4_K": 8, "Q5_K": 8, "Q6_K": 8, "IQ4_NL": 4, "MXFP4": 4, "Q8_0": 4, "Q1_0": 4},
    "VXE": {"Q4_0": 4},
    "AMX_INT8": {"Q4_0": 32, "Q4_1": 32, "Q8_0": 32, "Q4_K": 32, "Q5_K": 32, "Q6_K": 32, "IQ4_XS": 32},
}

# Measured: bytes of a vocabulary's tables, in llama.cpp and in our proof that vocabularies agree, for each token and
# each merge; of a graph's tables for each node; of anything else in a context.
TOKEN_BYTES, MERGE_BYTES = 150, 135
NODE_BYTES, CONTEXT_BYTES = 500, 1 << 20
RESERVED_BYTES = 24_000  # of private memory for each node, which llama.cpp's scheduler hardly touches
THREAD_BYTES = (64 + 8) << 20  # of address space: glibc's arena and the stack


@dataclass(frozen=True)
class Part:
    """Bytes on one device.

    Attributes:
        weights: copied there.
        mapped: pages of the file that are computed with; the system may drop them and read them again.
        cache: of tokens, and states of recurrent models.
        compute: buffers of computations, logits included.
        vocabulary: tables of tokens and merges.
    """

    weights: int = 0
    mapped: int = 0
    cache: int = 0
    compute: int = 0
    vocabulary: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.mapped + self.cache + self.compute + self.vocabulary


@dataclass(frozen=True)
class Need:
    """What one member takes.

    Attributes:
        devices: by llama.cpp's names; "CPU" is main memory.
        pages: of a mapped file that loading reads and nobody needs after: weights that were copied.
        metadata: bytes of a mapped file before its weights, unmapped when they are loaded.
        staging: the largest tensor that goes through a buffer on its way.
        reserved: private memory that stays untouched.
        threads: address space of the threads that compute.
    """

    devices: Mapping[str, Part]
    pages: int = 0
    metadata: int = 0
    staging: int = 0
    reserved: int = 0
    threads: int = 0

    @property
    def total(self) -> int:
        """On all devices together."""
        return sum(part.total for part in self.devices.values())

    @property
    def weights(self) -> int:
        """Weights on all devices, mapped or copied."""
        return sum(part.weights + part.mapped for part in self.devices.values())

    @property
    def cache(self) -> int:
        """Caches on all devices."""
        return sum(part.cache for part in self.devices.values())

    @property
    def compute(self) -> int:
        """Buffers on all devices, and the vocabulary."""
        return sum(part.compute + part.vocabulary for part in self.devices.values())

    @property
    def memory(self) -> int:
        """Main memory that is used again and again; with less, the machine stops answering or ends the process."""
        return self.devices[CPU].total

    @property
    def data(self) -> int:
        """What RLIMIT_DATA counts: memory that no file backs, touched or not."""
        return self.memory - self.devices[CPU].mapped + self.staging + self.reserved

    @property
    def resident(self) -> int:
        """What the largest resident set of a process grows by, on a machine where nobody else wants the pages."""
        return self.memory + self.pages

    @property
    def address_space(self) -> int:
        """What RLIMIT_AS counts."""
        return self.resident + self.metadata + self.staging + self.reserved + self.threads

    def sharing_weights(self) -> Need:
        """The same for a second context on a model that is counted already."""
        devices = {name: replace(part, weights=0, mapped=0, vocabulary=0) for name, part in self.devices.items()}
        return Need(devices, reserved=self.reserved, threads=self.threads)


@dataclass(frozen=True)
class Gpu:
    """A device that layers may be put on; with ``shares_memory`` what it holds is main memory."""

    name: str
    free_bytes: int
    shares_memory: bool = False


def estimate(
    header: Header,
    n_bytes: int,
    settings: ModelSettings,
    n_ctx: int,
    n_slots: int,
    adapter_bytes: int = 0,
    gpus: Sequence[Gpu] = (),
) -> Need:
    """What a member will take.

    Args:
        header: of its file, here or on the hub.
        n_bytes: of the file, all parts together.
        settings: ``n_gpu_layers`` None counts as 0.
        n_ctx: tokens of each slot.
        n_slots: texts.
        adapter_bytes: of a LoRA adapter's file on it.
        gpus: those it may use, in llama.cpp's order.
    """
    homes = _homes(header.n_layers, settings, gpus)
    weights = list(_weights(header, settings, homes))
    model = sizes(header)
    nodes = graph_nodes(header.architecture, len(header.tensors), min(settings.n_ubatch, settings.n_batch))
    compute = compute_bytes(model, header.n_vocab, settings, n_ctx, n_slots)
    devices = {}
    for name in dict.fromkeys((CPU, *homes)):
        here = [layer for layer, home in zip(model.layers, homes, strict=False) if _cached_on(home, settings) == name]
        devices[name] = Part(
            weights=sum(one.n_bytes for one in weights if one.home == name and not one.is_mapped),
            mapped=sum(one.n_bytes for one in weights if one.home == name and one.is_mapped),
            cache=sum(cache_bytes(model, layer, settings, n_ctx, n_slots) for layer in here),
            compute=compute,
        )
    devices[CPU] = replace(
        devices[CPU],
        weights=devices[CPU].weights + adapter_bytes,
        compute=compute + header.n_vocab * MAX_ROWS * F32 + nodes * NODE_BYTES + CONTEXT_BYTES,
        vocabulary=header.n_vocab * TOKEN_BYTES + _n_merges(header) * MERGE_BYTES,
    )
    return Need(
        devices,
        pages=header.n_bytes - devices[CPU].mapped if settings.use_mmap else 0,
        metadata=max(n_bytes - header.n_bytes, 0) if settings.use_mmap else 0,
        staging=0 if settings.use_mmap else max((one.n_bytes for one in weights if one.is_staged), default=0),
        reserved=nodes * RESERVED_BYTES,
        threads=(settings.n_threads or physical_cores()) * THREAD_BYTES,
    )


def _cached_on(home: str, settings: ModelSettings) -> str:
    return home if settings.offload_kqv else CPU


def _n_merges(header: Header) -> int:
    merges = header.metadata.get("tokenizer.ggml.merges")
    return merges.length if isinstance(merges, ArrayInfo) else 0


# ---- weights


@dataclass(frozen=True)
class _Weight:
    """A tensor where it will be."""

    n_bytes: int
    home: str
    is_mapped: bool
    is_staged: bool


def _weights(header: Header, settings: ModelSettings, homes: Sequence[str]) -> Iterator[_Weight]:
    """Every tensor with its place; an embedding that is the output matrix as well may need two."""
    features = _features() if _repacks(settings) else frozenset()
    names = {one.name for one in header.tensors}
    for one in header.tensors:
        found = _LAYER.match(one.name)
        is_input = one.name.startswith(_INPUTS)
        home = CPU if is_input else homes[int(found[1]) if found and int(found[1]) < len(homes) else -1]
        packed = home == CPU and not is_input and _is_repacked(one, features)
        yield _Weight(one.n_bytes, home, settings.use_mmap and home == CPU and not packed, packed or home != CPU)
        if one.name == "token_embd.weight" and "output.weight" not in names:
            packed = homes[-1] == CPU and _is_repacked(one, features)
            if packed or homes[-1] != CPU:
                yield _Weight(one.n_bytes, homes[-1], is_mapped=False, is_staged=True)


def _homes(n_layers: int, settings: ModelSettings, gpus: Sequence[Gpu]) -> list[str]:
    """The device of each layer and, last, of the output: the last layers on the GPUs, shared out as llama.cpp does.

    With split_mode "row" matrices are cut instead; over all layers that comes to about the same.
    """
    used = gpus
    if settings.split_mode == "none":
        used = gpus[settings.main_gpu : settings.main_gpu + 1]
    wanted = settings.n_gpu_layers or 0
    n = n_layers + 1
    on_gpu = min(n if wanted < 0 else wanted, n) if used else 0
    shares = [*(settings.tensor_split or ())][: len(used)]
    shares += [0.0] * (len(used) - len(shares))
    if not any(shares):
        shares = [float(gpu.free_bytes) for gpu in used]
    borders = [part / (sum(shares) or 1) for part in accumulate(shares)]
    homes = [CPU] * (n - on_gpu)
    for i in range(on_gpu):
        index = next((j for j, border in enumerate(borders) if i / on_gpu < border), len(used) - 1)
        homes.append(used[index].name)
    return homes


def _repacks(settings: ModelSettings) -> bool:
    wanted = settings.use_extra_bufts
    return extra_buffers_work() if wanted is None else wanted


@cache
def _features() -> frozenset[str]:
    """What this build of llama.cpp uses of the processor."""
    pairs = (part.rpartition(":")[2].split("=") for part in system_info().split("|"))
    found = frozenset(pair[0].strip() for pair in pairs if len(pair) == 2 and pair[1].strip() == "1")
    return found if "REPACK" in found else found & {"AMX_INT8"}


def _is_repacked(tensor: TensorInfo, features: Iterable[str]) -> bool:
    """Whether a weight on the processor is kept in another order, and so apart from the mapped file."""
    if len(tensor.shape) < 2 or tensor.shape[1] == 1:
        return False
    multiples = (_REPACKED[name][tensor.type] for name in features if tensor.type in _REPACKED.get(name, ()))
    return any(tensor.shape[1] % multiple == 0 for multiple in multiples)
