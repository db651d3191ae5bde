"""Question two, measured: do answers end? Under EFT, where the tuned model alone would end them."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean

from eftlite.doctor.case import Case
from eftlite.doctor.findings import OK, PROBLEM, WARNING, Finding
from eftlite.doctor.measuring import Measured
from eftlite.gguf_types import shown

# An answer that is missed at its end comes to another one a sentence later. With this probability at each it passes
# two of them in the mean (which is noticed), or ten (which is as good as endless).
NOTICED, ENDLESS = 0.5, 0.1


def findings(measured: Measured, case: Case) -> Iterator[Finding]:
    """Whether answers end, and if not, whose fault it is."""
    ends = measured.ends
    if not ends:
        return
    finished = [end for end in ends if end.ended and not end.stray]
    facts = {
        "tuned_ended": len(finished),
        "asked": len(ends),
        "probabilities": [end.probability for end in finished],
        "eft_ended": sum(answer.ended for answer in measured.answers),
    }
    if not finished:
        yield _tuned_never_ends(measured, case, facts)
        return
    chance = mean(end.probability for end in finished)
    said = f"Where the tuned model ends its answers, EFT ends them with probability {chance:.2f}"
    if chance < ENDLESS:
        text = f"{said}: they are endless"
        yield Finding("ends", PROBLEM, text, _stronger(case), facts)
    elif chance < NOTICED:
        yield Finding("ends", WARNING, f"{said}: they run on", _stronger(case), facts)
    else:
        yield Finding("ends", OK, said, facts=facts)
    empty = sum(answer.ended and answer.n_tokens == 1 for answer in measured.answers)
    if empty:
        text = f"{empty} of {len(measured.answers)} answers of EFT are empty: the template may be the wrong one"
        yield Finding("empty answers", WARNING, text, case.command("inspect"), {"empty": empty})


def _tuned_never_ends(measured: Measured, case: Case, facts: dict[str, object]) -> Finding:
    n_tokens, n = max(end.n_tokens for end in measured.ends), len(measured.ends)
    stray = list(dict.fromkeys(text for end in measured.ends for text in end.stray))
    if stray:
        text = (
            f"Answers are endless: the tuned model writes {shown(stray[0])} where it should end, and goes on, because"
        )
        text += " its file does not name this as an end token"
    else:
        text = f"Answers are endless: none of {n} of the tuned model's own ended within {n_tokens} tokens"
    return Finding("ends", PROBLEM, text, case.command("chat", "--max-tokens", "300"), {**facts, "stray": stray})


def _stronger(case: Case) -> str:
    """A delta that is off, or weak, does not teach the base to stop."""
    weak = not case.knobs.alphas or case.knobs.alphas[0] < 1.0
    return case.command("chat", "--alpha", "1") if weak else case.command("chat", "--max-tokens", "300")
