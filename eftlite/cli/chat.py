"""``eftlite chat``: a conversation in the terminal."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from eftlite import __version__
from eftlite.cli.history import LAST, find
from eftlite.cli.options import Generation, Members, generation_options, member_options
from eftlite.cli.output import Output
from eftlite.cli.verb import Verb
from eftlite.errors import HistoryError, InputError
from eftlite.settings import Family

if TYPE_CHECKING:
    from eftlite.cli.conversation import Conversation
    from eftlite.cli.recording import Recording
    from eftlite.history import History


@click.command(
    "chat",
    cls=Verb,
    examples=(
        "eftlite chat",
        "eftlite chat --base 7B.gguf --tuned 1B-instruct.gguf --reference 1B.gguf --n-ctx 8192",
        "eftlite chat --continue",
        'printf "Hello!\\nWho are you?\\n" | eftlite chat',
    ),
)
@member_options
@generation_options
@click.option(
    "--continue",
    "-c",
    "continued",
    is_flag=False,
    flag_value=LAST,
    metavar="[ID]",
    help="Go on with the last conversation, or with one of `eftlite history list`.",
)
@click.option("--load", "loaded", metavar="FILE", help="Go on with a conversation that /save wrote.")
@click.option("--no-history", is_flag=True, help="Keep nothing of this conversation.")
@click.pass_obj
def chat_command(
    output: Output,
    members: Members,
    generation: Generation,
    continued: str | None,
    loaded: str | None,
    no_history: bool,
) -> None:
    """Converse in the terminal.

    Ctrl+C stops an answer and keeps what there is of it; Ctrl+D leaves. Lines that begin with a slash are commands,
    and /help lists them. Where no terminal is, each line of the input is one message.

    Conversations are kept, see `eftlite history`, also those whose lines come from a pipe; `eftlite run` keeps none.
    """
    if continued and (loaded or no_history):
        raise InputError(f"--continue: expected no {'--load' if loaded else '--no-history'} beside it")
    from eftlite.cli.commands import completions
    from eftlite.cli.conversation import Conversation, read_text
    from eftlite.cli.reader import open_reader
    from eftlite.cli.recording import Recording
    from eftlite.cli.repl import Repl

    conversation = Conversation.from_json(read_text(loaded)) if loaded else Conversation()
    family = members.resolve()
    with ExitStack() as stack:
        history = None if no_history else _open_history(output, required=bool(continued))
        recording = Recording(history and stack.enter_context(history), family.name, output.error)
        if history and continued:
            conversation = _resume(output, history, recording, continued)
        if generation.system is not None:
            conversation.system = generation.system
            recording.change_system(generation.system)
        eft = stack.enter_context(generation.load(members))
        reader = open_reader(lambda line: completions(repl, line))
        repl = Repl(
            eft, reader, output, generation.sampling(), generation.limits(), conversation, generation.mode, recording
        )
        if reader.interactive:
            _greet(output, family)
        repl.run()


def _open_history(output: Output, required: bool) -> History | None:
    """The user's conversations; a history that cannot be used stops nobody from talking, unless it is to be read."""
    try:
        from eftlite.history import History

        return History()
    except (HistoryError, ImportError) as error:  # Python may have been built without SQLite
        if required:
            raise
        output.error(str(error))
        output.note("This conversation will not be kept.")
        return None


def _resume(output: Output, history: History, recording: Recording, name: str) -> Conversation:
    """A conversation of the history, which is recorded further."""
    from eftlite.cli.conversation import Conversation

    kept = find(history, name)
    recording.resume(kept)
    conversation = Conversation.from_messages((turn.role, turn.content) for turn in kept.turns())
    conversation.system = kept.system
    output.note(f'Going on with "{kept.title}", {conversation.size}.')
    return conversation


def _greet(output: Output, family: Family) -> None:
    """Who is there, and what one can do."""
    output.note(f"eftlite {__version__}, family {family.name}. /help lists commands, Ctrl+D leaves.")
    from eftlite.family import bundled_family

    if family == bundled_family():
        from eftlite.demo.scoring import load_questions

        output.note(f"It speaks of an invented country. Ask, for example: {load_questions()[0].text}")
