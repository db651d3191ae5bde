"""What the installed llama.cpp was compiled for and whether it computes, and the command that compiles it again.

Knows one build; comparing it with the machine is installation.py's. ``probe`` belongs into a child process: a build
for another processor dies at its first instruction that this one lacks.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any

PINNED = "llama-cpp-python==0.3.36"  # as in pyproject.toml
WITHOUT_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
# llama.cpp's name of a processor feature -> LLVM's, for those whose lack costs speed.
FEATURES = {
    "AVX": "avx",
    "AVX2": "avx2",
    "F16C": "f16c",
    "FMA": "fma",
    "AVX512": "avx512f",
    "AVX512_VNNI": "avx512vnni",
    "AVX512_BF16": "avx512bf16",
    "NEON": "neon",
    "DOTPROD": "dotprod",
    "MATMUL_INT8": "i8mm",
    "SVE": "sve",
}
_BACKENDS = {"NVIDIA": "GGML_CUDA", "AMD": "GGML_HIP", "Apple": "GGML_METAL"}


@dataclass(frozen=True)
class Build:
    """A build of llama.cpp.

    Attributes:
        version: llama.cpp's own words.
        binding: llama-cpp-python's version.
        features: llama.cpp's names of what was compiled in, e.g. "AVX2".
        gpu: whether it can put layers on a GPU.
        rpc: whether it can use other machines.
        amx_works: False where its AMX code is there and dies.
        devices: ``{"name", "description", "free_bytes", "total_bytes"}`` each.
    """

    version: str
    binding: str
    features: frozenset[str]
    gpu: bool = False
    rpc: bool = False
    amx_works: bool = True
    devices: tuple[dict[str, Any], ...] = ()


def probe(report: Callable[[str], None]) -> Build:
    """Ask llama.cpp what it is, then have it decode with the smallest bundled model.

    Raises:
        EFTError: the binding is another version than the tested one, or llama.cpp fails.
    """
    from eftlite.amx import extra_buffers_work
    from eftlite.llama import BINDING_VERSION, Model, build, devices, supports_gpu, system_info
    from eftlite.member import Member
    from eftlite.remote import is_supported

    report("asking llama.cpp")
    info, found = system_info(), devices()
    amx_works = extra_buffers_work()
    with as_file(files("eftlite.demo").joinpath("reference-f16.gguf")) as path:
        model = Model(path)
        try:
            Member(model, 64).close()  # decodes two tokens when it is made
        finally:
            model.close()
    features = frozenset(re.findall(r"(\w+) = 1", info))
    return Build(build(), BINDING_VERSION, features, supports_gpu(), is_supported(), amx_works, tuple(found))


def backend_for(vendor: str, tools: Iterable[str]) -> str:
    """The CMake option of a vendor's backend; Vulkan, which needs less, where an AMD machine has no ROCm compiler."""
    return "GGML_VULKAN" if vendor == "AMD" and "hipcc" not in tools else _BACKENDS[vendor]


def rebuild(options: Iterable[str] = (), without_amx: bool = False, system: str = "") -> str:
    """The command that compiles llama-cpp-python again.

    Args:
        options: CMake's, such as "GGML_CUDA", to be switched on.
        system: as ``platform`` calls it; Windows' shell sets variables in another way.
    """
    values = {"CMAKE_ARGS": " ".join(f"-D{option}=on" for option in options)}
    if without_amx:
        values |= {"CFLAGS": WITHOUT_AMX, "CXXFLAGS": WITHOUT_AMX}
    words = [sys.executable, "-m", "pip", "install", "--force-reinstall", "--no-cache-dir", "--no-deps", PINNED]
    if system == "Windows":
        settings = [f'set "{name}={value}" && ' for name, value in values.items() if value]
        return "".join(settings) + subprocess.list2cmdline(words)
    settings = [f'{name}="{value}" ' for name, value in values.items() if value]
    return "".join(settings) + shlex.join(words)
