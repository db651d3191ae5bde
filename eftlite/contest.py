"""What a benchmark compares: tests with llama-bench's names, ways to decode, drafts accepted at a rate of one's own.

A plan's lists make a grid: every test with every contender. Synthetic acceptance is a rule like those of verify.py;
nothing outside benchmarks uses it.

Knows families, knobs and rules; measuring is bench.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import NamedTuple

from eftlite.costs import CostCurve
from eftlite.errors import InputError
from eftlite.events import Statistics
from eftlite.generate import Decoder
from eftlite.loading import Engine, Source, member_names
from eftlite.noise import ACCEPT
from eftlite.planning import Planner
from eftlite.settings import Family, Knobs, Sampling, Speculation
from eftlite.speculative import Acceptance, Rounds
from eftlite.verify import EXPECTED_ACCEPTANCE, Law, Noise, Rule, Verdict, draw

MODES = ("base", "tuned", "eft", "eft-spec")
ADVERSARIAL = "adversarial"
QUESTIONS = (
    "Why is the sky blue, and why is it red in the evening?",
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "How do I cook risotto for four people? List what I need first.",
    "Compare trains and planes for a journey of 800 kilometres.",
    "Write a Python function that tells whether a word is a palindrome, and explain it.",
)


class Trial(NamedTuple):
    """Reading n_prompt tokens or making n_gen, after n_depth others."""

    n_prompt: int
    n_gen: int
    n_depth: int

    @property
    def name(self) -> str:
        """As llama-bench has it."""
        name = f"pp{self.n_prompt}" if self.n_prompt else f"tg{self.n_gen}"
        return f"{name} @ d{self.n_depth}" if self.n_depth else name

    def shortened(self, n: int) -> Trial:
        """The same with n tokens at most, for warming up."""
        return Trial(min(self.n_prompt, n), min(self.n_gen, n), self.n_depth)


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        n_prompt, n_gen: tokens of the pp and tg tests; 0 leaves them out.
        n_depth: tokens in the caches before a test begins.
        repetitions: of each test, after a warm-up.
        modes: some of ``MODES``; None takes those that the family has.
        drafters: names as in ``Speculation``, or one path of a further GGUF file, which only drafts.
        rules, n_drafts: as in ``Speculation``.
        acceptances: each a rate in 0..1 of a synthetic acceptance, ``ADVERSARIAL``, or None for the rule itself.
            Adversarial drafts are never accepted, which the pace has to find out by drafting: every repetition begins
            with one that expects the best.
        questions: what the family is asked, one after the other from repetition to repetition.
        knobs: of EFT; the family's by default.
        sampling: its seed is that of the first repetition.
        n_ctx: None takes what the tests need, 0 what the models were trained for.
    """

    n_prompt: tuple[int, ...] = (512,)
    n_gen: tuple[int, ...] = (128,)
    n_depth: tuple[int, ...] = (0,)
    repetitions: int = 5
    modes: tuple[str, ...] | None = None
    drafters: tuple[str, ...] = ("auto",)
    rules: tuple[str, ...] = ("gumbel",)
    n_drafts: tuple[int | None, ...] = (None,)
    acceptances: tuple[float | str | None, ...] = (None,)
    questions: tuple[str, ...] = QUESTIONS
    knobs: Knobs | None = None
    sampling: Sampling = field(default_factory=lambda: Sampling(seed=42))
    n_ctx: int | None = None

    def __post_init__(self) -> None:
        for name, lowest in (("n_prompt", 0), ("n_gen", 0), ("n_depth", 0), ("repetitions", 1)):
            value = getattr(self, name)
            if min(value if isinstance(value, tuple) else (value,), default=-1) < lowest:
                raise InputError(f"{name}: expected at least {lowest}, got {value}")
        unknown = [mode for mode in self.modes or () if mode not in MODES]
        if unknown:
            raise InputError(f"modes: expected some of {', '.join(MODES)}, got {unknown[0]!r}")
        for rate in self.acceptances:
            if rate not in (None, ADVERSARIAL) and not (isinstance(rate, float | int) and 0 <= rate <= 1):
                raise InputError(f"acceptance: expected a number from 0 to 1, or {ADVERSARIAL}, got {rate!r}")
        if not self.tests:
            raise InputError("n_prompt, n_gen: expected tokens to read or to make, got none")
        if sum(name.endswith(".gguf") for name in self.drafters) > 1:
            raise InputError("drafter: expected one file at most, got several", "Name the others one run each")
        if not self.questions or any(not text.strip() for text in self.questions):
            raise InputError("questions: expected texts, got an empty one or none")
        self.speculations()  # so that a value they refuse is refused before models are loaded

    @property
    def tests(self) -> list[Trial]:
        """Every test, for each depth the reading first."""
        sizes = [(n, 0) for n in self.n_prompt if n] + [(0, n) for n in self.n_gen if n]
        return [Trial(n_prompt, n_gen, depth) for depth in self.n_depth for n_prompt, n_gen in sizes]

    @property
    def drafter_file(self) -> str | None:
        """The model among the drafters that has to be loaded."""
        return next((name for name in self.drafters if name.endswith(".gguf")), None)

    def speculations(self, drafter: str = "drafter") -> list[Speculation]:
        """The ways to draft; ``drafter`` is the name of ``drafter_file``'s member."""
        names = [drafter if name == self.drafter_file else name for name in self.drafters]
        return [
            Speculation(drafter=name, rule=rule, n_draft=n)
            for name, rule, n in product(names, self.rules, self.n_drafts)
        ]


