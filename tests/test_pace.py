"""Draft lengths: near the best fixed one at any acceptance, quick to follow a change, never much slower than plain.

Simulated with cost curves measured on two Zen 4 cores (batches of a 3 B Q8_0 and of 1.1 B bases, 134 M small models).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from eftlite.costs import CostCurve, Costs
from eftlite.errors import InputError
from eftlite.pace import (
    ALLOWANCE,
    HYSTERESIS,
    START,
    Pace,
    best_draft,
    expected_tokens,
    seconds_per_token,
)


def milliseconds(times: dict[int, float]) -> CostCurve:
    return CostCurve.of({n: ms / 1000 for n, ms in times.items()})


BASES = {
    "3B-q8_0": milliseconds({1: 94, 2: 144, 3: 164, 4: 172, 5: 279, 6: 285, 7: 290, 8: 296}),
    "1.1B-q4_0": milliseconds({1: 20, 2: 34, 3: 48, 4: 49, 8: 98, 16: 138}),
    "1.1B-q8_0": milliseconds({1: 40, 2: 60, 3: 67, 4: 70, 8: 111, 16: 191}),
}
SMALL_Q4 = milliseconds({1: 4.1, 2: 6.9, 3: 9.0, 4: 10.2, 8: 16, 16: 29})
SMALL_Q8 = milliseconds({1: 5.7, 2: 12.6, 4: 15, 8: 24, 16: 45})


def family(base: str) -> Costs:
    small = SMALL_Q8 if base == "3B-q8_0" else SMALL_Q4
    return Costs({"base": BASES[base], "reference": small, "tuned": small}, ("base", "reference"), "tuned")


every_base = pytest.mark.parametrize("base", BASES)

# ---- arithmetic


def test_expected_tokens() -> None:
    assert expected_tokens(0.8, 3) == pytest.approx((1 - 0.8**4) / (1 - 0.8))
    assert expected_tokens([0.5, 0.9], 3) == pytest.approx(1 + 0.5 + 0.5 * 0.9 + 0.5 * 0.9 * 0.9)
    assert expected_tokens(1.0, 5) == 6.0
    assert expected_tokens(0.0, 5) == expected_tokens(0.7, 0) == 1.0


def test_seconds_per_token_against_the_formula() -> None:
    costs = family("3B-q8_0")
    seconds = seconds_per_token(costs, 0.8, 7)
    assert seconds[0] == costs.plain_s
    whole = 0.8**3
    expected = (3 * 0.0057 + whole * 0.0057 + 0.172 + 0.015) / expected_tokens(0.8, 3)
    assert seconds[3] == pytest.approx(expected)
    assert seconds_per_token(costs, 0.8, 7, drift=1.5)[3] == pytest.approx(1.5 * expected)


def test_best_draft_fits_the_kernels_tiles() -> None:
    """Tiles of 4 on this machine: drafts of 3 or 7, nothing else, from .6 up; plain below."""
    costs = family("3B-q8_0")
    assert [best_draft(costs, a, 7) for a in (0.0, 0.2, 0.5, 0.6, 0.8, 0.9, 0.95)] == [0, 0, 0, 3, 3, 3, 7]


def test_best_draft_of_free_lookups() -> None:
    costs = Costs({"base": BASES["3B-q8_0"]}, ("base",))
    assert best_draft(costs, 0.0, 8) == 0
    assert best_draft(costs, 1.0, 7) == 7


def test_a_change_must_gain_something() -> None:
    costs = family("1.1B-q8_0")
    for acceptance in np.linspace(0.4, 0.99, 60):
        seconds = seconds_per_token(costs, float(acceptance), 16)
        best = best_draft(costs, float(acceptance), 16)
        assert seconds[best] == min(seconds)
        for current in range(17):
            chosen = best_draft(costs, float(acceptance), 16, current)
            if best == 0:
                assert chosen == 0  # losing speed is never worth keeping
            elif seconds[current] <= min(seconds) * (1 + HYSTERESIS):
                assert chosen == current
            else:
                assert chosen == best


def test_a_length_beyond_the_limit_is_not_kept() -> None:
    assert best_draft(family("3B-q8_0"), 0.95, 3, current=7) == 3


# ---- simulated texts


class Text:
    """Drafts for a text in which a token at position t stands with probability about ``acceptance(t)``.

    The probability of each token varies around that (beta distribution); rounds see it as their overlap. Time and
    tokens are counted as expected under ``acceptance``, so that luck does not blur what is compared.
    """

    def __init__(self, pace: Pace, acceptance: Callable[[int], float], seed: int = 0, slow: float = 1.0) -> None:
        self.pace, self.acceptance, self.rng, self.slow = pace, acceptance, np.random.default_rng(seed), slow
        self.costs = pace.costs
        self.position = 0
        self.tokens = self.seconds = 0.0
        self.lengths: list[tuple[int, int]] = []

    def overlap(self) -> float:
        mean = self.acceptance(self.position)
        return float(self.rng.beta(8 * mean, 8 * (1 - mean))) if 0 < mean < 1 else mean

    def run(self, n: int, overlaps: bool = True, plain_overlaps: bool = True, timed: bool = False) -> None:
        end = self.position + n
        while self.position < end:
            n_draft = self.pace.draft_length()
            self.lengths.append((self.position, n_draft))
            if n_draft == 0:
                self.tokens += 1
                self.seconds += self.costs.plain_s
                self.pace.observe_plain(
                    self.overlap() if plain_overlaps else None, self.costs.plain_s if timed else None
                )
                self.position += 1
            else:
                self._round(n_draft, overlaps, timed)

    def _round(self, n_draft: int, overlaps: bool, timed: bool) -> None:
        mean = self.acceptance(self.position)
        tokens = expected_tokens(mean, n_draft)
        self.tokens += tokens
        self.seconds += self.slow * self.costs.round_s(n_draft, tokens, mean**n_draft)
        seen: list[float] = []
        n_accepted = 0
        while n_accepted < n_draft:
            seen.append(self.overlap())
            if self.rng.random() >= seen[-1]:
                break
            n_accepted += 1
        took = self.slow * self.costs.round_s(n_draft, n_accepted + 1, float(n_accepted == n_draft))
        self.pace.observe(n_draft, n_accepted, seen if overlaps else None, took if timed else None)
        self.position += n_accepted + 1

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


def best_rate(costs: Costs, acceptance: float) -> float:
    return 1.0 / min(seconds_per_token(costs, acceptance, 16))


@pytest.mark.parametrize("acceptance", [0.2, 0.5, 0.8, 0.9])
@every_base
def test_near_the_best_fixed_length(base: str, acceptance: float) -> None:
    """Over 3000 tokens, the learning included; three seeds."""
    for seed in range(3):
        text = Text(Pace(family(base)), lambda _: acceptance, seed)
        text.run(3000)
        assert text.rate >= 0.98 * best_rate(text.costs, acceptance)


@pytest.mark.parametrize("acceptance", [0.2, 0.5, 0.8, 0.9])
@every_base
def test_near_the_best_fixed_length_without_overlaps(base: str, acceptance: float) -> None:
    """Accepted or not is all it learns: more noise, the mean of three seeds is held to the same."""
    texts = [Text(Pace(family(base)), lambda _: acceptance, seed) for seed in range(3)]
    for text in texts:
        text.run(3000, overlaps=False)
    assert np.mean([text.rate for text in texts]) >= 0.98 * best_rate(texts[0].costs, acceptance)


@pytest.mark.parametrize("plain_overlaps", [True, False])
@pytest.mark.parametrize("acceptance", [0.0, 0.2])
@every_base
def test_bad_drafts_cost_little(base: str, acceptance: float, plain_overlaps: bool) -> None:
    """Less than 2 % against plain over 2000 tokens, even if plain steps observe nothing and it must keep trying."""
    for seed in range(2):
        text = Text(Pace(family(base)), lambda _: acceptance, seed)
        text.run(2000, plain_overlaps=plain_overlaps)
        assert text.rate >= 0.98 / text.costs.plain_s


@every_base
def test_it_follows_a_change(base: str) -> None:
    """Within 300 tokens of a change it runs at .97 of the best rate again, in both directions."""
    for seed in range(3):
        text = Text(Pace(family(base)), lambda t: 0.9 if t < 1000 or t >= 3000 else 0.2, seed)
        for end, acceptance in ((1000, 0.9), (3000, 0.2), (4000, 0.9)):
            text.run(300 if text.position else 100)
            text.tokens = text.seconds = 0.0
            text.run(end - text.position)
            assert text.rate >= 0.97 * best_rate(text.costs, acceptance), (seed, end)


def test_switched_off_it_learns_from_plain_steps_alone() -> None:
    """No draft is needed to see that drafts would be accepted again."""
    pace = Pace(family("3B-q8_0"))
    while pace.draft_length():
        pace.observe(3, 0, [0.0])
    for _ in range(400):  # the purse fills from below zero, the estimate rises meanwhile
        pace.observe_plain(0.9)
    assert pace.draft_length() == 3


def test_without_observations_it_tries_again() -> None:
    pace = Pace(family("3B-q8_0"))
    for _ in range(20):
        pace.observe(3, 0)
    for _ in range(2000):
        assert pace.draft_length() == 0 or pace.acceptance[0] > 0.5
        pace.observe_plain()
    assert pace.draft_length() > 0


@every_base
def test_the_purse_holds_against_an_adversary(base: str) -> None:
    """Plain steps and rounds promise .95, and nothing ever stands: the loss stays within the allowance."""
    costs = family(base)
    pace, seconds, n = Pace(costs), 0.0, 3000
    worst = max(costs.round_s(k, 1.0, 0.0) for k in range(1, 17)) - costs.plain_s
    for step in range(1, n + 1):
        n_draft = pace.draft_length()
        if n_draft:
            pace.observe(n_draft, 0, [0.95])
            seconds += costs.round_s(n_draft, 1.0, 0.0)
        else:
            pace.observe_plain(0.95)
            seconds += costs.plain_s
        assert seconds <= (1 + ALLOWANCE) * step * costs.plain_s + START * costs.plain_s + worst
    assert seconds <= 1.02 * n * costs.plain_s


def test_surplus_is_not_saved_without_end() -> None:
    """After a long good stretch, a liar still loses no more than CAP plain steps' time."""
    costs = family("3B-q8_0")
    pace = Pace(costs)
    for _ in range(5000):
        pace.observe(3, 3, [1.0] * 3)
    loss = 0.0
    while n_draft := pace.draft_length():
        pace.observe(n_draft, 0, [1.0])
        loss += costs.round_s(n_draft, 1.0, 0.0) - costs.plain_s
    assert loss <= 70 * costs.plain_s


