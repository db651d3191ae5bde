"""Question one: is this installation sound? A build compared with the machine, kernels, folders, memory.

Knows a machine and a build, however they were found; never models.
"""

from __future__ import annotations

import platform
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from eftlite.doctor.build import FEATURES, Build, backend_for, probe, rebuild
from eftlite.doctor.child import ChildDiedError, Report
from eftlite.doctor.findings import OK, PROBLEM, WARNING, Finding, Section, step
from eftlite.doctor.machine import Gpu, Machine
from eftlite.errors import EFTError

QUESTION = "Is this installation sound?"
PROBE_LIMIT_S = 180  # a GPU's driver compiles its own kernels at the first start
MIN_FREE_BYTES = 1 << 30  # less does not hold the smallest real family
# A GPU with less memory of its own than this holds no base, and is hardly faster than the processor beside it.
MIN_GPU_BYTES = 3 << 30
_BACKENDS = {"CUDA": "GGML_CUDA", "ROCm": "GGML_HIP", "Vulkan": "GGML_VULKAN", "MTL": "GGML_METAL"}  # of devices
_BUILD_TOOLS = {"GGML_CUDA": "nvcc", "GGML_HIP": "hipcc", "GGML_VULKAN": "glslc"}
_NONE = "not installed"
_AGAIN = f"{shlex.quote(sys.executable)} -m pip install --force-reinstall --no-cache-dir numba"
_NEEDS = {"nvcc": "the CUDA toolkit", "hipcc": "ROCm", "glslc": "the Vulkan SDK"}


def examine(look: Callable[[], Machine], call: Callable[..., Any], report: Report) -> Section:
    """Look at everything; what is broken is a finding.

    Args:
        look: at the machine.
        call: runs a function in a child process, as ``child.call`` does.
        report: told what is being done.
    """
    builds: list[Build] = []
    machines: list[Machine] = []
    found = step("versions", versions) + step("llama.cpp", lambda: compute(builds, call, report))
    of_memory = step("memory", lambda: memory(machines, look))
    if builds and machines:
        both = builds[0], machines[0]
        found += step("processor", lambda: processor(*both)) + step("GPU", lambda: graphics(*both))
        found += step("RPC", lambda: rpc(*both))
    report("compiling kernels")
    found += of_memory + step("kernels", kernels, _AGAIN) + step("folders", folders)
    return Section("installation", QUESTION, found)


def versions() -> Iterator[Finding]:
    """Who is talking."""
    facts = {name: _version(name) for name in ("eftlite", "llama-cpp-python", "numpy", "numba")}
    facts["python"] = platform.python_version()
    words = f"eftlite {facts['eftlite']}, llama-cpp-python {facts['llama-cpp-python']}, Python {facts['python']}"
    yield Finding("versions", OK, words, facts=facts)
    # Those with a marker are extras, or for some Pythons only.
    wanted = [text for text in metadata.requires("eftlite") or () if ";" not in text]
    missing = [text for text in wanted if _version(re.split(r"[^\w.-]", text)[0]) == _NONE]
    if missing:
        fix = shlex.join([sys.executable, "-m", "pip", "install", *missing])
        yield Finding("packages", PROBLEM, f"Not installed: {', '.join(missing)}", fix)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return _NONE


def compute(builds: list[Build], call: Callable[..., Any], report: Report) -> Iterator[Finding]:
    """Have llama.cpp decode, in a child process; what it is goes into ``builds``."""
    fix = rebuild(system=platform.system())
    try:
        build: Build = call(probe, report=report, limit_s=PROBE_LIMIT_S)
    except ChildDiedError as error:
        text = f"It does not compute: {error.message}" + (f" ({error.last_line})" if error.last_line else "")
        if error.illegal_instruction:
            text = "It was compiled for another processor, and dies of an instruction that this one lacks"
        yield Finding("llama.cpp", PROBLEM, text, fix)
    except EFTError as error:
        yield Finding("llama.cpp", PROBLEM, f"It does not start: {error.message}", fix)
    else:
        builds.append(build)
        yield Finding("llama.cpp", OK, f"{build.version}; it decodes", facts={"version": build.version})


def size(n_bytes: int) -> str:
    """Bytes as people read them."""
    from eftlite.inspection import size as words  # numpy comes with it, which may be what is broken

    return words(n_bytes)


# ---- the build and the machine


def processor(build: Build, machine: Machine) -> Iterator[Finding]:
    """Features compiled in against those the processor has."""
    compiled = sorted(build.features & FEATURES.keys(), key=list(FEATURES).index)
    there = [name for name, feature in FEATURES.items() if feature in machine.features]
    missing = [name for name in there if name not in build.features]
    facts = {"compiled": compiled, "missing": missing}
    if not build.amx_works:
        text = "llama.cpp's AMX code crashes here (GCC 11 and 12 miscompile it); eftlite avoids it, at some speed"
        yield Finding("AMX", WARNING, text, _again(build, machine))
    if missing:
        text = f"The processor has {', '.join(missing)}, which this build of llama.cpp does not use"
        yield Finding("processor", WARNING, text, _again(build, machine), facts)
    elif compiled:
        known = "" if machine.features else "; whether the processor has more is not known"
        yield Finding("processor", OK, f"{', '.join(compiled)} are compiled in{known}", facts=facts)
    else:
        text = f"No vector instructions are compiled in, as far as {machine.architecture} is known here"
        yield Finding("processor", OK, text, facts=facts)


