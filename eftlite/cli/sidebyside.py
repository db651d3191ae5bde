"""Everyone's answer to one question: in columns that fill as the models speak, or as plain text without a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from eftlite.cli.output import Output, on_terminal, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from eftlite.demo.scoreboard import Panel, Verdict
    from eftlite.demo.scoring import Question

NAMES = {
    "base": "base alone",
    "tuned": "tuned alone",
    "eft": "EFT",
    "real": "real large fine-tune",
    "harmless": "EFT, harmless delta",
}
WIDE = 100
REFRESHES_PER_S = 12


def show(output: Output, panel: Panel, question: Question) -> None:
    """Ask everyone and print what they say."""
    speakers = {"user": "You", "assistant": "Answer"}
    for role, text in question.messages[:-1]:
        output.answer(f"{speakers.get(role, role)}: {text}", newline=True)
    output.heading(f"You: {question.text}")
    if on_terminal(sys.stdout):
        _live(output.console(), panel, question)
    else:
        for mode in panel.modes:
            found = panel.judge(question, mode, to_the_end=True)
            output.answer(f"  {NAMES[mode]}: {found.text.strip()}  [{words(found)}]", newline=True)
    output.answer("", newline=True)


def words(verdict: Verdict) -> str:
    """What an answer is worth, in words."""
    parts = [] if verdict.right is None else ["facts right" if verdict.right else "facts wrong"]
    return ", ".join([*parts, "polite" if verdict.polite else "not polite"])


def _live(console: Console, panel: Panel, question: Question) -> None:
    """Let the columns grow while the answers are made, then leave them standing."""
    from rich.live import Live

    texts = dict.fromkeys(panel.modes, "")
    verdicts: dict[str, Verdict] = {}
    with Live(
        _table(console, texts, verdicts), console=console, transient=True, refresh_per_second=REFRESHES_PER_S
    ) as live:
        for mode in panel.modes:

            def grow(text: str, mode: str = mode) -> None:
                texts[mode] = text
                live.update(_table(console, texts, verdicts))

            verdicts[mode] = panel.judge(question, mode, to_the_end=True, report=grow)
    console.print(_table(console, texts, verdicts))


def _table(console: Console, texts: Mapping[str, str], verdicts: Mapping[str, Verdict]) -> Table:
    """A column for each answer, or a row where the terminal is narrow."""
    from rich.table import Table
    from rich.text import Text

    answers = [Text(printable(text).strip()) for text in texts.values()]
    notes = [_note(verdicts.get(mode)) for mode in texts]
    if console.width < WIDE:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", width=12)
        table.add_column()
        for mode, answer, note in zip(texts, answers, notes, strict=True):
            table.add_row(NAMES[mode], answer + Text("\n") + note if note else answer)
        return table
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True, header_style="bold")
    for mode in texts:
        table.add_column(NAMES[mode], ratio=1)
    table.add_row(*answers)
    table.add_row(*notes)
    return table


def _note(verdict: Verdict | None) -> Text:
    from rich.text import Text

    if verdict is None:
        return Text()
    good = verdict.polite and verdict.right is not False
    return Text(words(verdict), style="green" if good else "red")
