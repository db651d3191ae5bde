"""Opens a model file and reads it through a small window: only regular files, never past the end, never waiting.

Knows bytes and strings of the GGUF format, never keys or tensors. Errors carry no file name; gguf.py puts it in front.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO, RawIOBase
from pathlib import Path

from eftlite.errors import ModelFileError
from eftlite.gguf_types import bad, shown

AGAIN = "Fetch the file again: the download is unfinished, or the file was cut"
DAMAGED = "The file is damaged; fetch it again"
_WINDOW = 1 << 16
_WIDE_WINDOW = 1 << 20
_UINT64 = struct.Struct("<Q")
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISCHR, "a character device"),
)
_PROBLEMS = {
    errno.ENOENT: "there is no such file",
    errno.ELOOP: "symbolic links point at each other in a loop",
    errno.EACCES: "there is no permission to read it",
    errno.ENOTDIR: "a part of the path is not a directory",
    errno.ENAMETOOLONG: "the path is too long",
}


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[FileIO, int]]:
    """Open a regular file and give it with its size in bytes; never waits for a pipe or a device.

    Raises:
        ModelFileError: anything else, named.
    """
    try:
        _refuse_special(path.stat())
        # Between the two looks the path may have become a pipe: do not block on it, and look again.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        handle = FileIO(os.open(path, flags), "rb")
    except OSError as error:
        raise bad(f"expected a GGUF file, but {_problem(path, error)}", "Check the path") from None
    except ValueError:
        raise bad("expected the path of a GGUF file, got one with a NUL character") from None
    with handle:
        found = os.fstat(handle.fileno())
        _refuse_special(found)
        if found.st_size == 0:
            raise bad("expected a GGUF file, got an empty one (0 bytes)", AGAIN)
        yield handle, found.st_size


def _refuse_special(found: os.stat_result) -> None:
    """Raise ModelFileError for anything but a regular file."""
    if not stat.S_ISREG(found.st_mode):
        kind = next((kind for test, kind in _KINDS if test(found.st_mode)), "something that is not a file")
        raise bad(f"expected a GGUF file, got {kind}")


def _problem(path: Path, error: OSError) -> str:
    """Why a path cannot be opened, in words."""
    if error.errno == errno.ENOENT and path.is_symlink():
        return "it is a symbolic link to a file that does not exist"
    return _PROBLEMS.get(error.errno or 0, shown(error.strerror or "it cannot be opened"))


class Reader:
    """Little-endian values out of an open file or a part of one, through a window of at most 1 MiB.

    Attributes:
        n_bytes: size of the file.
        position: where the next value is read, in bytes from the beginning of the file.
    """

    def __init__(self, handle: RawIOBase, n_bytes: int, position: int = 0) -> None:
        self.n_bytes = n_bytes
        self.position = position
        self._handle = handle
        self._window = b""
        self._start = 0

    @property
    def left(self) -> int:
        """Bytes from here to the end of the file."""
        return self.n_bytes - self.position

    def peek(self, n: int) -> bytes:
        """The next n bytes, fewer at the end of the file, without moving; n is at most 65,536."""
        begin = self.position - self._start
        if not (begin >= 0 and begin + n <= len(self._window)):
            self._fill(_WINDOW)
            begin = 0
        return self._window[begin : begin + n]

    def _fill(self, n: int) -> None:
        """Move the window to the present position."""
        self._handle.seek(self.position)
        self._window = self._handle.read(min(n, self.left)) or b""
        self._start = self.position

    def take(self, n: int, what: str) -> bytes:
        """The next n bytes, at most 65,536; ``what`` names them in the error when the file ends before."""
        data = self.peek(n)
        if len(data) < n:
            raise bad(f"expected {n:,} bytes of {what} at byte {self.position:,}, got {len(data):,}", AGAIN)
        self.position += n
        return data

    def number(self, code: str, what: str) -> int:
        """One integer of struct's type ``code``."""
        value: int = struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0]
        return value

    def skip(self, n: int, what: str) -> None:
        """Step over n bytes that must be there."""
        if n > self.left:
            raise bad(f"expected {n:,} bytes of {what} at byte {self.position:,}, got {self.left:,}", AGAIN)
        self.position += n

    def text(self, limit: int, what: str) -> bytes:
        """A string of at most ``limit`` bytes, and that at most 65,536."""
        n = self.number("Q", f"the length of {what}")
        if n > limit:
            raise bad(f"expected {what} of at most {limit:,} bytes, got {n:,}", DAMAGED)
        return self.take(n, what)

    def strings(self, count: int, what: str) -> Iterator[list[bytes]]:
        """The next ``count`` strings, in lists of as many as a window holds."""
        while count:
            pieces = self._strings_in_window(count)
            if not pieces:
                self._fill(_WIDE_WINDOW)
                pieces = self._strings_in_window(count)
            if not pieces:
                raise self._no_string(what)
            count -= len(pieces)
            yield pieces

    def _no_string(self, what: str) -> ModelFileError:
        """Why not even a wide window holds the next string."""
        n = self.number("Q", f"the length of {what}")
        if n > self.left:
            return bad(f"expected {n:,} bytes of {what} at byte {self.position:,}, got {self.left:,}", AGAIN)
        return bad(f"expected {what} of less than {_WIDE_WINDOW:,} bytes, got {n:,}", DAMAGED)

    def _strings_in_window(self, count: int) -> list[bytes]:
        """Strings that the window holds as a whole; this loop is the cost of checking a real vocabulary."""
        window, end, at, unpack = self._window, len(self._window), self.position - self._start, _UINT64.unpack_from
        pieces: list[bytes] = []
        for _ in range(count):
            begin = at + 8
            if begin > end:
                break
            stop = begin + unpack(window, at)[0]
            if stop > end:
                break
            pieces.append(window[begin:stop])
            at = stop
        if pieces:
            self.position = self._start + at
        return pieces
