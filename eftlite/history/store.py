"""All conversations of the user: kept, read again, changed, searched, deleted."""

from __future__ import annotations

import builtins
import json
import secrets
import sqlite3
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eftlite.errors import HistoryError, InputError, NotFoundError
from eftlite.history.database import IN_MEMORY, Database, storable
from eftlite.history.recorder import Recorder, alive, interrupt, this_process
from eftlite.history.schema import MIGRATIONS
from eftlite.history.search import find, title_of, words_of
from eftlite.history.transcript import Conversation, Message, Summary
from eftlite.places import state_folder

if TYPE_CHECKING:
    from typing_extensions import Self


class History:
    """All conversations. Thread-safe; several processes may have it open, and it is closed by ``with``.

    Args:
        path: the file; ``history.db`` in the user's state folder by default.

    Raises:
        HistoryError: the file cannot be read or written; here and in every method. Nothing is half done then.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or state_folder() / "history.db"
        self._database = Database(self.path, MIGRATIONS)
        try:
            self._settle()
        except BaseException:
            self.close()
            raise

    @classmethod
    def temporary(cls) -> Self:
        """A history in memory, gone when it is closed."""
        return cls(IN_MEMORY)

    # ---- conversations

    def create(self, *, title: str = "", system: str = "", family: str = "") -> str:
        """Begin a conversation; returns its id, which cannot be guessed."""
        name, now = secrets.token_hex(6), time.time()
        values = (name, storable(title), storable(system), storable(family), now, now)
        with self._database.change() as database:
            database.execute("INSERT INTO conversations VALUES (?, ?, ?, ?, ?, ?, NULL)", values)
        return name

    def latest(self) -> str | None:
        """The id of the conversation in which something was said last."""
        found = self.list(limit=1)
        return found[0].id if found else None

    def get(self, conversation: str) -> Conversation:
        """A conversation by its id or the beginning of it; NotFoundError if none or several begin so."""
        gone = self._settle()
        with self._database.look() as database:
            row = _row_of(database, conversation)
            pieces = _pieces_of(database, row[0])
            rows = database.execute(
                "SELECT id, parent, role, content, state, mode, created, settings, result FROM messages"
                " WHERE conversation = ? ORDER BY id",
                (row[0],),
            ).fetchall()
            messages = tuple(_message(row, pieces.get(row[0], ""), row[0] in gone) for row in rows)
        return Conversation(*(*row, messages))

    def update(
        self, conversation: str, *, title: str | None = None, system: str | None = None, leaf: int | None = None
    ) -> None:
        """Rename a conversation, change its system message, or go on after another message; 0: before the first."""
        with self._database.change() as database:
            _require(database, conversation, leaf or None)
            for column, value in (("title", title), ("system", system)):
                if value is not None:
                    _set(database, conversation, column, storable(value))
            if leaf is not None:
                _set(database, conversation, "leaf", leaf or None)

    def delete(self, conversation: str) -> None:
        """Remove a conversation and overwrite what it said. Copies from before an upgrade (``*.bak``) still have it."""
        with self._database.change() as database:
            _require(database, conversation)
            database.execute("DELETE FROM conversations WHERE id = ?", (conversation,))
        self._database.empty_log()

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- messages

    def add_user(self, conversation: str, content: str, parent: int | None) -> int:
        """Keep a question, on the disk, and go on from it; returns the message's id.

        The first question gives a conversation without a title its title.

        Args:
            conversation: its id.
            content: what is asked; not empty.
            parent: the message it follows; None makes it a first one.
        """
        if not content:
            raise InputError("content: expected a question, got an empty text")
        content, now = storable(content), time.time()
        with self._database.change() as database:
            _require(database, conversation, parent)
            message = _insert(database, (conversation, parent, "user", "", content, "complete", "{}", now, None, None))
            _set(database, conversation, "leaf", message)
            _set(database, conversation, "updated", now)
            database.execute(
                "UPDATE conversations SET title = ? WHERE id = ? AND title = ''", (title_of(content), conversation)
            )
        return message

    def begin_answer(
        self,
        conversation: str,
        parent: int,
        mode: str = "eft",
        settings: dict[str, Any] | None = None,
        leads: bool = True,
    ) -> Recorder:
        """Begin to keep an answer to the question ``parent``; if it ``leads``, the conversation goes on from it."""
        now = time.time()
        state = (conversation, parent, "assistant", mode, "", "streaming", json.dumps(settings or {}), now)
        writer = this_process()
        with self._database.change(durable=False) as database:
            if _require(database, conversation, parent) != "user":
                raise InputError(f"parent: expected a question, got message {parent}, which is an answer")
            message = _insert(database, (*state, *writer))
            _set(database, conversation, "updated", now)
            if leads:
                _set(database, conversation, "leaf", message)
        return Recorder(self._database, message)

    def tokens(self, message: int) -> builtins.list[dict[str, Any]]:
        """What was kept of an answer's tokens; empty if nothing was."""
        with self._database.look() as database:
            row = database.execute("SELECT tokens FROM messages WHERE id = ?", (message,)).fetchone()
            if row is None:
                raise NotFoundError(f"message: expected one in the history, got {message}")
            found: builtins.list[dict[str, Any]] = json.loads(zlib.decompress(row[0])) if row[0] else []
        return found

    # ---- searching

    def list(self, query: str = "", limit: int = 50, offset: int = 0) -> builtins.list[Summary]:
        """Conversations in whose title and messages every word of the query occurs, the newest first.

        Upper and lower case are the same in all scripts. An answer is found once it is finished.
        """
        words = words_of(query)
        self._settle()
        with self._database.look() as database:
            return find(database, words, limit, offset)

    # ---- answers whose process is gone

    def _settle(self) -> frozenset[int]:
        """Mark answers that nobody writes any more as interrupted, if the disk takes it; returns their ids."""
        with self._database.look() as database:
            streaming = database.execute(
                "SELECT id, writer_pid, writer_began FROM messages WHERE state = 'streaming'"
            ).fetchall()
        gone = frozenset(message for message, pid, birth in streaming if not alive(pid, birth))
        if gone:
            with suppress(HistoryError), self._database.change() as database:
                for message in gone:
                    interrupt(database, message)
        return gone


