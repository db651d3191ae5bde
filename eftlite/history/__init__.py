"""The user's conversations, kept in one SQLite file that terminal and page share.

What was shown is not lost. A question is on the disk before it is answered. Every piece of an answer is committed
before anyone sees it: at once so that it outlasts this process, even ``kill -9``, and once a second so that it
outlasts a power cut, which may therefore take the last second. At the answer's end its pieces become one text, on the
disk. Nothing is removed but by ``delete``, and then it is overwritten in the file.

Knows conversations, messages and their pieces; never models.
"""

from __future__ import annotations

from eftlite.history.recorder import Recorder
from eftlite.history.store import History
from eftlite.history.transcript import Conversation, Message, Summary, export_json, export_markdown

__all__ = ["Conversation", "History", "Message", "Recorder", "Summary", "export_json", "export_markdown"]
