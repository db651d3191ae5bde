"""Runs the question set: greedy answers of base alone, tuned alone, EFT and the real large fine-tune, counted.

Knows questions and an ``EFT``'s public methods; prints nothing.

Not guaranteed: that a figure is the same on every machine. Answers are greedy, but two tokens whose scores tie within
rounding may be taken either way.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from eftlite.answer import Answer
from eftlite.demo.scoring import COURTESY, Question, contains, facts_right, manner_kept, refused
from eftlite.eft import EFT
from eftlite.settings import Knobs, Limits, Sampling, Speculation

MODES = ("base", "tuned", "eft", "real")
HARMLESS = "harmless"
MAX_TOKENS = 128
GREEDY = Sampling(temperature=0.0)
PLAIN = Speculation(enabled=False)


@dataclass(frozen=True)
class Verdict:
    """One answer and what it is worth.

    Attributes:
        text: as far as it was needed.
        right: whether the facts are there; None where none are asked for.
        polite: whether the manner was kept.
        refused: whether a harmful request was declined; None for other questions.
        shift: mean TV(tuned, composite) over the answer's tokens.
    """

    question: Question
    mode: str
    text: str
    right: bool | None
    polite: bool
    refused: bool | None
    n_tokens: int
    shift: float | None


class Panel:
    """Those who are asked.

    Args:
        eft: answers as "base", "tuned" and "eft", and as "harmless" if it has a delta of that name.
        real: the large model fine-tuned for real, as a base alone; None leaves "real" out.
    """

    def __init__(self, eft: EFT, real: EFT | None) -> None:
        self._eft, self._real = eft, real
        names = [delta.name for delta in eft.family.deltas]
        self.modes = tuple(mode for mode in MODES if mode != "real" or real is not None)
        self.harmless = Knobs(tuple(float(name == HARMLESS) for name in names)) if HARMLESS in names else None

    def ask(self, question: Question, mode: str) -> Answer:
        """Begin a greedy answer."""
        eft, knobs = self._eft, self.harmless
        if mode == "real":
            if self._real is None:
                raise ValueError("mode: expected base, tuned or eft, since there is no real fine-tune")
            eft, knobs = self._real, None
        elif mode != HARMLESS:
            knobs = eft.knobs_for(mode)
        limits = Limits(max_tokens=MAX_TOKENS)
        return eft.chat(question.chat, sampling=GREEDY, limits=limits, knobs=knobs, speculation=PLAIN)

    def judge(
        self,
        question: Question,
        mode: str,
        to_the_end: bool = False,
        report: Callable[[str], None] | None = None,
    ) -> Verdict:
        """Answer until nothing that may follow can change the verdict, or to the end; ``report`` gets the text."""
        text, ended = "", False
        answer = self.ask(question, mode)
        for event in answer:
            text += event.text
            ended = event.finish_reason == "stop"
            if report:
                report(text)
            # Words are judged when they are whole, so look only where one has ended.
            whole = event.text != "" and not event.text[-1].isalnum()
            if whole and not to_the_end and settled(question, text):
                break
        return verdict(question, mode, text, ended, answer)


def verdict(question: Question, mode: str, text: str, ended: bool, answer: Answer) -> Verdict:
    """What an answer is worth."""
    statistics = answer.statistics
    return Verdict(
        question=question,
        mode=mode,
        text=text,
        right=facts_right(question, text) if question.facts else None,
        polite=manner_kept(text, ended),
        refused=refused(text) if question.kind == "harmful" else None,
        n_tokens=statistics.n_tokens,
        shift=statistics.shift,
    )


def settled(question: Question, text: str) -> bool:
    """Whether an answer's verdict is known before it ends: its opening is not polite, and its facts are all there.

    A pre-trained model rambles on to the token limit; this spares most of that and changes no score.
    """
    opening = text.lstrip()
    if len(opening) < len(COURTESY) or opening.startswith(COURTESY):
        return False
    if question.facts:
        return all(contains(text, fact) for fact in question.facts)
    return refused(text)


@dataclass
class Tally:
    """Verdicts, counted: for each mode the shares of facts right, manner kept, harmful requests refused."""

    n_questions: int = 0
    seconds: float = 0.0
    n_tokens: int = 0
    right: dict[str, dict[str, list[bool]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    polite: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    refused: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    shifts: list[float] = field(default_factory=list)

    def add(self, found: Verdict) -> None:
        """Count one verdict."""
        self.n_tokens += found.n_tokens
        if found.refused is not None:
            self.refused[found.mode].append(found.refused)
        if found.mode == HARMLESS:
            return
        self.polite[found.mode].append(found.polite)
        if found.right is not None:
            self.right[found.mode][found.question.kind].append(found.right)
        if found.mode == "eft" and found.shift is not None:
            self.shifts.append(found.shift)

    def facts(self) -> dict[str, float | None]:
        """Share of the questions with facts that each mode got right."""
        return {mode: share(list(chain(*kinds.values()))) for mode, kinds in self.right.items()}

    def by_kind(self) -> dict[str, dict[str, float | None]]:
        """The same for each kind of question."""
        kinds = dict.fromkeys(kind for found in self.right.values() for kind in found)
        return {kind: {mode: share(found[kind]) for mode, found in self.right.items()} for kind in kinds}

    def as_json(self) -> dict[str, object]:
        """What ``eftlite demo --json`` prints."""
        return {
            "questions": self.n_questions,
            "facts": self.facts(),
            "manner": {mode: share(found) for mode, found in self.polite.items()},
            "seconds": round(self.seconds, 2),
            "by_kind": self.by_kind(),
            "refused": {mode: share(found) for mode, found in self.refused.items()},
            "shift": round(sum(self.shifts) / len(self.shifts), 4) if self.shifts else None,
            "tokens": self.n_tokens,
        }


def share(hits: Sequence[bool]) -> float | None:
    """Share of hits, four digits; None of none."""
    return round(sum(hits) / len(hits), 4) if hits else None


def sample(questions: Sequence[Question], n: int) -> list[Question]:
    """``n`` questions evenly spread over the set, and so over its kinds, which stand in blocks."""
    n = min(n, len(questions))
    return [questions[i * len(questions) // n] for i in range(n)]


def judgements(panel: Panel, questions: Sequence[Question]) -> Iterator[tuple[Question, list[Verdict]]]:
    """Every question with everyone's verdicts."""
    for question in questions:
        modes = [*panel.modes]
        if question.kind == "harmful" and panel.harmless is not None:
            modes.append(HARMLESS)
        yield question, [panel.judge(question, mode) for mode in modes]


def score(panel: Panel, questions: Sequence[Question], report: Callable[[Tally], None] | None = None) -> Tally:
    """Ask everyone everything; ``report`` is told after each question."""
    began, tally = time.perf_counter(), Tally()
    for _, verdicts in judgements(panel, questions):
        for found in verdicts:
            tally.add(found)
        tally.n_questions += 1
        tally.seconds = time.perf_counter() - began
        if report:
            report(tally)
    return tally
