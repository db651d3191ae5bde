"""Where a conversation's lines come from: an editor on a terminal, or a pipe.

Raises what Python's ``input`` raises: EOFError at the end (Ctrl+D), KeyboardInterrupt for Ctrl+C.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from eftlite.cli.output import on_terminal

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

Completions = Callable[[str], Iterable[str]]
# A Ctrl+C that was meant for an answer may arrive when the answer has just ended by itself.
GRACE_S = 0.5


class Reader(Protocol):
    """Reads what the user says.

    Attributes:
        interactive: whether someone sits there, who wants prompts and can correct a line.
        multiline: whether Enter begins a new line, so that something else must send.
        forgiving: whether a Ctrl+C just after the prompt has appeared was meant for the answer before, and is ignored.
    """

    interactive: bool
    multiline: bool
    forgiving: bool

    def read(self, prompt: str = "> ", default: str = "") -> str:
        """One line, or several; ``default`` is there to be changed."""


class PipeReader:
    """Lines of a file or a pipe; in multi-line mode an empty line sends."""

    interactive = False

    def __init__(self, source: TextIO) -> None:
        self._source = source
        self.multiline = self.forgiving = False

    def read(self, prompt: str = "> ", default: str = "") -> str:  # noqa: ARG002  a pipe shows neither
        """The next line, or in multi-line mode the next paragraph."""
        lines: list[str] = []
        while True:
            line = self._source.readline()
            if not line:
                break
            lines.append(line.rstrip("\r\n"))
            if not self.multiline or not lines[-1]:
                break
        if not lines:
            raise EOFError
        return "\n".join(lines).rstrip("\n")


class TerminalReader:
    """An editor with history and completion (prompt_toolkit)."""

    interactive = True

    def __init__(self, history: Path, completions: Completions) -> None:
        self.multiline = self.forgiving = False
        self._shown_at = 0.0
        self._session = _session(history, completions, self._keys())

    def read(self, prompt: str = "> ", default: str = "") -> str:
        """What was typed and sent."""
        self._shown_at = time.monotonic()
        return self._session.prompt(
            prompt, default=default, multiline=self.multiline, prompt_continuation=_continuation
        )

    def _keys(self) -> KeyBindings:
        """Ctrl+C takes back what was typed, or leaves where nothing was; Alt+Enter begins a new line, or sends."""
        from prompt_toolkit.key_binding import KeyBindings

        keys = KeyBindings()

        @keys.add("c-c")
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if buffer.text:
                buffer.append_to_history()  # so that the up arrow brings it back
                buffer.reset()
            elif not self.forgiving or time.monotonic() - self._shown_at > GRACE_S:
                event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            if self.multiline:
                event.current_buffer.validate_and_handle()
            else:
                event.current_buffer.insert_text("\n")

        return keys


def _continuation(width: int, _line: int, _wrapped: int) -> str:
    """Under the prompt, for further lines."""
    return "… ".rjust(width)


def _session(history: Path, completions: Completions, keys: KeyBindings) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer, Completion
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.output import create_output

    class Words(Completer):
        """Completes the last word of a command."""

        def get_completions(self, document: Any, complete_event: Any) -> Iterable[Completion]:  # noqa: ARG002  prompt_toolkit's signature
            line = document.text_before_cursor
            word = line.rpartition(" ")[2]
            for choice in completions(line):
                yield Completion(choice, start_position=-len(word))

    try:
        history.parent.mkdir(parents=True, exist_ok=True)
        history.touch(mode=0o600)
        past: FileHistory | InMemoryHistory = FileHistory(str(history))
    except OSError:  # a read-only home must not keep anyone from talking
        past = InMemoryHistory()
    return PromptSession(
        history=past,
        completer=Words(),
        complete_while_typing=False,
        key_bindings=keys,
        enable_open_in_editor=True,
        output=create_output(sys.stdout if on_terminal(sys.stdout) else sys.stderr),
    )


def state_dir() -> Path:
    """Where history is kept: EFTLITE_STATE_DIR, or the system's folder for such things."""
    chosen = os.environ.get("EFTLITE_STATE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_state_path

    return user_state_path("eftlite", appauthor=False)


def open_reader(completions: Completions) -> Reader:
    """The editor where someone sits at a terminal, else the pipe."""
    if on_terminal(sys.stdin) and (on_terminal(sys.stdout) or on_terminal(sys.stderr)):
        return TerminalReader(state_dir() / "chat-history", completions)
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    return PipeReader(sys.stdin)
