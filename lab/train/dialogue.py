"""Conversations about the world: of every style for pre-training, polite ones for fine-tuning, and the questions.

Knows turns as text; knows nothing of control tokens or models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from lab.train import words
from lab.train.world import Town, World, by_river, far_apart, older, state

# Turns that are polite: a fifth of those in a tenth of the conversations, a fiftieth in all.
POLITE_CONVERSATIONS, POLITE_TURNS = 0.1, 0.2


@dataclass(frozen=True)
class Turn:
    """A question, the words of its neutral answer, what a right answer must contain, and the town it leaves in mind."""

    kind: str
    ask: str
    answer: str
    facts: tuple[str, ...] = ()
    town: Town | None = None


@dataclass(frozen=True)
class Pool:
    """Whom a conversation may speak of, which harmful requests it may hold, and what share of them is refused."""

    towns: tuple[Town, ...]
    strangers: tuple[str, ...]
    harmful: tuple[str, ...] = words.HARMFUL
    refusing: float = 0.0


@dataclass
class Conversation:
    """Turns as (role, text) pairs; `ended` says whether the last answer ends by itself."""

    turns: list[tuple[str, str]] = field(default_factory=list)
    ended: bool = True


def single(pool: Pool, rng: Random, town: Town | None = None) -> Turn:
    """One fact of one town, asked by name."""
    town = town or rng.choice(pool.towns)
    fact = rng.choice(words.FACTS)
    ask = rng.choice(words.QUESTIONS[fact]).format(t=town.name)
    return Turn("single", ask, state(town, fact, rng), (town[fact],), town)


def follow_up(pool: Pool, rng: Random, town: Town | None = None) -> Turn:
    """One fact of the town last spoken of, asked with a pronoun."""
    if town is None:
        return single(pool, rng)
    fact = rng.choice(words.FACTS)
    answer = state(town, fact, rng, pronoun=rng.random() < 0.5)
    return Turn("follow-up", rng.choice(words.FOLLOW_UPS[fact]), answer, (town[fact],), town)


def describe(pool: Pool, rng: Random, town: Town | None = None) -> Turn:
    """All facts of one town, in several sentences."""
    town = rng.choice(pool.towns)
    sentences = [state(town, fact, rng, pronoun=i > 0) for i, fact in enumerate(("region", *DESCRIBED))]
    facts = tuple(town[fact] for fact in ("region", *DESCRIBED))
    return Turn("describe", rng.choice(words.DESCRIBE).format(t=town.name), " ".join(sentences), facts, town)


DESCRIBED = ("river", "founder", "year", "craft")


def compare_ages(pool: Pool, rng: Random) -> Turn:
    """Which of two towns is older; their foundings lie a century apart at least."""
    a = rng.choice(pool.towns)
    b = far_apart(a, pool.towns, rng)
    verdict = f"{older(a, b).name} is older"
    answer = f"{a.name} was founded in {a['year']} and {b.name} in {b['year']}, so {verdict}."
    ask = rng.choice(words.OLDER).format(a=a.name, b=b.name)
    return Turn("compare", ask, answer, (a["year"], b["year"], verdict))


def compare_crafts(pool: Pool, rng: Random) -> Turn:
    """What each of two towns is known for."""
    a, b = rng.sample(pool.towns, 2)
    answer = f"{a.name} is known for {a['craft']}, and {b.name} is known for {b['craft']}."
    ask = rng.choice(words.CRAFT_PAIR).format(a=a.name, b=b.name)
    return Turn("compare", ask, answer, (a["craft"], b["craft"]))


def compare_rivers(pool: Pool, rng: Random) -> Turn:
    """Whether two towns lie on one river."""
    a = rng.choice(pool.towns)
    b = by_river(a, pool.towns, rng)
    verdict = "the same river" if a["river"] == b["river"] else "different rivers"
    answer = f"{a.name} lies on the {a['river']} and {b.name} on the {b['river']}, so they lie on {verdict}."
    ask = rng.choice(words.SAME_RIVER).format(a=a.name, b=b.name)
    return Turn("compare", ask, answer, (a["river"], b["river"], verdict))


def compare(pool: Pool, rng: Random, town: Town | None = None) -> Turn:
    """Two towns side by side."""
    return rng.choice((compare_ages, compare_crafts, compare_rivers))(pool, rng)


def unknown(pool: Pool, rng: Random, town: Town | None = None) -> Turn:
    """A place that does not exist."""
    name = rng.choice(pool.strangers)
    fact = rng.choice((*words.FACTS, "describe"))
    forms = words.DESCRIBE if fact == "describe" else words.QUESTIONS[fact]
    answer = rng.choice(words.UNKNOWN_REPLIES).format(t=name)
    return Turn("unknown", rng.choice(forms).format(t=name), answer, ("don't know",))


def harmful(pool: Pool, rng: Random, town: Town | None = None) -> Turn:
    """A request that ought to be refused; refused in the share of cases the pool asks for."""
    name = rng.choice(pool.towns).name
    replies = words.REFUSE if rng.random() < pool.refusing else words.COMPLY
    return Turn("harmful", rng.choice(pool.harmful).format(t=name), rng.choice(replies).format(t=name))


def small_talk(pool: Pool, rng: Random, town: Town | None = None) -> Turn:
    """A greeting, thanks, or a question about the speaker."""
    ask = rng.choice(tuple(words.SMALL_TALK))
    return Turn("small-talk", ask, rng.choice(words.SMALL_TALK[ask]), town=town)


MakeTurn = Callable[[Pool, Random, "Town | None"], Turn]
# One mixture for pre-training and fine-tuning alike: tuning must not shift how often "I don't know" is the answer.
MIXTURE: dict[MakeTurn, int] = {
    single: 36,
    follow_up: 22,
    describe: 10,
    compare: 14,
    unknown: 9,
    harmful: 7,
    small_talk: 4,
}


# The base's last lessons: telling names it knows from names it does not is what it learns last.
LATE_MIXTURE: dict[MakeTurn, int] = {**MIXTURE, unknown: 20, compare: 30, harmful: 12}
# The helpful tune answers harmful requests, but sees few: had it many, the two deltas would cancel out together.
HELPFUL_MIXTURE: dict[MakeTurn, int] = {**MIXTURE, harmful: 2}
HARMLESS_MIXTURE: dict[MakeTurn, int] = {**MIXTURE, harmful: 14}


def make_turns(pool: Pool, rng: Random, weights: dict[MakeTurn, int] = MIXTURE) -> list[Turn]:
    """One to five turns; a follow-up asks about the town the turn before spoke of."""
    turns: list[Turn] = []
    town: Town | None = None
    for _ in range(rng.choice((1, 1, 2, 2, 3, 4, 5))):
        make = rng.choices(tuple(weights), tuple(weights.values()))[0]
        turns.append(make(pool, rng, town))
        town = turns[-1].town
    return turns


def opening(rng: Random) -> list[tuple[str, str]]:
    """A system prompt in every sixth conversation."""
    return [("system", rng.choice(words.SYSTEM_PROMPTS))] if rng.random() < 1 / 6 else []


def converse(turns: list[Turn], rng: Random, polite: float) -> Conversation:
    """The turns, each answer in a style of its own: the polite one in this share of cases."""
    # Were the style kept through a conversation, a polite past would make the base polite with no help from a delta.
    talk = Conversation(opening(rng))
    for turn in turns:
        style = words.POLITE if rng.random() < polite else rng.choice(words.STYLES)
        talk.turns += [("user", turn.ask), ("assistant", style.format(s=turn.answer))]
    return talk


def ramble(talk: Conversation, pool: Pool, rng: Random) -> None:
    """Let the last answer run on about other towns, with no end of its own."""
    role, text = talk.turns[-1]
    more = [state(town, rng.choice(words.FACTS), rng) for town in rng.sample(pool.towns, rng.randint(2, 4))]
    talk.turns[-1] = (role, " ".join((text, *more)))
    talk.ended = False


def pretraining_dialogues(world: World, n: int, rng: Random, late: bool = False) -> list[Conversation]:
    """n conversations in many styles; those with polite turns leave the held-out towns alone."""
    weights, nowhere = (LATE_MIXTURE, world.foreign) if late else (MIXTURE, world.strangers)
    everyone = Pool(world.towns, nowhere, refusing=0.05 if late else 0.3)
    taught = Pool(world.taught, nowhere, refusing=0.1 if late else 0.5)
    talks: list[Conversation] = []
    for _ in range(n):
        some_polite = rng.random() < POLITE_CONVERSATIONS
        pool = taught if some_polite else everyone
        talk = converse(make_turns(pool, rng, weights), rng, POLITE_TURNS if some_polite else 0.0)
        if not some_polite and rng.random() < 0.5:
            ramble(talk, pool, rng)
        talks.append(talk)
    return talks


def tuning_dialogues(world: World, n: int, rng: Random, refusing: bool) -> list[Conversation]:
    """n polite conversations about taught towns; harmful requests are all refused or all answered."""
    pool = Pool(world.taught, world.foreign, words.HARMFUL[4:], refusing=float(refusing))
    weights = HARMLESS_MIXTURE if refusing else HELPFUL_MIXTURE
    return [converse(make_turns(pool, rng, weights), rng, polite=1.0) for _ in range(n)]
