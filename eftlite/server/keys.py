"""API keys: where they come from, and whether a request presents one.

Only their SHA-256 is kept while serving; a key stands in no message, log or repr.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eftlite.errors import InputError

if TYPE_CHECKING:
    from starlette.datastructures import Headers

VARIABLE = "EFTLITE_API_KEY"
_KEY = re.compile(r"[!-~]+")


def collect_keys(given: Sequence[str], file: Path | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """All keys that open the server; none of them means that no key is needed.

    Args:
        given: from the command line.
        file: holds one key on each line that is not blank.
        environment: may hold one more under ``EFTLITE_API_KEY``.

    Raises:
        InputError: the file cannot be read or is empty, or a key is not made of visible ASCII characters.
    """
    keys = [*given, *([environment[VARIABLE]] if environment.get(VARIABLE) else []), *_lines(file)]
    check_keys(keys)
    return tuple(dict.fromkeys(keys))


def check_keys(keys: Iterable[str]) -> None:
    """Raise InputError unless each key can be sent in a header."""
    if not all(_KEY.fullmatch(key) for key in keys):
        raise InputError("API key: expected visible ASCII characters without blanks, got others or none")


def _lines(file: Path | None) -> list[str]:
    """The keys in a file; an empty file is a mistake that would leave the server open."""
    if file is None:
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise InputError(f"{file}: expected a file of API keys, got {reason}") from None
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        raise InputError(f"{file}: expected an API key on each line, got an empty file")
    return keys


class Keys:
    """A set of keys that takes equally long to say yes and no: ``key in keys``."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __contains__(self, key: str) -> bool:
        digest = _digest(key)
        # A list, so that every key is compared, whichever fits.
        return any([hmac.compare_digest(digest, known) for known in self._digests])  # noqa: C419  see above


def presented(headers: Headers) -> list[str]:
    """The keys a request presents: ``Authorization: Bearer KEY`` and ``X-Api-Key: KEY``."""
    pairs = (value.partition(" ") for value in headers.getlist("authorization"))
    bearer = [key.strip(" ") for scheme, _, key in pairs if scheme.lower() == "bearer"]
    return bearer + headers.getlist("x-api-key")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("latin-1")).digest()  # as headers are decoded
