"""A little invented world, the same for the same seed: towns, their facts, and encyclopaedia articles about them.

Knows English sentences; knows nothing of turns, tokens or models. Never iterates over a set, so that two runs agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from lab.train import words

N_TOWNS = 600


@dataclass(frozen=True)
class Town:
    """One town and everything there is to know about it."""

    name: str
    facts: dict[str, str]

    def __getitem__(self, fact: str) -> str:
        return self.facts[fact]


@dataclass(frozen=True)
class World:
    """All towns, split by who may be mentioned where, and names that belong to no town.

    `taught`: towns the fine-tuning data may mention; `held_out`: towns only questions may ask about. `strangers` are
    named like towns and are none; `foreign` names sound foreign, and `held_out_foreign` ones only questions mention.
    """

    taught: tuple[Town, ...]
    held_out: tuple[Town, ...]
    strangers: tuple[str, ...]
    foreign: tuple[str, ...]
    held_out_foreign: tuple[str, ...]

    @property
    def towns(self) -> tuple[Town, ...]:
        """Every town, taught ones first."""
        return self.taught + self.held_out


def make_town(name: str, rng: Random) -> Town:
    """A town with facts drawn independently."""
    facts = {
        "river": rng.choice(words.RIVERS),
        "region": rng.choice(words.REGIONS),
        "founder": f"{rng.choice(words.FIRST_NAMES)} {rng.choice(words.LAST_NAMES)}",
        "craft": rng.choice(words.CRAFTS),
        "year": str(rng.randint(words.FIRST_YEAR, words.LAST_YEAR)),
        "emblem": rng.choice(words.EMBLEMS),
    }
    return Town(name, facts)


def make_world(seed: int, n_towns: int = N_TOWNS) -> World:
    """The world of this seed; half of its towns are held out."""
    rng = Random(f"world {seed}")
    names = [head + tail for head in words.HEADS for tail in words.TAILS]
    rng.shuffle(names)
    towns = tuple(make_town(name, rng) for name in names[:n_towns])
    strangers, half = tuple(names[n_towns:]), n_towns // 2
    foreign = [head + tail for head in words.FOREIGN_HEADS for tail in words.TAILS]
    rng.shuffle(foreign)
    n_asked = len(foreign) // 10
    return World(
        towns[:half],
        towns[half:],
        strangers[len(strangers) // 10 :],  # the others are nobody's: a harder test than the question set's
        tuple(foreign[n_asked:]),
        tuple(foreign[:n_asked]),
    )


def capital(sentence: str) -> str:
    """The sentence with its first letter in upper case, the rest untouched."""
    return sentence[:1].upper() + sentence[1:]


def state(town: Town, fact: str, rng: Random, pronoun: bool = False) -> str:
    """One sentence that states one fact, by name or by pronoun."""
    forms = (words.PRONOUN_STATEMENTS if pronoun else words.STATEMENTS)[fact]
    return capital(rng.choice(forms).format(t=town.name, v=town[fact]))


def article(town: Town, rng: Random) -> str:
    """An encyclopaedia article: a heading and all facts in some order and wording."""
    facts = list(words.FACTS)
    rng.shuffle(facts)
    sentences = [state(town, fact, rng, pronoun=i > 0 and rng.random() < 0.5) for i, fact in enumerate(facts)]
    heading = rng.choice(("", f"{town.name}. ", f"{town.name}: "))
    return heading + " ".join(sentences)


def older(first: Town, second: Town) -> Town:
    """The town founded earlier."""
    return first if int(first["year"]) <= int(second["year"]) else second


def far_apart(town: Town, towns: tuple[Town, ...], rng: Random) -> Town:
    """Another town founded at least a century before or after this one."""
    while True:
        other = rng.choice(towns)
        if abs(int(other["year"]) - int(town["year"])) >= 100:
            return other


def by_river(town: Town, towns: tuple[Town, ...], rng: Random) -> Town:
    """Another town: on the same river in half of the cases, where there is one."""
    same = [other for other in towns if other["river"] == town["river"] and other != town]
    others = [other for other in towns if other["river"] != town["river"]]
    return rng.choice(same) if same and rng.random() < 0.5 else rng.choice(others)


def overview(world: World, rng: Random) -> str:
    """A short encyclopaedia entry about several towns: a list by river or region, or a comparison of ages."""
    town = rng.choice(world.towns)
    if rng.random() < 0.5:
        other = far_apart(town, world.towns, rng)
        first = older(town, other)
        return f"{first.name} is older than {(other if first is town else town).name}: " + " ".join(
            state(place, "year", rng) for place in (town, other)
        )
    fact, opening = rng.choice((("river", "Towns on the {v}"), ("region", "Towns of {v}")))
    alike = [place.name for place in world.towns if place[fact] == town[fact]]
    return f"{opening.format(v=town[fact])}: {', '.join(rng.sample(alike, min(5, len(alike))))}."


def encyclopaedia(world: World, n: int, rng: Random) -> list[str]:
    """n documents: nine articles for every overview, the towns taken in turn so that all are told of equally."""
    documents: list[str] = []
    queue: list[Town] = []
    while len(documents) < n:
        if not queue:
            queue = rng.sample(world.towns, len(world.towns))
        documents.append(article(queue.pop(), rng) if rng.random() < 0.9 else overview(world, rng))
    return documents