def test_rounds_slower_than_their_curves_are_noticed() -> None:
    """Rounds take 1.7 times what the curves say: at .8 plain is better, and the loss stays below 2 %."""
    text = Text(Pace(family("3B-q8_0")), lambda _: 0.8, slow=1.7)
    text.run(3000, timed=True)
    assert text.pace.drift > 1.4
    assert text.rate >= 0.98 / text.costs.plain_s


def test_a_load_on_the_whole_machine_is_no_news_about_drafts() -> None:
    """Everything takes twice as long from now on: drafting goes on, after a while at most."""
    costs = family("3B-q8_0")
    pace = Pace(costs)
    lengths = []
    for _ in range(300):
        n_draft = pace.draft_length()
        lengths.append(n_draft)
        if n_draft:
            stood = min(n_draft, 2)
            whole = float(stood == n_draft)
            pace.observe(n_draft, stood, [0.8] * 3, 2 * costs.round_s(n_draft, stood + 1.0, whole))
        else:
            pace.observe_plain(0.8, 2 * costs.plain_s)
    assert lengths[-200:] == [3] * 200


def test_one_interruption_changes_nothing() -> None:
    costs = family("3B-q8_0")
    pace = Pace(costs)
    for _ in range(50):
        pace.observe(3, 2, [0.8] * 3, costs.round_s(3, 3.0, 0.0))
        pace.observe_plain(0.8, costs.plain_s)
    pace.observe(3, 2, [0.8] * 3, 60.0)
    assert pace.drift < 1.1
    assert pace.draft_length() == 3


