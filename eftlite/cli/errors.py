"""What happens when a command fails: one line on stderr and an exit code; bugs keep their tracebacks.

An ``EFTError`` is meant for the user and says its exit code; wrong usage is 2; Ctrl+C is 130. A reader that went away
(``eftlite run … | head``) is nobody's error, and click already ends quietly then.
"""

from __future__ import annotations

from collections.abc import Callable

import click

from eftlite.cli.output import Output
from eftlite.errors import EFTError

INTERRUPTED = 130


def guarded(run: Callable[[], object], output: Callable[[], Output]) -> int:
    """Run a command; returns its exit code, after printing what went wrong if it is the user's to know.

    Args:
        run: what to run; an integer that it returns is the exit code.
        output: asked only when there is something to print, since the command itself says how.
    """
    try:
        result = run()
    except EFTError as error:
        output().error(str(error))
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)  # the help text, which is no error to read
        return error.exit_code
    except click.ClickException as error:
        output().error(_usage(error))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    return result if isinstance(result, int) else 0


def _usage(error: click.ClickException) -> str:
    """click's message on one line, with the way to help."""
    message = error.format_message().strip()
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return message
    return f"{message}{'' if message[-1:] in '.?!' else '.'} Try: {context.command_path} --help"
