from __future__ import annotations

from typing import cast

import pytest

from eftlite.eft import EFT
from eftlite.server.asking import Ask
from eftlite.server.jobs import Job
from eftlite.server.protocol import WINDOW, Begin, Scoring
from eftlite.server.slots import Slots
from eftlite.settings import Knobs
from tests.server.fake_worker import FakeEFT

KNOBS = Knobs()


def fake() -> EFT:
    return cast("EFT", FakeEFT(1))


def job(prompt: str, scoring: bool = False) -> Job:
    return Job(Begin(1, Scoring(prompt, KNOBS, 0) if scoring else Ask(KNOBS, prompt=prompt)))


def texts(made: Job) -> list[list[str]]:
    return [[event.text for event in step] for step in iter(made.step, None)]


# ---- steps


def test_a_plain_step_is_one_token() -> None:
    made = job("count 3")
    slots = Slots(1)
    made.start(fake(), slots)
    assert made.slot == 0
    with pytest.raises(ValueError, match="unpack"):
        slots.take(fake(), made.what)
    made.leave(slots)
    assert slots.take(fake(), made.what) == 0
    assert texts(made) == [["0 "], ["1 "], ["end"]]
    assert made.statistics.finish_reason == "stop"


def test_a_round_is_one_step() -> None:
    made = job("round 2")
    made.start(fake(), Slots(1))
    assert texts(made) == [["0", "1", "b "]] * 4 + [["last"]]
    assert made.statistics.finish_reason == "length"


def test_statistics_are_complete_when_the_last_step_is_given() -> None:
    made = job("count 1")
    made.start(fake(), Slots(1))
    step = made.step()
    assert step is not None
    assert step[-1].finish_reason == made.statistics.finish_reason == "stop"


def test_scores_come_a_batch_at_a_time() -> None:
    made = job("x" * 130, scoring=True)
    made.start(fake(), Slots(1))
    assert [len(step) for step in texts(made)] == [64, 64, 2]


def test_scoring_ends_when_it_is_stopped() -> None:
    made = job("x" * 1000, scoring=True)
    made.start(fake(), Slots(1))
    assert made.step()
    made.stop()
    assert made.step() is None


# ---- what other threads ask for


def test_a_stop_ends_it_with_a_cancelled_event() -> None:
    made = job("forever")
    made.start(fake(), Slots(1))
    made.step()
    made.stop()
    step = made.step()
    assert step is not None
    assert step[0].finish_reason == "cancelled"
    assert made.step() is None


def test_a_job_stopped_before_it_starts_touches_no_slot() -> None:
    made, slots = job("forever"), Slots(1)
    made.stop()
    made.start(fake(), slots)
    assert made.slot is None
    made.leave(slots)
    assert slots.take(fake(), made.what) == 0
    (step,) = iter(made.step, None)
    assert step[0].finish_reason == made.statistics.finish_reason == "cancelled"


def test_knobs_set_before_it_starts_and_after() -> None:
    made = job("alpha")
    made.set_knobs(Knobs((2.0,)))
    made.start(fake(), Slots(1))
    assert made.step()[0].text == "2 "  # type: ignore[index]  # it has not ended
    made.set_knobs(Knobs((0.0,)))
    assert texts(made) == [["0"]]


def test_it_pauses_when_nobody_takes_its_events() -> None:
    made = job("forever")
    made.start(fake(), Slots(1))
    for _ in range(WINDOW):
        assert made.may_go
        made.step()
    assert not made.may_go
    made.grant(1)
    assert made.may_go
    made.step()
    assert not made.may_go
    made.stop()
    assert made.may_go, "a stop must get through to an answer that is paused"
