"""Acceptance rules with one mistake each, of the kinds found in the wild. The exactness tests must catch every one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from eftlite.noise import ACCEPT, RESIDUAL, TARGET
from eftlite.verify import (
    Law,
    Noise,
    Verdict,
    block,
    draw,
    excess,
    gumbel,
    logprobs_at,
    residual,
    token,
)
from tests.exact import Prefix, Procedure, World

Target = Callable[[int], Law]


def _at(law: Law, x: int) -> float:
    return float(logprobs_at(law, np.array([x], np.int32))[0])


def _chance(p: Law, q: Law, x: int) -> float:
    return math.exp(min(0.0, _at(p, x) - _at(q, x)))


def _token_like(
    chance: Callable[[Law, Law, int], float] = _chance,
    rest: Callable[[Law, Law], Law] = lambda p, q: residual(p, excess(p, q)),
    proposal_row: int = 0,
    target_row: int = 0,
    bonus: Callable[[Law, Sequence[Law]], Law] = lambda p, proposals: p,
) -> Callable[[Sequence[int], Sequence[Law], Target, Noise, int, int], Verdict]:
    """The token rule with replaceable parts; right with the defaults (test_verify.py checks that)."""

    def rule(
        draft: Sequence[int], proposals: Sequence[Law], target: Target, noise: Noise, position: int, round_index: int
    ) -> Verdict:
        n = len(draft)
        for i, x in enumerate(draft):
            p, q = target(min(i + target_row, n)), proposals[min(i + proposal_row, n - 1)]
            if not noise.uniform(position + i, ACCEPT, round_index) <= chance(p, q, x):
                return Verdict(i, draw(rest(p, q), noise, position + i, RESIDUAL, round_index))
        return Verdict(n, draw(bonus(target(n), proposals), noise, position + n, TARGET, round_index))

    return rule


def _block_like(
    clamp: bool = True, last_by_mass: bool = False, stop_at_failure: bool = False, plain_residual: bool = False
) -> Callable[[Sequence[int], Sequence[Law], Target, Noise, int, int], Verdict]:
    """Block verification as the paper writes it, testing prefixes in order; right with the defaults."""

    def rule(
        draft: Sequence[int], proposals: Sequence[Law], target: Target, noise: Noise, position: int, round_index: int
    ) -> Verdict:
        n, tau, log_prefix = len(draft), 0, [0.0]
        for i, x in enumerate(draft, 1):
            ratio = log_prefix[-1] + _at(target(i - 1), x) - _at(proposals[i - 1], x)
            log_prefix.append(min(0.0, ratio) if clamp else ratio)
            if i == n and not last_by_mass:
                chance = math.exp(log_prefix[i])
            else:
                mass = float(excess(target(i), proposals[min(i, n - 1)], log_prefix[i]).sum())
                free = 1.0 - math.exp(log_prefix[i])
                chance = mass / (mass + free) if mass + free > 0.0 else 1.0
            if noise.uniform(position + i - 1, ACCEPT, round_index) <= chance:
                tau = i
            elif stop_at_failure:
                break
        if tau == n:
            return Verdict(n, draw(target(n), noise, position + n, TARGET, round_index))
        scale = 0.0 if plain_residual else log_prefix[tau]
        law = residual(target(tau), excess(target(tau), proposals[tau], scale))
        return Verdict(tau, draw(law, noise, position + tau, RESIDUAL, round_index))

    return rule


def _match_then_draw_again(
    draft: Sequence[int], proposals: Sequence[Law], target: Target, noise: Noise, position: int, round_index: int
) -> Verdict:
    """Accept on match with the target's sample, but on a mismatch draw once more instead of giving that sample."""
    for i, x in enumerate(draft):
        if draw(target(i), noise, position + i, TARGET, round_index) != x:
            return Verdict(i, draw(target(i), noise, position + i, RESIDUAL, round_index))
    return Verdict(len(draft), draw(target(len(draft)), noise, position + len(draft), TARGET, round_index))


def _gumbel_with_fresh_correction(
    draft: Sequence[int], proposals: Sequence[Law], target: Target, noise: Noise, position: int, round_index: int
) -> Verdict:
    """Shared noise decides whether the draft stands, other noise what replaces it."""
    for i, x in enumerate(draft):
        if draw(target(i), noise, position + i) != x:
            return Verdict(i, draw(residual(target(i), excess(target(i), proposals[i])), noise, position + i, RESIDUAL))
    return Verdict(len(draft), draw(target(len(draft)), noise, position + len(draft)))


