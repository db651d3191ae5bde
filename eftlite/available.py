"""How much memory this process may still take: the machine's, its container's, and the limits it was started with.

Knows the system; never models. What llama.cpp says of the processor's memory is its size, not what is free.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from eftlite.errors import InputError

VARIABLE = "EFTLITE_MEMORY_GB"
GB = 10**9
_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # cgroups write "no limit" as a number near 2^63


@dataclass(frozen=True)
class Available:
    """Bytes this process may still take; infinite where nothing limits.

    Attributes:
        memory: main memory: what is free, what can be freed, and no more than the process's cgroups allow.
        address_space: under RLIMIT_AS (``ulimit -v``), which counts mapped files and what is never touched.
        data: under RLIMIT_DATA (``ulimit -d``), which counts private memory.
        why: what sets ``memory``: "free", "cgroup" or the name of the variable that sets it.
    """

    memory: float
    address_space: float = math.inf
    data: float = math.inf
    why: str = "free"


def available() -> Available:
    """What there is now.

    Raises:
        InputError: EFTLITE_MEMORY_GB is no number.
    """
    memory, why = _memory()
    space, data = _rlimits()
    return Available(memory, space, data, why)


def _memory() -> tuple[float, str]:
    text = os.environ.get(VARIABLE)
    if text:
        return _given(text), VARIABLE
    free = float(psutil.virtual_memory().available)
    allowed = min(_cgroups(), default=math.inf)
    return (allowed, "cgroup") if allowed < free else (free, "free")


def _given(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise InputError(f"{VARIABLE}: expected gigabytes of memory to use, or inf to check nothing, got {text!r}")
    return value * GB


# ---- limits of the process


def _rlimits() -> tuple[float, float]:
    """What RLIMIT_AS and RLIMIT_DATA leave; only Linux keeps both, macOS lets neither stop anything."""
    if not sys.platform.startswith("linux"):
        return math.inf, math.inf
    import resource  # POSIX only

    taken = _status("VmSize", "VmData")
    limits = (resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    left = [
        math.inf if limit == resource.RLIM_INFINITY else float(max(limit - used, 0))
        for limit, used in zip(limits, taken, strict=True)
    ]
    return left[0], left[1]


def _status(*names: str) -> list[int]:
    """Bytes from /proc/self/status."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return [int(lines[name].split()[0]) * 1024 for name in names]


# ---- cgroups, version 2 and 1


def _cgroups(root: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> Iterator[float]:
    """What the process's memory cgroups leave, its own and those above it."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _left(root, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _left(root / "memory", path, *names)


def _left(root: Path, path: str, limit: str, usage: str, reclaimable: str) -> Iterator[float]:
    """Limit less usage of each cgroup from ``path`` up to the root; files' pages that are not in use can be freed.

    In a container the path is the host's, and its own cgroup is the root.
    """
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        folder = root.joinpath(*parts[:depth])
        try:
            allowed, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
            pages = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            if allowed != "max" and int(allowed) < _UNLIMITED:
                yield float(max(int(allowed) - used + int(pages.get(reclaimable, 0)), 0))
        except (OSError, ValueError):  # no such folder here, or a file of another shape
            continue
