"""Acceptance rules: exact by enumeration (exact.py), wrong ones caught (mutants.py), gumbel's text the plain one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

from eftlite import settings
from eftlite.noise import TARGET, Noise
from eftlite.verify import (
    EXPECTED_ACCEPTANCE,
    RULES,
    Law,
    Verdict,
    coincidence,
    draw,
    draw_draft,
    excess,
    logprobs_at,
    overlap,
    residual,
)
from tests.exact import (
    ExactNoise,
    Prefix,
    Procedure,
    Tree,
    World,
    error,
    leaves,
    make_law,
    one_round_law,
    plain_law,
    round_law,
    round_then_plain_law,
    rounds_law,
    shared_argmax,
    whole_text_law,
)
from tests.mutants import MUTANTS, SOUND

EXACT = 1e-12
CAUGHT = 1e-3
FILTERS = {"unfiltered": (0, 1.0), "filtered": (3, 0.9)}  # top-k, top-p

every_rule = pytest.mark.parametrize("name", RULES)
filters = pytest.mark.parametrize("filtered", FILTERS)


def law_of(ids: Sequence[int], probabilities: Sequence[float]) -> Law:
    with np.errstate(divide="ignore"):
        return Law(np.array(ids, np.int32), np.log(np.array(probabilities, np.float64)))


def random_law(rng: np.random.Generator, n_vocab: int, k: int) -> Law:
    logits = rng.normal(size=k) * 2.0
    ids = rng.permutation(n_vocab)[:k].astype(np.int32)
    return Law(ids, logits - np.log(np.exp(logits).sum()))


@lru_cache
def world_of(seed: int, alpha: float, filtered: str) -> World:
    """Worlds keep their tables; three rules share them."""
    return World(seed, alpha, *FILTERS[filtered])


def some_stop(draft: Prefix, q: Law) -> bool:
    """Ends a draft depending on what was drafted and on the next q, both."""
    return bool(draft) and (draft[-1] == 1 or float(q.logprobs.max()) < math.log(0.45))


# ---- the law, computed


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("n_draft", [1, 2, 3, 4])
@filters
@every_rule
def test_joint_law_after_a_round(name: str, filtered: str, n_draft: int, alpha: float) -> None:
    world = world_of(1, alpha, filtered)
    n = n_draft + 1
    joint = one_round_law(Procedure(RULES[name], name, n_draft), world, n, lump=True)
    assert error(joint, plain_law(world, (), n)) <= EXACT


@pytest.mark.parametrize("n_draft", [2, 3])
@filters
@every_rule
def test_joint_law_over_rounds(name: str, filtered: str, n_draft: int) -> None:
    """625 sequences of four tokens; rounds follow each other until there are four."""
    world = world_of(2, 1.0, filtered)
    joint = rounds_law(Procedure(RULES[name], name, n_draft), world, 4, lump=True)
    assert error(joint, plain_law(world, (), 4)) <= EXACT


@pytest.mark.parametrize("n_draft", [1, 2, 3])
@every_rule
def test_joint_law_with_lookup(name: str, n_draft: int) -> None:
    """Proposals without probabilities: q is one-hot."""
    world = World(3)
    procedure = Procedure(RULES[name], name, n_draft, lookup=lambda prefix: (2 * sum(prefix) + len(prefix)) % 5)
    assert error(one_round_law(procedure, world, 4, lump=True), plain_law(world, (), 4)) <= EXACT
    assert error(whole_text_law(procedure, World(3, vocabulary=5), 2), plain_law(world, (), 2)) <= EXACT


@pytest.mark.parametrize("name", ["token", "block"])
def test_joint_law_of_a_whole_text_in_one_tree(name: str) -> None:
    """Rounds are not taken to be independent here: the same key is the same noise, and the rules' keys differ."""
    world = World(5, vocabulary=2)
    joint = whole_text_law(Procedure(RULES[name], name, 2), world, 4)
    assert error(joint, plain_law(world, (), 4)) <= EXACT


def test_gumbel_may_look_at_noise_again() -> None:
    """Plain steps after a round use noise that the discarded draft has looked at; the law is the plain one."""
    world = World(6)
    joint = round_then_plain_law(Procedure(RULES["gumbel"], "gumbel", 2), world, 3)
    assert error(joint, plain_law(world, (), 3)) <= EXACT


def test_block_may_not_look_at_draft_noise_again() -> None:
    """Why drafts are keyed by the round. The token rule could do without (see verify.py)."""
    world = World(5, vocabulary=2)
    errors = {
        name: error(
            whole_text_law(Procedure(RULES[name], name, 2, round_key=lambda _: 0), world, 3), plain_law(world, (), 3)
        )
        for name in ("block", "token")
    }
    assert errors["block"] >= CAUGHT
    assert errors["token"] <= EXACT