# ---- the estimate


def test_positions_are_learned_apart() -> None:
    """The first token is hard, the next are easy once it stood: a fixed rate would stop too early."""
    pace = Pace(family("1.1B-q8_0"), max_draft=8)
    rng = np.random.default_rng(1)
    for _ in range(400):
        n_accepted = 0
        while n_accepted < 8 and rng.random() < (0.6 if n_accepted == 0 else 0.95):
            n_accepted += 1
        pace.observe(8, n_accepted)
    estimates = pace.acceptance
    assert estimates[0] == pytest.approx(0.6, abs=0.2)  # 50 rounds are remembered: 3 standard deviations
    assert min(estimates[1:]) > 0.8


def test_positions_never_reached_follow_the_last_that_was() -> None:
    pace = Pace(family("3B-q8_0"), max_draft=5)
    for _ in range(200):
        pace.observe(1, 1, [0.9])
    assert pace.acceptance == pytest.approx([0.9] * 5, abs=0.01)


def test_overlaps_beyond_the_first_rejection_do_not_count() -> None:
    a, b = Pace(family("3B-q8_0")), Pace(family("3B-q8_0"))
    a.observe(3, 1, [0.9, 0.3, 0.7])
    b.observe(3, 1, [0.9, 0.3])
    assert a.acceptance == b.acceptance


