"""Members on the same text, with fakes whose logits say which text they saw: reuse, laziness, drafts, rewinding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eftlite.composite import Roles
from eftlite.ensemble import Ensemble, Text
from eftlite.errors import ContextError, EngineError
from tests.fakes import fake_ensemble, fakes

PROMPTS = [[1, 2, 3], [1, 2, 3], [4, 5]]  # the reference is given another prompt


def decoded(ensemble: Ensemble) -> list[int]:
    """Tokens each member has evaluated so far."""
    return [sum(member.decoded) for member in fakes(ensemble)]


def check_rows(ensemble: Ensemble, slot: int, prompts: list[list[int]], answer: list[int]) -> None:
    """Every member's row is that of its prompt and the answer."""
    rows = ensemble.rows(slot, range(len(prompts)))
    for member, row, prompt in zip(fakes(ensemble), rows, prompts, strict=True):
        assert row is not None
        np.testing.assert_array_equal(row, member.logits([*prompt, *answer]))


# ---- the text


def test_a_text_has_one_prompt_for_each_member() -> None:
    text = Text(PROMPTS)
    text.answer += [7, 8]
    assert [text.length(i) for i in range(3)] == [5, 5, 4]
    assert text.tail(0, 0) == [1, 2, 3, 7, 8]
    assert text.tail(2, 1) == [5, 7, 8]
    assert text.tail(0, 4) == [8]
    assert text.tail(0, 5) == []


def test_rows_are_those_of_each_members_own_text() -> None:
    ensemble = fake_ensemble()
    assert ensemble.begin(0, PROMPTS) == 0
    check_rows(ensemble, 0, PROMPTS, [])
    for token in (7, 8, 9):
        ensemble.append(0, token)
    check_rows(ensemble, 0, PROMPTS, [7, 8, 9])
    assert decoded(ensemble) == [6, 6, 5]


def test_prompts_may_be_changed_by_their_owner_afterwards() -> None:
    ensemble, prompt = fake_ensemble(), [1, 2, 3]
    ensemble.begin(0, [prompt] * 3)
    prompt.append(9)
    check_rows(ensemble, 0, [[1, 2, 3]] * 3, [])


# ---- what need not be evaluated


def test_a_member_that_nobody_asks_costs_nothing_and_catches_up() -> None:
    ensemble = fake_ensemble()
    ensemble.begin(0, PROMPTS)
    for token in (7, 8, 9):
        rows = ensemble.rows(0, (0,))
        assert rows[1] is None
        assert rows[2] is None
        ensemble.append(0, token)
    assert decoded(ensemble) == [5, 0, 0]
    check_rows(ensemble, 0, PROMPTS, [7, 8, 9])
    assert [member.decoded for member in fakes(ensemble)][1:] == [[6], [5]]  # in one batch
    ensemble.validate(0)


def test_rows_that_are_known_are_not_decoded_again() -> None:
    ensemble = fake_ensemble()
    ensemble.begin(0, PROMPTS)
    for _ in range(3):
        check_rows(ensemble, 0, PROMPTS, [])
    assert decoded(ensemble) == [3, 3, 2]


def test_a_second_turn_evaluates_only_what_is_new() -> None:
    ensemble = fake_ensemble()
    ensemble.begin(0, [[1, 2, 3]] * 3)
    ensemble.rows(0, range(3))
    ensemble.settle(0, [7, 8])
    ensemble.rows(0, range(3))
    assert ensemble.begin(0, [[1, 2, 3, 7, 8, 5, 6]] * 3) == 5
    check_rows(ensemble, 0, [[1, 2, 3, 7, 8, 5, 6]] * 3, [])
    assert decoded(ensemble) == [7, 7, 7]


def test_the_same_prompt_again_evaluates_its_last_token_at_most() -> None:
    ensemble = fake_ensemble()
    ensemble.begin(0, PROMPTS)
    ensemble.rows(0, range(3))
    ensemble.settle(0, [7])
    ensemble.rows(0, range(3))
    before = decoded(ensemble)
    assert ensemble.begin(0, PROMPTS) == 3
    check_rows(ensemble, 0, PROMPTS, [])
    assert [after - b for after, b in zip(decoded(ensemble), before, strict=True)] == [1, 1, 1]