@every_rule
def test_stopping_early_is_exact(name: str) -> None:
    """It may depend on the drafted tokens and on the q that comes next."""
    world = World(7)
    procedure = Procedure(RULES[name], name, 3, stop=some_stop)
    lengths = {len(tokens) for tokens, _ in round_law(procedure, world, (), lump=True)}
    assert lengths == {1, 2, 3, 4}
    assert error(one_round_law(procedure, world, 4, lump=True), plain_law(world, (), 4)) <= EXACT


def test_dropping_a_drafted_token_for_its_value_is_biased_except_under_gumbel() -> None:
    world = World(7)
    errors = {}
    for name, rule in RULES.items():
        procedure = Procedure(rule, name, 2, drop=lambda x, q: float(logprobs_at(q, np.array([x], np.int32))[0]) < -1.6)
        errors[name] = error(one_round_law(procedure, world, 3), plain_law(world, (), 3))
    assert errors["gumbel"] <= EXACT
    assert errors["token"] >= CAUGHT
    assert errors["block"] >= CAUGHT


@pytest.mark.parametrize("mistake", MUTANTS)
def test_mutants_are_caught(mistake: str) -> None:
    procedure, filtered = MUTANTS[mistake]
    world = world_of(6, 1.0, "filtered" if filtered else "unfiltered")
    n = max(procedure.n_draft + 1, 3)
    lump = procedure.name == "block"  # these end with their last draw; the others may not
    assert error(one_round_law(procedure, world, n, lump), plain_law(world, (), n)) >= CAUGHT


@pytest.mark.parametrize("name", SOUND)
def test_mutants_without_their_mistake_are_exact(name: str) -> None:
    world = World(1)
    assert error(one_round_law(SOUND[name], world, 4, lump=True), plain_law(world, (), 4)) <= EXACT


# ---- how much is accepted


def accepted_law(name: str, world: World, n_draft: int) -> NDArray[np.float64]:
    """(n_draft + 1,) float64, the probability of each number of accepted tokens."""
    law = np.zeros(n_draft + 1)
    for (tokens, _), weight in round_law(Procedure(RULES[name], name, n_draft), world, (), lump=True).items():
        law[len(tokens) - 1] += weight
    return law


@filters
@every_rule
def test_expected_acceptance_is_the_rules(name: str, filtered: str) -> None:
    world = World(8, 1.0, *FILTERS[filtered])
    accepted = accepted_law(name, world, 1)[1]
    assert accepted == pytest.approx(EXPECTED_ACCEPTANCE[name](world.p(()), world.q(())), abs=EXACT)


def test_block_accepts_at_least_as_much_as_token() -> None:
    gains = []
    for seed in range(3):
        means = [float(accepted_law(name, World(seed), 3) @ np.arange(4.0)) for name in ("block", "token")]
        gains.append(means[0] - means[1])
    assert min(gains) >= -EXACT
    assert max(gains) > 0.01


@every_rule
def test_a_drafter_equal_to_the_target_is_always_right(name: str) -> None:
    class Equal(World):
        def q(self, prefix: Prefix) -> Law:
            return self.p(prefix)

    assert accepted_law(name, Equal(9), 3)[3] == pytest.approx(1.0, abs=EXACT)


def test_overlap_and_coincidence_against_naive_twins() -> None:
    rng = np.random.default_rng(10)
    for _ in range(200):
        p, q = (random_law(rng, 12, int(rng.integers(1, 9))) for _ in range(2))
        tables = [np.zeros(12), np.zeros(12)]
        for table, law in zip(tables, (p, q), strict=True):
            table[law.ids] = np.exp(law.logprobs)
        a, b = tables
        assert overlap(p, q) == pytest.approx(float(np.minimum(a, b).sum()), abs=EXACT)
        common = np.flatnonzero((a > 0) & (b > 0))
        naive = sum(1.0 / np.maximum(a / a[x], b / b[x]).sum() for x in common)
        assert coincidence(p, q) == pytest.approx(float(naive), abs=EXACT)
        assert coincidence(p, q) >= overlap(p, q) / (2.0 - overlap(p, q)) - EXACT


