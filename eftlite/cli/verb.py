"""A verb's help: its own options, then those it shares with other verbs under headings of their own, then examples.

A verb of verbs shows them in the order of use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


class ModelOption(click.Option):
    """An option that names or loads models."""

    section = "Models"


class AnswerOption(click.Option):
    """An option that decides how answers are made."""

    section = "Answers"


def write_examples(formatter: click.HelpFormatter, examples: Sequence[str]) -> None:
    """Command lines as they are typed, never wrapped."""
    with formatter.section("Examples"):
        for example in examples:
            formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class Verb(click.Command):
    """A command whose options are listed by heading.

    Args:
        examples: command lines that end the help text.
    """

    def __init__(self, *args: Any, examples: Sequence[str], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.examples = tuple(examples)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": [], "Models": [], "Answers": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections[getattr(parameter, "section", "Options")].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click asks for it
        """Write the examples."""
        write_examples(formatter, self.examples)


class VerbGroup(click.Group):
    """A command that consists of verbs.

    Args:
        examples: command lines that end the help text.
    """

    def __init__(self, *args: Any, examples: Sequence[str], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.examples = tuple(examples)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click asks for it
        """In the order of use."""
        return list(self.commands)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click asks for it
        """Write the examples."""
        write_examples(formatter, self.examples)