def test_members_that_cannot_rewind_begin_anew() -> None:
    ensemble = fake_ensemble(can_rewind=False)
    assert not ensemble.can_rewind
    ensemble.begin(0, [[1, 2, 3]] * 3)
    ensemble.rows(0, range(3))
    assert ensemble.begin(0, [[1, 2, 4]] * 3) == 0
    check_rows(ensemble, 0, [[1, 2, 4]] * 3, [])
    assert ensemble.begin(0, [[1, 2, 4, 5]] * 3) == 3  # going on is no rewinding


def test_slots_do_not_disturb_each_other() -> None:
    ensemble = fake_ensemble(n_slots=2)
    ensemble.begin(0, [[1, 2]] * 3)
    ensemble.begin(1, [[3, 4, 5]] * 3)
    for token in (6, 7):
        for slot, prompt in ((0, [1, 2]), (1, [3, 4, 5])):
            answer = ensemble.texts[slot].answer
            check_rows(ensemble, slot, [prompt] * 3, answer)
            ensemble.settle(slot, [token + slot])
    check_rows(ensemble, 0, [[1, 2]] * 3, [6, 7])
    check_rows(ensemble, 1, [[3, 4, 5]] * 3, [7, 8])


# ---- drafts


def test_a_draft_is_scored_in_one_batch() -> None:
    ensemble = fake_ensemble()
    ensemble.begin(0, PROMPTS)
    ensemble.rows(0, range(3))
    ensemble.settle(0, [7])
    ensemble.advance_all(0, (0, 2), [8, 9], 3)
    assert [member.decoded for member in fakes(ensemble)] == [[3, 3], [3], [2, 3]]
    for i, ids in enumerate(([7], [7, 8], [7, 8, 9])):
        np.testing.assert_array_equal(ensemble.row(0, 0, i), fakes(ensemble)[0].logits([1, 2, 3, *ids]))
        np.testing.assert_array_equal(ensemble.row(0, 2, i), fakes(ensemble)[2].logits([4, 5, *ids]))


@pytest.mark.parametrize("tokens", [[5], [8], [8, 5], [8, 9], [8, 9, 5], [8, 9, 6, 5]])
def test_settling_drops_what_was_drafted_in_vain(tokens: list[int]) -> None:
    ensemble = fake_ensemble()
    ensemble.begin(0, PROMPTS)
    ensemble.rows(0, range(3))
    ensemble.settle(0, [7])
    ensemble.advance_all(0, (0, 2), [8, 9, 6], 4)
    ensemble.settle(0, tokens)
    ensemble.validate(0)
    n_right = sum(a == b for a, b in zip([8, 9, 6], tokens, strict=False))
    assert len(fakes(ensemble)[0].slots[0]) == 4 + n_right
    check_rows(ensemble, 0, PROMPTS, [7, *tokens])


def test_rows_beyond_what_was_settled_are_forgotten() -> None:
    ensemble = fake_ensemble()
    ensemble.begin(0, PROMPTS)
    ensemble.advance(0, 0, [8, 9], 3)
    ensemble.settle(0, [8, 5])
    with pytest.raises(EngineError, match="no row"):
        ensemble.row(0, 0, 0)


# ---- limits


@pytest.mark.parametrize("n_prompt", [15, 16, 17])
def test_a_prompt_must_be_shorter_than_the_context(n_prompt: int) -> None:
    ensemble = fake_ensemble(n_ctx=16)
    prompts = [[1, 2], list(range(n_prompt)), [1]]
    if n_prompt < 16:
        ensemble.begin(0, prompts)
        assert ensemble.room(0) == 1
        return
    ensemble.begin(0, [[5, 6]] * 3)
    with pytest.raises(ContextError, match=f"fewer than 16 tokens, the context of tuned, got {n_prompt}") as caught:
        ensemble.begin(0, prompts)
    assert (caught.value.n_prompt, caught.value.n_ctx) == (n_prompt, 16)
    assert isinstance(caught.value, ValueError)
    check_rows(ensemble, 0, [[5, 6]] * 3, [])  # what the slot held is untouched


def test_room_is_that_of_the_longest_text() -> None:
    ensemble = fake_ensemble(n_ctx=10)
    ensemble.begin(0, [[1], [1, 2, 3, 4], [1, 2]])
    assert ensemble.room(0) == 6
    ensemble.append(0, 9)
    assert ensemble.room(0) == 5


def test_the_smallest_context_is_the_ensembles() -> None:
    ensemble = fake_ensemble()
    fakes(ensemble)[2].n_ctx = 7
    assert Ensemble(ensemble.members, ensemble.roles, ensemble.shared).n_ctx == 7


