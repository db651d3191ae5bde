"""Workers on other machines: where they may be, and whether they answer in llama.cpp's RPC protocol.

Knows addresses and the first words of the protocol; what llama.cpp then does with a worker is remote.py's. llama.cpp
itself ends the process when a worker cannot be reached or speaks another version, so each one is asked here before.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network

from eftlite.errors import EngineError, InputError, UnavailableError

PORT = 50052  # llama.cpp's own
PROTOCOL = (7, 0)  # of ggml-rpc.h in the one binding that is supported; a worker's second number may be lower
ANSWER_S = 3.0
RETRY_S = 2
# This machine and private networks, those of providers (100.64/10, also Tailscale's) and of single cables among them.
_PRIVATE = [
    IPv4Network(text)
    for text in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10")
]
_HELLO, _DEVICE_COUNT, _DEVICE_MEMORY = 14, 15, 11
_N_CAPABILITIES = 24  # bytes for other transports; all zero is TCP
_MAX_DEVICES = 256


@dataclass(frozen=True)
class Worker:
    """A worker that answered.

    Attributes:
        endpoint: "host:port" as it was named.
        address: the same with the host's IPv4 address, which is what llama.cpp is given.
        memory: bytes of each of its devices, (free, total).
    """

    endpoint: str
    address: str
    memory: tuple[tuple[int, int], ...]


def parse_endpoints(text: str) -> tuple[str, ...]:
    """The workers that "HOST:PORT,HOST:PORT" names; none for an empty text. InputError."""
    return check_endpoints(part.strip() for part in text.split(",") if part.strip())


def check_endpoints(endpoints: Iterable[str]) -> tuple[str, ...]:
    """The same workers, each as "host:port", when their names can be read and no two are one; else InputError."""
    found = tuple("{}:{}".format(*split_endpoint(endpoint)) for endpoint in endpoints)
    twice = next((endpoint for endpoint in found if found.count(endpoint) > 1), None)
    if twice is not None:
        raise InputError(f"RPC worker {twice}: expected each worker once, got it twice")
    return found


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT" or "HOST"; InputError."""
    host, colon, digits = endpoint.partition(":")
    port = int(digits) if digits.isascii() and digits.isdecimal() else PORT if not colon else 0
    if not host or not 0 < port < 1 << 16:  # llama.cpp knows IPv4 only, so there is one colon
        raise InputError(f"RPC worker: expected HOST:PORT, for example 192.168.1.20:{PORT}, got {endpoint!r}")
    return host, port


def is_private(address: str) -> bool:
    """Whether an IPv4 address is this machine's own or a private network's. InputError if it is no such address."""
    try:
        number = IPv4Address(address)
    except AddressValueError:
        raise InputError(f"address: expected an IPv4 address, for example 192.168.1.20, got {address!r}") from None
    return any(number in network for network in _PRIVATE)


def greet(endpoint: str, timeout_s: float = ANSWER_S) -> Worker:
    """Ask a worker who it is.

    Raises:
        InputError: it is not on this machine or a private network.
        UnavailableError: nobody answers there within the time; later somebody may.
        EngineError: whoever answers is no worker, or one of another version.
    """
    host, port = split_endpoint(endpoint)
    end = time.monotonic() + timeout_s
    address = _resolve(host, endpoint)
    try:
        with socket.create_connection((address, port), timeout_s) as connection:
            memory = _introduce(_Line(connection, end), endpoint)
    except TimeoutError:
        raise UnavailableError(
            f"RPC worker {endpoint}: no answer within {timeout_s:g} s",
            "A worker serves one program at a time: another one may be using it, or it has stopped",
            RETRY_S,
        ) from None
    except (EOFError, struct.error):
        raise _foreign(endpoint, "something else") from None
    except OSError as error:
        raise _unreachable(endpoint, error) from None
    return Worker(endpoint, f"{address}:{port}", memory)


def _resolve(host: str, endpoint: str) -> str:
    """The host's IPv4 address; looked up once, so that what was checked is what llama.cpp connects to."""
    try:
        address = str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        raise _unreachable(endpoint, error) from None
    if not is_private(address):
        raise InputError(
            f"RPC worker {endpoint}: expected an address of this machine or of a private network, got {address}",
            "The protocol is neither encrypted nor authenticated. Go through a VPN or SSH: "
            f"ssh -N -L {PORT}:127.0.0.1:{PORT} HOST, then 127.0.0.1:{PORT}",
        )
    return address


class _Line:
    """A connection on which questions are asked, until a moment by ``time.monotonic``."""

    def __init__(self, connection: socket.socket, end: float) -> None:
        self._connection, self._end = connection, end

    def ask(self, command: int, body: bytes, reply: str) -> tuple[int, ...]:
        """The numbers of an answer; EOFError or struct.error when it is none."""
        self._connection.sendall(struct.pack("<BQ", command, len(body)) + body)
        size = struct.calcsize(reply)
        if struct.unpack("<Q", self._read(8)) != (size,):
            raise EOFError
        return struct.unpack(reply, self._read(size))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            self._connection.settimeout(max(self._end - time.monotonic(), 1e-3))
            part = self._connection.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data


def _introduce(line: _Line, endpoint: str) -> tuple[tuple[int, int], ...]:
    """The memory of a worker's devices, once its version is known to be ours."""
    major, minor, patch = line.ask(_HELLO, bytes(_N_CAPABILITIES), f"<3Bx{_N_CAPABILITIES}x")
    if major != PROTOCOL[0] or minor > PROTOCOL[1]:
        raise _foreign(endpoint, f"{major}.{minor}.{patch}")
    (n_devices,) = line.ask(_DEVICE_COUNT, b"", "<I")
    if not 0 < n_devices <= _MAX_DEVICES:
        raise _foreign(endpoint, f"one with {n_devices} devices")
    pairs = (line.ask(_DEVICE_MEMORY, struct.pack("<I", number), "<2Q") for number in range(n_devices))
    return tuple((free, total) for free, total in pairs)


def _unreachable(endpoint: str, error: Exception) -> UnavailableError:
    reason = getattr(error, "strerror", None) or error
    return UnavailableError(
        f"RPC worker {endpoint}: it cannot be reached ({reason})",
        "Start it there with `eftlite worker`, on an address that this machine can reach",
        RETRY_S,
    )


def _foreign(endpoint: str, got: str) -> EngineError:
    version = ".".join(map(str, PROTOCOL))
    return EngineError(
        f"RPC worker {endpoint}: expected llama.cpp's RPC protocol {version}, got {got}",
        "Install the same release of llama-cpp-python on both machines",
    )
