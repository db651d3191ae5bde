"""A file that is written whole or not at all: until it is whole it is a part beside its place, NAME.PID.part.

Devices and pipes, such as /dev/stdout, are written directly. Knows bytes and paths, never what is in them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from eftlite.errors import EFTError, InputError
from eftlite.gguf_types import shown
from eftlite.inspection import size

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self  # in collections.abc and typing later; a dependency of llama-cpp-python


class NewFile:
    """A file that is being written; closed before ``keep`` was called, nothing is left of it.

    Args:
        n_bytes: how large it will be, as far as that is known; the disk must have room.
        hint: what to do where the disk has none, or the file cannot be begun.

    Attributes:
        path: the name that it gets.
        part: its name until then; a program that takes a name may write there in place of ``write``.

    Raises:
        InputError: it cannot be begun, or the disk has no room for it.
    """

    def __init__(self, path: str | os.PathLike[str], n_bytes: int = 0, hint: str = "") -> None:
        self.path = Path(path)
        self._direct = self.path.exists() and not self.path.is_file()
        self.part = self.path if self._direct else self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            free = shutil.disk_usage(self.path.absolute().parent).free
            if free < n_bytes and not self._direct:
                message = f"{shown(self.path.name)}: expected {size(n_bytes)} of free disk, got {size(free)}"
                raise InputError(message, hint)
            self._file = self.part.open("wb")
        except OSError as error:
            raise InputError(f"{shown(self.path.name)}: cannot be written: {error.strerror}", hint) from None

    def write(self, data: Buffer) -> None:
        """More of it; EFTError when it cannot be written."""
        with self.explained():
            self._file.write(data)

    def keep(self) -> None:
        """Bring the file to the disk and give it its name; EFTError when that fails."""
        with self.explained():
            self._file.flush()
            if not self._direct:
                os.fsync(self._file.fileno())
            self._file.close()
            if not self._direct:
                self.part.replace(self.path)
                _sync(self.path.absolute().parent)

    def close(self) -> None:
        """Remove what was not kept; a second time does nothing."""
        with contextlib.suppress(OSError):  # what could not be written before cannot be now
            self._file.close()
        if not self._direct:
            with contextlib.suppress(OSError):
                self.part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """A full disk and the like, in one line."""
        try:
            yield
        except OSError as error:
            raise EFTError(f"{shown(self.path.name)}: cannot be written: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, in UTF-8 with line feeds; an older one of that name stays until it is whole.

    Raises:
        InputError, EFTError: as ``NewFile``.
    """
    with NewFile(path) as new:
        new.write(text.encode())
        new.keep()


def remove_abandoned(folder: Path, pattern: str) -> None:
    """Remove parts of files like ``pattern`` whose process is no more; OSError when that fails."""
    for part in folder.glob(f"{pattern}.*.part"):
        pid = part.suffixes[-2][1:]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            part.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Bring a rename to the disk, where the system has a way."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
