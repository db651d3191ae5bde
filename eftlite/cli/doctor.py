"""``eftlite doctor``: four questions about an installation and a family on it, with what mends each finding."""

from __future__ import annotations

import shlex
import textwrap
from typing import TYPE_CHECKING

import click

from eftlite.cli.bench import demo_questions, random_family
from eftlite.cli.options import Members, member_options
from eftlite.cli.output import LoadingLine, Output, printable
from eftlite.cli.verb import ModelOption, Verb
from eftlite.errors import InputError

if TYPE_CHECKING:
    from eftlite.doctor.case import Case
    from eftlite.doctor.findings import Finding, Report

COLORS = {"ok": "green", "warning": "yellow", "problem": "red"}
ANSWERS = {"ok": "Yes", "warning": "Yes, but", "problem": "No"}
# Fields of Members that say which family is meant, and their options.
NAMING = {
    "preset": "--preset", "family": "--family", "base": "--base", "tuned": "--tuned", "reference": "--reference",
    "adapter": "--lora",
}  # fmt: skip  # a table that reads across


@click.command(
    "doctor",
    cls=Verb,
    examples=(
        "eftlite doctor",
        "eftlite doctor --family family.toml",
        "eftlite doctor --shape 3b-q8_0 135m-q8_0",
    ),
)
@member_options
@click.option(
    "--shape", nargs=2, cls=ModelOption, metavar="BASE SMALL", help="Speed alone, of random models: 3b-q8_0 135m-q8_0."
)
@click.option("--quick", is_flag=True, help="Load no models: the first two questions, by files' headers.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@click.pass_obj
def doctor_command(output: Output, members: Members, shape: tuple[str, str] | None, quick: bool, as_json: bool) -> int:
    """Tell whether the installation is sound, the family sound, EFT fast, and EFT worth it here.

    The build of llama.cpp is compared with the machine, the members' vocabularies and templates with each other;
    then the family is timed and answers a few questions. Below a finding that is not ok stands the command that mends
    it, if there is one. The exit code is 1 when there is a problem.
    """
    from eftlite.doctor.verdict import examine

    named = [option for name, option in NAMING.items() if getattr(members, name) is not None]
    if shape and (named or quick):
        beside = named[0] if named else "--quick"
        raise InputError(f"--shape: expected no {beside} beside it", "Random models are only there to be timed")
    line = LoadingLine()
    try:
        report = examine(lambda: _case(members, shape, line), lambda text: line(text, 0.0), quick=quick)
    finally:
        line.clear()
    if as_json:
        output.json(report.as_json())
    else:
        _print(output, report)
    return 0 if report.sound else 1


def _case(members: Members, shape: tuple[str, str] | None, line: LoadingLine) -> Case:
    """The family that the options name, or random models of the shapes."""
    from eftlite.doctor.case import QUESTIONS, Case, here
    from eftlite.family import bundled_family

    naming = _naming(members)
    family = random_family(shape, None, None, line) if shape else here(members.resolve(), naming)
    bundled = family == bundled_family()
    return Case(
        family,
        members.settings(family),
        members.n_ctx,
        naming,
        demo_questions(len(QUESTIONS)) if bundled else QUESTIONS,
        random_weights=shape is not None,
        bundled=bundled,
    )


def _naming(members: Members) -> str:
    """The options that name the same family again."""
    given = ((option, getattr(members, name)) for name, option in NAMING.items())
    return shlex.join(word for option, value in given if value is not None for word in (option, value))


# ---- text


def _print(output: Output, report: Report) -> None:
    for number, section in enumerate(report.sections, 1):
        answer = click.style(ANSWERS[section.level], fg=COLORS[section.level], bold=True)
        click.echo(f"{click.style(f'{number}. {section.question}', bold=True)}  {answer}", color=output.forced)
        width = max(len(finding.name) for finding in section.findings)
        for finding in section.findings:
            _print_finding(output, finding, width)
        click.echo()
    output.prose(report.verdict)


def _print_finding(output: Output, finding: Finding, width: int) -> None:
    """Level, name and sentence in columns; what mends it on a line of its own, unwrapped, to be copied."""
    level = click.style(f"{finding.level:8}", fg=COLORS[finding.level])
    indent = 3 + 8 + width + 2
    lines = textwrap.wrap(printable(finding.text), max(output.width - indent, 30))
    click.echo(f"   {level}{finding.name:{width}}  " + f"\n{'':{indent}}".join(lines), color=output.forced)
    if finding.fix:
        click.secho(f"{'':{indent}}{printable(finding.fix)}", bold=True, color=output.forced)
