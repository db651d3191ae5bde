"""Conversations found by words, and the texts that lists show of them.

Upper and lower case are the same in all scripts, by Unicode's case folding.
"""

from __future__ import annotations

import sqlite3
from itertools import accumulate
from typing import Any

from eftlite.errors import InputError
from eftlite.history.database import storable
from eftlite.history.transcript import Summary

MAX_TITLE = 60
MAX_PREVIEW = 120
MAX_WORDS = 64

_HAS_ALL = """
    WHERE NOT EXISTS (
        WITH words (word) AS (VALUES {places})
        SELECT 1 FROM words WHERE NOT instr(folded(title), word) AND NOT EXISTS (
            SELECT 1 FROM messages WHERE conversation = conversations.id AND instr(folded(content), word)
        )
    )"""
_SUMMARIES = """
    SELECT id, title, family, created, updated,
        (SELECT count(*) FROM messages WHERE conversation = conversations.id),
        (SELECT substr(content, 1, ?) FROM messages WHERE id = leaf)
    FROM conversations {condition} ORDER BY updated DESC, rowid DESC LIMIT ? OFFSET ?"""


def words_of(query: str) -> tuple[str, ...]:
    """The words of a query, folded, each once; InputError when there are very many."""
    words = tuple(dict.fromkeys(storable(query).casefold().split()))
    if len(words) > MAX_WORDS:
        raise InputError(f"search: expected at most {MAX_WORDS} words, got {len(words)}")
    return words


def find(database: sqlite3.Connection, words: tuple[str, ...], limit: int, offset: int) -> list[Summary]:
    """Conversations in whose title and messages every word occurs, the newest first."""
    database.create_function("folded", 1, str.casefold, deterministic=True)
    condition = _HAS_ALL.format(places=", ".join(["(?)"] * len(words))) if words else ""
    rows = database.execute(_SUMMARIES.format(condition=condition), (MAX_PREVIEW, *words, limit, offset)).fetchall()
    return [Summary(*(*row[:-1], _preview(database, row, words))) for row in rows]


def _preview(database: sqlite3.Connection, row: tuple[Any, ...], words: tuple[str, ...]) -> str:
    """The text around the first word that a message has; without one, the beginning of the last message."""
    for word in words:
        found = database.execute(
            "SELECT content FROM messages WHERE conversation = ? AND instr(folded(content), ?) ORDER BY id LIMIT 1",
            (row[0], word),
        ).fetchone()
        if found:
            return _around(found[0], word)
    return " ".join((row[-1] or "").split())


def _around(text: str, word: str) -> str:
    """The text around a folded word, on one line."""
    at = text.casefold().find(word)
    # Folding may lengthen a text, so the place is counted in the letters it came from.
    start = next(index for index, end in enumerate(accumulate(len(letter.casefold()) for letter in text)) if end > at)
    begin = max(start - MAX_PREVIEW // 3, 0)
    piece = " ".join(text[begin : begin + MAX_PREVIEW].split())
    return f"{'…' if begin else ''}{piece}{'…' if begin + MAX_PREVIEW < len(text) else ''}"


def title_of(question: str) -> str:
    """The beginning of a question on one line."""
    text = " ".join(question[: 4 * MAX_TITLE].split())
    return text if len(text) <= MAX_TITLE else f"{text[: MAX_TITLE - 1].rstrip()}…"
