"""What this machine has: its processor's features, memory, GPUs, and the tools that build for them.

Found without llama.cpp, so that it can be compared with what llama.cpp was compiled for.

Not guaranteed: every GPU. NVIDIA's, AMD's and Apple's are looked for; graphics inside Intel processors share the
memory that limits the CPU, and gain little.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("nvcc", "hipcc", "glslc", "nvidia-smi")
TIME_LIMIT_S = 10
_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD"}  # PCI numbers

Run = Callable[[list[str]], str]


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        vendor: "NVIDIA", "AMD" or "Apple".
        memory_bytes: of its own; None where the system does not tell.
        usable: whether its driver is there; a GPU that a container was not given has none.
    """

    vendor: str
    name: str
    memory_bytes: int | None = None
    usable: bool = True


@dataclass(frozen=True)
class Machine:
    """What was found.

    Attributes:
        features: of the processor, by LLVM's names ("avx2", "avx512f", "dotprod"); empty where they are unknown.
        tools: those of ``TOOLS`` on the PATH.
        free_bytes, total_bytes: of main memory; free is what this process may still take.
    """

    system: str
    architecture: str
    processor: str = ""
    features: frozenset[str] = frozenset()
    gpus: tuple[Gpu, ...] = ()
    tools: frozenset[str] = frozenset()
    free_bytes: int = 0
    total_bytes: int = 0


def look() -> Machine:
    """The machine we are on."""
    import psutil

    from eftlite.available import available

    total = psutil.virtual_memory().total
    system, architecture = platform.system(), platform.machine()
    return Machine(
        system,
        architecture,
        platform.processor(),
        _features(),
        tuple(gpus(system, architecture)),
        frozenset(tool for tool in TOOLS if shutil.which(tool)),
        int(min(available().memory, total)),
        total,
    )


def _features() -> frozenset[str]:
    """The processor's features; LLVM, which compiles the kernels, knows them on every system."""
    try:
        from llvmlite import binding

        return frozenset(name for name, there in binding.get_host_cpu_features().items() if there)
    except (ImportError, OSError, RuntimeError):  # LLVM cannot tell, or is what is broken
        return frozenset()


# ---- GPUs


def gpus(system: str, architecture: str, root: Path = Path("/"), run: Run | None = None) -> Iterator[Gpu]:
    """The GPUs of a machine.

    Args:
        system, architecture: as ``platform`` calls them.
        root: of the file system.
        run: gives a command's output; empty where it fails.
    """
    if system == "Darwin":
        if architecture == "arm64":
            yield Gpu("Apple", "Apple silicon")
        return
    nvidia = list(_nvidia(run or _output))
    yield from nvidia or _nvidia_of_driver(root)
    for vendor, card in _cards(root):
        if vendor == "AMD":
            yield _amd(card, root)
    if not nvidia and not (root / "proc/driver/nvidia").exists():
        yield from (Gpu(vendor, "GPU", usable=False) for vendor, _ in _cards(root) if vendor == "NVIDIA")


def _nvidia(run: Run) -> Iterator[Gpu]:
    """Those that NVIDIA's own program lists."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    for line in run(query).splitlines():
        name, comma, mebibytes = line.rpartition(",")
        if comma:  # some share the main memory, and say "[N/A]"
            number = mebibytes.strip()
            yield Gpu("NVIDIA", name.strip(), int(number) << 20 if number.isdigit() else None)


def _nvidia_of_driver(root: Path) -> Iterator[Gpu]:
    """Those that the driver names in /proc; without device files, as in a container, nobody here can use them."""
    usable = (root / "dev/nvidiactl").exists()
    for entry in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        name = next((line.partition(":")[2].strip() for line in _text(entry).splitlines() if "Model" in line), "")
        yield Gpu("NVIDIA", name or "GPU", usable=usable)


def _cards(root: Path) -> Iterator[tuple[str, Path]]:
    """(vendor, folder) of the graphics devices that Linux lists."""
    for file in sorted(root.glob("sys/class/drm/card*/device/vendor")):
        if file.parts[-3].removeprefix("card").isdigit():  # card0, not its connectors card0-DP-1
            yield _VENDORS.get(_text(file).strip(), ""), file.parent


def _amd(card: Path, root: Path) -> Gpu:
    memory = _text(card / "mem_info_vram_total").strip()
    name = _text(card / "product_name").strip() or "GPU"
    usable = any((root / "dev" / device).exists() for device in ("kfd", "dri"))
    return Gpu("AMD", name, int(memory) if memory.isdigit() else None, usable)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output(command: list[str]) -> str:
    """What a command prints; empty when it is not there, fails, or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)  # noqa: S603  a fixed command
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""
