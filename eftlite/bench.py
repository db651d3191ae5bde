"""Speed of a family by llama-bench's conventions: base, tuned, plain EFT and speculative EFT side by side in one run.

Tests are called pp512 (reading 512 tokens), tg128 (making 128) and ``tg128 @ d1024`` (the same after 1024 others).
One warm-up, then repetitions interleaved over the contenders (A B C A B C), so that a drift of the machine hits all
alike. Tokenizing is never timed, making the law and drawing from it is; tg leaves the prompt out, and end tokens do
not end it. Whatever is synthetic is named in every row: random weights, random prompts, coins in place of a rule.

Knows families, clocks and numbers; options and tables are cli/bench.py's.

Not guaranteed: that a text is worth reading. With random weights or a synthetic acceptance it is noise; else it runs on
past where an answer would end, and acceptance is that of such a text.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from importlib import metadata
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eftlite.composite import Recipe
from eftlite.costs import CostCurve
from eftlite.errors import EngineError, InputError
from eftlite.generate import Decoder, DraftStatistics, plain
from eftlite.llama import devices
from eftlite.loading import Engine, load
from eftlite.member import physical_cores
from eftlite.noise import ACCEPT, Noise
from eftlite.pace import seconds_per_token
from eftlite.planning import Planner
from eftlite.sampling import Sampler
from eftlite.settings import Family, Knobs, Limits, ModelSettings, Sampling, Speculation
from eftlite.speculative import Acceptance, Rounds, speculative
from eftlite.template import BUILTIN, Template, has_bos
from eftlite.timing import costs, member_curve
from eftlite.verify import EXPECTED_ACCEPTANCE, Law, Rule, Verdict, draw

MODES = ("base", "tuned", "eft", "eft-spec")
ADVERSARIAL = "adversarial"
QUESTIONS = (
    "Why is the sky blue, and why is it red in the evening?",
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "How do I cook risotto for four people? List what I need first.",
    "Compare trains and planes for a journey of 800 kilometres.",
    "Write a Python function that tells whether a word is a palindrome, and explain it.",
)
WARM_UP = 32  # tokens at most; a pace has found its length by then
_ROOM = 512  # tokens for a question in its template, until the tokenizer is there to count them

Report = Callable[[str], None]
Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is measured. Lists make a grid: every test with every contender.

    Attributes:
        n_prompt, n_gen: tokens of the pp and tg tests; 0 leaves them out.
        n_depth: tokens in the caches before a test begins.
        repetitions: of each test, after a warm-up.
        modes: some of ``MODES``; None takes those that the family has.
        drafters: names as in ``Speculation``, or one path of a further model that only drafts.
        rules, n_drafts: as in ``Speculation``.
        acceptances: each a rate in 0..1 of a synthetic acceptance, ``ADVERSARIAL``, or None for the rule itself.
            Adversarial drafts are never accepted, and every repetition begins with a pace that expects the best.
        questions: what the family is asked, one after the other from repetition to repetition.
        knobs: of EFT; the family's by default.
        sampling: its seed is that of the first repetition.
        n_ctx: None takes what the tests need.
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
        for name in ("n_prompt", "n_gen", "n_depth", "repetitions"):
            value = getattr(self, name)
            lowest = 1 if name == "repetitions" else 0
            if any(n < lowest for n in (value if isinstance(value, tuple) else (value,))):
                raise InputError(f"{name}: expected at least {lowest}, got {value}")
        unknown = [mode for mode in self.modes or () if mode not in MODES]
        if unknown:
            raise InputError(f"modes: expected some of {', '.join(MODES)}, got {unknown[0]!r}")
        for rate in self.acceptances:
            if rate not in (None, ADVERSARIAL) and not (isinstance(rate, float | int) and 0 <= rate <= 1):
                raise InputError(f"acceptance: expected a number from 0 to 1, or {ADVERSARIAL}, got {rate!r}")
        if not self.tests:
            raise InputError("n_prompt, n_gen: expected tokens to read or to make, got none")
        self.speculations()

    @property
    def tests(self) -> list[Test]:
        """Every test, the quick ones first."""
        sizes = [(n, 0) for n in self.n_prompt if n] + [(0, n) for n in self.n_gen if n]
        return [Test(n_prompt, n_gen, depth) for depth in self.n_depth for n_prompt, n_gen in sizes]

    @property
    def drafter_file(self) -> str | None:
        """The model among the drafters that has to be loaded."""
        return next((name for name in self.drafters if name.endswith(".gguf")), None)

    def speculations(self) -> list[Speculation]:
        """The kinds of drafts to compare."""
        names = ["drafter" if name == self.drafter_file else name for name in self.drafters]
        return [
            Speculation(drafter=name, rule=rule, n_draft=n)
            for name, rule, n in product(names, self.rules, self.n_drafts)
        ]


class Test(NamedTuple):
    """Reading n_prompt tokens or making n_gen, after n_depth others."""

    n_prompt: int
    n_gen: int
    n_depth: int

    @property
    def name(self) -> str:
        """As llama-bench has it."""
        name = f"pp{self.n_prompt}" if self.n_prompt else f"tg{self.n_gen}"
        return f"{name} @ d{self.n_depth}" if self.n_depth else name


# ---- synthetic acceptance


def synthetic(rate: float, all_rows: bool = False) -> Rule:
    """A rule that keeps each drafted token with probability ``rate``, whatever the models say.

    It does the work of a real one: asks for the law at every row it gets to (with ``all_rows`` at every row of the
    draft, as block verification does) and draws from it. The same as llama.cpp's ``--spec-synth-rates``.
    """

    def rule(
        draft: Sequence[int],
        _proposals: Sequence[Law],
        target: Callable[[int], Law],
        noise: Any,
        position: int,
        round_index: int,
    ) -> Verdict:
        ahead = [target(i) for i in range(len(draft))] if all_rows else None
        for i in range(len(draft)):
            token = draw(target(i) if ahead is None else ahead[i], noise, position + i)
            if noise.uniform(position + i, ACCEPT, round_index) >= rate:
                return Verdict(i, token)
        return Verdict(len(draft), draw(target(len(draft)), noise, position + len(draft)))

    return rule


def synthetic_acceptance(rate: float, rule: str) -> Acceptance:
    """The synthetic rule, with a pace that sees ``rate`` and pays for the real rule's estimate."""

    def expected(p: Law, q: Law) -> float:
        EXPECTED_ACCEPTANCE[rule](p, q)
        return rate

    return Acceptance(synthetic(rate, all_rows=rule == "block"), expected)


