"""The line in front of the engine: bounded, first come first served for one client, in turn among clients.

Pure logic: knows items and names of clients; never requests, engines or clocks.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Generic, TypeVar

from eftlite.errors import BusyError

T = TypeVar("T")
MAX_RETRY_S = 600
_N_REMEMBERED = 32


class WaitingLine(Generic[T]):
    """Items that wait, each for its client's turn.

    Args:
        limit: most items that may wait.
        n_slots: how many are served at a time.
    """

    def __init__(self, limit: int, n_slots: int) -> None:
        self.limit, self.n_slots = limit, n_slots
        self._lines: dict[str, deque[T]] = {}  # the first client's turn is next
        self._seconds: deque[float] = deque(maxlen=_N_REMEMBERED)

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def add(self, client: str, item: T) -> None:
        """Put an item at the end of its client's line.

        Raises:
            BusyError: the limit is reached.
        """
        if len(self) >= self.limit:
            raise BusyError(
                f"engine: expected at most {self.limit} waiting requests, got one more",
                "Ask again later",
                self.retry_after_s,
            )
        self._lines.setdefault(client, deque()).append(item)

    def pop(self) -> T:
        """Take the item whose turn it is; its client's next turn comes after all others'. IndexError when empty."""
        if not self._lines:
            raise IndexError("nobody is waiting")
        client = next(iter(self._lines))
        line = self._lines.pop(client)
        item = line.popleft()
        if line:
            self._lines[client] = line
        return item

    def remove(self, item: T) -> None:
        """Take an item out, whoever's it is; nothing happens when it does not wait."""
        for client, line in self._lines.items():
            if item in line:
                line.remove(item)
                if not line:
                    del self._lines[client]
                return

    def clear(self) -> list[T]:
        """Take all items out."""
        items = [item for line in self._lines.values() for item in line]
        self._lines.clear()
        return items

    # ---- how long it takes

    def served(self, seconds: float) -> None:
        """Learn how long an item took."""
        self._seconds.append(seconds)

    @property
    def retry_after_s(self) -> int:
        """Seconds until all that wait now should have had their turn, 1 at least."""
        mean_s = sum(self._seconds) / len(self._seconds) if self._seconds else 0.0
        return min(max(math.ceil(mean_s * len(self) / self.n_slots), 1), MAX_RETRY_S)
