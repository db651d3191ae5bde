"""ggml's functions that the binding does not wrap, and this machine's devices by them.

Knows names and pointers; never models.
"""

from __future__ import annotations

import ctypes
from typing import Any

CPU, GPUS = 0, (1, 2)  # ggml's kinds of devices; 2 is an integrated GPU


def ggml(name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml's libraries; AttributeError where this build lacks it."""
    from llama_cpp._ctypes_extensions import load_shared_library
    from llama_cpp._ggml import libggml, libggml_base_path

    try:
        function = libggml[name]
    except AttributeError:  # Windows looks into the one library only
        function = load_shared_library("ggml-base", libggml_base_path)[name]
    function.restype, function.argtypes = result, list(arguments)
    return function


def of_backend(backend: str, name: str, result: Any, *arguments: Any) -> Any:
    """A function of a backend, by ggml's register: the backend may be linked in, or a library of its own."""
    registered = ggml("ggml_backend_reg_by_name", ctypes.c_void_p, ctypes.c_char_p)(backend.encode())
    find = ggml("ggml_backend_reg_get_proc_address", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
    return ctypes.CFUNCTYPE(result, *arguments)(find(registered, name.encode()))


def device_name(device: int) -> str:
    """What a device is called, by its pointer."""
    found: bytes = ggml("ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)(device)
    return found.decode()


def local_device(name: str) -> int | None:
    """The pointer to a device of this machine; None when there is no such device."""
    found: int | None = ggml("ggml_backend_dev_by_name", ctypes.c_void_p, ctypes.c_char_p)(name.encode())
    return found


def local_names(*kinds: int) -> list[str]:
    """Names of this machine's devices of some kinds."""
    get = ggml("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    kind = ggml("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    devices = [get(number) for number in range(ggml("ggml_backend_dev_count", ctypes.c_size_t)())]
    return [device_name(device) for device in devices if kind(device) in kinds]


def local_gpus() -> list[str]:
    """Names of this machine's GPUs, as far as this build can use them."""
    return local_names(*GPUS)
