"""``eftlite run``: one prompt, one answer."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from eftlite.cli.answering import stream, timing
from eftlite.cli.errors import INTERRUPTED
from eftlite.cli.options import Generation, Members, generation_options, knobs_of, member_options
from eftlite.cli.output import Output, on_terminal
from eftlite.cli.verb import Verb

if TYPE_CHECKING:
    from eftlite.answer import Answer
    from eftlite.eft import EFT
    from eftlite.events import TokenEvent


@click.command(
    "run",
    cls=Verb,
    examples=(
        'eftlite run "Where is Kelworth?" --temperature 0',
        'cat letter.txt | eftlite run "Answer this letter:" --max-tokens 200',
        'eftlite run --raw "Kelworth is a town" --mode base',
    ),
)
@click.argument("prompt", required=False)
@member_options
@generation_options
@click.option("--raw", is_flag=True, help="Continue the prompt as it stands, without chat template.")
@click.option("--json", "as_json", is_flag=True, help="Print one object with text, usage and statistics.")
@click.option("--stats", is_flag=True, help="Print speed and shift on stderr.")
@click.pass_obj
def run_command(
    output: Output,
    prompt: str | None,
    members: Members,
    generation: Generation,
    raw: bool,
    as_json: bool,
    stats: bool,
) -> int:
    """Answer one PROMPT and exit.

    Text piped into the command is appended to the prompt. Ctrl+C ends the answer and keeps what was printed.
    """
    text = _with_stdin(prompt)
    with generation.load(members) as eft:
        job = _Job(eft, generation, raw)
        reason = job.run(text, None if as_json else output)
        if as_json:
            output.json(job.result())
        if stats:
            output.note(timing(job.answer.statistics))
    return INTERRUPTED if reason == "cancelled" else 0


def _with_stdin(prompt: str | None) -> str:
    """The prompt, then what is piped in."""
    parts = [prompt] if prompt else []
    if sys.stdin is not None and not on_terminal(sys.stdin):
        # Bytes, because text that is no UTF-8 must not end in a traceback.
        piped = sys.stdin.buffer.read().decode("utf-8-sig", "replace").strip()
        parts += [piped] if piped else []
    if not parts:
        raise click.UsageError("expected a prompt, as an argument or piped in; for a conversation: eftlite chat")
    return "\n\n".join(parts)


class _Job:
    """One answer: how it is begun, what became of it."""

    answer: Answer

    def __init__(self, eft: EFT, generation: Generation, raw: bool) -> None:
        self._eft, self._generation, self._raw = eft, generation, raw
        self._texts: list[str] = []

    def _begin(self, text: str) -> Iterable[TokenEvent]:
        sampling, limits = self._generation.sampling(), self._generation.limits()
        knobs = knobs_of(self._eft, self._generation.mode)
        if self._raw:
            self.answer = self._eft.complete(text, sampling=sampling, limits=limits, knobs=knobs)
        else:
            system = self._generation.system
            messages = [{"role": "system", "content": system}] if system else []
            messages.append({"role": "user", "content": text})
            self.answer = self._eft.chat(messages, sampling=sampling, limits=limits, knobs=knobs)
        return self.answer

    def run(self, text: str, output: Output | None) -> str | None:
        """Make the answer, printing it as it comes if there is an output; returns why it ended."""
        for event in stream(self._eft, lambda: self._begin(text)):
            self._texts.append(event.text)
            if output and event.text:
                output.answer(event.text)
        if output:
            output.answer("", newline=True)
        return self.answer.statistics.finish_reason

    def result(self) -> dict[str, object]:
        """What ``--json`` prints."""
        from eftlite.responses import eft_block, usage

        statistics = self.answer.statistics
        return {
            "text": "".join(self._texts),
            "finish_reason": statistics.finish_reason,
            "usage": usage(statistics),
            "eft": eft_block(statistics, self.answer.seed),
        }