def _gumbel_with_draft_noise_bonus(
    draft: Sequence[int], proposals: Sequence[Law], target: Target, noise: Noise, position: int, round_index: int
) -> Verdict:
    """The bonus token is drawn with the noise of the last accepted position."""
    verdict = gumbel(draft, proposals, target, noise, position, round_index)
    if verdict.n_accepted < len(draft):
        return verdict
    return Verdict(len(draft), draw(target(len(draft)), noise, position + len(draft) - 1))


def _unfiltered(world: World, prefix: Prefix) -> Law:
    """What the drafter's law is before top-k and top-p."""
    return World(world.seed, world.alpha, vocabulary=world.vocabulary).q(prefix)


def _keep_one_too_many(prefix: Prefix, draft: Prefix, tokens: Prefix) -> Prefix:
    """A rewind that leaves the rejected token in the caches, before the correction."""
    return prefix + draft[: len(tokens)] + tokens[-1:]


def _keep_one_too_few(prefix: Prefix, draft: Prefix, tokens: Prefix) -> Prefix:
    """A rewind that also drops the last accepted token."""
    return prefix + tokens[:-2] + tokens[-1:]


def _favourite(prefix: Prefix) -> int:
    """A look-up's proposal: one token, fixed by the prefix."""
    return sum(prefix) % 3


#: {what is wrong: (procedure, filtered world)}
MUTANTS: dict[str, tuple[Procedure, bool]] = {
    "token: the correction is drawn from p, not from the residual": (
        Procedure(_token_like(rest=lambda p, q: p)),
        False,
    ),
    "token: the residual is (q - p)+": (
        Procedure(_token_like(rest=lambda p, q: residual(q, excess(q, p)))),
        False,
    ),
    "token: q of the next position": (Procedure(_token_like(proposal_row=1)), False),
    "token: p of the next position": (Procedure(_token_like(target_row=1)), False),
    "token: q before the filters that the draft was drawn with": (Procedure(token, proposal=_unfiltered), True),
    "token: bonus drawn from the draft's law": (
        Procedure(_token_like(bonus=lambda p, proposals: proposals[-1])),
        False,
    ),
    "token: accepts with min(1, q/p)": (Procedure(_token_like(chance=lambda p, q, x: _chance(q, p, x))), False),
    "token: accepts with p(x), as if q were 1": (
        Procedure(_token_like(chance=lambda p, q, x: math.exp(_at(p, x)))),
        False,
    ),
    "token: a look-up's token is taken to be drawn from p": (
        Procedure(_token_like(chance=lambda p, q, x: 1.0), lookup=_favourite),
        False,
    ),
    "token: a look-up's residual forgets the proposal": (
        Procedure(_token_like(rest=lambda p, q: p), lookup=_favourite),
        False,
    ),
    "rewind: one token too many stays": (Procedure(token, keep=_keep_one_too_many), False),
    "rewind: one token too few stays": (Procedure(token, keep=_keep_one_too_few), False),
    "drop: a drafted token is taken back for being improbable": (
        Procedure(token, drop=lambda x, q: _at(q, x) < math.log(0.2)),
        False,
    ),
    "match: on a mismatch the target is drawn from again": (Procedure(_match_then_draw_again), False),
    "block: stops at the first prefix that fails": (Procedure(_block_like(stop_at_failure=True), "block", 3), False),
    "block: residual without the factor P": (Procedure(_block_like(plain_residual=True), "block", 3), False),
    "block: P not clamped to 1": (Procedure(_block_like(clamp=False), "block", 3), False),
    "block: the whole draft tested like a prefix": (Procedure(_block_like(last_by_mass=True), "block"), False),
    "block: token-wise acceptance, no test of longer prefixes": (
        Procedure(_block_like(stop_at_failure=True, plain_residual=True), "block", 3),
        False,
    ),
    "block: a drafted token is taken back for being improbable": (
        Procedure(block, "block", drop=lambda x, q: _at(q, x) < math.log(0.2)),
        False,
    ),
    "gumbel: correction drawn with other noise": (Procedure(_gumbel_with_fresh_correction, "gumbel"), False),
    "gumbel: the bonus reuses the last position's noise": (
        Procedure(_gumbel_with_draft_noise_bonus, "gumbel", 1, lookup=_favourite),
        False,
    ),
}

#: The parts above put together rightly: what makes a mutant wrong is its mistake and nothing else.
SOUND: dict[str, Procedure] = {
    "token": Procedure(_token_like()),
    "block": Procedure(_block_like(), "block", 3),
}
