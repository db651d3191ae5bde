"""The conversation's loop: read, answer or obey, and go on whatever happens.

Knows an ``EFT`` only by its public methods; commands are in commands.py, input in reader.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any

from eftlite.cli import commands
from eftlite.cli.answering import stream, timing
from eftlite.cli.conversation import Conversation
from eftlite.cli.options import knobs_of
from eftlite.cli.output import Output
from eftlite.cli.reader import Reader
from eftlite.cli.recording import Recording
from eftlite.errors import EFTError
from eftlite.settings import Limits, Sampling

if TYPE_CHECKING:
    from eftlite.eft import EFT
    from eftlite.events import Statistics, TokenEvent

QUOTES = '"""'


@dataclass
class Last:
    """The last answer, for ``/why`` and ``/show timing``.

    Attributes:
        messages: the conversation that was answered.
        events: one for each token.
        statistics: what it took; None if it could not begin.
        seed: draws it again.
    """

    messages: list[dict[str, str]]
    events: list[TokenEvent] = field(default_factory=list)
    statistics: Statistics | None = None
    seed: int | None = None

    @property
    def text(self) -> str:
        """What was visible of it."""
        return "".join(event.text for event in self.events)


class Repl:
    """A conversation in progress.

    Args:
        eft: answers.
        reader: where lines come from.
        output: how to print.
        sampling, limits: to begin with; ``sampling.seed`` makes the whole conversation repeatable.
        conversation: what was said before.
        mode: who answers: "eft", "base", "tuned" or "reference".
        recording: keeps what is said.

    Attributes:
        done: whether the user has asked to leave.
        last: the last answer.
        written: files that ``/save`` and ``/export`` made, and may replace.
    """

    def __init__(
        self,
        eft: EFT,
        reader: Reader,
        output: Output,
        sampling: Sampling,
        limits: Limits,
        conversation: Conversation | None = None,
        mode: str = "eft",
        recording: Recording | None = None,
    ) -> None:
        self.eft, self.reader, self.output = eft, reader, output
        self.limits, self.mode = limits, mode
        self._sampling, self._seeds = sampling, _seeds(sampling.seed)
        self.conversation = conversation or Conversation()
        self.recording = recording or Recording(None)
        self.done = False
        self.last: Last | None = None
        self.written: set[str] = set()

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn; each answer gets a seed of its own from this one's."""
        return self._sampling

    @sampling.setter
    def sampling(self, sampling: Sampling) -> None:
        if sampling.seed != self._sampling.seed:
            self._seeds = _seeds(sampling.seed)
        self._sampling = sampling

    # ---- the loop

    def run(self) -> None:
        """Go on until the user leaves; KeyboardInterrupt when by Ctrl+C."""
        while not self.done:
            self._turn()

    def _turn(self) -> None:
        """One message or command; errors are told and forgotten."""
        try:
            self.handle(self.read())
        except EOFError:
            self.done = True
        except EFTError as error:
            self.output.error(str(error))

    def read(self) -> str:
        '''What the user says next; ``"""`` opens and closes a text of several lines.'''
        line = self.reader.read()
        if not line.startswith(QUOTES):
            return line
        lines = [line[len(QUOTES) :]]
        try:
            while not lines[-1].endswith(QUOTES):
                lines.append(self.reader.read("… "))
        except EOFError:
            lines.append(QUOTES)
        except KeyboardInterrupt:
            if not self.reader.interactive:
                raise
            self.output.note("(not sent)")
            return ""
        lines[-1] = lines[-1].removesuffix(QUOTES)
        return "\n".join(lines).strip("\n")

    def handle(self, line: str) -> None:
        """Obey a command, or answer."""
        if line.startswith("/"):
            commands.obey(self, line)
        elif line.strip() or self.conversation.attached:
            self.ask(self.conversation.compose(line.strip()))

    # ---- answers

    def ask(self, question: str) -> None:
        """Answer a question and keep both; what was typed is kept even when it cannot be answered."""
        self.last = Last(self.conversation.messages(question))
        self.recording.ask(question, self.conversation)
        try:
            self.answer(self.mode, self.last)
        except EFTError as error:
            self.output.error(str(error))
            if not self.last.text:
                self.output.note("(your message is kept: /regen sends it again, /undo drops it)")
        finally:
            self.conversation.add(question, self.last.text)

    def take_back(self) -> str:
        """Remove what was asked last, and its answer; returns the question, or "" if there is none."""
        question = self.conversation.take_back()
        self.recording.take_back(question)
        return question

    def answer(self, mode: str, into: Last, seed: int | None = None) -> None:
        """Print an answer as it comes, each piece once it is kept, then what it took."""
        if seed is None and self._seeds:
            seed = self._seeds.getrandbits(32)

        def begin() -> Iterable[TokenEvent]:
            sampling = replace(self.sampling, seed=seed)
            knobs = knobs_of(self.eft, mode)
            answer = self.eft.chat(into.messages, sampling=sampling, limits=self.limits, knobs=knobs)
            into.statistics, into.seed = answer.statistics, answer.seed
            return answer

        with self.recording.answer(mode, into, into is self.last, self._settings(mode)) as keep:
            try:
                for event in stream(self.eft, begin):
                    into.events.append(event)
                    keep(event.text)
                    self.output.answer(event.text)
            finally:
                if into.events:
                    self.output.answer("", newline=True)
        if into.statistics:
            self._close(into.statistics)

    def _settings(self, mode: str) -> dict[str, Any]:
        """What decides an answer, by the names that requests use."""
        knobs = knobs_of(self.eft, mode) or self.eft.knobs
        deltas = {delta.name: alpha for delta, alpha in zip(self.eft.family.deltas, knobs.alphas, strict=True)}
        drawn = {name: getattr(self.sampling, name) for name in ("temperature", "top_k", "top_p", "min_p")}
        return {"deltas": deltas, "beta": knobs.beta, "conservative_p": knobs.conservative_p, **drawn}

    def _close(self, statistics: Statistics) -> None:
        """The line under an answer."""
        self.reader.forgiving = statistics.finish_reason != "cancelled"
        ends = {"cancelled": "stopped; /regen answers again", "length": self._length(statistics)}
        why = ends.get(statistics.finish_reason or "")
        self.output.note(f"{timing(statistics)}{f' · {why}' if why else ''}")

    def _length(self, statistics: Statistics) -> str:
        if statistics.n_tokens == self.limits.max_tokens:
            return "cut short by max_tokens; /set max_tokens changes it"
        return f"the context of {self.eft.n_ctx} tokens is full: /undo or /clear makes room"


def _seeds(seed: int | None) -> Random | None:
    """Where answers' seeds come from when the conversation is to be repeatable."""
    return None if seed is None else Random(seed)  # noqa: S311  repeatable, no secret