def graphics(build: Build, machine: Machine) -> Iterator[Finding]:
    """Every GPU of the machine against what the build can use."""
    if not machine.gpus:
        yield Finding("GPU", OK, "None was found, the processor computes" if not build.gpu else _gpu_words(build))
    for gpu in machine.gpus:
        yield _graphics(gpu, build, machine)


def _graphics(gpu: Gpu, build: Build, machine: Machine) -> Finding:
    memory = f" ({size(gpu.memory_bytes)})" if gpu.memory_bytes else ""
    name = f"{gpu.vendor} {gpu.name.removeprefix(gpu.vendor).strip()}{memory}"
    facts = {"vendor": gpu.vendor, "name": gpu.name, "memory_bytes": gpu.memory_bytes, "compiled_in": build.gpu}
    if build.gpu:
        return Finding("GPU", OK, f"{name}; {_gpu_words(build)}", facts=facts)
    if not gpu.usable:
        text = f"{name} is in this machine, but its driver is not, or this container was not given it"
        return Finding("GPU", WARNING, text, facts=facts)
    if gpu.memory_bytes is not None and gpu.memory_bytes < MIN_GPU_BYTES:
        return Finding("GPU", OK, f"{name} is too small for a base; the processor computes", facts=facts)
    option = backend_for(gpu.vendor, machine.tools)
    tool = _BUILD_TOOLS.get(option, "")
    lacking = f"; install {_NEEDS[tool]} first, {tool} is not there" if tool and tool not in machine.tools else ""
    text = f"{name} stays idle: this build of llama.cpp computes on the CPU only{lacking}"
    return Finding("GPU", PROBLEM, text, _again(build, machine, option), facts)


def _gpu_words(build: Build) -> str:
    """The devices that llama.cpp sees, with their memory."""
    found = [device for device in build.devices if device["name"] != "CPU"]
    words = [f"{one['name']}, {size(one['free_bytes'])} of {size(one['total_bytes'])} free" for one in found]
    return f"compiled in as {'; '.join(words)}" if words else "compiled in, but llama.cpp sees no such device"


def rpc(build: Build, machine: Machine) -> Iterator[Finding]:
    """Other machines' devices."""
    if build.rpc:
        yield Finding("RPC", OK, "Compiled in: other machines can help", facts={"compiled_in": True})
    else:
        text = "Not compiled in; needed only to use several machines"
        yield Finding("RPC", OK, text, facts={"compiled_in": False, "rebuild": _again(build, machine, "GGML_RPC")})


def _again(build: Build, machine: Machine, *more: str) -> str:
    """The command that compiles the build again, with more CMake options and losing none that it has."""
    names = [str(device["name"]).rstrip("0123456789") for device in build.devices]
    kept = [_BACKENDS[name] for name in dict.fromkeys(names) if name in _BACKENDS]
    amx_left_out = "amx-int8" in machine.features and "AMX_INT8" not in build.features
    without_amx = not build.amx_works or (amx_left_out and machine.system == "Linux")
    return rebuild([*more, *kept, *(["GGML_RPC"] if build.rpc else [])], without_amx, machine.system)


def memory(machines: list[Machine], look: Callable[[], Machine]) -> Iterator[Finding]:
    """Look at the machine, which goes into ``machines``; the finding is about its main memory."""
    machines.append(look())
    free, total = machines[0].free_bytes, machines[0].total_bytes
    facts, text = {"free_bytes": free, "total_bytes": total}, f"{size(free)} of {size(total)} free"
    if free < MIN_FREE_BYTES:
        yield Finding("memory", WARNING, f"{text}, too little for a real family: close other programs", facts=facts)
    else:
        yield Finding("memory", OK, text, facts=facts)


# ---- eftlite's own parts


def kernels() -> Iterator[Finding]:
    """Numba compiles them, and keeps them for the next start."""
    import numpy as np

    from eftlite import kernels as compiled

    value, right = float(compiled.log_sum_exp(np.zeros(8, np.float32))), float(np.log(8.0))
    if not abs(value - right) < 1e-5:
        yield Finding("kernels", PROBLEM, f"They compute wrongly: expected {right:.5f}, got {value:.5f}", _AGAIN)
        return
    folder = Path(compiled.log_sum_exp.stats.cache_path)
    if _writable(folder):
        yield Finding("kernels", OK, "Compiled, and kept for the next start", facts={"folder": str(folder)})
    else:
        text = "They compile at each start, some seconds long: their folder cannot be written"
        fix = f"export NUMBA_CACHE_DIR={Path(tempfile.gettempdir()) / 'eftlite-kernels'}"
        yield Finding("kernels", WARNING, text, fix, {"folder": str(folder)})


def folders() -> Iterator[Finding]:
    """Where eftlite keeps what can be made again, and what a person made."""
    from eftlite.places import cache_folder, state_folder

    places = {"cache": ("EFTLITE_CACHE_DIR", cache_folder()), "state": ("EFTLITE_STATE_DIR", state_folder())}
    barred = {name: (variable, path) for name, (variable, path) in places.items() if not _writable(path)}
    for name, (variable, path) in barred.items():
        lost = "costs are measured at each start" if name == "cache" else "conversations cannot be kept"
        yield Finding(name, WARNING, f"{path} cannot be written: {lost}", f"export {variable}=FOLDER")
    if not barred:
        facts = {name: str(path) for name, (_, path) in places.items()}
        yield Finding("folders", OK, "Cache and conversations can be written", facts=facts)


def _writable(folder: Path) -> bool:
    """Whether a file can be made there, or in the folder that it would be made in."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), Path.cwd())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"0")
    except OSError:
        return False
    return True
