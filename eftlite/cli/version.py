"""What ``eftlite --version`` says: eftlite, the binding, llama.cpp's build, and the devices it can use."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from eftlite import __version__


def version_text() -> str:
    """Several lines, the first with eftlite's own version."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    from eftlite.llama import build, devices, supports_gpu, system_info
    from eftlite.remote import is_supported

    yield f"eftlite {__version__}"
    yield f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield f"llama-cpp-python {metadata.version('llama-cpp-python')}"
    yield f"llama.cpp {build()}: {' '.join(system_info().split())}"
    yield f"GPU offload: {'yes' if supports_gpu() else 'no, this build computes on the CPU only'}"
    yield f"other machines (RPC): {'yes' if is_supported() else 'no, this build computes on this one only'}"
    yield "devices:"
    for device in devices():
        yield f"  {_device(device)}"


def _device(device: dict[str, Any]) -> str:
    from eftlite.available import available

    memory, free = "", device["free_bytes"]
    if device["kind"] == 0:  # the processor, all of whose memory llama.cpp takes for free
        free = min(available().memory, device["total_bytes"])
    if device["total_bytes"]:
        memory = f", {free / 2**30:.1f} of {device['total_bytes'] / 2**30:.1f} GiB free"
    return f"{device['name']}: {device['description'].strip()}{memory}"
