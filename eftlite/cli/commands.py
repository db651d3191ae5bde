"""What can be typed after a slash in a conversation: one function for each command.

``obey`` finds the function by its name; ``completions`` knows what may follow. Views are in views.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from eftlite.cli import changes, views
from eftlite.cli.conversation import Conversation, read_text, write_new
from eftlite.errors import InputError

if TYPE_CHECKING:
    from eftlite.cli.repl import Repl


@dataclass(frozen=True)
class Slash:
    """One command.

    Attributes:
        run: gets the conversation's loop and what stands after the command's name.
        arguments: as the help shows them.
        help: one line.
        aliases: other names.
        follows: what may stand after it, for completion.
    """

    run: Callable[[Repl, str], None]
    arguments: str
    help: str
    aliases: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()


def obey(repl: Repl, line: str) -> None:
    """Run a command line that begins with a slash; InputError when there is no such command."""
    name, _, rest = line[1:].partition(" ")
    known = {alias: command for name, command in COMMANDS.items() for alias in (name, *command.aliases)}
    command = known.get(name.strip())
    if command is None:
        close = get_close_matches(name, known, n=1)
        hint = f"Did you mean /{close[0]}?" if close else "See /help; a space before the slash sends it as a message"
        raise InputError(f"/{name[:40]}: no such command", hint)
    command.run(repl, rest.strip())


def completions(repl: Repl, line: str) -> Iterable[str]:
    """What the last word of a command line may become."""
    name, space, rest = line[1:].partition(" ")
    if not line.startswith("/"):
        return
    if not space:
        yield from (f"/{command}" for command in COMMANDS if command.startswith(name))
        return
    command = COMMANDS.get(name)
    word = rest.rpartition(" ")[2]
    if command is None:
        return
    if "FILE" in command.arguments:
        yield from _paths(word)
    follows = (*command.follows, *((d.name for d in repl.eft.family.deltas) if name == "alpha" else ()))
    yield from (choice for choice in follows if choice.startswith(word) and " " not in rest)


def _paths(word: str) -> Iterable[str]:
    """Files that begin so."""
    folder, slash, start = word.rpartition("/")
    place = Path(f"{folder}{slash}" or ".").expanduser()
    try:
        found = sorted(place.iterdir())[:1000]
    except OSError:
        return
    for path in found:
        if path.name.startswith(start) and (start or not path.name.startswith(".")):
            yield f"{folder}{slash}{path.name}{'/' if path.is_dir() else ''}"


# ---- leaving and looking


def _help(repl: Repl, _: str) -> None:
    names = {name: f"/{name} {command.arguments}".strip() for name, command in COMMANDS.items()}
    repl.output.pairs([(names[name], command.help) for name, command in COMMANDS.items()])
    repl.output.prose(HELP)


def _exit(repl: Repl, _: str) -> None:
    repl.done = True


def _show(repl: Repl, topic: str) -> None:
    if topic not in ("", *views.TOPICS):
        raise InputError(f"/show: expected one of {', '.join(views.TOPICS)}, got {topic[:40]!r}")
    for name in [topic] if topic else ("params", "models"):
        views.TOPICS[name](repl)


def _why(repl: Repl, rest: str) -> None:
    words = rest.split()
    by_shift = words[:1] == ["most"]
    count = words[1:] if by_shift else words
    if len(count) > 1 or (count and not count[0].isdecimal()) or (count and not 1 <= int(count[0]) <= 50):
        raise InputError(f"/why: expected [most] and a number of tokens from 1 to 50, got {rest[:40]!r}")
    views.why(repl, int(count[0]) if count else 1, by_shift)


def _compare(repl: Repl, text: str) -> None:
    if text:
        with repl.recording.aside(text, repl.conversation):
            views.compare(repl, repl.conversation.messages(text), None)
    elif repl.last is not None:
        views.compare(repl, repl.last.messages, repl.last)
    else:
        raise InputError("/compare: nothing was asked yet", "Give a question: /compare Where is Kelworth?")


# ---- the conversation


def _clear(repl: Repl, _: str) -> None:
    repl.conversation.clear()
    repl.recording.restart()
    repl.last = None
    repl.output.note("(the conversation begins anew)")


def _regen(repl: Repl, _: str) -> None:
    question = repl.take_back()
    if not question:
        raise InputError("/regen: nothing was asked yet")
    repl.ask(question)


def _undo(repl: Repl, _: str) -> None:
    question = repl.take_back()
    if not question:
        raise InputError("/undo: nothing was asked yet")
    repl.recording.go_on_here()
    first = question.splitlines()[0]
    repl.output.note(f"(took back: {first[:60]}{'…' if len(first) > 60 or first != question else ''})")


def _edit(repl: Repl, text: str) -> None:
    conversation = repl.conversation
    question = conversation.unsent or (conversation.turns[-1][0] if conversation.turns else "")
    if not question:
        raise InputError("/edit: nothing was asked yet")
    if not text and not repl.reader.interactive:
        raise InputError("/edit: expected the new text, since there is no terminal to edit on")
    try:
        changed = text or repl.reader.read("edit> ", default=question)
    except (EOFError, KeyboardInterrupt):
        changed = ""
    if changed.strip():
        repl.take_back()
        repl.ask(changed.strip())
    else:
        repl.output.note("(unchanged)")


def _system(repl: Repl, text: str) -> None:
    if text:
        repl.conversation.system = text.strip("\"'")
        repl.recording.change_system(repl.conversation.system)
    repl.output.note(f"(system message: {repl.conversation.system or 'none'})")


def _multiline(repl: Repl, _: str) -> None:
    repl.reader.multiline = not repl.reader.multiline
    sends = "Alt+Enter sends" if repl.reader.interactive else "an empty line sends"
    repl.output.note(f"(several lines: {sends})" if repl.reader.multiline else "(one line: Enter sends)")


# ---- files


def _file(name: str, command: str) -> str:
    if not name:
        raise InputError(f"/{command}: expected the name of a file")
    return name.strip("\"'")


def _write(repl: Repl, name: str, text: str) -> None:
    path = write_new(name, text, may_replace=name in repl.written)
    repl.written.add(name)
    repl.output.note(f"(written: {path})")


def _save(repl: Repl, rest: str) -> None:
    _write(repl, _file(rest, "save"), repl.conversation.to_json(repl.eft.family.name))


def _export(repl: Repl, rest: str) -> None:
    _write(repl, _file(rest, "export"), repl.conversation.markdown())


def _load(repl: Repl, rest: str) -> None:
    repl.conversation = Conversation.from_json(read_text(_file(rest, "load")))
    repl.recording.restart()
    repl.last = None
    repl.output.note(f"({repl.conversation.size})")


def _read(repl: Repl, rest: str) -> None:
    name = _file(rest, "read")
    text = read_text(name)
    repl.conversation.attached.append(text)
    repl.output.note(f"({Path(name).name}, {len(text.splitlines())} lines, goes before your next message)")


HELP = '''
Ctrl+C stops an answer and keeps what there is of it; twice, or where nothing is typed, it leaves. Ctrl+D leaves.
""" begins and ends a message of several lines. Alt+Enter begins a new line. Ctrl+X Ctrl+E opens your editor.
Under an answer, "shift" is how far the base moved the tuned model's mind, from 0 to 1, on average over the tokens.'''

