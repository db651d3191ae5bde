"""The tables: version n + 1 is made of version n by the n-th tuple of statements. Steps are added, never changed."""

from __future__ import annotations

import sqlite3

_STRICT = sqlite3.sqlite_version_info >= (3, 37)

MIGRATIONS = (
    (
        f"""CREATE TABLE conversations (
            id TEXT PRIMARY KEY NOT NULL,
            title TEXT NOT NULL,
            system TEXT NOT NULL,
            family TEXT NOT NULL,
            created REAL NOT NULL,
            updated REAL NOT NULL,
            leaf INTEGER
        ) {"STRICT" if _STRICT else ""}""",
        # AUTOINCREMENT: the number of a deleted message is never given again, so that who still writes to it cannot
        # write into another one. While an answer streams, writer_pid and writer_began say which process writes it.
        f"""CREATE TABLE messages (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
            parent INTEGER,
            role TEXT NOT NULL,
            mode TEXT NOT NULL,
            content TEXT NOT NULL,
            state TEXT NOT NULL,
            settings TEXT NOT NULL,
            result TEXT NOT NULL,
            tokens BLOB,
            created REAL NOT NULL,
            writer_pid INTEGER,
            writer_began REAL
        ) {"STRICT" if _STRICT else ""}""",
        "CREATE INDEX messages_of_conversation ON messages (conversation)",
        "CREATE INDEX messages_streaming ON messages (id) WHERE state = 'streaming'",
        f"""CREATE TABLE pieces (
            message INTEGER NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
            seq INTEGER NOT NULL,
            text TEXT NOT NULL,
            PRIMARY KEY (message, seq)
        ) {"STRICT, " if _STRICT else ""}WITHOUT ROWID""",
    ),
)