def test_coincidence_of_whole_vocabularies_is_estimated_from_below() -> None:
    rng = np.random.default_rng(18)
    for spread in (0.5, 4.0):
        p, q = random_law(rng, 4200, 4200), random_law(rng, 4200, 4200)
        logits = spread * q.logprobs
        q = Law(q.ids, logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max())
        a, b = np.exp(p.logprobs), np.exp(logprobs_at(q, p.ids))
        exact = sum(1.0 / np.maximum(a / a[x], b / b[x]).sum() for x in np.flatnonzero((a > 0) & (b > 0)))
        assert exact - 0.003 <= coincidence(p, q) <= exact + EXACT


def test_overlap_of_laws_that_share_nothing() -> None:
    p, q = law_of([1, 2], [0.5, 0.5]), law_of([3, 4], [0.5, 0.5])
    assert overlap(p, q) == coincidence(p, q) == 0.0
    assert coincidence(law_of([1, 2], [1.0, 0.0]), law_of([2, 3], [0.5, 0.5])) == 0.0


# ---- single verdicts


@every_rule
def test_greedy_keeps_the_draft_up_to_the_first_difference(name: str) -> None:
    text = [4, 2, 7, 1]

    def target(i: int) -> Law:
        return law_of([text[i]], [1.0])

    for n_right in range(4):
        draft = [*text[:n_right], *([9] * (3 - n_right))]
        proposals = [law_of([x], [1.0]) for x in draft]
        assert RULES[name](draft, proposals, target, Noise(0), 0, 1) == Verdict(n_right, text[n_right])


@every_rule
def test_greedy_target_and_warm_draft(name: str) -> None:
    """One candidate in p, several in q: right or wrong, nothing is left to chance."""
    q = law_of([1, 2, 3], [0.2, 0.3, 0.5])
    for seed in range(20):
        noise = Noise(seed)
        assert RULES[name]([2], [q], lambda i: law_of([2 + i], [1.0]), noise, 0, 1) == Verdict(1, 3)
        assert RULES[name]([1], [q], lambda i: law_of([2 + i], [1.0]), noise, 0, 1) == Verdict(0, 2)


@every_rule
def test_an_empty_draft_gives_one_token_of_the_target(name: str) -> None:
    world = World(11)
    law = round_law(Procedure(RULES[name], name, 0), world, ())
    expected = {((int(x),), (int(x),)): math.exp(lp) for x, lp in zip(*world.p(()), strict=True)}
    assert law == pytest.approx(expected, abs=EXACT)


@every_rule
def test_the_target_is_asked_in_order_once_and_not_beyond_what_it_excludes(name: str) -> None:
    """The law may carry a grammar's state: after a token that the grammar forbids there is none."""
    allowed = law_of([1, 2], [0.5, 0.5])
    proposal = law_of([1, 5], [0.5, 0.5])
    for seed in range(40):
        asked: list[int] = []

        def target(i: int, asked: list[int] = asked) -> Law:
            asked.append(i)
            assert i <= 1, "x_2 = 5 is excluded by p_1, so p_2 does not exist"
            return allowed

        verdict = RULES[name]([1, 5, 1, 1], [proposal] * 4, target, Noise(seed), 0, 1)
        assert verdict.n_accepted <= 1
        assert asked in ([0], [0, 1])


@pytest.mark.parametrize("name", ["token", "block"])
def test_a_draft_that_its_proposal_cannot_draw_is_refused(name: str) -> None:
    p = law_of([1, 2, 3], [0.5, 0.3, 0.2])
    for q in (law_of([1, 2], [0.5, 0.5]), law_of([1, 3], [1.0, 0.0])):
        with pytest.raises(ValueError, match=r"draft token 0.* got id 3"):
            RULES[name]([3], [q], lambda _: p, Noise(0), 0, 1)


@every_rule
def test_the_order_of_candidates_does_not_matter(name: str) -> None:
    rng = np.random.default_rng(12)
    p = [random_law(rng, 30, 12) for _ in range(4)]
    q = [Law(law.ids, rng.permutation(law.logprobs)) for law in p[:3]]
    for seed in range(50):
        noise = Noise(seed)
        draft = [draw_draft(name, law, noise, i, 1) for i, law in enumerate(q)]
        first = RULES[name](draft, q, p.__getitem__, noise, 0, 1)
        orders = [rng.permutation(12) for _ in range(4)]
        p_turned = [Law(law.ids[o], law.logprobs[o]) for law, o in zip(p, orders, strict=True)]
        q_turned = [Law(law.ids[o], law.logprobs[o]) for law, o in zip(q, orders[1:], strict=True)]
        assert RULES[name](draft, q_turned, p_turned.__getitem__, noise, 0, 1) == first


