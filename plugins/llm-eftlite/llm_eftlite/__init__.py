"""What ``llm`` calls: the models that eftlite knows, as ``eftlite/NAME``, and the command ``llm eftlite``.

sources (which families there are) · options (of a prompt) · loaded (models in memory) · model · commands. ``llm`` loads
its plugins before every command, so nothing here imports llama.cpp or numpy before a prompt is asked.
"""

from __future__ import annotations

from collections.abc import Callable

import click
import llm


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Every family that can be asked; one whose file is wrong is left out, and named by ``llm eftlite list``."""
    from llm_eftlite.model import EFTModel
    from llm_eftlite.sources import sources

    for source in sources():
        if source.family is not None:
            register(EFTModel(source.name, source.family))


@llm.hookimpl
def register_commands(cli: click.Group) -> None:
    """``llm eftlite``."""
    from llm_eftlite.commands import eftlite_command

    cli.add_command(eftlite_command)
