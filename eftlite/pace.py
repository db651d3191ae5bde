"""How many tokens to draft: from what decoding costs here and how much of the drafts is accepted. 0 means plainly.

A round with n drafted tokens, of which each stands with probability a, adds ``(1 - a^(n+1)) / (1 - a)`` tokens
(Leviathan et al., arXiv 2211.17192, equation 1) and takes what ``Costs`` says, a^n being the chance that the whole
draft stands. The best n has the least seconds per token; one cost ratio (their theorem 3.8) would not do, since
batches are not linear.

Why leaving it on never costs more than about one percent: ``Pace`` keeps a purse of seconds. A round pays what it
costs and earns what its tokens would have cost plainly; a plain step adds ALLOWANCE of its own time; and while the
purse is below zero everything is plain. So at any moment the time spent is at most ``1 + ALLOWANCE`` times the plain
decoder's, plus START plain steps, plus one round's loss, whatever the drafter does and however wrong the estimates
are. That relies on the curves; where rounds prove slower than their curves say, in comparison with plain steps, they
are charged for it (``seconds`` of observe).

Knows numbers; never models or tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eftlite.costs import MOST, Costs
from eftlite.errors import InputError

PRIOR, PRIOR_WEIGHT = 0.8, 2.0  # acceptance before anything was seen: optimistic, and worth two observations
LINK_WEIGHT = 4.0  # observations that a position's estimate borrows from the position before it
MEMORY = 0.98  # what an observation still counts one round later: about 50 rounds are remembered
BLIND_MEMORY = 0.99  # the same for a plain step that observed nothing; the estimate returns to the prior, to try again
HYSTERESIS = 0.01  # the gain that makes another draft length worth a change

ALLOWANCE = 0.01  # of the time of plain steps, for finding out whether drafts pay again
START, CAP = 2.0, 64.0  # plain steps' time: in the purse at first, and at most

DRIFT_RATE = 1.0 / 16.0  # of measured against predicted times
DRIFT_IGNORED = 1.05


# ---- the best draft length


def expected_tokens(acceptance: float | Sequence[float], n_draft: int) -> float:
    """Tokens that a round with n_draft drafted tokens adds to the text, the corrected or bonus token included.

    Args:
        acceptance: the probability that a drafted token stands if all before it do; one number, or one for each
            position (the last one holds for all positions after it).
    """
    survival, tokens = 1.0, 1.0
    for chance in _positions(acceptance, n_draft):
        survival *= chance
        tokens += survival
    return tokens


def seconds_per_token(
    costs: Costs, acceptance: float | Sequence[float], max_draft: int, drift: float = 1.0
) -> list[float]:
    """(max_draft + 1) expected seconds per token with drafts of 0 (plain), 1 … max_draft tokens.

    Args:
        acceptance: as in expected_tokens.
        drift: what rounds cost in comparison with what the curves say.
    """
    seconds = [costs.plain_s]
    survival, tokens = 1.0, 1.0
    for n, chance in enumerate(_positions(acceptance, max_draft), 1):
        survival *= chance
        tokens += survival
        seconds.append(drift * costs.round_s(n, tokens, survival) / tokens)
    return seconds


def best_draft(
    costs: Costs,
    acceptance: float | Sequence[float],
    max_draft: int,
    current: int | None = None,
    drift: float = 1.0,
) -> int:
    """The draft length of least expected time per token; 0 is plain decoding.

    Args:
        max_draft: the most it may choose, up to MOST.
        current: the length in use. It is kept while another would gain less than HYSTERESIS, unless plain decoding
            is better than it.
        drift: as in seconds_per_token.
    """
    seconds = seconds_per_token(costs, acceptance, min(max_draft, MOST), drift)
    best = min(range(len(seconds)), key=seconds.__getitem__)
    if current is None or current >= len(seconds) or best == 0:
        return best
    return current if seconds[current] <= seconds[best] * (1.0 + HYSTERESIS) else best


def _positions(acceptance: float | Sequence[float], n: int) -> Iterable[float]:
    if isinstance(acceptance, int | float):
        return (acceptance for _ in range(n))
    last = len(acceptance) - 1
    return (acceptance[min(i, last)] for i in range(n))


# ---- the running estimate


class Pace:
    """Chooses the draft length from what it observes; one object for each drafter, kept from request to request.

    Acceptance is estimated for each position of the draft, given that the tokens before it stood, with exponential
    forgetting. A position leans on the one before it until it has observations of its own, the first on the prior.

    Args:
        costs: of this drafter's rounds and of plain steps.
        max_draft: the longest draft, 1 … MOST.
    """

    def __init__(self, costs: Costs, max_draft: int = 16) -> None:
        if not 1 <= max_draft <= MOST:
            raise InputError(f"max_draft: expected 1 to {MOST}, got {max_draft}")
        self.costs = costs
        self.max_draft = max_draft
        self._accepted = [0.0] * max_draft
        self._weights = [0.0] * max_draft
        self._purse_s = START * costs.plain_s
        self._plain_ratio = self._round_ratio = 1.0
        self._current: int | None = None
        self._decided = False
        self._longest = 1  # unless seen to agree, drafts begin short and grow with what stands

    def draft_length(self) -> int:
        """Tokens to draft next; 0 means a plain step."""
        if self._purse_s < 0.0:
            return 0
        if not self._decided:
            self._current = best_draft(self.costs, self.acceptance, self.max_draft, self._current, self.drift)
            self._decided = True
        return min(self._current or 0, self._longest)

    def observe(
        self, drafted: int, accepted: int, overlaps: Sequence[float] | None = None, seconds: float | None = None
    ) -> None:
        """A round was verified.

        Args:
            drafted: tokens drafted; may be fewer than draft_length said.
            accepted: how many of them stood.
            overlaps: the expected acceptance at each position, from verify.EXPECTED_ACCEPTANCE, at least for the
                first ``accepted + 1`` positions that were drafted (later ones do not count). Without them each
                position counts as accepted or not, which says the same with more noise.
            seconds: what the round took; give it for plain steps too, or for neither.

        Raises:
            InputError: more accepted than drafted, or nothing drafted.
        """
        if not 0 <= accepted <= drafted or drafted < 1:
            raise InputError(f"round: expected 0 <= accepted <= drafted and a draft, got {accepted} of {drafted}")
        self._forget(MEMORY)
        self._longest = min(max(self._longest, 2 * accepted + 1), self.max_draft)
        reached = min(accepted + 1, drafted, self.max_draft)
        outcomes = [1.0] * accepted + [0.0] if overlaps is None else overlaps
        for i in range(min(reached, len(outcomes))):
            self._accepted[i] += outcomes[i]
            self._weights[i] += 1.0
        predicted = self.costs.round_s(min(drafted, MOST), accepted + 1.0, float(accepted == drafted))
        if seconds is not None:
            self._round_ratio = _follow(self._round_ratio, seconds / predicted)
        self._earn((accepted + 1) * self.costs.plain_s - self.drift * predicted)

    def observe_plain(self, overlap: float | None = None, seconds: float | None = None) -> None:
        """A token was decoded plainly.

        Args:
            overlap: the expected acceptance of a draft at this position. Plain decoding knows the tuned model's law
                and the composite's anyway, so this observes the drafter without drafting; without it, drafts are
                tried again from time to time, which costs at most ALLOWANCE.
            seconds: what the step took.
        """
        self._forget(BLIND_MEMORY if overlap is None else MEMORY)
        if overlap is not None:
            self._accepted[0] += overlap
            self._weights[0] += 1.0
            if overlap > 0.5:
                self._longest = self.max_draft  # seen to agree: no need to feel the way
        if seconds is not None:
            self._plain_ratio = _follow(self._plain_ratio, seconds / self.costs.plain_s)
        self._earn(ALLOWANCE * self.costs.plain_s)

    @property
    def acceptance(self) -> list[float]:
        """(max_draft,) the estimated acceptance of each position of a draft, given that those before it stood."""
        estimate, weight = PRIOR, PRIOR_WEIGHT
        estimates = []
        for accepted, observed in zip(self._accepted, self._weights, strict=True):
            estimate = (accepted + weight * estimate) / (observed + weight)
            weight = LINK_WEIGHT
            estimates.append(estimate)
        return estimates

    @property
    def seconds_per_token(self) -> float:
        """What the next tokens are expected to cost each; for choosing between drafters."""
        return seconds_per_token(self.costs, self.acceptance, self.max_draft, self.drift)[self.draft_length()]

    @property
    def drift(self) -> float:
        """What rounds cost in comparison with their curves, relative to plain steps; never below 1.

        Only the careful direction is believed, and small differences are not: a load on the machine shows in
        whichever of the two kinds of steps happens to be running, and is no news about the other.
        """
        ratio = self._round_ratio / self._plain_ratio
        return ratio if ratio > DRIFT_IGNORED else 1.0

    def _forget(self, memory: float) -> None:
        self._accepted = [value * memory for value in self._accepted]
        self._weights = [value * memory for value in self._weights]
        self._decided = False

    def _earn(self, seconds: float) -> None:
        self._purse_s = min(self._purse_s + seconds, CAP * self.costs.plain_s)


def _follow(ratio: float, observed: float) -> float:
    """A running mean that an interruption of seconds cannot move far."""
    return ratio * (1.0 - DRIFT_RATE) + DRIFT_RATE * min(max(observed, 0.5), 2.0)
