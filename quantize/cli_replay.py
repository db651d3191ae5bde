"""``eftlite quantize replay``: knobs scored on recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eftlite.cli.options import Generation
from eftlite.cli.output import Output
from eftlite.cli.verb import AnswerOption, Verb
from eftlite.errors import InputError
from eftlite_quantize.cli_bar import progress_bar
from eftlite_quantize.cli_options import Reporting, Running, report_options, running_options

if TYPE_CHECKING:
    from eftlite_quantize.prediction import Speed
    from eftlite_quantize.recorded import Index
    from eftlite_quantize.replay import Score

FEW_DRAFTED = 4
_NO_SPEED = "tokens per second are not known here: --speed times each model once, and keeps the times in the folder"


@click.command(
    "replay",
    cls=Verb,
    examples=(
        "eftlite quantize replay recorded --sweep alpha=0:2:.1 --plot alpha.svg",
        "eftlite quantize replay recorded --sweep alpha=0:2:.5 --sweep beta=1:2:.25 --use base=Q4_K_M --json",
    ),
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--sweep", "sweeps", multiple=True, metavar="KNOB=FROM:TO:STEP", help="Score each value; repeatable.")
@click.option("--use", "used", multiple=True, metavar="MEMBER=TYPE", help="Replay a recorded variant; repeatable.")
@click.option("--draft", "n_draft", type=click.IntRange(1, 64), default=FEW_DRAFTED, show_default=True, metavar="N",
              help="Tokens of a draft.")  # fmt: skip
@click.option("--speed", is_flag=True, help="Time the models on this machine, those not timed yet.")
@report_options("the sweep")
@running_options
@click.option("--alpha", type=float, cls=AnswerOption, help="Strength of the first delta.  [default: the family's]")
@click.option("--beta", type=float, cls=AnswerOption, help="Above 1 amplifies what the base knows.  [default: 1]")
@click.option("--conservative-p", type=float, cls=AnswerOption, help="The base only in the tuned model's top-p set.")
@click.option("--delta", multiple=True, metavar="NAME=ALPHA", cls=AnswerOption, help="By name; repeatable.")
@click.option("--allow-negative-alpha", is_flag=True, cls=AnswerOption, help="Allow alpha < 0.")
@click.pass_obj
def replay_command(
    output: Output,
    /,
    folder: Path,
    sweeps: tuple[str, ...],
    used: tuple[str, ...],
    n_draft: int,
    speed: bool,
    reporting: Reporting,
    running: Running,
    alpha: float | None,
    beta: float | None,
    conservative_p: float | None,
    delta: tuple[str, ...],
    allow_negative_alpha: bool,
) -> None:
    """Score knobs on the recordings in FOLDER; no model runs.

    PPL is the composite's on the text as it stands; shift is how far it is from the tuned model (total variation), and
    1 minus that the share of the tuned model's drafts that will stand; tokens is what one verification of N drafted
    tokens then gives. KLD is from the family as it is: its own knobs, the original files.

    Tokens per second are predicted without drafts and with drafts of the best length, once --speed has timed the
    models: by what their batches cost on this machine, and by that acceptance.
    """
    from eftlite.settings import Delta, Family
    from eftlite_quantize.prediction import measure, speeds
    from eftlite_quantize.recorded import load_index
    from eftlite_quantize.replay import Setting, replay
    from eftlite_quantize.sweeps import settings
    from eftlite_quantize.tables import Table

    index = load_index(folder)
    family = Family(index.family, "", tuple(Delta(one.name, "", "", one.alpha) for one in index.deltas))
    options = Generation(alpha, beta, conservative_p, delta, allow_negative_alpha)
    found = settings(options.knobs(family), [one.name for one in index.deltas], sweeps)
    if reporting.plot is not None and len(sweeps) != 1:
        raise InputError(f"--plot: expected one --sweep, whose values are the axis, got {len(sweeps)}")
    reporting.check()
    files = files_of(index, used)
    with progress_bar(output) as report:
        if speed:
            measure(folder, index, files, running.settings, report)
        scores = replay(folder, index, [Setting(name, knobs, files) for name, knobs in found], None, report)
    fast = speeds(folder, index, scores)
    values = {
        "family": index.family, "text_sha256": index.digest, "n_draft": n_draft,
        "settings": [
            {**one.as_json(n_draft), "speed": None if fast is None else fast[i].as_json()}
            for i, one in enumerate(scores)
        ],
    }  # fmt: skip  # reads across
    notes = [_NO_SPEED] if fast is None else []
    reporting.write(output, Table(cells(scores, n_draft, fast), values, notes=notes, spare=("shift", "PPL")))
    if reporting.plot is not None:
        _draw(output, scores, sweeps[0], reporting.plot)


def files_of(index: Index, used: Sequence[str]) -> tuple[str, ...]:
    """A recording of each member: the original, or the type that ``MEMBER=TYPE`` names."""
    chosen = {}
    for text in used:
        member, _, kind = text.partition("=")
        if member not in index.members:
            raise InputError(f"--use: expected MEMBER=TYPE, got {text!r}", f"Members: {', '.join(index.members)}")
        chosen[member] = index.find(member, kind).file
    return tuple(chosen.get(name, entries[0].file) for name, entries in index.members.items())


def cells(scores: Sequence[Score], n_draft: int, fast: Sequence[Speed] | None) -> list[list[str]]:
    """The table."""
    from eftlite_quantize.reports import with_error

    rows = [["setting", "PPL", "shift", "acceptance", f"tokens of {n_draft}", "KLD"]]
    for one in scores:
        numbers = [f"{one.ppl:.4g}", with_error(one.shift), f"{one.acceptance:.3f}", f"{one.tokens(n_draft):.2f}"]
        rows.append([one.setting.name, *numbers, with_error(one.kld)])
    if fast is None:
        return rows
    more = [["plain t/s", "drafted t/s", "draft"], *([_rate(x.plain), _rate(x.drafted), str(x.n_draft)] for x in fast)]
    return [[*row, *added] for row, added in zip(rows, more, strict=True)]


def _rate(per_second: float) -> str:
    return f"{per_second:.3g}" if per_second < 1000 else f"{per_second:.0f}"


def _draw(output: Output, scores: Sequence[Score], sweep: str, plot: Path) -> None:
    from eftlite_quantize.curves import draw_sweep
    from eftlite_quantize.sweeps import values

    draw_sweep(*values(sweep), scores, plot)
    output.note(f"{plot} written")
