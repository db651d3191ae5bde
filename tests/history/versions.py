"""Later versions of the history's file than there are, and connections that die while a file becomes one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from eftlite.history.database import Migrations
from eftlite.history.schema import MIGRATIONS

# Version 2 replaces the table that pieces refer to, as SQLite's manual says to change one; version 3 adds to one.
LATER: Migrations = (
    *MIGRATIONS,
    (
        MIGRATIONS[0][1]
        .replace("CREATE TABLE messages", "CREATE TABLE renewed")
        .replace("writer_began REAL", "writer_began REAL, stars INTEGER"),
        "INSERT INTO renewed SELECT *, NULL FROM messages",
        "DROP TABLE messages",
        "ALTER TABLE renewed RENAME TO messages",
        "CREATE INDEX by_stars ON messages (stars)",
    ),
    ("ALTER TABLE conversations ADD COLUMN pinned INTEGER", "UPDATE conversations SET pinned = 1"),
)


class Dying(sqlite3.Connection):
    """Dies before or after its n-th statement from now."""

    die: Callable[[], None]
    left = 1 << 30
    before = True

    def execute(self, *words: Any) -> sqlite3.Cursor:
        self.left -= 1
        if not self.left and self.before:
            self.die()
        cursor = super().execute(*words)
        if not self.left and not self.before:
            self.die()
        return cursor


@contextmanager
def dying(path: Path, left: int, before: bool, die: Callable[[], None]) -> Iterator[Dying]:
    """A connection as the database's own."""
    connection = sqlite3.connect(path, isolation_level=None, factory=Dying)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.before, connection.left, connection.die = before, left, die
        yield connection
    finally:
        connection.left = 1 << 30
        connection.close()


def state(path: Path) -> tuple[int, list[str]]:
    """A file's version and all of its contents."""
    with closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        return version, list(connection.iterdump())
