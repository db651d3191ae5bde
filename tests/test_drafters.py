"""Drafters by name; plugins' drafters: what they propose is checked, what fails costs the speed and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eftlite import EFT
from eftlite.composite import Row
from eftlite.drafters import Guarded, build, make_drafter
from eftlite.drafting import Draft, Drafter, Fallback, LookupDrafter, MemberDrafter, Situation, certain
from eftlite.errors import CacheFullError, InputError
from eftlite.noise import Noise
from eftlite.plugins import GROUPS, Entry
from eftlite.sampling import Sampler
from eftlite.settings import Limits, Sampling, Speculation
from eftlite.verify import Law
from tests.distributions import on_path, write_distribution
from tests.fakes import fake_ensemble, fake_sampler, tiny_eft

NO_MASK = np.zeros(0, np.int32)
N_VOCAB = 24
ENTRY = Entry("drafter", "mine", "plugged:Mine", distribution="one", version="1.0")
# Proposes token 5 always, or fails as its name says.
MODULE = """
from eftlite.drafting import Draft, certain

class Five:
    member = None
    def __init__(self, ensemble):
        self.n_vocab = ensemble.n_vocab
    def draft(self, situation):
        return Draft([5] * situation.n, [certain(5)] * situation.n)
    def proposal_of(self, rows, sampler):
        return None

class FailsWhenMade(Five):
    def __init__(self, ensemble):
        raise RuntimeError("no")

class FailsWhenAsked(Five):
    def draft(self, situation):
        raise KeyError("a secret prompt")

class Outside(Five):
    def draft(self, situation):
        return Draft([self.n_vocab], [certain(self.n_vocab)])

class NoDrafter:
    def __init__(self, ensemble):
        pass

class WrongMember(Five):
    member = 7

number = 5
"""
CLASSES = ("Five", "FailsWhenMade", "FailsWhenAsked", "Outside", "NoDrafter", "WrongMember", "number", "absent")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on the path with a distribution that brings every drafter of MODULE, by its name in lower case."""
    with on_path(tmp_path / "site"):
        points = {name.lower(): f"plugged:{name}" for name in CLASSES}
        write_distribution(tmp_path / "site", "one", {GROUPS["drafter"]: points}, {"plugged": MODULE})
        yield tmp_path


def situation(n: int = 3, ends: frozenset[int] = frozenset()) -> Situation:
    """A situation in slot 0."""
    sampling = Sampling(temperature=1.0, seed=3)
    return Situation(0, n, "gumbel", Noise(3), 1, fake_sampler(sampling, N_VOCAB), ends)


def made(name: str) -> Drafter:
    """A drafter of three fake members."""
    return make_drafter(name, fake_ensemble(), NO_MASK, 8, InputError)


# ---- names


@pytest.mark.parametrize(
    ("name", "kind", "member"),
    [
        ("lookup", LookupDrafter, None),
        ("tuned", MemberDrafter, 1),
        ("reference", MemberDrafter, 2),
        ("lookup+base", Fallback, 0),
        ("lookup+lookup+tuned", Fallback, 1),
    ],
)
def test_drafters_by_name(name: str, kind: type[Drafter], member: int | None) -> None:
    drafter = made(name)
    assert type(drafter) is kind
    assert drafter.member == member


@pytest.mark.parametrize(
    ("name", "got"),
    [
        *((name, name) for name in ("", "nobody", "lookup+", "tuned+lookup", "+tuned", "tuned+", "lookup tuned")),
        ("lookup+nobody", "nobody"),
        ("auto", "auto"),
    ],
)
def test_unknown_drafters_are_refused(name: str, got: str) -> None:
    with pytest.raises(InputError) as caught:
        made(name)
    assert caught.value.message == got


def test_a_members_name_may_hold_a_plus_sign() -> None:
    ensemble = fake_ensemble()
    ensemble.members[1].name = "tuned:a+b"
    drafter = make_drafter("tuned:a+b", ensemble, NO_MASK, 8, InputError)
    assert (type(drafter), drafter.member) == (MemberDrafter, 1)


def test_plugins_drafters_by_name(folder: Path) -> None:
    assert made("five").draft(situation(2)).tokens == [5, 5]
    chain = made("lookup+five")
    assert isinstance(chain, Fallback)
    assert made("five+tuned").member == 1


