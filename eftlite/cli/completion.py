"""``eftlite completion``: prints click's script that completes commands, options and file names in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from eftlite.cli.verb import Verb


@click.command(
    "completion",
    cls=Verb,
    examples=(
        "eftlite completion bash >> ~/.bashrc",
        "eftlite completion zsh >> ~/.zshrc",
        "eftlite completion fish > ~/.config/fish/completions/eftlite.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes eftlite's commands in your SHELL."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"this release of click cannot complete in {shell}")
    click.echo(kind(ctx.find_root().command, {}, "eftlite", "_EFTLITE_COMPLETE").source())
