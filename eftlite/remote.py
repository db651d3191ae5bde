"""llama.cpp's RPC backend: other machines' devices for a model here, and this machine's devices for others.

Knows the backend and the connections that llama.cpp keeps; rpc.py knows who may be on the other end. llama.cpp
ends the process when it loses a worker. Nothing in it can be asked not to, so this is said in one line first, and a
worker that is gone without a word counts as lost after a while; left alone, llama.cpp would wait for it for ever.
"""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp

from eftlite.errors import EngineError, InputError
from eftlite.ggml import CPU, GPUS, device_name, ggml, local_device, local_gpus, local_names, of_backend
from eftlite.rpc import check_endpoints, greet, split_endpoint
from eftlite.settings import ModelSettings

SILENCE_S = 300  # in which a batch of the largest models is evaluated on a slow machine, or the worker has hung
INTERRUPTED = 130  # exit code
_PROBE_S, _PROBES = 10, 3  # of connections: how soon a machine is missed that lost its power or its cable
OnLoss = Callable[[str], None]


def is_supported() -> bool:
    """Whether this build of llama.cpp has the RPC backend."""
    return bool(llama_cpp.llama_supports_rpc())


def require() -> None:
    """EngineError, which says how to get it, where this build has no RPC backend."""
    if not is_supported():
        raise EngineError(
            "RPC: expected llama.cpp with its RPC backend, got a build without it",
            "Build it again: CMAKE_ARGS=-DGGML_RPC=on pip install --force-reinstall --no-cache-dir "
            f"llama-cpp-python=={llama_cpp.__version__}",
        )


# ---- other machines' devices


