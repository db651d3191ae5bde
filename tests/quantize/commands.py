"""``eftlite quantize …`` for tests: in this process, and in one that can be killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner, Result

from eftlite.cli import Program
from eftlite.cli.output import Output
from eftlite_quantize.cli import quantize_command

ROOT = Path(__file__).resolve().parents[2]


# A shell's background job would ignore Ctrl+C, and hand that on to its children.
_MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.quantize.commands import program
program.main()
"""


class Alone(Program):
    """The program with no other verb."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return quantize_command if cmd_name == "quantize" else None


@click.group(cls=Alone)
@click.pass_context
def program(ctx: click.Context) -> None:
    ctx.obj = Output()


def quantize(*words: object) -> Result:
    """Run a verb."""
    return CliRunner().invoke(program, ["quantize", *map(str, words)])


def start(*words: object, **options: Any) -> subprocess.Popen[str]:
    """Start a verb in a process of its own."""
    command = [sys.executable, "-c", _MAIN, "quantize"]
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, *map(str, words)], text=True, cwd=ROOT, **{**pipes, **options})
