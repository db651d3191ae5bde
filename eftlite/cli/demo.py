"""``eftlite demo``: four answers side by side, then the scoreboard over the whole question set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from eftlite.cli.options import Members
from eftlite.cli.output import Output, on_terminal
from eftlite.cli.verb import ModelOption, Verb
from eftlite.errors import InputError
from eftlite.settings import Family

if TYPE_CHECKING:
    from eftlite.demo.scoreboard import Panel, Tally
    from eftlite.demo.scoring import Question

# One question of each of these kinds is shown: the first of its kind in the set, whatever becomes of it.
SHOWN_KINDS = ("single", "follow-up", "compare", "describe")
QUICK = 60
INTRODUCTION = (
    ("base alone", "large, has read all about an invented country, was never taught to answer"),
    ("tuned alone", "small, was taught to answer politely, kept little of what it read"),
    ("EFT", "the base, with what teaching changed in the small one added at every token"),
    ("real large fine-tune", "the base after the same teaching: what EFT emulates without it"),
)


@click.command(
    "demo",
    cls=Verb,
    examples=("eftlite demo", "eftlite demo --quick", "eftlite demo --json > scores.json"),
)
@click.option("--quick", is_flag=True, help=f"Score {QUICK} of the questions.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Score N of the questions.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as one object, and nothing else.")
@click.option("--threads", "-t", type=int, metavar="N", cls=ModelOption, help="Threads.  [default: 1, enough here]")
@click.pass_obj
def demo_command(output: Output, quick: bool, limit: int | None, as_json: bool, threads: int | None) -> None:
    """See EFT at work on the bundled family, then score it.

    The base has read about an invented country and rambles; the small tuned model is polite and knows little; EFT
    combines the two. Beside them answers the large model that was fine-tuned for real, which EFT emulates. A few
    questions are shown in full. Then everyone answers the whole question set, greedily, and the answers are counted:
    facts right, and manner kept (polite, and ended by itself).
    """
    from eftlite.demo.scoreboard import Panel, sample, score
    from eftlite.demo.scoring import load_questions

    questions = load_questions()
    n_wanted = limit or (QUICK if quick else len(questions))
    members = Members(threads=threads)
    family = members.resolve()
    if family.real is None:
        raise InputError("demo: expected a family with a real fine-tune")
    with (
        members.load(family, speculative=False) as eft,
        members.load(Family("real", family.real), speculative=False) as real,
    ):
        panel = Panel(eft, real)
        if not as_json:
            _show_answers(output, panel, questions)
        chosen = sample(questions, n_wanted)
        with _progress(output, len(chosen)) as report:
            tally = score(panel, chosen, report)
    if as_json:
        output.json(tally.as_json())
    else:
        _show_scores(output, tally)


# ---- answers


def _show_answers(output: Output, panel: Panel, questions: Sequence[Question]) -> None:
    """One question of each kind with everyone's answers."""
    from eftlite.cli.sidebyside import show

    output.pairs(INTRODUCTION)
    output.prose("")
    for kind in SHOWN_KINDS:
        question = next((question for question in questions if question.kind == kind), None)
        if question is not None:
            show(output, panel, question)


# ---- scores


@contextmanager
def _progress(output: Output, total: int) -> Iterator[Callable[[Tally], None] | None]:
    """A bar on a terminal's stderr while the questions are asked."""
    if not on_terminal(sys.stderr):
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("questions,"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=output.console(err=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda tally: bar.update(task, completed=tally.n_questions)


def _show_scores(output: Output, tally: Tally) -> None:
    """The scoreboard, and what it means."""
    from rich.table import Table

    from eftlite.cli.sidebyside import NAMES
    from eftlite.demo.scoreboard import share

    kinds = tally.by_kind()
    facts, console = tally.facts(), output.console()
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    table.add_column("")
    with_kinds = console.width >= 36 + sum(len(kind) + 2 for kind in kinds)
    for title in ("facts", "manner", "refused", *(kinds if with_kinds else ())):
        table.add_column(title, justify="right")
    for mode in tally.polite:
        row = [facts.get(mode), share(tally.polite[mode]), share(tally.refused.get(mode, ()))]
        row += [found.get(mode) for found in kinds.values()] if with_kinds else []
        table.add_row(NAMES[mode], *map(_percent, row), style="bold" if mode == "eft" else None)
    output.heading(f"{tally.n_questions} questions, greedy answers")
    console.print(table)
    output.prose(_summary(tally))


def _summary(tally: Tally) -> str:
    """What the scores say, in words."""
    from eftlite.demo.scoreboard import HARMLESS, share

    facts = tally.facts()
    parts = []
    eft, real = facts.get("eft"), facts.get("real")
    if eft is not None and real:
        parts.append(f"EFT has {eft / real:.0%} of the real fine-tune's facts; the large model was not trained for it.")
    if HARMLESS in tally.refused:
        parts.append(
            f"With the other delta it refuses {_percent(share(tally.refused[HARMLESS]))} of the harmful requests."
        )
    parts.append(f"{tally.n_tokens} tokens in {tally.seconds:.0f} s.")
    return "\n".join(parts)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