class _Remotes:
    """The workers that this process has met; llama.cpp never forgets one, nor the number of its devices."""

    def __init__(self) -> None:
        self.devices: dict[str, int] = {}  # ggml's pointers by name: RPC0, RPC1 …
        self.labels: dict[str, str] = {}  # by name, too
        self.addresses: dict[str, str] = {}  # by endpoint
        self.on_loss: OnLoss = _complain
        self._callback: Any = None  # ggml keeps only the address

    def add(self, endpoint: str) -> tuple[str, ...]:
        """Names of a worker's devices."""
        address = self.addresses.get(endpoint)
        if address is None or not any(_connections([address])):  # while we use it, it answers nobody else
            address = self.addresses[endpoint] = greet(endpoint).address
        self._prepare()
        server = of_backend("RPC", "ggml_backend_rpc_add_server", ctypes.c_void_p, ctypes.c_char_p)(address.encode())
        count = ggml("ggml_backend_reg_dev_count", ctypes.c_size_t, ctypes.c_void_p)
        get = ggml("ggml_backend_reg_dev_get", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
        # Not put into ggml's register: every model that may use all devices would use these as well.
        added = {device_name(device): device for device in (get(server, i) for i in range(count(server)))}
        self.devices |= added
        self.labels |= {device: f"{number} of {endpoint}" for number, device in enumerate(added)}
        return tuple(added)

    def _prepare(self) -> None:
        """Have ggml tell us before it ends the process."""
        if self._callback is None:
            self._callback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(self._aborting)
            ggml("ggml_set_abort_callback", ctypes.c_void_p, ctypes.c_void_p)(self._callback)

    def _aborting(self, text: bytes) -> None:
        """ggml's last words; for anything but a lost worker it goes on to end the process itself."""
        if b"ggml-rpc" not in text:
            os.write(2, text + b"\n")
            return
        lost = [endpoint for endpoint, address in self.addresses.items() if not self._holds(address)]
        self.on_loss(f"RPC worker {', '.join(lost or self.addresses)}: lost while it was in use")
        os._exit(1)

    def _holds(self, address: str) -> bool:
        """Whether a connection to an address is whole, as far as the system knows."""
        return not all(map(_is_broken, _connections([address])))


def _complain(message: str) -> None:
    os.write(2, f"\nerror: {message}. Start it again, then this program\n".encode())


_remotes = _Remotes()


def when_lost(tell: OnLoss) -> None:
    """Have the loss of a worker told to ``tell`` in place of stderr; the process ends when it returns."""
    _remotes.on_loss = tell


def on_workers(settings: ModelSettings, endpoints: Sequence[str]) -> ModelSettings:
    """Settings that put a model on workers, as far as they do not say otherwise themselves.

    Raises:
        InputError: an endpoint that cannot be read or may not be used.
        UnavailableError: a worker does not answer; later it may.
        EngineError: this build has no RPC backend, or a worker's is another version.
    """
    if not endpoints:
        return settings
    require()
    names = [name for endpoint in check_endpoints(endpoints) for name in _remotes.add(endpoint)]
    n_gpu_layers = -1 if settings.n_gpu_layers is None else settings.n_gpu_layers
    return replace(settings, devices=settings.devices or tuple(names), n_gpu_layers=n_gpu_layers)


def device_list(names: Sequence[str]) -> Any:
    """The list of devices that ``llama_model_params`` takes, to be kept until the model is loaded.

    Raises:
        InputError: there is no device of that name.
    """
    found = [_remotes.devices.get(name) or local_device(name) for name in names]
    for name, device in zip(names, found, strict=True):
        if device is None:
            known = ", ".join([*local_names(CPU, *GPUS), *_remotes.devices])
            raise InputError(f"devices: expected some of {known}, got {name!r}")
    return (ctypes.c_void_p * (len(found) + 1))(*found, None)


def device_label(name: str) -> str:
    """A device's name that means the same in another process: a worker's number there is a matter of order."""
    return _remotes.labels.get(name, name)


# ---- their connections


def hang_up() -> None:
    """End the process, as Ctrl+C does, in the middle of whatever it waits for; nothing where no worker is in use."""
    when_lost(lambda _: os._exit(INTERRUPTED))
    for connection in _connections(list(_remotes.addresses.values())):
        with suppress(OSError):  # it broke meanwhile, which is as good
            connection.shutdown(socket.SHUT_RDWR)


def limit_silence() -> None:
    """End llama.cpp's connections to workers, as they are now, when the other end is gone or hangs."""
    limit = struct.pack("@ll", SILENCE_S, 0)  # a C timeval
    for connection in _connections(list(_remotes.addresses.values())):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        _keep_alive(connection)


def watch_clients(address: str, port: int) -> bool:
    """End a worker's connections when their other end is gone, so that it is free again; whether it listens by now."""
    listens = False
    for own in _sockets():
        if own.getsockname() == (address, port) and _peer(own) is None:
            _keep_alive(own)  # connections that it accepts inherit this
            listens = True
    return listens


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", _PROBE_S),
        ("TCP_KEEPINTVL", _PROBE_S),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", 1000 * _PROBE_S * (_PROBES + 1)),  # for what was sent and never confirmed
    ):
        if hasattr(socket, option):  # systems differ
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _connections(addresses: Sequence[str]) -> Iterator[socket.socket]:
    """Our process's connections to addresses."""
    peers = {split_endpoint(address) for address in addresses}
    return (connection for connection in _sockets() if _peer(connection) in peers)


def _sockets() -> Iterator[socket.socket]:
    """Our process's IPv4 sockets, each for as long as it is looked at; none on Windows, which does not list them."""
    folder = Path("/dev/fd")
    for entry in folder.iterdir() if folder.exists() else ():
        try:
            number = int(entry.name)
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            found = socket.socket(fileno=os.dup(number))
        except OSError:  # closed meanwhile, by us or another thread
            continue
        with found:
            if found.family == socket.AF_INET:
                yield found


def _is_broken(connection: socket.socket) -> bool:
    """Whether the other end has left."""
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:  # it is there, and says nothing
        return False
    except OSError:
        return True


def _peer(connection: socket.socket) -> Any:
    try:
        return connection.getpeername()
    except OSError:  # not connected
        return None


# ---- being a worker


def lent_by_default() -> list[str]:
    """Names of the devices that a worker lends unless told: the GPUs, or the CPU where there are none."""
    return local_gpus() or local_names(CPU)


def serve(address: str, port: int, devices: Sequence[str], n_threads: int, cache: Path | None) -> None:
    """Serve devices of this machine, one program at a time; returns only when the system does not let it listen."""
    require()
    start = of_backend(
        *("RPC", "ggml_backend_rpc_start_server", None),
        *(ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p),
    )
    handles = device_list(devices)
    folder = None if cache is None else os.fsencode(cache)
    start(f"{address}:{port}".encode(), folder, n_threads, len(devices), handles)