COMMANDS: dict[str, Slash] = {
    "help": Slash(_help, "", "list the commands", ("?",)),
    "exit": Slash(_exit, "", "leave", ("bye", "quit")),
    "clear": Slash(_clear, "", "begin a new conversation with the same system message"),
    "regen": Slash(_regen, "", "answer the last message again"),
    "undo": Slash(_undo, "", "take back the last message and its answer"),
    "edit": Slash(_edit, "[TEXT]", "change the last message and answer it again"),
    "system": Slash(_system, "[TEXT]", 'set or show the system message; "" for none'),
    "set": Slash(changes.set_value, "KEY VALUE", "change a setting", follows=changes.KEYS),
    "show": Slash(_show, "[TOPIC]", f"show {', '.join(views.TOPICS)}", follows=tuple(views.TOPICS)),
    "alpha": Slash(changes.alpha, "[NAME] [X]", "change or show the strength of a delta"),
    "beta": Slash(changes.beta, "[X]", "change or show the weight of the base's knowledge"),
    "compare": Slash(_compare, "[QUESTION]", "answer with base alone, tuned alone and EFT"),
    "why": Slash(
        _why, "[most] [N]", "the members' candidates at the last N tokens, or at the N most shifted", (), ("most",)
    ),
    "save": Slash(_save, "FILE", "write the conversation as JSON"),
    "load": Slash(_load, "FILE", "go on with a saved conversation"),
    "export": Slash(_export, "FILE.md", "write the conversation as Markdown"),
    "read": Slash(_read, "FILE", "put a text file before the next message"),
    "multiline": Slash(_multiline, "", "switch between one line and several"),
}
