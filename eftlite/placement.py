"""How a family fits into what memory there is: context, type of the caches, layers on the GPUs; or that it does not.

Small members choose their layers first: they run for every drafted token, and with few layers they gain the most for
a byte. Nothing is made smaller than asked for without a note, and what was set for a member is left as it is.

Knows headers and numbers; no model is opened here.

Not guaranteed: GPUs. The choice is tested with made-up ones; it never ran on a real one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eftlite.available import VARIABLE, Available, available
from eftlite.buffers import kv_type
from eftlite.errors import MemoryLimitError
from eftlite.gguf import Header
from eftlite.layers import sizes as sizes_of
from eftlite.llama import devices as llama_devices
from eftlite.llama import supports_gpu
from eftlite.memory import CPU, Gpu, Need, estimate
from eftlite.settings import ModelSettings

DEFAULT_N_CTX = 4096
MIN_N_CTX = 512  # no smaller one is chosen; a chat's template and a question fit
SMALL_TYPE = "q8_0"
TOLERANCE = 1.05  # estimates were within 5 % of what was measured
SLACK = 48 << 20  # of address space and private memory: what Python and allocators take meanwhile
GPU_MARGIN = 1 << 30  # left free on each GPU, as llama.cpp's own tools do: drivers and displays want some
_INTEGRATED, _GPU = 2, 1  # ggml's kinds of devices
_OWN_BYTES = 100  # for each token of the vocabulary: our rows, candidates and samplers


@dataclass(frozen=True)
class Placement:
    """How a family is to be loaded.

    Attributes:
        n_ctx: tokens of each slot.
        settings: of each member, with nothing left to choose.
        needs: of each member; of several contexts on one model the first has the weights.
        own: main memory that combining the members takes.
        free: what there is.
        gpus: what there is on them.
        notes: what was chosen smaller than usual, and why.
    """

    n_ctx: int
    settings: Mapping[str, ModelSettings]
    needs: Mapping[str, Need]
    own: int
    free: Available
    gpus: tuple[Gpu, ...]
    notes: tuple[str, ...] = ()

    @property
    def memory(self) -> int:
        """Main memory that all members take together."""
        shared = [gpu.name for gpu in self.gpus if gpu.shares_memory]
        on_gpus = (need.devices[name].total for need in self.needs.values() for name in shared if name in need.devices)
        return self.own + sum(need.memory for need in self.needs.values()) + sum(on_gpus)

    @property
    def lack(self) -> str:
        """What there is too little of, in words; empty when everything fits."""
        return next(_lacks(self), "")


def place(
    headers: Mapping[str, Header],
    sizes: Mapping[str, int],
    settings: Mapping[str, ModelSettings],
    n_ctx: int | None,
    n_slots: int,
    devices: Sequence[Gpu] | None = None,
    free: Available | None = None,
    adapters: Mapping[str, int] | None = None,
) -> Placement:
    """Choose what was left open so that everything fits, or else what needs the least.

    Args:
        headers: of the members' files; those that are one file are one model.
        sizes: bytes of the files.
        settings: of each member; None in n_gpu_layers, type_k and type_v is chosen.
        n_ctx: None chooses too; 0 is all that the models were trained for.
        n_slots: texts.
        devices: GPUs; those of this machine by default.
        free: what there is; asked for by default.
        adapters: bytes of the members' LoRA adapters.
    """
    family = _Family(headers, sizes, adapters or {}, n_slots)
    gpus = tuple(local_gpus() if devices is None else devices)
    free = available() if free is None else free
    wanted = family.usual_context() if n_ctx is None else n_ctx or family.trained()
    found: Placement | None = None
    for size, small in _options(wanted, fixed=n_ctx is not None):
        chosen = _with_cache_types(settings, headers, small)
        chosen, needs = _with_layers(family, chosen, size, gpus)
        notes = tuple(_notes(wanted, size, settings, chosen))
        found = Placement(size, chosen, needs, family.own(), free, gpus, notes)
        if not found.lack:
            break
    assert found is not None  # there is one option at least
    return found


def check(placement: Placement) -> None:
    """Raise MemoryLimitError, with the numbers, when a family does not fit."""
    if placement.lack:
        raise MemoryLimitError(f"memory: {placement.lack}", _advice(placement))


def local_gpus() -> list[Gpu]:
    """The GPUs of this machine; integrated ones only where there are no others, as llama.cpp does."""
    if not supports_gpu():
        return []
    found = llama_devices()
    kinds = {one["kind"] for one in found}
    wanted = _GPU if _GPU in kinds else _INTEGRATED
    return [
        Gpu(one["name"], one["free_bytes"], one["kind"] == _INTEGRATED or one["name"].startswith("MTL"))
        for one in found
        if one["kind"] == wanted
    ]


# ---- what may be chosen


@dataclass(frozen=True)
class _Family:
    """What the members are, whatever is chosen for them."""

    headers: Mapping[str, Header]
    sizes: Mapping[str, int]
    adapters: Mapping[str, int]
    n_slots: int

    def trained(self) -> int:
        return min(header.n_ctx_train for header in self.headers.values()) or DEFAULT_N_CTX

    def usual_context(self) -> int:
        return min(DEFAULT_N_CTX, self.trained())

    def own(self) -> int:
        return max(header.n_vocab for header in self.headers.values()) * _OWN_BYTES

    def sharing(self, names: Iterable[str]) -> Iterable[list[str]]:
        """Members in this order, those on one file's weights together: the weights lie in one place."""
        groups: dict[Path, list[str]] = {}
        for name in names:
            groups.setdefault(self.headers[name].path, []).append(name)
        return groups.values()

    def need(self, name: str, settings: ModelSettings, n_ctx: int, gpus: Sequence[Gpu]) -> Need:
        """One member's, without the weights if another one has them."""
        header = self.headers[name]
        need = estimate(header, self.sizes[name], settings, n_ctx, self.n_slots, self.adapters.get(name, 0), gpus)
        owner = next(other for other, its in self.headers.items() if its.path == header.path)
        return need if owner == name else need.sharing_weights()


