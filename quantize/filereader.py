"""A binary file that is read within bounds: what is missing or damaged is an error that names the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from eftlite.errors import InputError
from eftlite.gguf_types import shown

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on; a dependency of llama-cpp-python


class FileReader:
    """A file, opened; a format's own reader says in ``_read_head`` what it begins with.

    Attributes:
        hint: what to do about a file that is not what it should be.

    Raises:
        InputError: it cannot be read, or is not of the format; the message says what is wrong.
    """

    hint: ClassVar[str] = ""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._file = self.path.open("rb")
        except OSError as error:
            raise InputError(f"{shown(self.path.name)}: cannot be read: {error.strerror}", self.hint) from None
        try:
            self._read_head()
        except BaseException:
            self.close()
            raise

    def _read_head(self) -> None:
        """Read what the file says of itself, up to its first row."""

    def _take(self, n_bytes: int, what: str) -> bytes:
        """The next bytes."""
        data = self._file.read(n_bytes)
        if len(data) < n_bytes:
            raise self._bad(f"{n_bytes:,} bytes of {what}", f"{len(data):,}")
        return data

    def _check_size(self, expected: int, of_what: str) -> None:
        """A file that was cut short is refused before hours are spent on its beginning."""
        found = os.fstat(self._file.fileno()).st_size
        if found != expected:
            end = "it was cut short" if found < expected else "something was added"
            raise self._bad(f"{expected:,} bytes for {of_what}", f"{found:,}: {end}")

    def _bad(self, expected: str, got: str) -> InputError:
        return InputError(f"{shown(self.path.name)}: expected {expected}, got {got}", self.hint)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
