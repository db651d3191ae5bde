"""A conversation's copy in the history, made while one talks.

A history that fails is told of once, and the conversation goes on without it. Knows the history's interface, no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from eftlite.cli.conversation import Conversation
from eftlite.errors import EFTError
from eftlite.responses import eft_block

if TYPE_CHECKING:
    from eftlite.cli.repl import Last
    from eftlite.history import Conversation as Kept
    from eftlite.history import History, Recorder


class Recording:
    """Where a conversation stands in the history.

    The question asked last is remembered after it was taken back, since an answer to it may still be made: again, in
    its place (``/regen``), or beside it (``/compare``).

    Args:
        history: None keeps nothing.
        family: the models' name.
        warn: told when the history fails.
    """

    def __init__(self, history: History | None, family: str = "", warn: Callable[[str], None] | None = None) -> None:
        self._history, self._family, self._warn = history, family, warn
        self._id: str | None = None  # of the conversation; there is none before the first question
        self._path: list[int] = []  # ids of questions and answers in turn, as the terminal's conversation has them
        self._question: int | None = None
        self._taken_back = ""
        self._problem = ""

    @contextmanager
    def _if_possible(self, tell: bool = True) -> Iterator[History]:
        """The history; when it fails here, it is given up."""
        assert self._history is not None
        try:
            yield self._history
        except EFTError as error:
            self._history, self._problem = None, f"this conversation is kept no further: {error}"
        if tell:
            self._tell()

    def _tell(self) -> None:
        if self._problem and self._warn:
            self._warn(self._problem)
        self._problem = ""

    # ---- the conversation

    def resume(self, kept: Kept) -> None:
        """Go on with a conversation of the history."""
        self._id, self._path = kept.id, [turn.id for turn in kept.turns()]

    def restart(self) -> None:
        """What is said next belongs to another conversation."""
        self._id, self._path, self._question, self._taken_back = None, [], None, ""

    def change_system(self, system: str) -> None:
        """Keep the system message."""
        if self._history and self._id:
            with self._if_possible() as history:
                history.update(self._id, system=system)

    def ask(self, question: str, before: Conversation) -> None:
        """Keep a question; of a new conversation also what was said ``before``."""
        if not self._history:
            return
        with self._if_possible() as history:
            name = self._begin(history, before)
            if self._unanswered:
                self._path.pop()  # it got no answer, and this question takes its place
            if question != self._taken_back or self._question is None:
                self._question = history.add_user(name, question, self._leaf)
            self._path.append(self._question)
            self._taken_back = ""

    @property
    def _leaf(self) -> int | None:
        return self._path[-1] if self._path else None

    @property
    def _unanswered(self) -> bool:
        return len(self._path) % 2 == 1

    def _begin(self, history: History, before: Conversation) -> str:
        """The conversation's id; a new one is given the turns that were made elsewhere."""
        if self._id is None:
            self._id = history.create(system=before.system, family=self._family)
            for asked, answered in before.turns:
                question = history.add_user(self._id, asked, self._leaf)
                recorder = history.begin_answer(self._id, question)
                recorder.add(answered)
                recorder.finish("complete")
                self._path += [question, recorder.message_id]
        return self._id

    @contextmanager
    def aside(self, question: str, before: Conversation) -> Iterator[None]:
        """Keep a question which is answered inside, and from which the conversation does not go on."""
        if self._history:
            with self._if_possible() as history:
                self._begin(history, before)
        here = self._path.copy(), self._question, self._taken_back
        self.ask(question, before)
        try:
            yield
        finally:
            self._path, self._question, self._taken_back = here
            if self._path:
                self.go_on_here()

    def take_back(self, question: str) -> None:
        """Step back behind the last question. Asked again, it gets further answers; nothing is removed."""
        if not self._unanswered:
            del self._path[-1:]
        if self._path:
            self._question, self._taken_back = self._path.pop(), question

    def go_on_here(self) -> None:
        """Keep where the conversation stands, after a step back that no question follows."""
        if self._history and self._id:
            with self._if_possible() as history:
                history.update(self._id, leaf=self._leaf or 0)

    # ---- answers

    @contextmanager
    def answer(self, mode: str, into: Last, leads: bool, settings: dict[str, Any]) -> Iterator[Callable[[str], None]]:
        """Keep an answer to the last question: gives what each piece is told to before it is shown."""
        recorder: Recorder | None = None
        if self._history and self._id and self._question:
            with self._if_possible() as history:
                recorder = history.begin_answer(self._id, self._question, mode, settings, leads)

        def keep(text: str) -> None:
            if self._history and recorder:
                with self._if_possible(tell=False):  # not in the middle of the answer's line
                    recorder.add(text)

        state = "failed"
        try:
            yield keep
            state = "complete"
        except KeyboardInterrupt:
            state = "stopped"
            raise
        finally:
            statistics = into.statistics
            if statistics and statistics.finish_reason == "cancelled":
                state = "stopped"
            self._tell()
            if self._history and recorder:
                if leads and into.text:
                    self._path.append(recorder.message_id)
                with self._if_possible():
                    recorder.finish(state, eft_block(statistics, into.seed or 0) if statistics else {})
