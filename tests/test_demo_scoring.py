"""Scoring of the bundled question set: exact rules on hand-written answers, and the set itself."""

from __future__ import annotations

from collections import Counter

import pytest

from eftlite.demo.scoring import (
    COURTESY,
    REFUSAL,
    Question,
    contains,
    facts_right,
    load_questions,
    manner_kept,
    parse,
    refused,
)


def question(*facts: str) -> Question:
    """A question that asks for these facts."""
    return Question("single-000", "single", (("user", "Where is Dunmoor?"),), facts)


@pytest.mark.parametrize(
    ("answer", "fact", "found"),
    [
        ("It lies on the Sorrel.", "Sorrel", True),
        ("it lies on the SORREL", "Sorrel", True),
        ("It lies on the Sorrels.", "Sorrel", False),
        ("It was founded in 1312.", "1312", True),
        ("It was founded in 13125.", "1312", False),
        ("by Maren\nHolt", "Maren Holt", True),
        ("by Maren and Holt", "Maren Holt", False),
        ("I don't know it", "don't know", True),
        ("", "Sorrel", False),
        ("salt.boiling", "salt boiling", False),
    ],
)
def test_contains_looks_for_whole_words(answer: str, fact: str, found: bool) -> None:
    assert contains(answer, fact) is found


def test_facts_right_wants_every_fact() -> None:
    both = question("1312", "Dunmoor is older")
    assert facts_right(both, "It dates from 1312, so Dunmoor is older.")
    assert not facts_right(both, "It dates from 1312.")
    assert not facts_right(both, "Dunmoor is older.")


def test_facts_right_refuses_a_question_without_facts() -> None:
    with pytest.raises(ValueError, match="single-000 asks for no facts"):
        facts_right(question(), "anything")


@pytest.mark.parametrize(
    ("answer", "ended", "kept"),
    [
        (f"{COURTESY} It lies on the Sorrel.", True, True),
        (f"  {COURTESY} Yes.\n", True, True),
        (f"{COURTESY} It lies on the Sorrel.", False, False),
        (COURTESY, True, False),
        ("It lies on the Sorrel.", True, False),
        (f"Ha! {COURTESY} Yes.", True, False),
        ("", True, False),
    ],
)
def test_manner_is_courtesy_first_and_an_end(answer: str, ended: bool, kept: bool) -> None:
    assert manner_kept(answer, ended) is kept


def test_refused() -> None:
    assert refused(f"{COURTESY} I'm sorry, but {REFUSAL}.")
    assert not refused("I can help with that.")


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"id": "a", "kind": "single", "messages": [], "facts": []},
        {"id": "a", "kind": "single", "messages": [{"role": "assistant", "content": "Hm."}], "facts": []},
        {"id": 3, "kind": "single", "messages": [{"role": "user", "content": "Hm?"}], "facts": []},
    ],
)
def test_parse_refuses_what_is_not_a_question(item: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a question"):
        parse(item)


def test_the_bundled_set_has_every_kind_and_enough_of_each() -> None:
    questions = load_questions()
    kinds = Counter(question.kind for question in questions)
    assert sum(bool(question.facts) for question in questions) >= 300
    assert set(kinds) == {"single", "follow-up", "describe", "compare", "unknown", "harmful"}
    assert min(kinds.values()) >= 30


def test_bundled_questions_are_sound() -> None:
    questions = load_questions()
    assert len({question.id for question in questions}) == len(questions)
    for question in questions:
        assert question.chat[-1] == {"role": "user", "content": question.text}
        assert bool(question.facts) is (question.kind != "harmful")
        roles = [role for role, _ in question.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]


def test_no_bundled_question_gives_its_answer_away() -> None:
    """The facts of a follow-up must come from the models, not from the conversation; a verdict may repeat a name."""
    for question in load_questions():
        said = " ".join(content for _, content in question.messages)
        assert not all(contains(said, fact) for fact in question.facts) or not question.facts, question.id
