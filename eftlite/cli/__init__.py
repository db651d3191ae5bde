"""The command line: ``eftlite VERB``. One file per verb, imported only when the verb is asked for; plugins bring more.

``eftlite --help`` must be quick, so nothing here imports models, numpy, the libraries for terminals, or a plugin.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import click

from eftlite.cli.errors import guarded
from eftlite.cli.output import COLOR_CHOICES, Output
from eftlite.cli.verb import write_examples
from eftlite.errors import InputError
from eftlite.plugins import Entry, Registry

# Verb: where its command is, and its line in `eftlite --help`.
VERBS = {
    "demo": ("eftlite.cli.demo:demo_command", "See EFT at work on the bundled family, then score it."),
    "chat": ("eftlite.cli.chat:chat_command", "Converse in the terminal."),
    "run": ("eftlite.cli.run:run_command", "Answer one prompt."),
    "serve": (
        "eftlite.cli.serve:serve_command",
        "Serve programs and browsers: an OpenAI-compatible interface and a page.",
    ),
    "worker": ("eftlite.cli.worker:worker_command", "Lend this machine's devices to a program on another one."),
    "presets": ("eftlite.cli.presets:presets_command", "List, show and check the families that are known by name."),
    "pull": ("eftlite.cli.pull:pull_command", "Download models, by reference or all of a family."),
    "history": (
        "eftlite.cli.history:history_command",
        "List, search, show, export and delete the conversations that were kept.",
    ),
    "bench": ("eftlite.cli.bench:bench_command", "Measure speed: base, tuned, EFT, and EFT with drafts."),
    "inspect": ("eftlite.cli.inspect:inspect_command", "Tell what GGUF files are, and what they are to each other."),
    "doctor": (
        "eftlite.cli.doctor:doctor_command",
        "Tell whether the installation is sound, and a family fast and worth it.",
    ),
    "quantize": ("eftlite_quantize.cli:quantize_command", "Make quantizations, and measure what they do to a model."),
    "plugins": ("eftlite.cli.plugins:plugins_command", "List what other packages add to eftlite."),
    "completion": (
        "eftlite.cli.completion:completion_command",
        "Print the script that completes commands in your shell.",
    ),
}
EXAMPLES = (
    "eftlite demo",
    "eftlite chat --base 7B.gguf --tuned 1B-instruct.gguf --reference 1B.gguf",
    'echo "Where is Kelworth?" | eftlite run',
)
COMMANDS = Registry("command", VERBS)
_HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


class Program(click.Group):
    """The group of verbs: loads them lazily and turns errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click asks for it
        """The verbs, in the order of a newcomer's interest, then those of plugins."""
        return [*COMMANDS.built_in, *COMMANDS.plugins()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click asks for it
        """Import a verb; of a plugin that is broken one that says so, since completion asks for many at once."""
        entry = COMMANDS.find(cmd_name)
        if entry is None:
            return None
        try:
            return command_of(entry)
        except InputError as error:
            return _broken(cmd_name, error)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click asks for it
        """The list of verbs, known without importing any."""
        plugins = [(name, f"{one.summary} ({one.distribution})") for name, one in COMMANDS.plugins().items()]
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.built_in.items()])
        if plugins:
            with formatter.section("Commands of plugins"):
                formatter.write_dl(plugins)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click asks for it
        """Write the examples."""
        write_examples(formatter, EXAMPLES)

    def invoke(self, ctx: click.Context) -> None:
        """Run the verb; errors come out the way the options ask for."""
        code = guarded(lambda: super(Program, self).invoke(ctx), lambda: ctx.obj or Output())
        if code:
            ctx.exit(code)

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run the program and exit."""
        extra["standalone_mode"] = False
        sys.exit(guarded(lambda: super(Program, self).main(*args, **extra), Output))


def command_of(entry: Entry) -> click.Command:
    """The command of an entry, imported.

    Raises:
        InputError: a plugin cannot be imported, or brings something else.
    """
    command = entry.load()
    with entry.blamed():
        if not isinstance(command, click.Command):
            raise TypeError(f"expected a click command, got {type(command).__name__}")
    return command


def _broken(name: str, error: InputError) -> click.Command:
    """A command that fails, whatever stands behind it."""

    def fail(**_: object) -> NoReturn:
        raise error

    anything = {"ignore_unknown_options": True, "help_option_names": []}
    arguments = click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)
    return click.Command(name, callback=fail, params=[arguments], context_settings=anything)


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from eftlite.cli.version import version_text

        click.echo(version_text())
        ctx.exit()


@click.group(cls=Program, context_settings=_HELP_OPTIONS, no_args_is_help=True)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show versions, llama.cpp's build and the devices it knows.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show llama.cpp's log on stderr.")
@click.option(
    "--color",
    type=click.Choice(COLOR_CHOICES),
    default="auto",
    show_default=True,
    help="Colour; 'auto' is on a terminal, unless NO_COLOR is set.",
)
@click.pass_context
def program(ctx: click.Context, verbose: bool, color: str) -> None:
    """Emulated fine-tuning on GGUF models.

    A large pre-trained model answers with the behaviour of a small tuned one. Without naming models, every command
    uses a small family that comes with eftlite.
    """
    ctx.obj = Output(color)
    if verbose:
        _show_log()


def _show_log() -> None:
    """Send llama.cpp's log to stderr."""
    import logging

    log = logging.getLogger("eftlite.llama")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("llama.cpp: %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG)
    log.propagate = False


def main() -> NoReturn:
    """The entry point."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what cannot be encoded becomes a question mark, not a traceback
            stream.reconfigure(errors="replace")
    program.main(prog_name="eftlite")
