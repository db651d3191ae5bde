"""A family at work: what its members take and cost, what it answers, where answers end. For a child process.

Knows a loaded engine and the clock; what the figures mean is judged elsewhere.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from eftlite.bench import question_ids
from eftlite.costs import CostCurve, Costs, load_curve, save_curve
from eftlite.doctor.case import Case
from eftlite.doctor.walking import Answered, Ended, Walker
from eftlite.loading import Engine, load
from eftlite.placement import Placement
from eftlite.places import cache_folder
from eftlite.settings import Speculation
from eftlite.timing import costs, curve_key, member_curve, row_seconds

# EFT and the tuned model answer for so long each, as far as that gives sensible numbers of tokens and questions.
BUDGET_S, MIN_QUESTIONS = 30.0, 2
MIN_TOKENS, MAX_TOKENS = 24, 96
MIN_TUNED_TOKENS, MAX_TUNED_TOKENS = 64, 192  # here it is the end that matters
# llama.cpp's threads wait for each other, so that one busy core slows all of them down.
BUSY, WATCHED_S = 0.25, 0.5

Report = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        curves: seconds of each member's batches.
        price: of plain steps and rounds with the family's knobs.
        placement: what was chosen for the members' sake of memory.
        busy: share of the processor that other programs took just before.
        stale: how many times slower or faster the curves kept by earlier starts say that the members are.
        tuned, base: these members' names; tuned is None for a base alone.
        answers, ends: for each question; none for random weights.
    """

    curves: dict[str, CostCurve]
    price: Costs
    placement: Placement
    base: str
    tuned: str | None
    busy: float = 0.0
    stale: float = 1.0
    answers: tuple[Answered, ...] = ()
    ends: tuple[Ended, ...] = ()


def measure(case: Case, report: Report) -> Measured:
    """Load the family, time it, let it answer.

    Raises:
        EFTError: as loading and decoding do.
    """
    engine = load(case.family, case.n_ctx, 1, case.settings, lambda name, done: report(f"loading {name} {done:.0%}"))
    try:
        return _measure(engine, case, report)
    finally:
        engine.close()


def _measure(engine: Engine, case: Case, report: Report) -> Measured:
    busy = busy_share()
    curves, stale = timed(engine, report, busy)
    walker = Walker(engine, case.knobs)
    names = [member.name for member in engine.ensemble.members]
    drafter = walker.tuned if len(walker.recipe.needed) > 1 else None
    with closing(walker.sampler()) as sampler:
        row_s = row_seconds(engine.composite, engine.ensemble, case.knobs, sampler)
    measured = Measured(
        curves,
        costs(engine.ensemble, walker.recipe.needed, drafter, curves, row_s, Speculation().rule),
        engine.placement,
        names[engine.ensemble.roles.base],
        None if walker.tuned is None else names[walker.tuned],
        busy,
        stale,
    )
    if case.random_weights or walker.tuned is None:
        return measured
    answers, ends = _asked(engine, case, walker, measured, report)
    return replace(measured, answers=answers, ends=ends)


def _asked(
    engine: Engine, case: Case, walker: Walker, measured: Measured, report: Report
) -> tuple[tuple[Answered, ...], tuple[Ended, ...]]:
    """Ask one question after the other, fewer of them where the machine is slow."""
    share = BUDGET_S / len(case.questions)
    limit = int(min(max(share / measured.price.plain_s, MIN_TOKENS), MAX_TOKENS))
    tuned_s = measured.curves[measured.tuned or measured.base].at(1)
    tuned_limit = int(min(max(share / tuned_s, MIN_TUNED_TOKENS), MAX_TUNED_TOKENS))
    answers: list[Answered] = []
    ends: list[Ended] = []
    began = time.monotonic()
    for ids in question_ids(engine, case.family, case.questions):
        if len(answers) >= MIN_QUESTIONS and time.monotonic() - began > 2 * BUDGET_S:
            break
        report(f"asking EFT, {len(answers) + 1} of {len(case.questions)}")
        answers.append(walker.answer(ids, limit))
        report(f"asking tuned, {len(answers)} of {len(case.questions)}")
        ends.append(walker.end(ids, tuned_limit))
    return tuple(answers), tuple(ends)


def busy_share() -> float:
    """Share of the processor, 0..1, that is taken while this program waits."""
    import psutil

    return float(psutil.cpu_percent(interval=WATCHED_S)) / 100.0


def timed(engine: Engine, report: Report, busy: float) -> tuple[dict[str, CostCurve], float]:
    """Each member's curve, measured now, and how far those are off that earlier starts have kept, as a factor.

    What there was none of is kept now, unless the machine is too busy for it to be true.
    """
    path, stale, curves = cache_folder() / "curves.json", 1.0, {}
    with tempfile.TemporaryDirectory() as folder:
        for member in engine.ensemble.members:
            curve = member_curve(member, Path(folder) / "curves.json", lambda name: report(f"timing {name}"))
            kept = load_curve(path, curve_key(member))
            if kept is not None:
                stale = max(stale, kept.at(1) / curve.at(1), curve.at(1) / kept.at(1))
            elif busy < BUSY:
                save_curve(path, curve_key(member), curve)
            curves[member.name] = curve
    return curves, stale
