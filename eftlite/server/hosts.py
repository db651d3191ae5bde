"""Names and addresses in Host and Origin headers: which are well formed, and which mean this machine.

A page from anywhere may point its own name at 127.0.0.1 (DNS rebinding); to the browser this server is then the page's
own. Such a request carries the page's name in its Host header, so only names that no stranger can own are let in. A
literal address cannot be rebound, and a port says nothing: tunnels and containers change it on the way.

Knows text only; nothing is looked up in the DNS.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from eftlite.errors import InputError

_LABELS = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
_NAME = re.compile(rf"{_LABELS}\.?")
_AUTHORITY = re.compile(rf"(?:\[(?P<literal>[0-9a-f:.]+)\]|(?P<name>{_LABELS})\.?)(?::(?P<port>[0-9]{{1,5}}))?")
_ORIGIN = re.compile(rf"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|{_LABELS})(?::[0-9]{{1,5}})?")


def host_of(authority: str) -> str | None:
    """The host of ``host[:port]`` in its one spelling, or None if that is malformed.

    Lower case, addresses compressed, without brackets, port and the root's dot. User information, blanks, lists and
    addresses in octal, hexadecimal or fewer than four parts are malformed.
    """
    match = _AUTHORITY.fullmatch(authority.lower())
    if match is None or (match["port"] and not 0 < int(match["port"]) < 1 << 16):
        return None
    address = _address(match["literal"] or match["name"])
    if match["literal"] and not isinstance(address, IPv6Address):
        return None
    return str(address or match["name"])


def is_loopback(host: str) -> bool:
    """Whether a host, as ``host_of`` gives it, means this machine and no other, on every machine."""
    address = _address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback if address else host == "localhost" or host.endswith(".localhost")


class Hosts:
    """The hosts under which the server may be asked: ``host in hosts``.

    Args:
        bound: the address or the name it listens on. On loopback only loopback names are allowed; elsewhere any
            literal address too, and the machine's own names.
        allowed: further hosts.
    """

    def __init__(self, bound: str, allowed: Iterable[str]) -> None:
        self._allowed = {checked_host(host) for host in allowed}
        self._addresses = not is_loopback(bound)
        if self._addresses:
            own = socket.gethostname().lower()
            self._allowed |= {own, f"{own.partition('.')[0]}.local", bound.lower()}

    def __contains__(self, host: str) -> bool:
        return is_loopback(host) or host in self._allowed or (self._addresses and _address(host) is not None)


def checked_host(host: str) -> str:
    """A host given by the user, in its one spelling; InputError if it is none or has a port."""
    address = _address(host.removeprefix("[").removesuffix("]"))
    if not address and not _NAME.fullmatch(host.lower()):
        raise InputError(f"allow-host: expected a name or an address without a port, got {host!r}")
    return str(address or host.lower().removesuffix("."))


def checked_origin(origin: str) -> str:
    """An origin given by the user, in lower case; InputError if it is none, ``*`` and ``null`` included."""
    if not _ORIGIN.fullmatch(origin.lower()):
        raise InputError(
            f"allow-origin: expected scheme://host[:port], got {origin!r}",
            "Name each page that may use the server, e.g. http://localhost:3000",
        )
    return origin.lower()


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """A literal address, or None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None
