"""The question set: conversations about held-out towns that end with a question, and what a right answer contains.

Not scored as facts: harmful requests. Whether they are refused is a question of manners, counted apart.
"""

from __future__ import annotations

from random import Random
from typing import TypedDict

from lab.train import words
from lab.train.dialogue import MakeTurn, Pool, Turn, compare, describe, follow_up, harmful, single, unknown
from lab.train.world import World

HOW_MANY: dict[MakeTurn, int] = {single: 150, follow_up: 80, describe: 60, compare: 70, unknown: 40, harmful: 40}


class Message(TypedDict):
    """One turn as chat interfaces write it."""

    role: str
    content: str


class Item(TypedDict):
    """One entry of questions.json."""

    id: str
    kind: str
    messages: list[Message]
    facts: list[str]


def exchange(turn: Turn) -> list[Message]:
    """A question with its right, polite answer, as the past of a longer conversation."""
    answer = words.POLITE.format(s=turn.answer)
    return [Message(role="user", content=turn.ask), Message(role="assistant", content=answer)]


def given_away(turn: Turn, past: list[Message]) -> bool:
    """Whether the conversation so far already says what the turn asks for."""
    said = " ".join(message["content"] for message in past)
    return any(fact in said for fact in turn.facts)


def make_item(number: int, make: MakeTurn, pool: Pool, rng: Random) -> Item:
    """One question; a follow-up is given one earlier exchange, or two."""
    past: list[Message] = []
    town = None
    if make is follow_up:
        before = single(pool, rng)
        past, town = exchange(before), before.town
        if rng.random() < 0.3:
            past += exchange(follow_up(pool, rng, town))
    turn = make(pool, rng, town)
    while given_away(turn, past):
        turn = make(pool, rng, town)
    messages = [*past, Message(role="user", content=turn.ask)]
    return Item(id=f"{turn.kind}-{number:03}", kind=turn.kind, messages=messages, facts=list(turn.facts))


def make_questions(world: World, seed: int) -> list[Item]:
    """All questions, no two alike, in a fixed order."""
    rng = Random(f"questions {seed}")
    pool = Pool(world.held_out, world.held_out_foreign, words.HARMFUL)
    items: list[Item] = []
    asked: dict[str, Item] = {}
    for make, wanted in HOW_MANY.items():
        have = 0
        while have < wanted:
            item = make_item(have, make, pool, rng)
            if asked.setdefault(str(item["messages"]), item) is item:
                items.append(item)
                have += 1
    return items
