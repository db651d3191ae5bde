"""Laws of random computations by enumeration: no sampling, no statistics, errors of the order of 1e-16.

The code under test runs unchanged; only its noise is replaced. ``ExactNoise`` turns each decision that the code takes
on a random number into a fork of a decision tree, with the exact probability of each branch:

* ``uniform`` returns an unevaluated number. The first comparison with a threshold h forks into ``<= h`` (probability
  h) and ``> h``; comparing it again forks within the interval that is left. It is NaN for everything else, and a
  number that is never compared fails the run, so that no use of it can go unnoticed.
* ``gumbel`` returns an unevaluated vector g. Adding it to log-weights w forks into the candidates that may be
  ``argmax(w + g)``, with probability softmax(w) (the Gumbel-max theorem; test_verify.py checks it by itself), and
  gives a vector whose argmax is that candidate. A second law that looks at the same key's noise forks with the
  probability given the first: the joint law of two argmaxes of one noise vector has a closed form (``shared_argmax``).
  A third look cannot be integrated and fails the run. Anything but an addition fails too.

``leaves`` runs a computation once for each leaf of its tree. Keys that are asked again give the same noise again, so
noise reused by mistake is seen as what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from eftlite.noise import RESIDUAL, TARGET
from eftlite.verify import Law, Noise, Rule, draw, draw_draft

T = TypeVar("T")
Prefix = tuple[int, ...]
Key = tuple[int, int, int]  # position, stream, round
Final = Callable[[Key], bool]
Weights = tuple[tuple[int, float], ...]  # (token id, probability)

VOCABULARY = 5


# ---- decision trees


class Tree:
    """One path through a decision tree; ``choose`` is the fork."""

    def __init__(self) -> None:
        self._path: list[tuple[int, Sequence[float]]] = []
        self._depth = 0
        self.weight = 1.0

    def choose(self, probabilities: Sequence[float]) -> int:
        """The branch taken at this fork; branches of probability 0 are never taken."""
        if self._depth == len(self._path):
            self._path.append((self._next(probabilities, 0), probabilities))
        branch, known = self._path[self._depth]
        assert len(known) == len(probabilities), "the computation did not repeat itself"
        self._depth += 1
        self.weight *= known[branch]
        return branch

    def advance(self) -> bool:
        """Go to the next leaf; False when all were seen."""
        self._depth, self.weight = 0, 1.0
        while self._path:
            branch, probabilities = self._path.pop()
            branch = self._next(probabilities, branch + 1)
            if branch < len(probabilities):
                self._path.append((branch, probabilities))
                return True
        return False

    @staticmethod
    def _next(probabilities: Sequence[float], start: int) -> int:
        branch = start
        while branch < len(probabilities) and not probabilities[branch] > 0.0:
            branch += 1
        return branch


def leaves(run: Callable[[ExactNoise], T], final: Final | None = None) -> Iterator[tuple[float, T, ExactNoise]]:
    """(probability, result, noise) of each leaf of the computation; ``final`` as in ExactNoise."""
    tree = Tree()
    while True:
        noise = ExactNoise(tree, final)
        result = run(noise)
        assert not noise.unsettled, f"random numbers never compared: {noise.unsettled}"
        yield tree.weight, result, noise
        if not tree.advance():
            return


# ---- noise that forks


class ExactNoise:
    """Noise whose every use is integrated over (see the module's docstring).

    ``final`` tells keys whose first look ends the computation (see ``last_looks``). Those looks do not fork, nor do
    second looks that differ from the first: one token is given as the winner, and ``last_draw`` holds the whole law
    {id: probability} that it stands for. ``round_law`` checks that the rule returned that winner. None forks always:
    slower, and needed by mutants that go on after such a look.
    """

    def __init__(self, tree: Tree, final: Final | None = None) -> None:
        self.tree = tree
        self.final = final
        self.keys: list[Key] = []
        self.unsettled: set[Key] = set()
        self.last_draw: dict[int, float] = {}
        self.last_winner = -1
        self._intervals: dict[Key, tuple[float, float]] = {}
        self._races: dict[Key, list[tuple[Weights, int]]] = {}

    def uniform(self, position: int, stream: int, round_index: int = 0) -> float:
        key = (position, stream, round_index)
        self.keys.append(key)
        if key not in self._intervals:
            self.unsettled.add(key)
        return _Uniform.make(self, key)

    def gumbel(
        self, position: int, ids: NDArray[np.int32], stream: int = 0, round_index: int = 0
    ) -> NDArray[np.float64]:
        key = (position, stream, round_index)
        self.keys.append(key)
        return _Gumbel.make(self, key, ids)

    def at_most(self, key: Key, threshold: float) -> bool:
        """Fork on ``uniform(key) <= threshold``."""
        self.unsettled.discard(key)
        low, high = self._intervals.get(key, (0.0, 1.0))
        cut = min(max(threshold, low), high)
        below = self.tree.choose(((cut - low) / (high - low), (high - cut) / (high - low))) == 0
        self._intervals[key] = (low, cut) if below else (cut, high)
        return below

    def race(self, key: Key, law: Weights) -> int:
        """Fork on ``argmax(log law + gumbel(key))``."""
        looks = self._races.setdefault(key, [])
        for seen, winner in looks:
            if seen == law:
                return winner
        assert len(looks) < 2, f"three laws looked at the noise of {key}"
        token_id = self._second_look(*looks[0], law) if looks else self._first_look(key, law)
        looks.append((law, token_id))
        return token_id

    def _first_look(self, key: Key, law: Weights) -> int:
        if self.final and self.final(key):
            return self._lump(law)
        return self._fork(law)

    def _second_look(self, first: Weights, winner: int, law: Weights) -> int:
        given = _given_first_look(first, winner, law)
        if self.final is None:
            return self._fork(given)
        others = tuple((x, p) for x, p in given if x != winner and p > 0.0)
        same, other = dict(given).get(winner, 0.0), sum(p for _, p in others)
        if self.tree.choose((same, other)) == 0:
            return winner
        return self._lump(tuple((x, p / other) for x, p in others))

    def _fork(self, law: Weights) -> int:
        return law[self.tree.choose([p for _, p in law])][0]

    def _lump(self, law: Weights) -> int:
        self.last_draw = dict(law)
        self.last_winner = law[len(self.keys) % len(law)][0]
        return self.last_winner


def last_looks(name: str, n_draft: int) -> Final:
    """Where the rules draw their last token; gumbel's also ends with a second look that differs from the first."""
    if name == "gumbel":
        return lambda key: key[0] == n_draft
    return lambda key: key[1] in {TARGET, RESIDUAL}


class _Uniform(float):
    """NaN to everything except comparisons, which fork."""

    noise: ExactNoise
    key: Key

    @classmethod
    def make(cls, noise: ExactNoise, key: Key) -> _Uniform:
        number = cls("nan")
        number.noise, number.key = noise, key
        return number

    def __le__(self, other: float) -> bool:
        return self.noise.at_most(self.key, float(other))

    def __lt__(self, other: float) -> bool:
        return self.noise.at_most(self.key, float(other))

    def __gt__(self, other: float) -> bool:
        return not self.noise.at_most(self.key, float(other))

    def __ge__(self, other: float) -> bool:
        return not self.noise.at_most(self.key, float(other))


class _Gumbel(np.ndarray[Any, np.dtype[np.float64]]):
    """A vector that can only be added to log-weights, which forks."""

    noise: ExactNoise
    key: Key
    ids: NDArray[np.int32]

    @classmethod
    def make(cls, noise: ExactNoise, key: Key, ids: NDArray[np.int32]) -> _Gumbel:
        vector = np.full(ids.size, np.nan).view(cls)
        vector.noise, vector.key, vector.ids = noise, key, ids
        return vector

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> NDArray[np.float64]:
        assert (ufunc, method, kwargs) == (np.add, "__call__", {}), f"noise may only be added, got {ufunc}"
        (log_weights,) = (x for x in inputs if x is not self)
        winner = self.noise.race(self.key, _softmax(self.ids.tobytes(), log_weights.tobytes()))
        return np.where(self.ids == winner, 0.0, -np.inf)


@lru_cache(maxsize=100_000)
def _softmax(ids: bytes, log_weights: bytes) -> Weights:
    """What int32 ids with float64 log-weights may draw."""
    weights = np.exp(np.frombuffer(log_weights))
    law = zip(np.frombuffer(ids, np.int32).tolist(), (weights / weights.sum()).tolist(), strict=True)
    return tuple((x, p) for x, p in law if p > 0.0)


@lru_cache(maxsize=100_000)
def _given_first_look(q: Weights, x: int, p: Weights) -> Weights:
    """The probability of each of p's candidates to be the argmax, given that x is q's."""
    return tuple((y, shared_argmax(dict(q), dict(p), x, y) / dict(q)[x]) for y, _ in p)


def shared_argmax(q: Mapping[int, float], p: Mapping[int, float], x: int, y: int) -> float:
    """P(argmax(log q + g) = x and argmax(log p + g) = y) for one vector g of standard Gumbels.

    With E_z = exp(-g_z) exponential, u = E_x/q_x and v = E_y/p_y, the event is E_z >= max(q_z u, p_z v) for every z.
    For x = y that gives 1 / sum_z max(q_z/q_x, p_z/p_x); otherwise, with t = v/u, the integral of q_x p_y / D(t)**2
    over q_y/p_y <= t <= q_x/p_x, where D(t) = sum_z max(q_z, p_z t) is linear between the points q_z/p_z.
    """
    z = sorted(set(q) | set(p))
    q_z, p_z = np.array([q.get(i, 0.0) for i in z]), np.array([p.get(i, 0.0) for i in z])
    if x == y:
        return float(1.0 / np.maximum(q_z / q[x], p_z / p[x]).sum()) if x in p else 0.0
    low = q.get(y, 0.0) / p[y]
    high = q[x] / p[x] if p.get(x, 0.0) > 0.0 else np.inf
    if not low < high:
        return 0.0
    breaks = q_z[p_z > 0.0] / p_z[p_z > 0.0]
    points = [low, *sorted(breaks[(breaks > low) & (breaks < high)]), high]
    total = 0.0
    for start, end in pairwise(points):
        middle = 0.5 * (start + end) if end < np.inf else 2.0 * start + 1.0
        constant, slope = q_z[q_z > p_z * middle].sum(), p_z[q_z <= p_z * middle].sum()
        # the integral of 1/(c + s t)**2 from a to b is (b - a) / ((c + s a)(c + s b)); its limit for b = inf
        if end < np.inf:
            total += (end - start) / ((constant + slope * start) * (constant + slope * end))
        else:
            total += 1.0 / (slope * (constant + slope * start))
    return float(q[x] * p[y] * total)


# ---- a small world of EFT: tables instead of models


def make_law(logits: NDArray[np.float64], top_k: int = 0, top_p: float = 1.0, shuffle: int = 0) -> Law:
    """The law of (n,) float64 logits after top-k and top-p; its candidates in an order that depends on shuffle."""
    order = np.argsort(-logits, kind="stable")[: top_k or None]
    probabilities = np.exp(logits[order] - logits[order[0]])
    probabilities /= probabilities.sum()
    n_kept = int(np.searchsorted(np.cumsum(probabilities), top_p - 1e-9)) + 1
    kept = np.roll(np.arange(order.size)[:n_kept], shuffle)
    return Law(order[kept].astype(np.int32), np.log(probabilities[kept] / probabilities[kept].sum()))


class World:
    """Base, tuned and reference as random tables: each prefix has its own logits, in no relation to its neighbours.

    ``p(prefix)`` is the composite's law, ``q(prefix)`` the tuned model's, both after the same filters.
    """

    def __init__(
        self, seed: int, alpha: float = 1.0, top_k: int = 0, top_p: float = 1.0, vocabulary: int = VOCABULARY
    ) -> None:
        self.seed, self.alpha, self.top_k, self.top_p, self.vocabulary = seed, alpha, top_k, top_p, vocabulary
        self._laws: dict[Prefix, tuple[Law, Law]] = {}
        self.plain: dict[tuple[Prefix, int], NDArray[np.float64]] = {}

    def p(self, prefix: Prefix) -> Law:
        return self._at(prefix)[0]

    def q(self, prefix: Prefix) -> Law:
        return self._at(prefix)[1]

    def _at(self, prefix: Prefix) -> tuple[Law, Law]:
        if prefix not in self._laws:
            normals = np.random.default_rng([self.seed, len(prefix), *prefix]).normal(size=(3, self.vocabulary))
            base, reference = 1.5 * normals[0], 0.7 * normals[0] + 0.7 * normals[1]
            tuned = reference + 0.8 * normals[2]
            log_base, log_tuned, log_reference = (x - np.log(np.exp(x).sum()) for x in (base, tuned, reference))
            composite = log_base + self.alpha * (log_tuned - log_reference)
            self._laws[prefix] = (
                make_law(composite, self.top_k, self.top_p, 1),
                make_law(log_tuned, self.top_k, self.top_p),
            )
        return self._laws[prefix]


# ---- joint laws of the next tokens, (vocabulary,) * n float64


def plain_law(world: World, prefix: Prefix, n: int) -> NDArray[np.float64]:
    """The joint law of the next n tokens of plain decoding; do not write to it, worlds keep them."""
    if (prefix, n) not in world.plain:
        joint = np.zeros((world.vocabulary,) * n)
        if n == 0:
            joint += 1.0
        else:
            law = world.p(prefix)
            for token_id, probability in zip(law.ids.tolist(), np.exp(law.logprobs).tolist(), strict=True):
                joint[token_id] = probability * plain_law(world, (*prefix, token_id), n - 1)
        world.plain[prefix, n] = joint
    return world.plain[prefix, n]


class Procedure(NamedTuple):
    """A speculative round; the fields after the rule are what mutants get wrong.

    Attributes:
        rule: the acceptance rule.
        n_draft: tokens drafted in a round.
        stop: ends a draft early, given the drafted tokens and the q that comes next.
        drop: takes the last drafted token back, given it and its q. Biased.
        lookup: proposes one token without probabilities, given the prefix; replaces the tuned model.
        proposal: what the rule is told about q, given the prefix; None tells the truth.
        keep: what the caches hold of (prefix, draft, tokens emitted) when the next round begins; None is right.
        round_key: the number under which a round's noise is asked for.
    """

    rule: Rule
    name: str = "token"
    n_draft: int = 2
    stop: Callable[[Prefix, Law], bool] | None = None
    drop: Callable[[int, Law], bool] | None = None
    lookup: Callable[[Prefix], int] | None = None
    proposal: Callable[[World, Prefix], Law] | None = None
    keep: Callable[[Prefix, Prefix, Prefix], Prefix] | None = None
    round_key: Callable[[int], int] = int


def speculate(
    procedure: Procedure, world: World, prefix: Prefix, noise: Noise, position: int, round_index: int
) -> tuple[Prefix, Prefix]:
    """(draft, tokens emitted) of one round, as a generating loop would do it."""
    draft: Prefix = ()
    proposals: list[Law] = []
    while len(draft) < procedure.n_draft:
        q = world.q(prefix + draft)
        if procedure.stop and procedure.stop(draft, q):
            break
        if procedure.lookup:
            q = Law(np.array([procedure.lookup(prefix + draft)], np.int32), np.zeros(1))
        x = draw_draft(procedure.name, q, noise, position + len(draft), procedure.round_key(round_index))
        if procedure.drop and procedure.drop(x, q):
            break
        proposals.append(procedure.proposal(world, prefix + draft) if procedure.proposal else q)
        draft = (*draft, x)

    def target(i: int) -> Law:
        return world.p(prefix + draft[:i])

    verdict = procedure.rule(draft, proposals, target, noise, position, procedure.round_key(round_index))
    return draft, (*draft[: verdict.n_accepted], verdict.token)


def round_law(
    procedure: Procedure, world: World, prefix: Prefix, lump: bool = False
) -> dict[tuple[Prefix, Prefix], float]:
    """{(tokens emitted, what the caches then hold): probability} of one round; ``lump`` is quicker (see ExactNoise)."""
    law: dict[tuple[Prefix, Prefix], float] = {}
    final = last_looks(procedure.name, procedure.n_draft) if lump else None
    for weight, (draft, emitted), noise in leaves(
        lambda noise: speculate(procedure, world, prefix, noise, 0, 1), final
    ):
        shares = {emitted[-1]: 1.0}
        if noise.last_draw:
            assert emitted[-1] == noise.last_winner
            shares = noise.last_draw
        for last, share in shares.items():
            tokens = (*emitted[:-1], last)
            held = procedure.keep(prefix, draft, tokens) if procedure.keep else prefix + tokens
            law[tokens, held] = law.get((tokens, held), 0.0) + weight * share
    return law


def one_round_law(procedure: Procedure, world: World, n: int, lump: bool = False) -> NDArray[np.float64]:
    """The joint law of the next n tokens: one round, the rest plain."""
    joint = np.zeros((world.vocabulary,) * n)
    for (tokens, held), weight in round_law(procedure, world, (), lump).items():
        joint[tokens[:n]] += weight * plain_law(world, held, n - len(tokens[:n]))
    return joint


def rounds_law(
    procedure: Procedure, world: World, n: int, prefix: Prefix = (), lump: bool = False
) -> NDArray[np.float64]:
    """The joint law of the next n tokens: round after round, each with noise of its own (keyed by the round).

    Drafts are cut so that no round can pass the n tokens, as a limit on tokens does.
    """
    joint = np.zeros((world.vocabulary,) * n)
    if n == 0:
        return joint + 1.0
    fitting = procedure._replace(n_draft=min(procedure.n_draft, n - 1))
    for (tokens, held), weight in round_law(fitting, world, prefix, lump).items():
        joint[tokens] += weight * rounds_law(procedure, world, n - len(tokens), held, lump)
    return joint


def whole_text_law(procedure: Procedure, world: World, n: int) -> NDArray[np.float64]:
    """As rounds_law, but one tree for the whole text: noise that two rounds ask for under one key *is* the same."""

    def text(noise: ExactNoise) -> Prefix:
        tokens: Prefix = ()
        round_index = 0
        while len(tokens) < n:
            round_index += 1
            tokens += speculate(procedure, world, tokens, noise, len(tokens), round_index)[1]
        return tokens[:n]

    joint = np.zeros((world.vocabulary,) * n)
    for weight, tokens, _ in leaves(text):
        joint[tokens] += weight
    return joint


def round_then_plain_law(procedure: Procedure, world: World, n: int) -> NDArray[np.float64]:
    """As one_round_law, but the plain steps use the noise as the decoder does, looked at by discarded drafts or not."""

    def text(noise: ExactNoise) -> Prefix:
        tokens = speculate(procedure, world, (), noise, 0, 1)[1][:n]
        while len(tokens) < n:
            tokens = (*tokens, draw(world.p(tokens), noise, len(tokens)))
        return tokens

    joint = np.zeros((world.vocabulary,) * n)
    for weight, tokens, _ in leaves(text):
        joint[tokens] += weight
    return joint


def error(joint: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """The largest absolute difference between two joint laws, or between their laws of the first 1, 2 … tokens."""
    difference = joint - expected
    worst = 0.0
    while difference.ndim:
        worst = max(worst, float(np.abs(difference).max()))
        difference = difference.sum(axis=-1)
    return worst
