"""Acceptance rules: which tokens of a draft stand, and which token follows them.

Knows laws (a few token ids with their log-probabilities) and noise; never models, caches or text. Each rule gives
exactly the target's law, the first one even the target's very tokens:

``gumbel``
    Shared Gumbel noise (drafter-invariant decoding: Daliri, Musco, Suresh, arXiv 2408.07978). The token at each
    position is ``argmax(log p + g)`` with the noise of that position, and the draft stands while it is that token.
``token``
    Rejection token by token (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318).
``block``
    Block verification (Sun et al., ICLR 2025, arXiv 2403.10444): never accepts fewer tokens than ``token``.

Greedy decoding is a law of one candidate, in every rule.

Which noise may be used twice
    Under ``gumbel`` the text is a function of the TARGET noise alone: ``argmax(log p + g)`` does not ask what was
    drafted, nor how often a drafter looked at ``g``. So the noise is keyed by the position only, drafts share it
    (that is what makes them agree), and the same seed gives the same text with any drafter or none.
    Under ``block`` the chance to keep x_1 depends on x_2, x_3 …: when these are discarded, the noise that drew them is
    no longer independent of the text that stands. Drawing the next draft for the same positions from the same noise is
    biased (tests/test_verify.py shows by how much), hence a key of its own for each round. Under ``token`` nothing
    looks at a draft beyond its first rejection, so the repetition would be harmless as long as the draft length
    ignores discarded tokens too; it is keyed by the round all the same, so that nothing depends on that.

Not guaranteed: that logits of a batch equal those of single steps to the last bit; a rule is exact for the laws it
is given. That ``token`` and ``block`` give the same text for another draft length; only the law is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from eftlite.noise import ACCEPT, DRAFT, RESIDUAL, TARGET

_DENSE = 4096  # candidates beyond which a table over the vocabulary is cheaper than sorting
_NEGLIGIBLE = math.log(1e-8)  # of such a law, candidates that an estimate may leave out


class Law(NamedTuple):
    """The distribution of one token. A proposal without probabilities (prompt look-up) is ``ids=[x], logprobs=[0.]``.

    Attributes:
        ids: (k,) int32, the candidates in any order, each once.
        logprobs: (k,) float64, natural logarithms, normalised; -inf is allowed.
    """

    ids: NDArray[np.int32]
    logprobs: NDArray[np.float64]


class Noise(Protocol):
    """Random numbers as a function of the seed and a key, so that no order of calls can change them."""

    def gumbel(
        self, position: int, ids: NDArray[np.int32], stream: int = 0, round_index: int = 0, /
    ) -> NDArray[np.float64]:
        """(k,) float64 standard Gumbel values, one for each of the (k,) int32 token ids."""

    def uniform(self, position: int, stream: int, round_index: int = 0, /) -> float:
        """A number in the open interval (0, 1)."""


class Verdict(NamedTuple):
    """What a round adds to the text: the first n_accepted tokens of the draft, then the corrected or bonus token."""

    n_accepted: int
    token: int


class Rule(Protocol):
    """Decides on a draft x_1 … x_n (n may be 0).

    Arguments:
        draft: x_1 … x_n.
        proposals: q_0 … q_(n-1); x_(i+1) was drawn from q_i, the law after the pending token and x_1 … x_i. The draft
            may end early depending on drafted tokens and on the q that would come next; a token that was drawn must
            not be dropped because of its value (except under ``gumbel``).
        target: gives p_i, the law after x_1 … x_i. Asked in increasing order of i, at most once each, and never
            after a token that p itself excludes, so that the law may carry a grammar's state along.
        noise: see Noise.
        position: of x_1 in the text.
        round_index: a number that no other round of this text has.

    Raises:
        ValueError: a drafted token has no probability in its proposal.
    """

    def __call__(
        self,
        draft: Sequence[int],
        proposals: Sequence[Law],
        target: Callable[[int], Law],
        noise: Noise,
        position: int,
        round_index: int,
        /,
    ) -> Verdict:
        """Return the verdict."""


def draw(law: Law, noise: Noise, position: int, stream: int = TARGET, round_index: int = 0) -> int:
    """A token of the law: ``argmax(log p + g)``, the lowest id among equals. Plain decoding is this and no more."""
    if law.ids.size == 1:
        return int(law.ids[0])
    scores = law.logprobs + noise.gumbel(position, law.ids, stream, round_index)
    return int(law.ids[scores == scores.max()].min())


def draw_draft(rule: str, law: Law, noise: Noise, position: int, round_index: int) -> int:
    """A drafted token for a rule, from the noise that this rule's drafts must use (see the module's docstring)."""
    if rule == "gumbel":
        return draw(law, noise, position, TARGET)
    return draw(law, noise, position, DRAFT, round_index)


def gumbel(
    draft: Sequence[int],
    _proposals: Sequence[Law],
    target: Callable[[int], Law],
    noise: Noise,
    position: int,
    _round_index: int,
) -> Verdict:
    """Shared Gumbel noise: the plain decoder's own token at each position, for as long as the draft foresaw it.

    Proposals and the round play no part: the draft may come from anywhere. Expected acceptance: ``coincidence``.
    """
    for i, x in enumerate(draft):
        token_id = draw(target(i), noise, position + i)
        if token_id != x:
            return Verdict(i, token_id)
    return Verdict(len(draft), draw(target(len(draft)), noise, position + len(draft)))


def token(
    draft: Sequence[int],
    proposals: Sequence[Law],
    target: Callable[[int], Law],
    noise: Noise,
    position: int,
    round_index: int,
) -> Verdict:
    """Rejection: keep x with probability ``min(1, p(x)/q(x))``, else draw from ``(p - q)+`` and stop.

    Expected acceptance: ``overlap``.
    """
    for i, x in enumerate(draft):
        p, q = target(i), proposals[i]
        chance = math.exp(min(0.0, _logprob(p, x) - _drafted_logprob(q, x, i)))
        if not noise.uniform(position + i, ACCEPT, round_index) <= chance:
            return Verdict(i, draw(residual(p, excess(p, q)), noise, position + i, RESIDUAL, round_index))
    return _bonus(len(draft), target, noise, position, round_index)


def block(
    draft: Sequence[int],
    proposals: Sequence[Law],
    target: Callable[[int], Law],
    noise: Noise,
    position: int,
    round_index: int,
) -> Verdict:
    """Block verification (Sun et al.): the longest prefix of the draft whose own test succeeds.

    With ``P_0 = 1`` and ``P_i = min(1, P_(i-1) p_(i-1)(x_i) / q_(i-1)(x_i))``, the prefix of length i < n succeeds with
    probability ``S_i / (S_i + 1 - P_i)``, where ``S_i = sum (P_i p_i - q_i)+``, the whole draft with ``P_n``. After
    i < n tokens the next is drawn from ``(P_i p_i - q_i)+``, normalised. Shorter prefixes are tested although a
    longer one failed and the factor ``P_i`` stays in the residual: leaving either out is biased.
    """
    # Testing from the longest prefix down finds the same prefix as testing all of them, with fewer random numbers.
    chances, laws, excesses = [], [], []
    log_prefix = 0.0
    for i, x in enumerate(draft):
        p, q = target(i), proposals[i]
        laws.append(p)
        excesses.append(excess(p, q, log_prefix))
        chances.append(_prefix_chance(float(excesses[i].sum()), log_prefix))
        log_prefix = min(0.0, log_prefix + _logprob(p, x) - _drafted_logprob(q, x, i))
        if log_prefix == -math.inf:  # P stays 0, no longer prefix can succeed, and p_(i+1) need not exist
            break
    else:
        if not draft or noise.uniform(position + len(draft) - 1, ACCEPT, round_index) <= math.exp(log_prefix):
            return _bonus(len(draft), target, noise, position, round_index)
    i = len(chances) - 1
    while i > 0 and not noise.uniform(position + i - 1, ACCEPT, round_index) <= chances[i]:
        i -= 1
    return Verdict(i, draw(residual(laws[i], excesses[i]), noise, position + i, RESIDUAL, round_index))


RULES: dict[str, Rule] = {"gumbel": gumbel, "block": block, "token": token}


def excess(p: Law, q: Law, log_scale: float = 0.0) -> NDArray[np.float64]:
    """(k,) float64, ``max(exp(log_scale) p(x) - q(x), 0)`` at p's candidates; it is 0 everywhere else."""
    difference: NDArray[np.float64] = np.exp(p.logprobs + log_scale) - np.exp(logprobs_at(q, p.ids))  # (k,)
    return np.maximum(difference, 0.0)