def test_a_drafter_that_always_proposes_comes_last(folder: Path) -> None:
    module = "from plugged import Five\nclass Always(Five):\n    member = 2\n"
    points = {GROUPS["drafter"]: {"always": "always:Always"}}
    write_distribution(folder / "site", "two", points, {"always": module})
    assert made("lookup+always").member == 2
    with pytest.raises(InputError, match=r"^always\+tuned$"):
        made("always+tuned")


# ---- what cannot be made


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("failswhenmade", "RuntimeError: no"),
        ("nodrafter", "TypeError: expected a drafter with member, draft and proposal_of, got NoDrafter"),
        ("wrongmember", "ValueError: member: expected None or the index of a member, got 7"),
        ("number", "TypeError: 'int' object is not callable"),
        ("absent", "AttributeError: module 'plugged' has no attribute 'absent'"),
    ],
)
def test_what_cannot_be_made_is_reported_and_proposes_nothing(
    folder: Path, name: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    entry = Entry(
        "drafter", name, f"plugged:{dict(zip(map(str.lower, CLASSES), CLASSES, strict=True))[name]}", "", "one"
    )
    with pytest.raises(InputError, match=f"drafter {name}: {words}"):
        build(entry, fake_ensemble())
    drafter = made(name)
    assert drafter.draft(situation()) == Draft()
    assert drafter.member is None
    assert [words in record.message for record in caplog.records] == [True]
    assert made(f"{name}+tuned").member == 1  # the rest of a chain goes on


# ---- what is proposed


class Fixed:
    """A drafter that always says the same."""

    def __init__(self, draft: Any, member: int | None = None, law: Any = None) -> None:
        self.member, self._draft, self._law = member, draft, law

    def draft(self, situation: Situation) -> Draft:
        if isinstance(self._draft, Exception):
            raise self._draft
        found: Draft = self._draft
        return found

    def proposal_of(self, rows: Sequence[Row | None], sampler: Sampler) -> Law | None:
        law: Law | None = self._law
        return law


def guarded(draft: Any, member: int | None = None, law: Any = None) -> Guarded:
    """A plugin's drafter that says this."""
    return Guarded(ENTRY, Fixed(draft, member, law), N_VOCAB)


def certainly(*tokens: int) -> Draft:
    """A draft whose drafter had no doubt."""
    return Draft(list(tokens), [certain(token) for token in tokens])


def row(n: int = N_VOCAB, kind: type = np.float32) -> Row:
    """Logits."""
    return np.zeros(n, kind)


def law_of(ids: Sequence[int], logprobs: Sequence[float], kind: type = np.int32) -> Law:
    """A law."""
    return Law(np.array(ids, kind), np.array(logprobs, np.float64))


def test_a_sound_draft_stays_as_it_is() -> None:
    half = law_of([3, 7], [np.log(0.5)] * 2)
    draft = Draft([3, 7], [half, half], [row(), row()])
    found = guarded(draft, member=1).draft(situation())
    assert found.tokens == [3, 7]
    assert found.proposals == [half, half]
    assert len(found.rows) == 2


def test_more_than_was_asked_for_and_what_follows_an_end_is_cut() -> None:
    drafter = guarded(certainly(1, 2, 3, 4))
    assert drafter.draft(situation(2)).tokens == [1, 2]
    found = drafter.draft(situation(4, frozenset({2})))
    assert found.tokens == [1, 2]
    assert len(found.proposals) == 2
    assert drafter.draft(situation(4)).tokens == [1, 2, 3, 4]  # none of this is a fault


def test_numpys_integers_are_token_ids() -> None:
    tokens: Any = np.array([1, 2])
    found = guarded(Draft(list(tokens), [certain(1), certain(2)])).draft(situation())
    assert [type(token) for token in found.tokens] == [int, int]


@pytest.mark.parametrize(
    ("draft", "member", "words"),
    [
        (None, None, "expected a Draft, got NoneType"),
        ([5], None, "expected a Draft, got list"),
        (certainly(N_VOCAB), None, "expected token ids from 0 to 23, got another"),
        (certainly(-1), None, "expected token ids from 0 to 23, got another"),
        (Draft([5], []), None, "expected a law for each of 1 tokens, got 0"),
        (Draft([], [certain(5)]), None, "expected a law for each of 0 tokens, got 1"),
        (Draft([5], [certain(6)]), None, "expected each token to be a candidate of its law"),
        (Draft([5], [law_of([5, 6], [-np.inf, 0.0])]), None, "expected each token to be a candidate of its law"),
        (Draft([5], [law_of([5], [0.0], np.int64)]), None, "expected a Law of int32 ids and float64 logprobs"),
        (Draft([5], [law_of([5, 6], [0.0])]), None, "as many logprobs as ids"),
        (Draft([5], [law_of([], [])]), None, "as many logprobs as ids"),
        (Draft([5], [law_of([5, 99], [0.0, -1.0])]), None, "expected token ids from 0 to 23"),
        (Draft([5], [0.5]), None, "expected a Law of int32 ids"),  # type: ignore[list-item]  # a plugin's mistake
        (Draft([5], [certain(5)], [row()]), None, "expected a row of the member for each token"),
        (Draft([5, 5], [certain(5)] * 2, [row()]), 1, "expected a row of the member for each token"),
        (Draft([5], [certain(5)], [row(N_VOCAB - 1)]), 1, "expected rows of 24 float32 numbers"),
        (Draft([5], [certain(5)], [row(kind=np.float64)]), 1, "expected rows of 24 float32 numbers"),
        (Draft([5.0], [certain(5)]), None, "TypeError in drafters.py"),  # type: ignore[list-item]  # a plugin's mistake
        (KeyError("a secret prompt"), None, "KeyError in test_drafters.py, line "),
    ],
)
def test_what_cannot_be_used_is_reported_once_and_ends_it(
    draft: Any, member: int | None, words: str, caplog: pytest.LogCaptureFixture, folder: Path
) -> None:
    drafter = guarded(draft, member)
    for _ in range(2):
        assert drafter.draft(situation()) == Draft()
    (record,) = caplog.records
    assert record.message.startswith("plugin one 1.0: drafter mine: ")
    assert words in record.message
    assert "secret" not in record.message


def test_a_drafter_that_failed_is_not_asked_again(folder: Path) -> None:
    drafter = Fixed(KeyError())
    guard = Guarded(ENTRY, drafter, N_VOCAB)
    guard.draft(situation())
    drafter._draft = certainly(5)
    assert guard.draft(situation()) == Draft()
    assert guard.proposal_of([], fake_sampler(Sampling(), N_VOCAB)) is None


def test_errors_of_decoding_are_not_the_drafters() -> None:
    drafter = guarded(CacheFullError("full"))
    for _ in range(2):
        with pytest.raises(CacheFullError):
            drafter.draft(situation())


def test_the_law_of_a_token_not_drafted_is_checked_too(caplog: pytest.LogCaptureFixture, folder: Path) -> None:
    sampler = fake_sampler(Sampling(), N_VOCAB)
    assert guarded(Draft()).proposal_of([], sampler) is None
    assert guarded(Draft(), law=certain(5)).proposal_of([], sampler) == certain(5)
    assert not caplog.records
    assert guarded(Draft(), law=certain(99)).proposal_of([], sampler) is None
    assert len(caplog.records) == 1


# ---- in answers


@pytest.fixture(scope="module")
def eft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EFT]:
    """A tiny family."""
    with tiny_eft(tmp_path_factory.mktemp("family")) as made:
        yield made


