"""Question four: is EFT worth it here? How far it is from the tuned model alone and from the base alone.

Where it is not far from one of them, that one is as good and several times as fast. Whether what EFT changes is for
the better, no figure here can tell; a reader can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from eftlite.doctor.case import Case
from eftlite.doctor.findings import OK, WARNING, Finding
from eftlite.doctor.measuring import Measured
from eftlite.doctor.speed import fastest

# Quantizing a base to Q4_0 changes 2 % of its likeliest tokens, and moves it by a KLD of 0.0055 (docs/quantize.md),
# which is a total variation of 0.05 at most (Pinsker's inequality). Nobody keeps a model in F16 for that.
SAME_SHARE, SAME_TV = 0.02, 0.05
# Likeliest tokens that neither the base nor the tuned model would write, in a hundred: a slip now and then is the
# formula's nature, more are the mark of a pair that is none.
MAX_UNWANTED = 0.05


@dataclass(frozen=True)
class Worth:
    """Means over all tokens of EFT's answers.

    Attributes:
        tv_tuned, tv_base: total variation distances to these models.
        changed_tuned, changed_base: shares of tokens where EFT's likeliest is not theirs.
        unwanted: share of tokens where neither would write EFT's likeliest.
    """

    n_tokens: int
    tv_tuned: float
    tv_base: float
    changed_tuned: float
    changed_base: float
    unwanted: float

    @property
    def same_as_tuned(self) -> bool:
        """Whether the tuned model alone is as good."""
        return self.changed_tuned <= SAME_SHARE and self.tv_tuned <= SAME_TV

    @property
    def same_as_base(self) -> bool:
        """Whether the base alone is as good: the delta does nothing."""
        return self.changed_base <= SAME_SHARE and self.tv_base <= SAME_TV


def worth(measured: Measured) -> Worth | None:
    """The means; None where no answer was made."""
    names = ("tv_tuned", "tv_base", "changed_tuned", "changed_base", "unwanted")
    n_tokens = sum(answer.n_tokens for answer in measured.answers)
    if not n_tokens:
        return None
    return Worth(n_tokens, *(sum(getattr(answer, name) for answer in measured.answers) / n_tokens for name in names))


def findings(measured: Measured, case: Case) -> Iterator[Finding]:
    """The distances, then the recommendation."""
    found = worth(measured)
    if found is None:
        yield Finding("recommendation", OK, "There is no delta, hence nothing to compare: this is an ordinary model")
        return
    for name, changed, distance in (
        ("tuned", found.changed_tuned, found.tv_tuned),
        ("base", found.changed_base, found.tv_base),
    ):
        text = f"EFT would write another token at {changed:.0%} of {found.n_tokens} places"
        facts = {"changed": changed, "total_variation": distance, "tokens": found.n_tokens}
        yield Finding(f"beside {name}", OK, f"{text} (total variation {distance:.2f})", facts=facts)
    yield recommendation(found, measured, case)


def recommendation(found: Worth, measured: Measured, case: Case) -> Finding:
    """What to do, in a sentence."""
    if found.unwanted > MAX_UNWANTED:
        text = (
            f"Not as it is: {found.unwanted:.0%} of its tokens neither base nor tuned would write, so the tuned model"
        )
        facts = {"unwanted": found.unwanted}
        fix = case.command("inspect")
        return Finding("recommendation", WARNING, f"{text} was probably not made from this reference", fix, facts)
    times = 1.0 / measured.curves[measured.tuned or measured.base].at(1) / fastest(measured)
    if found.same_as_base and found.same_as_tuned:
        text = f"Not worth it: base and tuned agree, so the tuned model alone is as good and {times:.1f} times as fast"
        return Finding("recommendation", WARNING, text, case.command("chat", "--mode", "tuned"))
    if found.same_as_tuned:
        text = f"Not worth it: the tuned model alone is as good, and {times:.1f} times as fast"
        return Finding("recommendation", WARNING, text, case.command("chat", "--mode", "tuned"))
    if found.same_as_base:
        text = "Not worth it: the delta changes nothing, so the base alone is as good; is tuned another model than"
        return Finding("recommendation", WARNING, f"{text} reference?", case.command("chat", "--mode", "base"))
    text = f"EFT is worth a try: it changes {found.changed_tuned:.0%} of the tuned model's tokens and"
    text += f" {found.changed_base:.0%} of the base's, at {times:.1f} times the time of the tuned model alone"
    return Finding("recommendation", OK, text, facts={"time": times})
