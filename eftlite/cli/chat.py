"""``eftlite chat``: a conversation in the terminal."""

from __future__ import annotations

import click

from eftlite import __version__
from eftlite.cli.options import Generation, Members, generation_options, member_options
from eftlite.cli.output import Output
from eftlite.cli.verb import Verb
from eftlite.settings import Family


@click.command(
    "chat",
    cls=Verb,
    examples=(
        "eftlite chat",
        "eftlite chat --base 7B.gguf --tuned 1B-instruct.gguf --reference 1B.gguf --n-ctx 8192",
        "eftlite chat --load yesterday.json",
        'printf "Hello!\\nWho are you?\\n" | eftlite chat',
    ),
)
@member_options
@generation_options
@click.option("--load", "loaded", metavar="FILE", help="Go on with a conversation that /save wrote.")
@click.pass_obj
def chat_command(output: Output, members: Members, generation: Generation, loaded: str | None) -> None:
    """Converse in the terminal.

    Ctrl+C stops an answer and keeps what there is of it; Ctrl+D leaves. Lines that begin with a slash are commands,
    and /help lists them. Where no terminal is, each line of the input is one message.
    """
    from eftlite.cli.commands import completions
    from eftlite.cli.conversation import Conversation, read_text
    from eftlite.cli.reader import open_reader
    from eftlite.cli.repl import Repl

    conversation = Conversation.from_json(read_text(loaded)) if loaded else Conversation()
    if generation.system is not None:
        conversation.system = generation.system
    family = members.resolve()
    with generation.load(members) as eft:
        reader = open_reader(lambda line: completions(repl, line))
        repl = Repl(eft, reader, output, generation.sampling(), generation.limits(), conversation, generation.mode)
        if reader.interactive:
            _greet(output, family)
        repl.run()


def _greet(output: Output, family: Family) -> None:
    """Who is there, and what one can do."""
    output.note(f"eftlite {__version__}, family {family.name}. /help lists commands, Ctrl+D leaves.")
    from eftlite.family import bundled_family

    if family == bundled_family():
        from eftlite.demo.scoring import load_questions

        output.note(f"It speaks of an invented country. Ask, for example: {load_questions()[0].text}")
