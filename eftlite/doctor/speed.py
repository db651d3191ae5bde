"""Question three: is it fast? What the curves promise, alone, with EFT, and with drafts.

The figures are what eftlite itself decides by (pace.py): measured costs, and an acceptance measured on the answers.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eftlite.doctor.case import Case
from eftlite.doctor.findings import OK, WARNING, Finding
from eftlite.doctor.measuring import BUSY, Measured
from eftlite.doctor.soundness import fit
from eftlite.pace import seconds_per_token
from eftlite.places import cache_folder
from eftlite.settings import Speculation

# Silent reading is 238 words a minute (Brysbaert 2019, doi 10.1016/j.jml.2019.104047), at 1.3 tokens a word.
READING_TOKENS_S = 5.2
# Where random weights answer, acceptance cannot be measured: a modest one, and a good one.
ASSUMED = (0.6, 0.8)
# Curves of an idle machine come back within a few percent; where they differ by half, one was not idle.
MAX_STALE = 1.5
# Reading a token at a time is bound by memory, so a pair that costs more than the base is not small.
MAX_PAIR_SHARE = 0.5


@dataclass(frozen=True)
class Speeds:
    """Expected tokens per second.

    Attributes:
        base, tuned: of these models alone; tuned is 0 without one.
        plain, drafted: of EFT without and with drafts.
        n_draft: the best draft length; 0 where drafts do not pay.
    """

    base: float
    tuned: float
    plain: float
    drafted: float
    n_draft: int


def acceptance(measured: Measured) -> float | None:
    """Mean probability that a drafted token stands; None where nothing was asked."""
    n_tokens = sum(answer.n_tokens for answer in measured.answers)
    return sum(answer.acceptance for answer in measured.answers) / n_tokens if n_tokens else None


def speeds(measured: Measured, rate: float) -> Speeds:
    """What to expect where drafted tokens stand with this probability."""
    price = measured.price
    seconds = seconds_per_token(price, rate, Speculation().max_draft) if price.drafter else [price.plain_s]
    n_draft = min(range(len(seconds)), key=seconds.__getitem__)
    tuned = 0.0 if measured.tuned is None else 1.0 / measured.curves[measured.tuned].at(1)
    base = 1.0 / measured.curves[measured.base].at(1)
    return Speeds(base, tuned, 1.0 / price.plain_s, 1.0 / seconds[n_draft], n_draft)


def fastest(measured: Measured) -> float:
    """Tokens per second that EFT will make, with drafts where they pay."""
    return speeds(measured, acceptance(measured) or 0.0).drafted


def findings(measured: Measured, case: Case) -> Iterator[Finding]:
    """Speeds, and what holds them down."""
    if case.random_weights:
        yield fit(measured.placement)
    yield from _trust(measured)
    rate = acceptance(measured)
    found = speeds(measured, ASSUMED[-1] if rate is None else rate)
    facts = {"acceptance": rate, **vars(found)}
    if measured.tuned is None:
        yield _pleasant("speed", found.base, f"{_number(found.base)} tokens/s", case, facts)
        return
    alone = f"{_number(found.base)} tokens/s by the base alone, {_number(found.tuned)} by {measured.tuned} alone"
    yield Finding("members", OK, alone, facts={name: curve.at(1) for name, curve in measured.curves.items()})
    yield _pleasant("EFT", found.drafted, _eft(measured, rate, found), case, facts)
    yield from _pair(measured)


def _trust(measured: Measured) -> Iterator[Finding]:
    """Whether the figures are the machine's, and those kept from earlier starts still true."""
    if measured.busy >= BUSY:
        text = f"Other programs take {measured.busy:.0%} of the processor, so that these figures are too low"
        yield Finding("load", WARNING, text, facts={"busy": measured.busy})
    elif measured.stale >= MAX_STALE:
        path = cache_folder() / "curves.json"
        text = f"Costs kept from earlier starts are off by a factor of {measured.stale:.1f}; drafts are planned by them"
        yield Finding("curves", WARNING, text, f"rm {shlex.quote(str(path))}", {"stale": measured.stale})


def _eft(measured: Measured, rate: float | None, found: Speeds) -> str:
    """EFT's speeds in words."""
    plain = f"{_number(found.plain)} tokens/s plainly"
    if measured.price.drafter is None:
        return plain
    if rate is None:
        guesses = (f"{_number(speeds(measured, one).drafted)} if {one:.0%} of drafted tokens stand" for one in ASSUMED)
        return f"{plain}; with drafts {', '.join(guesses)}"
    if not found.n_draft:
        return f"{plain}; drafts would not pay, {rate:.0%} of them stand, so none are made"
    return f"{plain}, {_number(found.drafted)} with drafts of {found.n_draft} ({rate:.0%} of drafted tokens stand)"


def _number(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.2g}"


def _pleasant(name: str, speed: float, text: str, case: Case, facts: dict[str, Any]) -> Finding:
    """The finding about the speed that a user will see."""
    if speed >= READING_TOKENS_S:
        return Finding(name, OK, text, facts=facts)
    text += f"; people read {READING_TOKENS_S:g}. Take a smaller base, or a smaller type of it"
    return Finding(name, WARNING, text, "" if case.random_weights else case.command("bench"), facts)


def _pair(measured: Measured) -> Iterator[Finding]:
    """The small models must be small beside the base."""
    price = measured.price
    members = {*price.verifiers, *([price.drafter] if price.drafter and not price.outsider else [])}
    total = sum(measured.curves[name].at(1) for name in members)
    share = 1.0 - measured.curves[measured.base].at(1) / total if measured.base in members else 0.0
    if share > MAX_PAIR_SHARE:
        text = f"{share:.0%} of a step goes to the small models; a pair of a tenth of the base's size costs less"
        yield Finding("pair", WARNING, text, facts={"share": share})
