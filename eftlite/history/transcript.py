"""A kept conversation as data: a tree of messages, the path through it that is sent to a model, and its exports.

A turn that is edited and an answer that is made again are siblings of what was there before, and so are the answers of
base, tuned and EFT to one question. Knows no file and no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from eftlite import __version__
from eftlite.errors import NotFoundError


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes:
        id: grows in the order of making, over all conversations.
        parent: the message it follows; None for a conversation's first.
        role: "user" or "assistant".
        content: what it says; of an answer being written, what there is by now.
        state: "complete"; an answer's may also be "streaming", "stopped" by the user, "failed", or "interrupted": the
            process that wrote it is gone.
        mode: who answers: "eft", "base", "tuned" or "reference"; empty for the user.
        created: seconds since 1970.
        settings: under which it was answered.
        result: what it took.
    """

    id: int
    parent: int | None
    role: str
    content: str
    state: str
    mode: str
    created: float
    settings: dict[str, Any]
    result: dict[str, Any]


@dataclass(frozen=True)
class Summary:
    """A conversation in a list.

    Attributes:
        id: names it.
        title: the beginning of its first question, or what the user made of it.
        family: the models it began with.
        created, updated: seconds since 1970.
        n_messages: of the whole tree.
        preview: the text around what was searched for, or the beginning of the last message.
    """

    id: str
    title: str
    family: str
    created: float
    updated: float
    n_messages: int
    preview: str


@dataclass(frozen=True)
class Conversation:
    """A conversation with all its messages, oldest first; ``leaf`` is the one after which it goes on."""

    id: str
    title: str
    system: str
    family: str
    created: float
    updated: float
    leaf: int | None
    messages: tuple[Message, ...]

    def path(self, leaf: int | None = None) -> list[Message]:
        """The messages from the first to ``leaf``, by default the conversation's; NotFoundError if it is not here."""
        by_id = {message.id: message for message in self.messages}
        found = []
        at = self.leaf if leaf is None else leaf
        while at is not None:
            if at not in by_id:
                raise NotFoundError(f"message: expected one of this conversation, got {at}")
            found.append(by_id[at])
            at = by_id[at].parent
        return found[::-1]

    def turns(self, leaf: int | None = None) -> list[Message]:
        """The path as templates demand it, question and answer in turn.

        A question that got no text for an answer is left out, unless it is the last.
        """
        found: list[Message] = []
        for message in self.path(leaf):
            if message.role == "user" and found and found[-1].role == "user":
                found.pop()
            if message.content:
                found.append(message)
        return found

    def chat_messages(self, leaf: int | None = None) -> list[dict[str, str]]:
        """The path's turns as ``EFT.chat`` takes them, the system message first."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return system + [{"role": turn.role, "content": turn.content} for turn in self.turns(leaf)]


def export_json(conversation: Conversation) -> str:
    """One object: "messages" is the path, as other programs and ``/load`` read it; "conversation" is the whole tree."""
    value = {
        "eftlite": __version__,
        "family": conversation.family,
        "messages": conversation.chat_messages(),
        "conversation": asdict(conversation),
    }
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def export_markdown(conversation: Conversation) -> str:
    """The path as a document."""
    return "\n\n".join(_paragraphs(conversation)) + "\n"


def _paragraphs(conversation: Conversation) -> Iterator[str]:
    yield f"# {conversation.title or 'Conversation'}"
    if conversation.system:
        yield f"*{conversation.system}*"
    for message in conversation.path():
        if message.role == "user":
            yield f"**You:** {message.content}"
        elif message.content:
            yield message.content
        if message.state != "complete":
            yield f"*({message.state})*"
