"""The generated world: the same twice, and what is asked is never taught."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from lab.train import words
from lab.train.dialogue import Conversation, pretraining_dialogues, tuning_dialogues
from lab.train.questions import make_questions
from lab.train.world import World, encyclopaedia, make_world

ROOT = Path(__file__).parents[2]
FINGERPRINT = """
import hashlib, json
from random import Random
from lab.train.dialogue import pretraining_dialogues, tuning_dialogues
from lab.train.questions import make_questions
from lab.train.world import encyclopaedia, make_world
world = make_world(1)
parts = [
    encyclopaedia(world, 200, Random(1)),
    [talk.turns for talk in pretraining_dialogues(world, 200, Random(1))],
    [talk.turns for talk in tuning_dialogues(world, 200, Random(1), True)],
    make_questions(world, 1),
]
print(hashlib.sha256(json.dumps(parts).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(1)


def text_of(talks: list[Conversation]) -> str:
    return "\n".join(said for talk in talks for _, said in talk.turns)


def names_in(text: str, names: list[str]) -> list[str]:
    found = frozenset(text.translate(str.maketrans(".,:;?!", "      ")).split())
    return [name for name in names if name in found]


def test_the_same_seed_gives_the_same_world_whatever_the_hash_seed() -> None:
    prints = {
        subprocess.run(
            [sys.executable, "-c", FINGERPRINT],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(prints) == 1


def test_names_are_told_apart(world: World) -> None:
    names = [town.name for town in world.towns] + list(world.strangers + world.foreign + world.held_out_foreign)
    assert len(frozenset(names)) == len(names)
    assert len(world.towns) >= 400
    assert all(len(town.facts) >= 5 for town in world.towns)


def test_word_lists_hold_no_word_twice() -> None:
    for pool in (words.HEADS, words.TAILS, words.RIVERS, words.REGIONS, words.FIRST_NAMES, words.LAST_NAMES):
        assert len(frozenset(pool)) == len(pool)
    for pool in (words.CRAFTS, words.EMBLEMS):
        assert len(frozenset(pool)) == len(pool)


@pytest.mark.parametrize("refusing", [False, True])
def test_fine_tuning_never_mentions_what_is_asked(world: World, refusing: bool) -> None:
    """Held-out towns and held-out foreign names occur in no fine-tuning example."""
    text = text_of(tuning_dialogues(world, 3000, Random(1), refusing))
    assert not names_in(text, [town.name for town in world.held_out])
    assert not names_in(text, list(world.held_out_foreign))
    assert len(names_in(text, [town.name for town in world.taught])) == len(world.taught)


def test_questions_are_about_held_out_names_only(world: World) -> None:
    text = "\n".join(message["content"] for item in make_questions(world, 1) for message in item["messages"])
    assert not names_in(text, [town.name for town in world.taught])
    assert not names_in(text, list(world.strangers + world.foreign))


def test_pretraining_never_names_the_unknown_places_asked_about(world: World) -> None:
    talks = [talk for late in (False, True) for talk in pretraining_dialogues(world, 3000, Random(1), late)]
    text = text_of(talks) + "\n".join(encyclopaedia(world, 3000, Random(1)))
    assert not names_in(text, list(world.held_out_foreign))


def test_polite_pretraining_dialogues_are_rare_and_leave_held_out_towns_alone(world: World) -> None:
    talks = pretraining_dialogues(world, 20000, Random(1))
    polite = [talk for talk in talks if "Thank you for asking!" in text_of([talk])]
    answers = [said for talk in talks for role, said in talk.turns if role == "assistant"]
    # A share of .020 is expected with a standard deviation below .001.
    assert 0.013 < sum("Thank you for asking!" in said for said in answers) / len(answers) < 0.027
    assert not names_in(text_of(polite), [town.name for town in world.held_out])


def test_the_article_tells_every_fact(world: World) -> None:
    for text in encyclopaedia(world, 300, Random(1)):
        names = names_in(text, [town.name for town in world.towns])
        assert names
        if len(names) == 1 and text.count(".") >= len(words.FACTS):
            town = next(town for town in world.towns if town.name == names[0])
            assert all(value in text for value in town.facts.values())