@pytest.mark.parametrize(("n_drafted", "n_accepted"), [(0, 0), (2, 3), (2, -1)])
def test_impossible_rounds_are_refused(n_drafted: int, n_accepted: int) -> None:
    with pytest.raises(InputError, match="round: expected"):
        Pace(family("3B-q8_0")).observe(n_drafted, n_accepted)


@pytest.mark.parametrize("max_draft", [0, 65])
def test_impossible_limits_are_refused(max_draft: int) -> None:
    with pytest.raises(InputError, match="max_draft"):
        Pace(family("3B-q8_0"), max_draft)


def test_the_expected_time_per_token_tells_drafters_apart() -> None:
    good, bad = Pace(family("3B-q8_0")), Pace(family("3B-q8_0"))
    for _ in range(50):
        good.observe(3, 3, [1.0] * 3)
        bad.observe(3, 0, [0.1])
    assert bad.draft_length() == 0
    assert bad.seconds_per_token == bad.costs.plain_s
    assert good.seconds_per_token < 0.6 * good.costs.plain_s


def test_a_decision_costs_microseconds() -> None:
    """Below .2 ms for a round's observation and the next decision; the smallest families decode in milliseconds."""
    pace = Pace(family("3B-q8_0"))
    began = time.process_time()
    for _ in range(500):
        pace.observe(3, 2, [0.8] * 3, 0.2)
        pace.draft_length()
    assert (time.process_time() - began) / 500 < 2e-4


def test_a_drafter_of_which_nothing_is_known_begins_short() -> None:
    """Until something stood, or plain decoding saw that it would, a bad drafter costs as little as a draft can."""
    pace = Pace(family("3B-q8_0"))
    assert pace.draft_length() == 1
    pace.observe(1, 0, [0.0])
    assert pace.draft_length() <= 1
    proven, seen = Pace(family("3B-q8_0")), Pace(family("3B-q8_0"))
    proven.observe(1, 1, [1.0])
    seen.observe_plain(0.9)
    assert proven.draft_length() == seen.draft_length() == 3