# ---- soundness


def test_validate_finds_a_cache_that_is_not_the_texts() -> None:
    ensemble = fake_ensemble()
    ensemble.begin(0, PROMPTS)
    ensemble.rows(0, range(3))
    ensemble.validate(0)
    fakes(ensemble)[1].slots[0][1] = 9
    with pytest.raises(EngineError, match="tuned, slot 0: its cache is not a prefix of the text"):
        ensemble.validate(0)


def test_validate_finds_tokens_beyond_the_text() -> None:
    ensemble = fake_ensemble()
    ensemble.begin(0, PROMPTS)
    ensemble.advance(0, 2, [8], 1)
    with pytest.raises(EngineError, match="reference, slot 0"):
        ensemble.validate(0)


def test_clearing_forgets_the_text() -> None:
    ensemble = fake_ensemble()
    ensemble.begin(0, PROMPTS)
    ensemble.rows(0, range(3))
    ensemble.clear(0)
    ensemble.validate(0)
    assert ensemble.begin(0, PROMPTS) == 0


def test_one_model_may_play_several_roles() -> None:
    ensemble = fake_ensemble(4, Roles(4, 0, ((1, 2), (3, 2))))
    ensemble.begin(0, [[1, 2]] * 4)
    ensemble.rows(0, {0, 1, 2, 3})
    assert decoded(ensemble) == [2, 2, 2, 2]


TOKENS = st.integers(0, 3)
MOVES = st.one_of(
    st.tuples(st.just("begin"), st.lists(TOKENS, min_size=1, max_size=6)),
    st.tuples(st.just("settle"), st.lists(TOKENS, max_size=4)),
    st.tuples(st.just("draft"), st.lists(TOKENS, min_size=1, max_size=4)),
    st.tuples(st.just("rows"), st.lists(st.integers(0, 2), min_size=1, max_size=3)),
)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 1), MOVES), min_size=1, max_size=25), st.booleans())
def test_any_order_of_moves_leaves_right_rows(moves: list[tuple[int, tuple[str, list[int]]]], rewinds: bool) -> None:
    """Two slots, any members asked at any time: rows are always those of the text, caches always its prefix."""
    ensemble = fake_ensemble(n_slots=2, n_ctx=200, can_rewind=rewinds)
    texts: list[list[int]] = [[0], [0]]
    for slot in (0, 1):
        ensemble.begin(slot, [[0]] * 3)
    for slot, (move, tokens) in moves:
        if move == "begin":
            ensemble.begin(slot, [tokens] * 3)
            texts[slot] = list(tokens)
        elif move == "settle":
            ensemble.settle(slot, tokens)
            texts[slot] += tokens
        elif move == "draft":
            ensemble.advance_all(slot, (0, 2), tokens, len(tokens) + 1)
            row = ensemble.row(slot, 2, len(tokens))
            np.testing.assert_array_equal(row, fakes(ensemble)[2].logits(texts[slot] + tokens))
            ensemble.settle(slot, tokens[:1])
            texts[slot] += tokens[:1]
        else:
            for index, row_or_none in enumerate(ensemble.rows(slot, set(tokens))):
                expected = fakes(ensemble)[index].logits(texts[slot])
                assert (row_or_none is not None) == (index in tokens)
                if row_or_none is not None:
                    np.testing.assert_array_equal(row_or_none, expected)
        ensemble.validate(0)
        ensemble.validate(1)


# ---- side by side


def test_members_side_by_side_give_the_same_rows() -> None:
    ensemble = fake_ensemble()
    threaded = Ensemble(ensemble.members, ensemble.roles, ensemble.shared, side_by_side=True)
    try:
        threaded.begin(0, PROMPTS)
        check_rows(threaded, 0, PROMPTS, [])
        assert threaded.side_by_side
    finally:
        threaded.close()


def test_side_by_side_waits_for_all_when_one_fails() -> None:
    ensemble = fake_ensemble()
    fakes(ensemble)[0].fail = lambda n_tokens: EngineError("base: failed")
    threaded = Ensemble(ensemble.members, ensemble.roles, ensemble.shared, side_by_side=True)
    try:
        threaded.begin(0, PROMPTS)
        with pytest.raises(EngineError, match="base: failed"):
            threaded.rows(0, range(3))
        assert decoded(threaded) == [0, 3, 2]
        threaded.validate(0)
    finally:
        threaded.close()
