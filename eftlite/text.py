"""Incremental UTF-8 and stop strings: token bytes in, text that is certain to be visible out.

Knows bytes and text, never ids or models.

Not guaranteed: that a stop string inside a *prompt* is noticed; only what is pushed is looked at.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from eftlite.errors import InputError


def visible_text(text: str) -> bytes:
    """UTF-8 of any Python string, for tokenizing a prompt; never raises.

    Lone surrogates have no UTF-8. Two that form a pair (JSON escapes that were joined piece by piece) become the
    character they stand for, any other becomes U+FFFD, as in WHATWG's USVString.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


class _StopString:
    """One stop string and how much of it the text read so far ends with (Knuth, Morris and Pratt 1977)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.n_matched = 0
        # borders[n]: length of the longest proper prefix of text[:n] that is also its suffix.
        self.borders = [0, 0]
        for char in text[1:]:
            n_border = self.borders[-1]
            while n_border and text[n_border] != char:
                n_border = self.borders[n_border]
            self.borders.append(n_border + (text[n_border] == char))

    def read(self, char: str) -> bool:
        """Advance by one character; True when the stop string is complete. Must not be called after that."""
        while self.n_matched and self.text[self.n_matched] != char:
            self.n_matched = self.borders[self.n_matched]
        self.n_matched += self.text[self.n_matched] == char
        return self.n_matched == len(self.text)


class TextStream:
    r"""Visible text of one answer, made from its tokens' bytes.

    Held back until their meaning is certain: bytes that begin a UTF-8 character, and text that could begin a stop
    string. Whatever the borders between tokens, the whole text is the same, in time linear in its length.

    Which stop string wins: the one that is **complete first**, as in llama.cpp when every token is one character; of
    several that are complete at the same character, the longest, which began earliest. So of "\n" and "\n\n" the
    shorter always wins, and no token is generated only to find out whether a longer one would have matched.

    Attributes:
        stopped: the stop string that ended the text, or None. Neither it nor anything behind it is ever visible.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        """Raise InputError for a bare string in place of a sequence of them, and for an empty stop string."""
        if isinstance(stop, str) or not all(stop):
            raise InputError(f"stop: expected a list of non-empty strings, got {stop!r}")
        self.stopped: str | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = [_StopString(text) for text in sorted(set(stop), key=len, reverse=True)]
        # What is held is a proper prefix of a stop string, so it is kept as that string and a length: no copying.
        self._holder = ""
        self._n_held = 0

    def push(self, piece: bytes) -> str:
        """Add one token's bytes; returns the text that is now certain, "" once a stop string has matched."""
        return self._read(self._decoder.decode(piece))

    def finish(self) -> str:
        """The rest, when no token follows; call it once, at the end.

        Bytes of a character that was never completed become U+FFFD, as ``bytes.decode(errors="replace")`` has it;
        the beginning of a stop string that was never completed becomes visible.
        """
        text = self._read(self._decoder.decode(b"", final=True))
        rest, self._n_held = self._holder[: self._n_held], 0
        return text + rest

    def _read(self, text: str) -> str:
        """Look for stop strings in new characters; returns what is certain of the held and the new ones."""
        if self.stopped is not None or not text:
            return ""
        if not self._stops:
            return text
        for n_read, char in enumerate(text, start=self._n_held + 1):
            # A list, because every stop string must read the character.
            complete = [stop.text for stop in self._stops if stop.read(char)]
            if complete:
                self.stopped = complete[0]
                certain, self._n_held = self._first(n_read - len(complete[0]), text), 0
                return certain
        longest = max(self._stops, key=lambda stop: stop.n_matched)
        certain = self._first(self._n_held + len(text) - longest.n_matched, text)
        self._holder, self._n_held = longest.text, longest.n_matched
        return certain

    def _first(self, n_chars: int, text: str) -> str:
        """The first n_chars of what is held followed by text."""
        n_from_held = min(n_chars, self._n_held)
        return self._holder[:n_from_held] + text[: n_chars - n_from_held]