# ---- what is compared


@dataclass
class Sample:
    """One repetition: wall-clock seconds, those of them in each member's ``llama_decode``, what became of drafts."""

    seconds: float
    member_s: dict[str, float]
    speculation: str = ""
    drafts: DraftStatistics | None = None


class Contender:
    """One way to decode: a mode, and for eft-spec how it drafts.

    Args:
        acceptance: see ``Plan.acceptances``.
    """

    def __init__(
        self, mode: str, knobs: Knobs, speculation: Speculation | None = None, acceptance: float | str | None = None
    ) -> None:
        self.mode, self.knobs, self.speculation, self.acceptance = mode, knobs, speculation, acceptance
        self.samples: list[Sample] = []
        self._planner: Planner | None = None

    @property
    def label(self) -> str:
        """For progress."""
        return self.mode if self.acceptance is None else f"{self.mode} {self.acceptance}"

    def rounds(self, decoder: Decoder, curves: dict[str, CostCurve], engine: Engine) -> Rounds | None:
        """Rounds for an answer; None when this contender, or what it asks for, is plain."""
        if self.speculation is None:
            return None
        if self._planner is None or self.acceptance == ADVERSARIAL:
            self._planner = Planner(engine, self.speculation, curves=curves)
        coin = None
        if self.acceptance is not None:
            rate = 0.0 if self.acceptance == ADVERSARIAL else float(self.acceptance)
            coin = synthetic_acceptance(rate, self.speculation.rule)
        return self._planner.rounds(decoder, self.speculation, coin)


def contenders(plan: Plan, family: Family) -> list[Contender]:
    """Everything that the plan compares on this family; InputError where the family lacks the models."""
    n = len(family.deltas)
    modes = plan.modes or (MODES if n else MODES[:1])
    if not n and set(modes) != {"base"}:
        raise InputError(f"modes: expected base, since {family.name} has no delta, got {', '.join(modes)}")
    eft = plan.knobs or Knobs(tuple(delta.alpha for delta in family.deltas))
    alone = {"base": Knobs((0.0,) * n), "tuned": Knobs((1.0, *(0.0,) * (n - 1)), beta=0.0)}
    found = [Contender(mode, alone.get(mode, eft)) for mode in MODES if mode in modes and mode != "eft-spec"]
    if "eft-spec" in modes:
        found += [Contender("eft-spec", eft, *how) for how in product(plan.speculations(), plan.acceptances)]
    return found


# ---- measuring


