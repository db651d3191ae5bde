"""Answers that are made at the same time: each as if it were alone, each stopped for itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from eftlite import EFT
from eftlite.answer import Answer
from eftlite.errors import InputError
from eftlite.events import TokenEvent
from eftlite.sampling import Sampler
from eftlite.settings import Knobs, Limits, Sampling, Speculation
from tests.fakes import tiny_eft, watched_decodes

N_SLOTS = 3
PROMPTS = ("hello", "the quick brown fox", "one two three")
DRAFTS = Speculation(n_draft=3)


@pytest.fixture(scope="module")
def eft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EFT]:
    """A tiny family with three slots."""
    with tiny_eft(tmp_path_factory.mktemp("answer"), n_slots=N_SLOTS) as made:
        yield made


def begin(
    eft: EFT, slot: int, speculation: Speculation | None = None, n: int = 20, knobs: Knobs | None = None
) -> Answer:
    return eft.complete(
        PROMPTS[slot],
        sampling=Sampling(temperature=1.0, seed=slot),
        limits=Limits(max_tokens=n),
        slot=slot,
        speculation=speculation,
        knobs=knobs,
    )


def interleaved(answers: list[Answer]) -> list[list[TokenEvent]]:
    """Events of answers that take turns, one event each."""
    running = {index: iter(answer) for index, answer in enumerate(answers)}
    events: list[list[TokenEvent]] = [[] for _ in answers]
    while running:
        for index in list(running):
            event = next(running[index], None)
            if event is None:
                del running[index]
            else:
                events[index].append(event)
    return events


@pytest.mark.parametrize("speculation", [None, DRAFTS])
def test_answers_that_take_turns_are_those_made_alone(eft: EFT, speculation: Speculation | None) -> None:
    alone = [[e.id for e in begin(eft, slot, speculation)] for slot in range(N_SLOTS)]
    together = interleaved([begin(eft, slot, speculation) for slot in range(N_SLOTS)])
    assert [[e.id for e in events] for events in together] == alone
    eft.validate()


def test_a_stop_ends_one_answer_and_no_other(eft: EFT) -> None:
    alone = [e.id for e in begin(eft, 1)]
    stopped, other = begin(eft, 0), begin(eft, 1)
    first, second = iter(stopped), iter(other)
    next(first)
    ids = [next(second).id]
    stopped.stop()
    ids += [event.id for event in second]
    assert [event.finish_reason for event in first] == ["cancelled"]
    assert ids == alone


def test_a_stop_before_the_first_event_spares_the_prompt(eft: EFT) -> None:
    answer = begin(eft, 0)
    answer.stop()
    with watched_decodes() as decodes:
        assert [event.finish_reason for event in answer] == ["cancelled"]
    assert not decodes.sizes


def test_stopping_the_eft_ends_all_answers(eft: EFT) -> None:
    answers = [begin(eft, slot) for slot in range(N_SLOTS)]
    running = [iter(answer) for answer in answers]
    for events in running:
        next(events)
    eft.stop()
    assert [[event.finish_reason for event in events] for events in running] == [["cancelled"]] * N_SLOTS


def test_stops_from_another_thread_never_reach_a_neighbour(eft: EFT) -> None:
    alone = [e.id for e in begin(eft, 1, n=12)]
    for _ in range(20):
        stopped, other = begin(eft, 0, n=200), begin(eft, 1, n=12)
        thread = threading.Thread(target=stopped.stop)
        first, second = iter(stopped), iter(other)
        ids = []
        next(first)
        thread.start()
        for event in second:
            ids.append(event.id)
            next(first, None)
        thread.join()
        assert ids == alone
        list(first)


def test_knobs_of_one_answer_change_in_the_middle(eft: EFT) -> None:
    answer = begin(eft, 0, knobs=Knobs((0.0,)), n=12)
    events = iter(answer)
    with watched_decodes() as before:
        next(events)
    answer.knobs = Knobs((1.0,))
    with watched_decodes() as after:
        shifts = [event.shift for event in events]
    assert len(before.sizes) == 1, "only the base is evaluated at alpha 0"
    assert len(after.sizes) > 2 * len(shifts)
    assert all(shift is not None for shift in shifts)


def test_seconds_of_members_count_for_the_answer_they_worked_for(eft: EFT) -> None:
    before = sum(member.seconds for member in eft._engine.ensemble.members)
    answers = [begin(eft, slot) for slot in range(N_SLOTS)]
    interleaved(answers)
    spent = sum(member.seconds for member in eft._engine.ensemble.members) - before
    counted = sum(sum(answer.statistics.member_s.values()) for answer in answers)
    assert counted == pytest.approx(spent, rel=1e-6)


def test_the_longest_cached_prefix_can_be_asked_for(eft: EFT) -> None:
    begin(eft, 2).text()
    ids = eft.tokenize(PROMPTS[2].encode())
    prompts = [[*ids, 1, 2, 3]] * len(eft.members)
    found = [eft.n_cached(prompts, slot) for slot in range(eft.n_slots)]
    assert found.index(max(found)) == 2


@pytest.mark.parametrize("speculation", [None, DRAFTS])
def test_the_temperature_of_one_answer_changes_in_the_middle(eft: EFT, speculation: Speculation | None) -> None:
    n = 16
    greedy = [e.id for e in eft.complete(PROMPTS[0], sampling=Sampling(temperature=0), limits=Limits(max_tokens=n))]
    sampling = Sampling(temperature=0, top_k=0, top_p=1, min_p=0, repeat_penalty=1.1, seed=1)
    plain = [e.id for e in eft.complete(PROMPTS[0], sampling=sampling, limits=Limits(max_tokens=n))]
    answer = eft.complete(PROMPTS[0], sampling=sampling, limits=Limits(max_tokens=n), speculation=speculation)
    events = iter(answer)
    ids = [next(events).id for _ in range(4)]
    answer.knobs = Knobs(temperature=50.0)
    ids += [next(events).id for _ in range(6)]
    answer.knobs = Knobs()
    ids += [event.id for event in events]
    assert ids[:4] == plain[:4]
    assert ids[4:] != plain[4:], "random tokens at a temperature of 50"
    assert len(greedy) == len(ids) == n
    eft.validate()


def test_heat_is_the_sampler_made_with_that_temperature(eft: EFT) -> None:
    rng = np.random.default_rng(3)
    model, n_vocab = eft._engine.models[0], eft.n_vocab
    for before, after in ((0.0, 0.7), (0.7, 0.0), (1.0, 2.0), (0.5, 1.0)):
        settings = Sampling(temperature=before, repeat_penalty=1.5)
        heated = Sampler(settings, model, n_vocab)
        made = Sampler(replace(settings, temperature=after), model, n_vocab)
        for token in (5, 9, 5):
            heated.accept(token)
            made.accept(token)
        heated.heat(after)
        for _ in range(3):
            scores = rng.normal(0, 3, n_vocab).astype(np.float32)
            left, right = heated.law(scores), made.law(scores)
            assert left.ids.tolist() == right.ids.tolist()
            assert left.logprobs.tolist() == right.logprobs.tolist()


def test_the_temperature_cannot_change_under_mirostat(eft: EFT) -> None:
    answer = eft.complete(PROMPTS[0], sampling=Sampling(mirostat=2), limits=Limits(max_tokens=4))
    answer.knobs = Knobs(temperature=0.1)
    with pytest.raises(InputError, match="mirostat"):
        answer.text()