def _options(n_ctx: int, fixed: bool) -> Iterator[tuple[int, bool]]:
    """Contexts with usual or small caches, the best first."""
    yield n_ctx, False
    yield n_ctx, True
    while not fixed and n_ctx // 2 >= MIN_N_CTX:
        n_ctx //= 2
        yield n_ctx, True


def _with_cache_types(
    settings: Mapping[str, ModelSettings], headers: Mapping[str, Header], small: bool
) -> dict[str, ModelSettings]:
    return {name: _cache_types(own, headers[name], small) for name, own in settings.items()}


def _cache_types(settings: ModelSettings, header: Header, small: bool) -> ModelSettings:
    """Types of the cache where none was named; quantized ones need flash attention and heads of whole blocks."""
    model = sizes_of(header)
    head = max(model.n_q // max(model.n_heads, 1), 1)
    usual = SMALL_TYPE if small and settings.flash_attn is not False and head % 32 == 0 else kv_type(None)
    return replace(settings, type_k=settings.type_k or usual, type_v=settings.type_v or usual)


def _with_layers(
    family: _Family, settings: Mapping[str, ModelSettings], n_ctx: int, gpus: Sequence[Gpu]
) -> tuple[dict[str, ModelSettings], dict[str, Need]]:
    """Layers on the GPUs where they were left open, small members first, and what each member then needs."""
    left = {gpu.name: gpu.free_bytes - GPU_MARGIN for gpu in gpus}
    chosen, needs = dict(settings), {}
    order = sorted(settings, key=lambda name: (settings[name].n_gpu_layers is None, family.sizes[name]))
    for names in family.sharing(order):
        first = names[0]
        usable = _usable(settings[first], gpus)
        for own in _layer_options(settings[first], family.headers[first], usable):
            together = {name: replace(settings[name], n_gpu_layers=own.n_gpu_layers) for name in names}
            need = {name: family.need(name, together[name], n_ctx, usable) for name in names}
            taken = {device: sum(_on(device, one) for one in need.values()) for device in left}
            if all(bytes_ <= left[device] for device, bytes_ in taken.items()):
                break
        chosen.update(together)
        needs.update(need)
        left = {device: bytes_ - taken[device] for device, bytes_ in left.items()}
    return chosen, {name: needs[name] for name in settings}


def _on(device: str, need: Need) -> int:
    """Bytes of a need that are on a device."""
    return need.devices[device].total if device in need.devices else 0


def _usable(settings: ModelSettings, gpus: Sequence[Gpu]) -> list[Gpu]:
    """The devices a member may use; of those on other machines we know the names only."""
    if settings.devices is None:
        return list(gpus)
    known = {gpu.name: gpu for gpu in gpus}
    return [known.get(name, Gpu(name, 1)) for name in settings.devices if name != CPU]


def _layer_options(settings: ModelSettings, header: Header, gpus: Sequence[Gpu]) -> Iterator[ModelSettings]:
    """The settings with every number of layers that may be tried, most first; the last one always fits."""
    if settings.n_gpu_layers is not None:
        yield settings
        return
    if gpus:
        yield from (replace(settings, n_gpu_layers=n) for n in range(header.n_layers + 1, 0, -1))
    yield replace(settings, n_gpu_layers=0)


def _notes(
    wanted: int, n_ctx: int, asked: Mapping[str, ModelSettings], chosen: Mapping[str, ModelSettings]
) -> Iterator[str]:
    if n_ctx < wanted:
        yield f"context of {n_ctx} tokens, not {wanted}: memory is short"
    small = [name for name, own in chosen.items() if _shrunk(asked[name], own)]
    if small:
        yield f"caches in {SMALL_TYPE} for {', '.join(small)}: memory is short"


def _shrunk(asked: ModelSettings, chosen: ModelSettings) -> bool:
    """Whether a type of the cache that was left open is the small one now."""
    pairs = ((asked.type_k, chosen.type_k), (asked.type_v, chosen.type_v))
    return any(before is None and after == SMALL_TYPE for before, after in pairs)


# ---- whether it fits


def _lacks(placement: Placement) -> Iterator[str]:
    """Each thing there is too little of."""
    free, needs = placement.free, placement.needs.values()
    if placement.memory * TOLERANCE > free.memory:
        yield f"expected {_gb(placement.memory * TOLERANCE)} of main memory, got {_gb(free.memory)} {_which(free.why)}"
    space = placement.own + SLACK + sum(need.address_space for need in needs)
    if space * TOLERANCE > free.address_space:
        yield f"expected {_gb(space * TOLERANCE)} of address space, got {_gb(free.address_space)} under RLIMIT_AS"
    data = placement.own + SLACK + sum(need.data for need in needs)
    if data * TOLERANCE > free.data:
        yield f"expected {_gb(data * TOLERANCE)} of private memory, got {_gb(free.data)} under RLIMIT_DATA"
    for gpu in placement.gpus:
        taken = sum(need.devices[gpu.name].total for need in needs if gpu.name in need.devices)
        if taken > gpu.free_bytes:
            yield f"expected {_gb(taken)} on {gpu.name}, got {_gb(gpu.free_bytes)} free"


def _which(why: str) -> str:
    return {"free": "free", "cgroup": "left by a cgroup's limit"}.get(why, f"by {why}")


def _gb(n_bytes: float) -> str:
    """Bytes for people."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


def _advice(placement: Placement) -> str:
    """What each member needs, then what would help."""
    members = "; ".join(
        f"{name} {_gb(need.total)} (weights {_gb(need.weights)}, cache {_gb(need.cache)}, buffers {_gb(need.compute)})"
        for name, need in placement.needs.items()
    )
    return f"At {placement.n_ctx} tokens of context: {members}. Try {', '.join(_remedies(placement))}"


def _remedies(placement: Placement) -> Iterable[str]:
    if placement.n_ctx > MIN_N_CTX:
        yield "a smaller n_ctx"
    if any(SMALL_TYPE not in (own.type_k, own.type_v) for own in placement.settings.values()):
        yield f"type_k and type_v {SMALL_TYPE}"
    if any(own.n_gpu_layers for own in placement.settings.values()):
        yield "fewer n_gpu_layers"
    yield "another quantization or a smaller model"
    yield "or a higher limit" if "RLIMIT" in placement.lack else f"or set {VARIABLE} if you know better"