# ---- rows


def _insert(database: sqlite3.Connection, values: tuple[Any, ...]) -> int:
    """Add a message; returns its id."""
    row = database.execute(
        "INSERT INTO messages (conversation, parent, role, mode, content, state, settings, created, writer_pid,"
        " writer_began, result) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '{}')",
        values,
    )
    assert row.lastrowid is not None
    return row.lastrowid


def _set(database: sqlite3.Connection, conversation: str, column: str, value: str | float | None) -> None:
    """Change one column, whose name is this module's own, of one conversation."""
    database.execute(f"UPDATE conversations SET {column} = ? WHERE id = ?", (value, conversation))  # noqa: S608  see above


def _unknown(conversation: str) -> NotFoundError:
    return NotFoundError(f"conversation: expected the id of one in the history, got {conversation[:40]!r}")


def _require(database: sqlite3.Connection, conversation: str, message: int | None = None) -> str:
    """The role of a message, "" for none; NotFoundError if there is no such conversation or it has no such message."""
    if not database.execute("SELECT 1 FROM conversations WHERE id = ?", (conversation,)).fetchone():
        raise _unknown(conversation)
    if message is None:
        return ""
    row = database.execute(
        "SELECT role FROM messages WHERE id = ? AND conversation = ?", (message, conversation)
    ).fetchone()
    if row is None:
        raise NotFoundError(f"message: expected one of this conversation, got {message}")
    role: str = row[0]
    return role


def _row_of(database: sqlite3.Connection, start: str) -> tuple[Any, ...]:
    """The row of the one conversation whose id begins so."""
    found = database.execute(
        "SELECT id, title, system, family, created, updated, leaf FROM conversations"
        " WHERE substr(id, 1, ?) = ? LIMIT 2",
        (len(start), storable(start)),
    ).fetchall()
    if not start or not found:
        raise _unknown(start)
    if len(found) > 1:
        raise NotFoundError(f"conversation: expected the id of one, got {start[:40]!r}, with which several begin")
    row: tuple[Any, ...] = found[0]
    return row


def _pieces_of(database: sqlite3.Connection, conversation: str) -> dict[int, str]:
    """Texts of answers that are being written, by message."""
    found: dict[int, str] = {}
    for message, text in database.execute(
        "SELECT message, text FROM pieces JOIN messages ON id = message WHERE conversation = ? ORDER BY message, seq",
        (conversation,),
    ):
        found[message] = found.get(message, "") + text
    return found


def _message(row: tuple[Any, ...], rest: str, gone: bool) -> Message:
    """A message of its row, the text that follows its content, and whether its writer is gone."""
    name, parent, role, content, state, mode, created, settings, result = row
    state = "interrupted" if gone else state
    return Message(name, parent, role, content + rest, state, mode, created, json.loads(settings), json.loads(result))
