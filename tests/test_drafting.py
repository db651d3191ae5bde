"""Drafters: whose law a token was drafted from, with which noise, and what the caches hold afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from eftlite.drafting import Draft, Fallback, LookupDrafter, MemberDrafter, Situation
from eftlite.ensemble import Ensemble
from eftlite.noise import DRAFT, TARGET, Noise
from eftlite.sampling import Sampler
from eftlite.settings import RULES, Sampling
from eftlite.verify import draw
from tests.fakes import GREEDY, WHOLE, fake_ensemble, fake_sampler, fakes

PROMPT = [1, 2, 3]
NO_MASK = np.zeros(0, np.int32)
HOT = Sampling(temperature=1.0, seed=3, **WHOLE)


def situation(
    n: int,
    rule: str = "gumbel",
    sampler: Sampler | None = None,
    ends: frozenset[int] = frozenset(),
    round_index: int = 1,
) -> Situation:
    """A situation in slot 0 with seed 3."""
    return Situation(0, n, rule, Noise(3), round_index, sampler or fake_sampler(HOT, 24), ends)


def begun(answer: list[int], **options: object) -> Ensemble:
    """An ensemble whose slot 0 holds the prompt and an answer."""
    ensemble = fake_ensemble(**options)  # type: ignore[arg-type]  # as named there
    ensemble.begin(0, [PROMPT] * len(ensemble.members))
    ensemble.settle(0, answer)
    return ensemble


# ---- a member drafts


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_member_drafts_from_its_own_law_and_the_rules_noise(rule: str, n: int) -> None:
    ensemble = begun([7, 8])
    drafter = MemberDrafter(ensemble, 1, NO_MASK, 8)
    draft = drafter.draft(situation(n, rule, round_index=4))
    assert drafter.member == 1
    assert len(draft.tokens) == len(draft.proposals) == len(draft.rows) == n
    text = [*PROMPT, 7, 8]
    for i, (token, law, row) in enumerate(zip(draft.tokens, draft.proposals, draft.rows, strict=True)):
        right = fakes(ensemble)[1].logits(text)
        np.testing.assert_array_equal(row, right)  # still, after the decodes that followed
        expected = fake_sampler(HOT, 24).law(right)
        np.testing.assert_array_equal(law.ids, expected.ids)
        np.testing.assert_allclose(law.logprobs, expected.logprobs)
        key = (2 + i, TARGET, 0) if rule == "gumbel" else (2 + i, DRAFT, 4)
        assert token == draw(expected, Noise(3), *key)
        text.append(token)


def test_a_draft_of_n_tokens_takes_n_decodes_and_leaves_the_last_one_out() -> None:
    ensemble = begun([7])
    draft = MemberDrafter(ensemble, 1, NO_MASK, 8).draft(situation(4))
    assert fakes(ensemble)[1].decoded == [4, 1, 1, 1]
    assert fakes(ensemble)[1].slots[0] == [*PROMPT, 7, *draft.tokens[:3]]
    assert fakes(ensemble)[0].decoded == fakes(ensemble)[2].decoded == []
    assert ensemble.texts[0].answer == [7]


def test_the_next_draft_begins_where_the_text_stands() -> None:
    ensemble = begun([7])
    drafter = MemberDrafter(ensemble, 1, NO_MASK, 8)
    first = drafter.draft(situation(4))
    ensemble.settle(0, [first.tokens[0], (first.tokens[1] + 1) % 24])
    ensemble.validate(0)
    second = drafter.draft(situation(1))
    np.testing.assert_array_equal(second.rows[0], fakes(ensemble)[1].logits([*PROMPT, *ensemble.texts[0].answer]))


def test_a_draft_ends_with_an_end_token() -> None:
    ensemble = begun([7])
    free = MemberDrafter(ensemble, 1, NO_MASK, 8).draft(situation(6))
    ensemble = begun([7])
    end = free.tokens[2]
    draft = MemberDrafter(ensemble, 1, NO_MASK, 8).draft(situation(6, ends=frozenset({end})))
    assert draft.tokens == free.tokens[: free.tokens.index(end) + 1]
    assert len(draft.proposals) == len(draft.rows) == len(draft.tokens)


def test_masked_ids_are_never_drafted() -> None:
    ensemble = begun([7])
    greedy = fake_sampler(GREEDY, 24)
    free = MemberDrafter(ensemble, 1, NO_MASK, 8).draft(situation(1, sampler=greedy))
    ensemble = begun([7])
    masked = np.array(free.tokens, np.int32)
    draft = MemberDrafter(ensemble, 1, masked, 8).draft(situation(3, sampler=greedy))
    assert not set(draft.tokens) & set(free.tokens)
    assert all(np.isfinite(row).all() for row in draft.rows)  # what the composite makes of them is its own affair
    rows = ensemble.rows(0, range(3))
    law = MemberDrafter(ensemble, 1, masked, 8).proposal_of(rows, fake_sampler(HOT, 24))
    assert law is not None
    assert not set(law.ids.tolist()) & set(free.tokens)


def test_penalties_follow_the_draft_and_forget_it_afterwards() -> None:
    s = Sampling(temperature=0.0, presence_penalty=100.0)
    sampler = fake_sampler(s, 24)
    sampler.accept(7)
    draft = MemberDrafter(begun([7]), 1, NO_MASK, 16).draft(situation(12, sampler=sampler))
    assert len({7, *draft.tokens}) == 13  # nothing twice
    flat = np.zeros(24, np.float32)  # (24,)
    flat[[7, draft.tokens[0]]] = 9.0
    assert sampler.law(flat).ids.tolist() == [draft.tokens[0]]  # the sampler itself knows 7 only


def test_what_a_member_would_have_proposed_is_known_from_its_row() -> None:
    ensemble = begun([7])
    drafter, sampler = MemberDrafter(ensemble, 1, NO_MASK, 8), fake_sampler(HOT, 24)
    rows = ensemble.rows(0, range(3))
    law = drafter.proposal_of(rows, sampler)
    assert law is not None
    np.testing.assert_allclose(law.logprobs, sampler.law(fakes(ensemble)[1].logits([*PROMPT, 7])).logprobs)
    assert drafter.proposal_of([rows[0], None, rows[2]], sampler) is None
    assert drafter.proposal_of([], sampler) is None


# ---- look-up


def test_lookup_repeats_what_followed_and_is_certain() -> None:
    ensemble = begun([5, 6, 1, 2, 3])
    drafter = LookupDrafter(ensemble)
    draft = drafter.draft(situation(3))
    assert drafter.member is None
    assert draft.tokens == [5, 6, 1]
    assert [law.ids.tolist() for law in draft.proposals] == [[5], [6], [1]]
    assert all(law.logprobs.tolist() == [0.0] for law in draft.proposals)
    assert draft.rows == []
    assert [member.decoded for member in fakes(ensemble)] == [[], [], []]
    assert drafter.proposal_of(ensemble.rows(0, range(3)), fake_sampler(HOT, 24)) is None


def test_lookup_has_nothing_to_say_about_news() -> None:
    assert LookupDrafter(begun([5, 6])).draft(situation(3)) == Draft()


def test_lookup_follows_the_text_as_it_grows_and_when_it_is_another() -> None:
    ensemble = begun([5, 6])
    drafter = LookupDrafter(ensemble)
    drafter.draft(situation(2))
    ensemble.settle(0, [2, 3])
    assert drafter.draft(situation(2)).tokens == [5, 6]
    ensemble.begin(0, [[4, 4, 9, 4, 4]] * 3)
    assert drafter.draft(situation(2)).tokens == [9, 4]
    ensemble.begin(0, [[2, 3]] * 3)
    assert drafter.draft(situation(2)).tokens == []


def test_lookup_ends_with_an_end_token() -> None:
    ensemble = begun([5, 6, 2, 3])
    assert LookupDrafter(ensemble).draft(situation(4, ends=frozenset({6}))).tokens == [5, 6]


def test_lookup_first_then_the_member() -> None:
    ensemble = begun([5, 6])
    drafter = Fallback(LookupDrafter(ensemble), MemberDrafter(ensemble, 1, NO_MASK, 8))
    assert drafter.member == 1
    drafted = drafter.draft(situation(2))
    assert len(drafted.rows) == 2
    ensemble.settle(0, [2, 3])
    found = drafter.draft(situation(2))
    assert found.tokens == [5, 6]
    assert found.rows == []
    assert drafter.proposal_of(ensemble.rows(0, range(3)), fake_sampler(HOT, 24)) is not None
