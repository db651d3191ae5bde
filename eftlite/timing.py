"""Cost curves of loaded members: measured once for each machine, model and setting, kept in the user's cache folder.

Knows members and clocks; choosing from the curves is pace.py's.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from eftlite.composite import Composite, Recipe
from eftlite.costs import CURVE_SIZES, CostCurve, Costs, load_curve, measure, save_curve
from eftlite.ensemble import Ensemble
from eftlite.llama import BINDING_VERSION
from eftlite.member import Member, default_threads, physical_cores
from eftlite.remote import device_label
from eftlite.sampling import Sampler
from eftlite.settings import Knobs

PREFIX = 32  # tokens already in the cache while measuring
# Measuring should not take longer than loading: repetitions and sizes by the seconds of a single token.
QUICK_S, SLOW_S = 0.03, 0.15
FEW_SIZES = (1, 2, 3, 4, 5, 8)

Report = Callable[[str], None]


def curve_key(member: Member) -> dict[str, str | int]:
    """Everything a curve depends on."""
    header, settings = member.model.header, member.settings
    key: dict[str, str | int] = {
        "machine": f"{platform.machine()} {_processor()}",
        "cores": physical_cores(),
        "llama-cpp-python": BINDING_VERSION,
        "architecture": header.architecture,
        "parameters": header.n_params,
        "bytes": header.n_bytes,
        "quantization": header.quantization,
        "threads": settings.n_threads or default_threads(member.model),
        "threads_batch": settings.n_threads_batch,
        "n_gpu_layers": settings.n_gpu_layers or 0,
        "n_ctx": member.n_ctx,
        "n_ubatch": settings.n_ubatch,
        "type_k": settings.type_k or "f16",
        "type_v": settings.type_v or "f16",
        "flash_attn": str(settings.flash_attn),
        "use_extra_bufts": str(settings.use_extra_bufts),
    }
    if member.adapter is not None:  # no key without one, so that curves measured before there were adapters stay valid
        key["adapter"] = f"{member.adapter.header.n_bytes} bytes on {len(member.adapter.header.pairs)} tensors"
    if settings.devices is not None:  # nor for those that every device was open to
        key["devices"] = ", ".join(device_label(name) for name in settings.devices)
    return key


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def member_curve(member: Member, path: Path, report: Report | None = None) -> CostCurve:
    """The member's curve, from the store or measured now; its slot 0 must be empty and is so again afterwards."""
    key = curve_key(member)
    curve = load_curve(path, key)
    if curve is None:
        if report is not None:
            report(member.name)
        curve = fresh_curve(member)
        save_curve(path, key, curve)
    return curve


def fresh_curve(member: Member, typical: Callable[[Iterable[float]], float] = min) -> CostCurve:
    """The member's curve, measured now; slot and ``typical`` as in ``member_curve`` and ``measure``."""
    token = max(member.model.bos, 0)
    prefix = max(min(PREFIX, member.n_ctx // 2), 1)
    member.decode(0, [token] * prefix, 0)

    def decode(n: int) -> float:
        began = time.perf_counter()
        member.decode(0, [token] * n, n)
        seconds = time.perf_counter() - began
        member.rewind(0, prefix)
        return seconds

    try:
        decode(1)
        single = decode(1)
        most = min(member.max_rows, member.n_ctx - prefix - 1)
        sizes = [n for n in (CURVE_SIZES if single < SLOW_S else FEW_SIZES) if n <= most] or [1]
        repetitions = 5 if single < QUICK_S else 2
        return measure(decode, sizes, repetitions, typical)
    finally:
        member.clear(0)


def row_seconds(composite: Composite, ensemble: Ensemble, knobs: Knobs, sampler: Sampler) -> tuple[float, float]:
    """Seconds to make one verified row's law (combining, describing, filtering) and one drafted row's law."""
    n_vocab = composite.n_vocab
    row = np.random.default_rng(0).normal(0, 3, n_vocab).astype(np.float32)  # (n_vocab,)
    recipe = Recipe.of(knobs, ensemble.roles)
    rows = [row if member in recipe.needed else None for member in range(len(ensemble.members))]
    out = np.empty(n_vocab, np.float32)  # (n_vocab,)

    def combine() -> None:
        scores = composite.combine(rows, recipe, out)
        composite.shift(scores, composite.log_normaliser(scores), row)
        sampler.law(scores)

    return _median_seconds(combine), _median_seconds(lambda: sampler.law(row))


def _median_seconds(work: Callable[[], object], repetitions: int = 5) -> float:
    work()  # compiles on first use
    seconds = []
    for _ in range(repetitions):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def costs(
    ensemble: Ensemble,
    needed: Iterable[int],
    drafter: int | None,
    curves: Mapping[str, CostCurve],
    row_s: tuple[float, float],
    rule: str,
) -> Costs:
    """What rounds and plain steps cost with these members."""
    names = [member.name for member in ensemble.members]
    needed = list(needed)
    return Costs(
        curves=curves,
        verifiers=tuple(names[member] for member in needed if member != drafter) or (names[ensemble.roles.base],),
        drafter=None if drafter is None else names[drafter],
        outsider=drafter is not None and drafter not in needed,
        row_s=row_s[0],
        draft_row_s=row_s[1],
        all_rows=rule == "block",
        side_by_side=ensemble.side_by_side,
    )