@pytest.fixture
def answer(eft: EFT) -> Callable[[Speculation], tuple[str, list[int]]]:
    """Asks for an answer, and gives its text and its drafts' lengths."""

    def ask(speculation: Speculation) -> tuple[str, list[int]]:
        given = eft.complete("ab", sampling=Sampling(seed=4), limits=Limits(40), speculation=speculation)
        text = given.text()
        eft.validate()
        drafts = given.statistics.drafts
        return text, [] if drafts is None else list(drafts.lengths)

    eft._planner._drafters.clear()  # a new process would have none
    return ask


@pytest.mark.parametrize("name", ["five", "failswhenmade", "failswhenasked", "outside", "number", "five+auto"])
def test_no_plugin_changes_an_answer(
    folder: Path, answer: Callable[[Speculation], tuple[str, list[int]]], name: str
) -> None:
    text, _ = answer(Speculation(drafter=name, n_draft=3))
    assert text == answer(Speculation(enabled=False))[0]


def test_a_plugin_is_named_among_the_drafters(folder: Path, eft: EFT) -> None:
    with pytest.raises(InputError, match=r"drafter: expected auto, lookup, absent, .*five.*, got 'nobody'"):
        eft.complete("ab", speculation=Speculation(drafter="nobody", n_draft=2))