def test_residual_is_what_the_target_has_more_of() -> None:
    p, q = law_of([1, 2, 3], [0.5, 0.3, 0.2]), law_of([3, 1, 4], [0.4, 0.35, 0.25])
    rest = residual(p, excess(p, q))
    assert rest.ids.tolist() == [1, 2]
    assert np.exp(rest.logprobs) == pytest.approx(np.array([0.15, 0.3]) / 0.45, abs=1e-15)
    scaled = residual(p, excess(p, q, math.log(0.8)))
    assert np.exp(scaled.logprobs) == pytest.approx(np.array([0.05, 0.24]) / 0.29, abs=1e-15)


def test_an_empty_residual_falls_back_to_the_target() -> None:
    """p below q everywhere can only be rounding; the rejection that leads here has a probability of that order."""
    p = law_of([1, 2], [0.5, 0.5])
    q = Law(p.ids, p.logprobs + 1e-16)
    assert residual(p, excess(p, q)) is p


class Unlucky:
    """Uniform numbers so large that everything which can be rejected is; Gumbels of another noise."""

    def gumbel(
        self, position: int, ids: NDArray[np.int32], stream: int = 0, round_index: int = 0
    ) -> NDArray[np.float64]:
        return Noise(0).gumbel(position, ids, stream, round_index)

    def uniform(self, position: int, stream: int, round_index: int = 0) -> float:
        return 1.0 - 2.0**-53


@pytest.mark.parametrize("name", ["token", "block"])
def test_laws_equal_but_for_rounding_survive_the_worst_luck(name: str) -> None:
    p = law_of([1, 2, 3], [0.5, 0.3, 0.2])
    q = Law(p.ids, p.logprobs + 3e-16)
    verdict = RULES[name]([3, 1], [q, q], lambda _: p, Unlucky(), 0, 1)
    assert verdict.token in {1, 2, 3}


def test_candidates_of_probability_zero_are_never_drawn() -> None:
    law = law_of([1, 2, 3], [0.0, 1.0, 0.0])
    assert {draw(law, Noise(seed), 0) for seed in range(50)} == {2}


# ---- helpers


def test_logprobs_at_against_a_dictionary() -> None:
    """Equal ids, one candidate, sorting and the table over the vocabulary give the same."""
    rng = np.random.default_rng(13)
    whole = random_law(rng, 6000, 6000)
    for law in (random_law(rng, 40, 1), random_law(rng, 40, 15), whole):
        known = dict(zip(law.ids.tolist(), law.logprobs.tolist(), strict=True))
        for ids in (law.ids, rng.integers(0, 7000, 50).astype(np.int32), np.array([3], np.int32)):
            expected = [known.get(x, -math.inf) for x in ids.tolist()]
            assert logprobs_at(law, ids).tolist() == expected


def test_rules_are_those_of_the_settings() -> None:
    assert set(RULES) == set(EXPECTED_ACCEPTANCE) == set(settings.RULES)


# ---- Gumbel noise


def test_ties_go_to_the_lowest_id() -> None:
    class Level:
        def gumbel(
            self, position: int, ids: NDArray[np.int32], stream: int = 0, round_index: int = 0
        ) -> NDArray[np.float64]:
            return np.zeros(ids.size)

        def uniform(self, position: int, stream: int, round_index: int = 0) -> float:
            return 0.5

    assert draw(law_of([9, 3, 5, 1], [0.3, 0.3, 0.3, 0.1]), Level(), 0) == 3


def test_argmax_of_gumbels_has_the_law() -> None:
    """Chi-square of 40 000 draws over 5 tokens; false failures: 1e-6 (the seed is fixed, so never or always)."""
    probabilities = np.array([0.4, 0.3, 0.2, 0.09, 0.01])
    law, noise, n = law_of(range(5), probabilities.tolist()), Noise(14), 40_000
    counts = np.bincount([draw(law, noise, position) for position in range(n)], minlength=5)
    half = float(((counts - n * probabilities) ** 2 / (n * probabilities)).sum()) / 2.0
    assert math.exp(-half) * (1.0 + half) > 1e-6  # P(chi-square with 4 degrees of freedom > 2 half)


