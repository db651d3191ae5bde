"""The header of a model that is on the hub only: fetched by ranges, weights left where they are.

A header is kept in eftlite's own cache, since vocabularies make some ten megabytes of it.
"""

from __future__ import annotations

import io
import os
from contextlib import closing
from pathlib import Path

from eftlite import gguf
from eftlite.errors import HubError
from eftlite.gguf_header import read_header
from eftlite.hub import web
from eftlite.hub.listing import File, Remote
from eftlite.places import cache_folder

_FIRST_BYTES = 1 << 20


def header(remote: Remote) -> gguf.Header:
    """What a model says about itself, checked like a file's, at the price of its header alone.

    Raises:
        HubError: the hub does not answer or refuses.
        ModelFileError: it is no model of GGUF's.
    """
    if remote.is_here:
        return gguf.check(remote.path, require_weights=False)
    folder = cache_folder() / "headers" / remote.files[0].hash
    paths = [folder / Path(file.name).name for file in remote.files]
    for file, path in zip(remote.files, paths, strict=True):
        if not path.exists():
            _fetch(remote, file, path)
    return gguf.check(paths[0], require_weights=False, sizes=[file.n_bytes for file in remote.files])


def _fetch(remote: Remote, file: File, path: Path) -> None:
    """Write as much of a file's beginning as its header takes."""
    with _Beginning(remote, file) as beginning, gguf.named(Path(file.name)):
        read_header(beginning, file.n_bytes)
    partial = path.with_name(f"{path.name}.{os.getpid()}.incomplete")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(beginning.data)
        partial.replace(path)
    except OSError as error:
        hint = "Make room for it, or name another folder in EFTLITE_CACHE_DIR"
        raise HubError(f"{file.name}: its header cannot be kept: {error.strerror or error}", hint) from None


class _Beginning(io.RawIOBase):
    """A file of the hub as far as it has been read; everything before the furthest byte asked for is fetched.

    Attributes:
        data: the bytes so far.
    """

    def __init__(self, remote: Remote, file: File) -> None:
        self.data = bytearray()
        self._remote = remote
        self._file = file
        self._position = 0

    def seek(self, offset: int, _: int = io.SEEK_SET) -> int:
        """Go to a byte, counted from the beginning."""
        self._position = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        """The next ``size`` bytes, fewer at the end of the file."""
        end = min(self._position + size, self._file.n_bytes)
        if end > len(self.data):
            # Each request brings as much again as there is: few requests, and at most twice what is needed.
            self._extend(min(max(end, 2 * len(self.data), _FIRST_BYTES), self._file.n_bytes))
        found = bytes(self.data[self._position : end])
        self._position = end
        return found

    def _extend(self, end: int) -> None:
        source = web.pieces(self._remote.repo, self._remote.commit, self._file.name, len(self.data), end)
        with closing(source):
            for position, piece in source:
                del self.data[position:]
                self.data += piece