class Bench:
    """A loaded family on the stand.

    Args:
        engine: just loaded.
        random_weights: prompts are random too.
        report: told what is being measured.
    """

    def __init__(self, engine: Engine, family: Family, plan: Plan, random_weights: bool, report: Report) -> None:
        self.engine, self.family, self.plan = engine, family, plan
        self.random_weights, self._report = random_weights, report
        self.contenders = contenders(plan, family)
        questions = [] if random_weights else [_question_ids(engine, family, text) for text in plan.questions]
        self._questions = questions or [[]]
        self._curves = self._measured_curves()

    def _measured_curves(self) -> dict[str, CostCurve]:
        """Measured now: what the machine can do today, not on the day when the user's cache folder learnt it."""
        if not any(contender.speculation for contender in self.contenders):
            return {}
        self.engine.ensemble.clear(0)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "curves.json"
            report = lambda name: self._report(f"timing {name}")  # noqa: E731  # an expression reads better here
            return {member.name: member_curve(member, path, report) for member in self.engine.ensemble.members}

    def rows(self) -> Iterator[Row]:
        """Measure test after test; a row for each contender."""
        for test in self.plan.tests:
            began = datetime.now(timezone.utc)
            for contender in self.contenders:
                contender.samples = []
                self._report(f"{test.name}, {contender.label}, warming up")
                short = Test(min(test.n_prompt, WARM_UP), min(test.n_gen, WARM_UP), test.n_depth)
                self._sample(contender, short, 0)
            for repetition in range(self.plan.repetitions):
                for contender in self.contenders:
                    self._report(f"{test.name}, {contender.label}, {repetition + 1} of {self.plan.repetitions}")
                    contender.samples.append(self._sample(contender, test, repetition))
            curves = [self._curves, self._measured_curves() if test.n_gen else self._curves]
            self._curves = curves[-1]
            yield from Rows(self, test, began, curves).all()

    def _sample(self, contender: Contender, test: Test, repetition: int) -> Sample:
        return (self._generate if test.n_gen else self._read)(contender, test, repetition)

    def _read(self, contender: Contender, test: Test, repetition: int) -> Sample:
        """Read a prompt as a first token needs it: by the members of the mode, with one row of logits each."""
        ensemble = self.engine.ensemble
        self._fill(self._filler(test.n_depth, repetition))
        ensemble.begin(0, [self._filler(test.n_depth + test.n_prompt, repetition)] * len(ensemble.members))
        needed = Recipe.of(contender.knobs, ensemble.roles).needed
        before = self._member_s()
        began = time.perf_counter()
        ensemble.rows(0, needed)
        return Sample(time.perf_counter() - began, self._member_s(before))

    def _generate(self, contender: Contender, test: Test, repetition: int) -> Sample:
        """Make tokens; every member has read the text but for its last token, so that n tokens take n steps."""
        engine, n = self.engine, test.n_gen
        ids = self._filler(test.n_depth, repetition) + self._question(repetition)
        self._fill(ids[:-1])
        engine.ensemble.begin(0, [ids] * len(engine.ensemble.members))
        speaker, seed = engine.models[engine.first_tuned or 0], (self.plan.sampling.seed or 0) + repetition
        sampler = Sampler(replace(self.plan.sampling, seed=seed), speaker, engine.shared.n_vocab, seed)
        decoder = Decoder(
            engine.ensemble, engine.composite, 0, lambda: contender.knobs, sampler, Noise(seed), Limits(max_tokens=n),
            frozenset(), speaker.piece,
        )  # fmt: skip
        rounds = contender.rounds(decoder, self._curves, engine)
        before = self._member_s()
        began = time.perf_counter()
        n_made = sum(1 for _ in (plain(decoder) if rounds is None else speculative(rounds)))
        seconds = time.perf_counter() - began
        sampler.close()
        if n_made != n:
            raise EngineError(f"{test.name}, {contender.label}: expected {n} tokens, got {n_made}")
        return Sample(seconds, self._member_s(before), decoder.statistics.speculation, decoder.statistics.drafts)

    def _fill(self, ids: Sequence[int]) -> None:
        """Bring every member's cache to exactly these tokens, so that nothing of them is timed."""
        ensemble = self.engine.ensemble
        if not ids:
            ensemble.clear(0)
            return
        ensemble.begin(0, [ids] * len(ensemble.members))
        for index in range(len(ensemble.members)):
            ensemble.advance(0, index)

    def _member_s(self, before: dict[str, float] | None = None) -> dict[str, float]:
        """Seconds that each member has spent in ``llama_decode``, in all or since ``before``."""
        start = before or {}
        return {m.name: m.seconds - start.get(m.name, 0.0) for m in self.engine.ensemble.members}

    def _filler(self, n: int, repetition: int) -> list[int]:
        """n tokens: random ones, or the questions over and over."""
        if self.random_weights:
            return _random_ids(n, self.engine.shared.n_vocab, repetition)
        return list(islice(cycle(token for question in self._questions for token in question), n))

    def _question(self, repetition: int) -> list[int]:
        """The end of the text that is continued, one token at least."""
        if self.random_weights:
            return _random_ids(1, self.engine.shared.n_vocab, repetition)
        return self._questions[repetition % len(self._questions)]


def _random_ids(n: int, n_vocab: int, seed: int) -> list[int]:
    ids: list[int] = np.random.default_rng(seed).integers(0, n_vocab, n).tolist()
    return ids
