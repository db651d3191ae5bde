"""An answer on its way into the history, piece by piece; and whether the process that wrote one still lives."""

from __future__ import annotations

import json
import os
import sqlite3
import time
import zlib
from typing import Any

from eftlite.errors import NotFoundError
from eftlite.history.database import Database, storable

SYNC_S = 1.0
# The clock from which a process's birth is counted may have been set a little since.
_SAME_BIRTH_S = 5.0


class Recorder:
    """Keeps one answer while it is made.

    Attributes:
        message_id: of the answer.
    """

    def __init__(self, database: Database, message_id: int) -> None:
        self.message_id = message_id
        self._database = database
        self._texts: list[str] = []
        self._synced = time.monotonic()
        self._finished = False

    def add(self, text: str) -> None:
        """Keep what is about to be shown. NotFoundError when the answer was deleted meanwhile."""
        if not text:
            return
        self._texts.append(storable(text))
        now = time.monotonic()
        durable = now - self._synced >= SYNC_S
        row = (self.message_id, len(self._texts), self._texts[-1])
        with self._database.change(durable) as database:
            try:
                database.execute("INSERT INTO pieces VALUES (?, ?, ?)", row)
            except sqlite3.IntegrityError:
                raise self._deleted() from None
        if durable:
            self._synced = now

    def finish(
        self, state: str, result: dict[str, Any] | None = None, tokens: list[dict[str, Any]] | None = None
    ) -> None:
        """Keep how it ended: "complete", "stopped" or "failed". Only the first end counts."""
        if self._finished:
            return
        packed = zlib.compress(json.dumps(tokens).encode()) if tokens else None
        row = ("".join(self._texts), state, json.dumps(result or {}), packed, self.message_id)
        with self._database.change() as database:
            changed = database.execute(
                "UPDATE messages SET content = ?, state = ?, result = ?, tokens = ?, writer_pid = NULL,"
                " writer_began = NULL WHERE id = ?",
                row,
            )
            if not changed.rowcount:
                raise self._deleted()
            database.execute("DELETE FROM pieces WHERE message = ?", (self.message_id,))
        self._finished = True

    def _deleted(self) -> NotFoundError:
        return NotFoundError(f"message: {self.message_id} was deleted while it was written")


# ---- who writes


def this_process() -> tuple[int, float]:
    """Number and birth of this process, which together name it for good."""
    return os.getpid(), _birth(os.getpid())


def _birth(pid: int) -> float:
    import psutil

    found: float = psutil.Process(pid).create_time()
    return found


def alive(pid: int, birth: float) -> bool:
    """Whether a process still runs.

    One that cannot be seen from here, in another container, counts as gone; what it still writes is kept all the same.
    """
    import psutil

    try:
        return abs(_birth(pid) - birth) < _SAME_BIRTH_S and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def interrupt(database: sqlite3.Connection, message: int) -> None:
    """Make one text of an answer's pieces, unless another process has done so."""
    texts = database.execute("SELECT text FROM pieces WHERE message = ? ORDER BY seq", (message,)).fetchall()
    changed = database.execute(
        "UPDATE messages SET content = content || ?, state = 'interrupted', writer_pid = NULL, writer_began = NULL"
        " WHERE id = ? AND state = 'streaming'",
        ("".join(text for (text,) in texts), message),
    )
    if changed.rowcount:
        database.execute("DELETE FROM pieces WHERE message = ?", (message,))