# ---- synthetic acceptance


def synthetic(rate: float, all_rows: bool = False) -> Rule:
    """A rule that keeps each drafted token with probability ``rate``, whatever the models say.

    It does the work of a real one: asks for the law at every row that it gets to (with ``all_rows`` at every row of
    the draft, as block verification does) and draws from it. llama.cpp's ``--spec-synth-rates`` does the same.
    """

    def rule(
        draft: Sequence[int],
        _proposals: Sequence[Law],
        target: Callable[[int], Law],
        noise: Noise,
        position: int,
        round_index: int,
    ) -> Verdict:
        """As every rule of verify.py; coins of ``noise`` decide."""
        ahead = [target(i) for i in range(len(draft))] if all_rows else None
        for i in range(len(draft)):
            token = draw(target(i) if ahead is None else ahead[i], noise, position + i)
            if noise.uniform(position + i, ACCEPT, round_index) >= rate:
                return Verdict(i, token)
        return Verdict(len(draft), draw(target(len(draft)), noise, position + len(draft)))

    return rule


def judge(acceptance: float | str, rule: str) -> Acceptance:
    """What takes the rule's place for an entry of ``Plan.acceptances``.

    The pace sees the rate, at the price of the real rule's estimate; of an adversary it sees what becomes of drafts.
    """
    rate = 0.0 if acceptance == ADVERSARIAL else float(acceptance)

    def expected(p: Law, q: Law) -> float:
        EXPECTED_ACCEPTANCE[rule](p, q)
        return rate

    return Acceptance(synthetic(rate, all_rows=rule == "block"), None if acceptance == ADVERSARIAL else expected)


# ---- contenders


@dataclass(frozen=True)
class Sample:
    """One repetition: wall-clock seconds, those of them in each member's ``llama_decode``, and how it was drafted."""

    seconds: float
    member_s: dict[str, float]
    drafter: int | None = None
    statistics: Statistics = field(default_factory=Statistics)


class Contender:
    """One way to decode: a mode and, for eft-spec, how it drafts and what is accepted (see ``Plan.acceptances``)."""

    def __init__(
        self, mode: str, knobs: Knobs, speculation: Speculation | None = None, acceptance: float | str | None = None
    ) -> None:
        self.mode, self.knobs, self.speculation, self.acceptance = mode, knobs, speculation, acceptance
        self.samples: list[Sample] = []
        self._planner: Planner | None = None

    @property
    def label(self) -> str:
        """For progress and messages."""
        if self.speculation is None:
            return self.mode
        how = f"{self.mode} {self.speculation.drafter} {self.speculation.rule}"
        return how if self.acceptance is None else f"{how} {self.acceptance}"

    def rounds(self, decoder: Decoder, curves: Mapping[str, CostCurve], engine: Engine) -> Rounds | None:
        """Rounds for an answer; None when it is decoded plainly."""
        if self.speculation is None:
            return None
        if self._planner is None or self.acceptance == ADVERSARIAL:
            self._planner = Planner(engine, self.speculation, curves=curves)
        instead = None if self.acceptance is None else judge(self.acceptance, self.speculation.rule)
        return self._planner.rounds(decoder, self.speculation, instead)


def contenders(plan: Plan, family: Family) -> list[Contender]:
    """Everything that the plan compares on this family; InputError where the family lacks the models."""
    n = len(family.deltas)
    modes = plan.modes or (MODES if n else MODES[:1])
    if not n and set(modes) != {"base"}:
        raise InputError(f"modes: expected base alone, since {family.name} has no delta, got {', '.join(modes)}")
    eft = plan.knobs or Knobs(tuple(delta.alpha for delta in family.deltas))
    alone = {"base": Knobs((0.0,) * n), "tuned": Knobs((1.0, *(0.0,) * (n - 1)), beta=0.0)}
    found = [Contender(mode, alone.get(mode, eft)) for mode in MODES[:3] if mode in modes]
    if "eft-spec" in modes:
        file = plan.drafter_file
        drafter = member_names(family).get(Source(str(Path(file).expanduser().resolve()))) if file else None
        ways = product(plan.speculations(drafter or "drafter"), plan.acceptances)
        found += [Contender("eft-spec", eft, *how) for how in ways]
    return found