def residual(p: Law, weights: NDArray[np.float64]) -> Law:
    """The law proportional to the (k,) float64 weights at p's candidates, or p where no weight is positive.

    No weight is positive only where p equals q but for rounding. A rejection then had a probability of the order of
    1e-16, so what is drawn changes no law by more than that; p's candidates at least are all allowed.
    """
    keep = weights > 0.0
    kept = weights[keep]
    if not kept.size:
        return p
    return Law(p.ids[keep], np.log(kept / kept.sum()))


def overlap(p: Law, q: Law) -> float:
    """``sum min(p, q) = 1 - TV(p, q)``: the chance that ``token`` keeps a token drawn from q."""
    return float(np.minimum(np.exp(p.logprobs), np.exp(logprobs_at(q, p.ids))).sum())


def coincidence(p: Law, q: Law) -> float:
    """The chance that ``gumbel`` keeps a token drawn from q: ``sum_x 1 / sum_y max(p_y/p_x, q_y/q_x)``.

    At least ``overlap / (2 - overlap)``. Sorted by p/q, each inner sum is a tail of p over p_x plus a head of q over
    q_x, so that k candidates cost k log k and not k squared. Of whole vocabularies only candidates above 1e-8 are
    sorted, and the result is an estimate from below, by a few thousandths at most.
    """
    log_q = logprobs_at(q, p.ids)
    floor = _NEGLIGIBLE if p.ids.size > _DENSE else -math.inf
    both = (log_q > floor) & (p.logprobs > floor)
    order = np.argsort(p.logprobs[both] - log_q[both])
    p_x, q_x = np.exp(p.logprobs[both][order]), np.exp(log_q[both][order])
    p_tail = np.cumsum(p_x[::-1])[::-1] + max(1.0 - float(p_x.sum()), 0.0)
    q_head = np.cumsum(q_x) - q_x + max(1.0 - float(q_x.sum()), 0.0)
    return float((1.0 / (p_tail / p_x + q_head / q_x)).sum())


