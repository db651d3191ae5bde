"""A conversation as data: turns, what is not yet sent, files to save and to read again.

Knows roles and text, never models or terminals.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from eftlite import __version__
from eftlite.errors import InputError

MAX_FILE_BYTES = 16 << 20


@dataclass
class Conversation:
    """Questions and answers in turn.

    Attributes:
        system: the system message; empty for none.
        turns: (question, answer) pairs.
        attached: texts of files that go before the next question.
        unsent: a question that got no answer, kept so that nothing typed is lost.
    """

    system: str = ""
    turns: list[tuple[str, str]] = field(default_factory=list)
    attached: list[str] = field(default_factory=list)
    unsent: str = ""

    def messages(self, question: str = "") -> list[dict[str, str]]:
        """What a chat template takes, with a further question at the end."""
        found = [{"role": "system", "content": self.system}] if self.system else []
        for asked, answered in self.turns:
            found += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        return [*found, {"role": "user", "content": question}] if question else found

    @property
    def size(self) -> str:
        """How long it is, in words."""
        count = len(self.turns)
        waiting = "; /regen sends the last message" if self.unsent else ""
        return f"{count} question{'' if count == 1 else 's'} with answers{waiting}"

    def compose(self, text: str) -> str:
        """A question made of the attached files and the text; nothing stays attached."""
        question = "\n\n".join([*self.attached, text] if text else self.attached)
        self.attached.clear()
        return question

    def add(self, question: str, answer: str) -> None:
        """Keep a turn; a question without any answer is kept as unsent."""
        if answer:
            self.turns.append((question, answer))
            self.unsent = ""
        else:
            self.unsent = question

    def take_back(self) -> str:
        """Remove what was asked last, and its answer; returns the question, or "" if there is none."""
        if self.unsent:
            question, self.unsent = self.unsent, ""
        else:
            question = self.turns.pop()[0] if self.turns else ""
        return question

    def clear(self) -> None:
        """Forget everything but the system message."""
        self.turns.clear()
        self.attached.clear()
        self.unsent = ""

    # ---- files

    def to_json(self, family: str) -> str:
        """The conversation as other programs read it too: ``{"messages": [{"role", "content"}, …]}``."""
        value = {"eftlite": __version__, "family": family, "messages": self.messages(self.unsent)}
        return json.dumps(value, ensure_ascii=False, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Conversation:
        """What ``to_json`` wrote, or any object with such messages; InputError says what is wrong."""
        try:
            messages = json.loads(text)["messages"]
            pairs = [(str(message["role"]), str(message["content"])) for message in messages]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise InputError('conversation: expected JSON with "messages", each with role and content') from None
        return cls.from_messages(pairs)

    @classmethod
    def from_messages(cls, pairs: Iterable[tuple[str, str]]) -> Conversation:
        """A conversation of its (role, content) pairs; InputError when they do not alternate."""
        conversation = cls()
        for role, content in pairs:
            conversation._read(role, content)
        return conversation

    def _read(self, role: str, content: str) -> None:
        """Take one message of a file: system first, then questions and answers in turn."""
        fits = {
            "system": not self.turns and not self.unsent and not self.system,
            "user": not self.unsent,
            "assistant": bool(self.unsent),
        }
        if not fits.get(role):
            raise InputError(f"conversation: expected questions and answers in turn, got a message of {role[:40]!r}")
        if role == "system":
            self.system = content
        elif role == "user":
            self.unsent = content
        else:
            self.add(self.unsent, content)

    def markdown(self) -> str:
        """The conversation as a document."""
        return "\n\n".join(self._paragraphs()) + "\n"

    def _paragraphs(self) -> Iterator[str]:
        yield "# Conversation"
        if self.system:
            yield f"*{self.system}*"
        for question, answer in self.turns:
            yield f"**You:** {question}"
            yield answer


def read_text(name: str) -> str:
    """A file's text; InputError when it cannot be read, is no text, or is very large."""
    path = Path(name).expanduser()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path.name}: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{path.name}: expected at most {MAX_FILE_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path.name}: expected UTF-8 text") from None


def write_new(name: str, text: str, may_replace: bool) -> Path:
    """Write a file, replacing an existing one only if allowed; returns its path. InputError when it cannot."""
    path = Path(name).expanduser()
    try:
        with path.open("w" if may_replace else "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{path.name}: there is such a file", "Give another name") from None
    except OSError as error:
        raise InputError(f"{path.name}: {error.strerror or error}") from None
    return path
