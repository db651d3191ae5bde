"""The command line: ``eftlite VERB``. One file per verb, imported only when the verb is asked for.

``eftlite --help`` must be quick, so nothing here imports models, numpy, or the libraries for terminals.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, NoReturn

import click

from eftlite.cli.errors import guarded
from eftlite.cli.output import COLOR_CHOICES, Output
from eftlite.cli.verb import write_examples

# Verb: its line in `eftlite --help`. The module has the same name, and in it the command too.
VERBS = {
    "demo": "See EFT at work on the bundled family, then score it.",
    "chat": "Converse in the terminal.",
    "run": "Answer one prompt.",
    "serve": "Serve programs and browsers: an OpenAI-compatible interface and a page.",
    "worker": "Lend this machine's devices to a program on another one.",
    "presets": "List, show and check the families that are known by name.",
    "pull": "Download models, by reference or all of a family.",
    "history": "List, search, show, export and delete the conversations that were kept.",
    "bench": "Measure speed: base, tuned, EFT, and EFT with drafts.",
    "inspect": "Tell what GGUF files are, and what they are to each other.",
    "doctor": "Tell whether the installation is sound, and a family fast and worth it.",
    "quantize": "Make quantizations, and measure what they do to a model.",
    "completion": "Print the script that completes commands in your shell.",
}
EXAMPLES = (
    "eftlite demo",
    "eftlite chat --base 7B.gguf --tuned 1B-instruct.gguf --reference 1B.gguf",
    'echo "Where is Kelworth?" | eftlite run',
)
# Verbs of packages that stand on this one, by the module that holds the command.
_ELSEWHERE = {"quantize": "eftlite_quantize.cli"}
_HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


class Program(click.Group):
    """The group of verbs: loads them lazily and turns errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click asks for it
        """The verbs, in the order of a newcomer's interest."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click asks for it
        """Import a verb."""
        if cmd_name not in VERBS:
            return None
        module = import_module(_ELSEWHERE.get(cmd_name, f"eftlite.cli.{cmd_name}"))
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click asks for it
        """The list of verbs, known without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

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
