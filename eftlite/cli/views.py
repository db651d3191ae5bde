"""What a conversation's commands show: settings, models, tokens; three answers side by side; why a token was chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nlargest
from math import exp
from typing import TYPE_CHECKING

from eftlite.cli.answering import stream, timing
from eftlite.cli.changes import setting
from eftlite.errors import InputError
from eftlite.settings import Limits, Sampling, Speculation

if TYPE_CHECKING:
    from eftlite.cli.repl import Last, Repl
    from eftlite.events import Candidate, TokenEvent

N_CANDIDATES = 5
NAMES = {"base": "base alone", "tuned": "tuned alone", "reference": "reference alone", "eft": "EFT"}


# ---- /show


def _params(repl: Repl) -> None:
    """Settings of the answers."""
    sampling = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed")
    keys = [*sampling, "max_tokens", "stop", "beta", "conservative_p", "mode"]
    deltas = zip(repl.eft.family.deltas, repl.eft.knobs.alphas, strict=True)
    rows = [(key, setting(repl, key)) for key in keys]
    rows += [(f"alpha {delta.name}", f"{alpha:g}") for delta, alpha in deltas]
    repl.output.pairs([*rows, ("system", repl.conversation.system or "none")])


def _models(repl: Repl) -> None:
    """The members and their files."""
    from eftlite.inspection import summary
    from eftlite.loading import member_names

    rows = [(name, summary(*source)) for source, name in member_names(repl.eft.family).items()]
    repl.output.pairs([*rows, *(("note", note) for note in repl.eft.notes)])


def _template(repl: Repl) -> None:
    """The chat template."""
    repl.output.answer(repl.eft.template.source, newline=True)


def _tokens(repl: Repl) -> None:
    """How full the context is."""
    messages = repl.conversation.messages()
    n_used = len(repl.eft.chat_prompts(messages)[0]) if messages else 0
    repl.output.answer(f"{n_used} of {repl.eft.n_ctx} tokens", newline=True)


def _timing(repl: Repl) -> None:
    """What the last answer took."""
    statistics = repl.last.statistics if repl.last else None
    if statistics is None:
        raise InputError("/show timing: nothing was answered yet")
    rows = [("answer", timing(statistics))]
    rows += [("prompt", f"{statistics.n_prompt} tokens, {statistics.n_reused} of them kept from before")]
    rows += [(name, f"{seconds:.2f} s") for name, seconds in statistics.member_s.items()]
    repl.output.pairs([*rows, ("speculation", statistics.speculation)])


TOPICS: dict[str, Callable[[Repl], None]] = {
    "params": _params,
    "models": _models,
    "template": _template,
    "tokens": _tokens,
    "timing": _timing,
}


# ---- /compare


def compare(repl: Repl, messages: list[dict[str, str]], last: Last | None) -> None:
    """Answer one conversation with base alone, tuned alone and EFT, drawing from the same seed."""
    from eftlite.cli.repl import Last

    modes = ["base", "tuned", "eft"] if repl.eft.family.deltas else ["base"]
    seed = last.seed if last else None
    for mode in modes:
        repl.output.heading(NAMES[mode])
        into = Last(messages)
        repl.answer(mode, into, seed)
        seed = into.seed
        if into.statistics and into.statistics.finish_reason == "cancelled":
            return


# ---- /why


def why(repl: Repl, count: int, by_shift: bool) -> None:
    """Every member's likeliest candidates at tokens of the last answer, and how far the base moved the tuned model."""
    last = repl.last
    events = [event for event in last.events if event.id >= 0] if last else []
    if last is None or not events:
        raise InputError("/why: nothing was answered yet")
    indices: Sequence[int] = range(len(events))[-count:]
    if by_shift:
        indices = sorted(nlargest(count, range(len(events)), key=lambda i: events[i].shift or 0.0))
    prompt = repl.eft.chat_prompts(last.messages)[0]
    ids = [event.id for event in events]
    for index in indices:
        seen = _again(repl, [*prompt, *ids[:index]])
        if seen.finish_reason == "cancelled":
            repl.output.note("(stopped)")
            return
        _show_choice(repl, events, index, seen)


def _again(repl: Repl, ids: list[int]) -> TokenEvent:
    """What the members say after these tokens; a "cancelled" event after Ctrl+C."""

    def begin() -> Iterable[TokenEvent]:
        limits = Limits(max_tokens=1, n_top=N_CANDIDATES)
        plainly = Speculation(enabled=False)
        return repl.eft.complete(ids, sampling=Sampling(temperature=0.0), limits=limits, speculation=plainly)

    *_, event = stream(repl.eft, begin)
    return event


def _show_choice(repl: Repl, events: Sequence[TokenEvent], index: int, seen: TokenEvent) -> None:
    """One token: what stood before it, then each member's candidates."""
    before = "".join(event.piece.decode("utf-8", "replace") for event in events[max(index - 12, 0) : index])
    shift = "" if seen.shift is None else f", shift {seen.shift:.2f}"
    chosen = events[index]
    piece = _piece(repl, chosen.id, chosen.piece.decode("utf-8", "replace"))
    repl.output.heading(f"…{before[-40:]} → {piece}{shift}")
    top = dict(seen.top or {})
    names = [*(name for name in top if name != "eft"), "eft"]  # the members first, then what comes of them
    cells = {NAMES["eft"] if name == "eft" else name: [_cell(repl, one) for one in top[name]] for name in names}
    width = sum(max(map(len, (name, *column))) + 2 for name, column in cells.items())
    if width > repl.output.width:
        repl.output.pairs((f"  {name}", ", ".join(cell.strip() for cell in column)) for name, column in cells.items())
    else:
        _print_columns(repl, cells)


def _print_columns(repl: Repl, cells: Mapping[str, Sequence[str]]) -> None:
    """Candidates side by side."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in cells:
        table.add_column(name, no_wrap=True)
    for row in zip(*cells.values(), strict=True):
        table.add_row(*map(Text, row))
    repl.output.console().print(table)


def _piece(repl: Repl, token: int, text: str) -> str:
    """A token as people can see it; control tokens have no text but a name."""
    return repr(text) if text else repl.eft.detokenize([token], special=True).decode("utf-8", "replace")


def _cell(repl: Repl, candidate: Candidate) -> str:
    """A candidate with its probability."""
    return f"{exp(candidate.logprob):4.0%} {_piece(repl, candidate.id, candidate.text)}"
