"""``eftlite demo``: four answers side by side, then the scoreboard over the whole question set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from eftlite.cli.options import Members
from eftlite.cli.output import Output
from eftlite.cli.verb import ModelOption, Verb
from eftlite.errors import InputError

if TYPE_CHECKING:
    from eftlite.demo.scoreboard import Panel, Tally
    from eftlite.demo.scoring import Question

# One question of each of these kinds is shown: the first of its kind in the set, whatever becomes of it.
SHOWN_KINDS = ("single", "follow-up", "compare", "describe")
QUICK = 60


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
    with members.load(family, speculative=False) as eft, members.load_alone(family.real) as real:
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
