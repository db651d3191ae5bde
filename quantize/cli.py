"""``eftlite quantize VERB``: one file per verb, ``cli_VERB.py``, imported only when the verb is asked for."""

from __future__ import annotations

from importlib import import_module

import click

from eftlite.cli.verb import write_examples

# Verb: its line in `eftlite quantize --help`.
VERBS = {
    "produce": "Make quantized GGUF files of a model.",
    "imatrix": "Compute the importance matrix that small types need.",
    "compare": "Compare variants of a model with a reference, on a text.",
    "record": "Record what every member of a family makes of a text.",
    "replay": "Score knobs on recordings; no model runs.",
    "family": "Compare what quantizing each member does to the composite.",
    "plan": "Choose a type for each member, given a memory budget.",
}
EXAMPLES = (
    "eftlite quantize imatrix model-f16.gguf calibration.txt -o imatrix.gguf",
    "eftlite quantize produce model-f16.gguf --types Q4_K_M,Q8_0 --imatrix imatrix.gguf",
    "eftlite quantize compare model-f16.gguf model-Q4_K_M.gguf model-Q8_0.gguf --text wiki.txt",
)


class Verbs(click.Group):
    """The group of verbs; loads them lazily."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click asks for it
        """The verbs, in the order of their use."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click asks for it
        """Import a verb."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = getattr(import_module(f"eftlite_quantize.cli_{cmd_name}"), f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click asks for it
        """The list of verbs, known without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click asks for it
        """Write the examples."""
        write_examples(formatter, EXAMPLES)


@click.group("quantize", cls=Verbs, no_args_is_help=True)
def quantize_command() -> None:
    """Make quantizations of a model, compare them, and choose a type for each member of a family."""