def test_two_argmaxes_of_one_noise_vector() -> None:
    """The closed form behind the enumeration of gumbel: right marginals, right diagonal, right against sampling."""
    rng = np.random.default_rng(15)
    for trial in range(30):
        q, p = make_law(rng.normal(size=5), 5 - trial % 2), make_law(2.0 * rng.normal(size=5), 5 - trial % 3)
        tables = [dict(zip(law.ids.tolist(), np.exp(law.logprobs).tolist(), strict=True)) for law in (q, p)]
        joint = {(x, y): shared_argmax(tables[0], tables[1], x, y) for x in tables[0] for y in tables[1]}
        for x, value in tables[0].items():
            assert sum(joint[x, y] for y in tables[1]) == pytest.approx(value, abs=EXACT)
        for y, value in tables[1].items():
            assert sum(joint[x, y] for x in tables[0]) == pytest.approx(value, abs=EXACT)
        diagonal = sum(joint.get((x, x), 0.0) for x in tables[0])
        assert diagonal == pytest.approx(coincidence(p, q), abs=EXACT)
    g = rng.gumbel(size=(200_000, 5))  # 200 000 samples: a frequency is off by 5 standard deviations, 0.0056, at most
    winners = [tuple(law.ids[np.argmax(law.logprobs + g[:, law.ids], axis=1)]) for law in (q, p)]
    for (x, y), value in joint.items():
        frequency = float(np.mean((np.array(winners[0]) == x) & (np.array(winners[1]) == y)))
        assert frequency == pytest.approx(value, abs=0.0056)


def generate(
    world: World, seed: int, n: int, n_draft: int = 0, propose: Callable[[Prefix], Law] | None = None
) -> Prefix:
    """n tokens under gumbel, n_draft of them proposed at a time; without ``propose`` by plain decoding."""
    noise = Noise(seed)
    text: Prefix = ()
    while len(text) < n:
        draft: Prefix = ()
        proposals: list[Law] = []
        while propose and len(draft) < n_draft:
            proposals.append(propose(text + draft))
            draft += (draw_draft("gumbel", proposals[-1], noise, len(text + draft), 1),)
        laws = [world.p((text + draft[:i])[-3:]) for i in range(len(draft) + 1)]
        verdict = RULES["gumbel"](draft, proposals, laws.__getitem__, noise, len(text), 1)
        text += (*draft[: verdict.n_accepted], verdict.token)
    return text[:n]


@pytest.mark.parametrize("n_draft", [1, 2, 4, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
@filters
def test_text_is_the_same_with_any_drafter(filtered: str, seed: int, n_draft: int) -> None:
    """Tuned, identical, random and never-right drafters, and none: one seed, one text."""
    world = world_of(16, 1.0, filtered)
    plain = generate(world, seed, 60)
    rng = np.random.default_rng(seed)

    def wrong(prefix: Prefix) -> Law:
        right = plain[len(prefix)] if len(prefix) < len(plain) else 0
        return law_of([(right + 1) % 5], [1.0])

    drafters: dict[str, Callable[[Prefix], Law]] = {
        "tuned": lambda prefix: world.q(prefix[-3:]),
        "identical": lambda prefix: world.p(prefix[-3:]),
        "random": lambda prefix: law_of([int(rng.integers(5))], [1.0]),
        "never right": wrong,
    }
    assert {name: generate(world, seed, 60, n_draft, propose) == plain for name, propose in drafters.items()} == (
        dict.fromkeys(drafters, True)
    )


def test_gumbel_ignores_the_round() -> None:
    world = World(17)
    noise = Noise(3)
    draft = [draw(world.q(()), noise, 5, TARGET)]
    verdicts = {
        RULES["gumbel"](draft, [], lambda i: world.p((0,) * i), noise, 5, round_index) for round_index in range(9)
    }
    assert len(verdicts) == 1


# ---- the instrument itself


def test_enumeration_notices_noise_that_is_misused() -> None:
    p = law_of([0, 1], [0.5, 0.5])
    with pytest.raises(AssertionError, match="never compared"):
        list(leaves(lambda noise: np.float64(0.5) >= noise.uniform(0, 2)))
    with pytest.raises(AssertionError, match="only be added"):
        list(leaves(lambda noise: p.logprobs - noise.gumbel(0, p.ids)))
    noise = ExactNoise(Tree())
    for share in (0.2, 0.4):
        draw(law_of([0, 1], [share, 1.0 - share]), noise, 0)
    with pytest.raises(AssertionError, match="three laws"):
        draw(p, noise, 0)


def test_enumeration_integrates_intervals() -> None:
    """One number compared twice: P(u <= .3) = .3, P(.3 < u < .8) = .5, P(u >= .8) = .2."""

    def run(noise: ExactNoise) -> str:
        u = noise.uniform(0, 2)
        if u <= 0.3:
            return "low"
        return "high" if noise.uniform(0, 2) > 0.8 else "middle"

    law = {result: weight for weight, result, _ in leaves(run)}
    assert law == pytest.approx({"low": 0.3, "middle": 0.5, "high": 0.2}, abs=1e-15)
