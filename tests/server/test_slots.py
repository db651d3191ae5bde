from __future__ import annotations

from typing import cast

import pytest

from eftlite.eft import EFT
from eftlite.server.asking import Ask
from eftlite.server.protocol import Scoring
from eftlite.server.slots import Slots
from eftlite.settings import Knobs
from tests.server.fake_worker import FakeEFT

KNOBS = Knobs()


class Taken:
    """Slots of a fake EFT, whose caches hold what was asked and answered."""

    def __init__(self, n_slots: int) -> None:
        self.fake, self.slots = FakeEFT(n_slots), Slots(n_slots)
        self.eft = cast("EFT", self.fake)

    def take(self, text: str, as_chat: bool = False) -> int:
        """Ask something; the slot stays taken."""
        ask = Ask(KNOBS, messages=[{"role": "user", "content": text}]) if as_chat else Ask(KNOBS, prompt=text)
        slot = self.slots.take(self.eft, ask)
        self.fake.cached[slot] = self.fake.tokenize(text.encode())
        return slot

    def answer(self, text: str, answer: str = "", as_chat: bool = False) -> int:
        """Ask and answer."""
        slot = self.take(text, as_chat)
        self.fake.cached[slot] = self.fake.tokenize((text + answer).encode())
        self.slots.give_back(slot, len(self.fake.cached[slot]))
        return slot


@pytest.mark.parametrize("as_chat", [True, False])
def test_a_conversation_that_goes_on_finds_its_slot(as_chat: bool) -> None:
    taken = Taken(3)
    stories = ["a long story", "one more tale", "the third one"]
    assert [taken.answer(story, " and its end.", as_chat) for story in stories] == [0, 1, 2]
    for slot in (1, 0, 2, 1):
        stories[slot] += " and its end. Go on!"
        assert taken.answer(stories[slot], " Gladly.", as_chat) == slot
        stories[slot] += " Gladly."


def test_an_answer_that_is_made_again_takes_the_same_slot() -> None:
    taken = Taken(2)
    assert taken.answer("Tell me", " a very long story, which nobody wants to hear twice") == 0
    assert taken.answer("Tell me", " something else") == 0


def test_a_last_turn_that_is_edited_takes_the_same_slot() -> None:
    taken = Taken(2)
    assert taken.answer("a conversation of some length, then: yes", " ok") == 0
    assert taken.answer("a conversation of some length, then: no", " ok") == 0


def test_a_new_conversation_does_not_overwrite_one_with_the_same_beginning() -> None:
    taken = Taken(2)
    assert taken.answer("system. How is the weather?", " Fine, and it will stay so for days to come.") == 0
    assert taken.answer("system. Who are you?", " A model of a language, what else could I be.") == 1
    assert taken.answer("system. How is the weather? Fine, and it will stay so for days to come. Really?") == 0


def test_a_long_common_beginning_is_used() -> None:
    taken = Taken(2)
    assert taken.answer("a system text that is long. hello", " hi") == 0
    assert taken.answer("a system text that is long. other", " hi") == 0


def test_otherwise_the_slot_used_longest_ago_is_taken() -> None:
    taken = Taken(3)
    assert [taken.answer(letter * 9) for letter in "abc"] == [0, 1, 2]
    assert taken.answer("a" * 12) == 0
    assert [taken.answer(letter * 9) for letter in "xyz"] == [1, 2, 0]


def test_only_free_slots_are_taken() -> None:
    taken = Taken(2)
    assert taken.answer("the same story") == 0
    assert taken.take("the same story") == 0
    assert taken.take("the same story") == 1
    with pytest.raises(ValueError, match="not enough values"):
        taken.take("the same story")


def test_token_ids_are_compared_as_they_are() -> None:
    taken = Taken(2)
    taken.answer("abcdef")
    taken.answer("xyz")
    assert taken.slots.take(taken.eft, Ask(KNOBS, prompt=[1, *b"abcdefg"])) == 0


def test_scoring_spares_conversations() -> None:
    """It leaves nothing of use in a cache, so that it takes the same slot again and again."""
    taken = Taken(3)
    for text in ("abc", "def"):
        taken.answer(text)
    for _ in range(4):
        slot = taken.slots.take(taken.eft, Scoring("def", KNOBS, 0))
        assert slot == 2
        taken.slots.give_back(slot, 0)
    assert taken.answer("defg") == 1
