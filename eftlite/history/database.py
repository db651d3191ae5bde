"""A SQLite file of the user's: private, shared by processes, brought up to date, its failures told in words.

What must outlast a power cut is committed on a connection that waits for the disk (``synchronous=FULL``). A second
one (``NORMAL``) hands its commits to the operating system, which takes some 20 µs and outlasts the process, ``kill -9``
included. A third one reads. Knows nothing of what the tables mean.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from eftlite.errors import HistoryError

IN_MEMORY = Path(":memory:")
BUSY_S = 10.0  # for another process; one transaction takes milliseconds
# Version n + 1 is made of version n by the n-th tuple's statements.
Migrations = Sequence[Sequence[str]]

# What reading gives where the file's structure is sound and its contents are not.
_NONSENSE = (UnicodeDecodeError, json.JSONDecodeError, zlib.error)
_DAMAGED = "It was left as it is. Move it away to begin anew; `sqlite3 FILE .recover` reads what is left of it"
# Part of SQLite's message, which older Pythons do not give a code; what it means; what to do.
_FAILURES = (
    ("is full", "there is no room on its disk", "Make room there"),
    ("disk I/O", "its disk does not take or give data", "Is the disk full, or failing?"),
    ("locked", f"another program has kept it locked for {BUSY_S:g} s", "Try again"),
    ("malformed", "the file is damaged", _DAMAGED),
    ("not a database", "the file is damaged", _DAMAGED),
    ("readonly", "it cannot be written", "Look at the rights of the file and of its folder"),
    ("unable to open", "it cannot be opened", "Look at the rights of the file and of its folder"),
)


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """What fails inside as a HistoryError: the file's name in its message, the whole path in its hint."""
    try:
        yield
    except (sqlite3.Error, OSError, *_NONSENSE) as error:
        text = "malformed" if isinstance(error, _NONSENSE) else getattr(error, "strerror", None) or str(error)
        found = (failure for failure in _FAILURES if failure[0] in text)
        _, meaning, remedy = next(found, ("", text, "Nothing was changed"))
        raise HistoryError(f"{path.name}: {meaning}", f"{remedy}. The file is {path}") from error


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
    """All of it or nothing; kinds are SQLite's. IMMEDIATE waits its turn here, so that nothing later is refused."""
    try:
        connection.execute(f"BEGIN {kind}")
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # not when waiting was in vain, or a full disk has ended it
            connection.execute("ROLLBACK")
        raise


class Database:
    """A file of tables; made when it is not there. Thread-safe.

    Args:
        path: of the file; IN_MEMORY for what ends with the object.
        migrations: from nothing to the present version.

    Raises:
        HistoryError: it cannot be read or written, is damaged, or is of a newer version; here and in every method.
    """

    def __init__(self, path: Path, migrations: Migrations) -> None:
        self.path = path
        self._writing = self._reading = threading.RLock()
        with in_words(path), ExitStack() as stack:
            if path == IN_MEMORY:
                self._sure = self._quick = self._reader = stack.enter_context(closing(_connect(path, "FULL")))
            else:
                _make(path)
                self._sure, self._quick, self._reader = (
                    stack.enter_context(closing(_connect(path, level))) for level in ("FULL", "NORMAL", "NORMAL")
                )
                self._reading = threading.RLock()  # a long search holds up no answer
                # A checkpoint waits for the disk; those of the other connection are enough.
                self._quick.execute("PRAGMA wal_autocheckpoint=0")
            migrate(self._sure, path, migrations)
            for connection in (self._sure, self._quick):
                connection.execute("PRAGMA foreign_keys=ON")
            self._connections = stack.pop_all()

    @contextmanager
    def change(self, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction that writes; a power cut cannot undo it if it is ``durable``."""
        with self._writing, in_words(self.path), transaction(self._sure if durable else self._quick) as connection:
            yield connection

    @contextmanager
    def look(self) -> Iterator[sqlite3.Connection]:
        """A transaction that reads, all of it at one moment."""
        with self._reading, in_words(self.path), transaction(self._reader, "DEFERRED") as connection:
            yield connection

    def empty_log(self) -> None:
        """Move everything from the write-ahead log into the file, so that nothing deleted lingers there."""
        with self._writing, in_words(self.path):
            self._sure.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Let go of the file."""
        with self._writing, self._reading:
            self._connections.close()


def _make(path: Path) -> None:
    """Folder and file, readable by their owner only. What is there already keeps its rights."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Never opened when it exists: closing a file drops the locks that SQLite may hold on it in this process.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _connect(path: Path, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        _write_ahead(connection)
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("PRAGMA fullfsync=ON")  # macOS: its fsync alone leaves data in the drive's cache
        connection.execute("PRAGMA secure_delete=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log. SQLite does not wait for another program that does so too; this does."""
    deadline = time.monotonic() + BUSY_S
    while not _switches(connection):
        if time.monotonic() > deadline:
            raise sqlite3.OperationalError("database is locked")
        time.sleep(0.005)


def _switches(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            return False
        raise
    return True


def storable(text: str) -> str:
    """The text without halves of characters (lone surrogates), which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


# ---- versions


def version_of(connection: sqlite3.Connection) -> int:
    """The schema's version; 0 for an empty file."""
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return found


def migrate(connection: sqlite3.Connection, path: Path, migrations: Migrations) -> None:
    """Bring a file up to date, each step whole or not at all; before the first one a copy is put aside.

    Foreign keys must be off: a step may replace a table, which would delete what refers to it.

    Raises:
        HistoryError: the file is newer than ``migrations``, or damaged.
    """
    before = version_of(connection)
    if before > len(migrations):
        raise HistoryError(
            f"{path.name}: expected version {len(migrations)} or an older one, got {before}",
            f"A newer eftlite wrote it: update this one. The file is {path}",
        )
    for version in range(before, len(migrations)):
        with transaction(connection):
            if version_of(connection) != version:
                continue  # another process was quicker
            if version == before > 0:
                _put_aside(path, before)
            for statement in migrations[version]:
                connection.execute(statement)
            if connection.execute("PRAGMA foreign_key_check").fetchone():
                raise sqlite3.IntegrityError(f"version {version + 1} would leave rows that belong to nothing")
            connection.execute(f"PRAGMA user_version={version + 1}")


def _put_aside(path: Path, version: int) -> None:
    """Copy a sound file to ``NAME.vN.bak``; whoever calls holds the lock for writing."""
    part, aside = (path.with_name(f"{path.name}.v{version}.{ending}") for ending in ("part", "bak"))
    part.unlink(missing_ok=True)
    _make(part)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(part)) as target:
        if source.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            raise sqlite3.DatabaseError("database disk image is malformed")
        target.execute("PRAGMA journal_mode=MEMORY")  # no second file beside a copy that is thrown away if it fails
        source.backup(target)
    part.replace(aside)