EXPECTED_ACCEPTANCE: dict[str, Callable[[Law, Law], float]] = {
    "gumbel": coincidence,
    "block": overlap,
    "token": overlap,
}


def logprobs_at(law: Law, ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """(n,) float64 log-probabilities of the (n,) int32 ids under the law; -inf where it has no such candidate."""
    if law.ids is ids or np.array_equal(law.ids, ids):
        return law.logprobs
    if law.ids.size == 1:
        return np.where(ids == law.ids[0], law.logprobs[0], -np.inf)
    if law.ids.size > _DENSE:
        table = np.full(max(int(law.ids.max()), int(ids.max())) + 1, -np.inf)
        table[law.ids] = law.logprobs
        found: NDArray[np.float64] = table[ids]  # (n,)
        return found
    order = np.argsort(law.ids)
    known = law.ids[order]
    slots = np.minimum(np.searchsorted(known, ids), known.size - 1)
    return np.where(known[slots] == ids, law.logprobs[order[slots]], -np.inf)


def _logprob(law: Law, token_id: int) -> float:
    """log p(token_id), -inf when the law has no such candidate."""
    found = law.logprobs[law.ids == token_id]
    return float(found[0]) if found.size else -math.inf


def _drafted_logprob(q: Law, token_id: int, i: int) -> float:
    """log q(x_(i+1)); a token that q cannot draw was not drawn from q, and no rule can make up for that."""
    value = _logprob(q, token_id)
    if value == -math.inf:
        raise ValueError(f"draft token {i}: expected one of its proposal's candidates, got id {token_id}")
    return value


def _prefix_chance(mass: float, log_prefix: float) -> float:
    """Block verification's ``S / (S + 1 - P)`` with mass S and log_prefix log P; 1 when P is 1, even where S is 0."""
    return 1.0 if log_prefix == 0.0 else mass / (mass - math.expm1(log_prefix))


def _bonus(n_draft: int, target: Callable[[int], Law], noise: Noise, position: int, round_index: int) -> Verdict:
    """The whole draft stands and the target's own next token follows."""
    return Verdict(n_draft, draw(target(n_draft), noise, position + n_draft, TARGET, round_index))
