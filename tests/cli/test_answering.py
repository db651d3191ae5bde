"""An answer on its way: order, failures, Ctrl+C, and the line that says what it took."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from eftlite.cli.answering import Presses, stream, timing
from eftlite.cli.output import StatusLine
from eftlite.errors import ContextError
from eftlite.events import DraftStatistics, Statistics, TokenEvent


class Slow:
    """Counts until it is stopped, as a long answer would."""

    def __init__(self, wait_s: float = 0.01, deaf: bool = False) -> None:
        self.stops = self.made = 0
        self.wait_s, self.deaf = wait_s, deaf
        self.done = threading.Event()

    def stop(self) -> None:
        self.stops += 1

    def events(self) -> Iterator[TokenEvent]:
        try:
            for i in range(1000):
                time.sleep(self.wait_s)
                if self.stops > (1 if self.deaf else 0):
                    yield TokenEvent(-1, "", finish_reason="cancelled")
                    return
                self.made += 1
                yield TokenEvent(i, f"{i} ")
        finally:
            self.done.set()


def press() -> None:
    """Ctrl+C."""
    signal.raise_signal(signal.SIGINT)


def test_events_come_in_order() -> None:
    events = [TokenEvent(0, "a"), TokenEvent(1, "b", finish_reason="stop")]
    assert list(stream(Slow(), lambda: events)) == events


def test_failure_is_raised_after_what_came_before() -> None:
    def fail() -> Iterator[TokenEvent]:
        yield TokenEvent(0, "a")
        raise ContextError("too long")

    events = stream(Slow(), fail)
    assert next(events).text == "a"
    with pytest.raises(ContextError, match="too long"):
        next(events)


def test_ctrl_c_ends_the_answer_and_keeps_it() -> None:
    slow, seen = Slow(), []
    before = signal.getsignal(signal.SIGINT)
    for event in stream(slow, slow.events):
        seen.append(event)
        if len(seen) == 3:
            press()
    assert [event.text for event in seen[:3]] == ["0 ", "1 ", "2 "]
    assert seen[-1].finish_reason == "cancelled"
    assert len(seen) < 50
    assert signal.getsignal(signal.SIGINT) is before


def test_request_to_stop_is_repeated_until_heard() -> None:
    """The first one may come before there is anything to stop."""
    slow, seen = Slow(deaf=True), []
    for event in stream(slow, slow.events):
        seen.append(event)
        if len(seen) == 2:
            press()
    assert seen[-1].finish_reason == "cancelled"
    assert slow.stops >= 2


def test_ctrl_c_twice_interrupts_and_leaves_no_thread() -> None:
    slow = Slow()

    def press_twice() -> None:
        for _ in stream(slow, slow.events):
            press()
            press()

    with pytest.raises(KeyboardInterrupt):
        press_twice()
    assert slow.done.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "answer"]


def test_consumer_that_goes_away_ends_the_answer() -> None:
    slow = Slow()
    events = stream(slow, slow.events)
    next(events)
    del events
    assert slow.done.is_set()
    assert slow.made < 100


def test_works_outside_the_main_thread() -> None:
    found: list[TokenEvent] = []
    thread = threading.Thread(target=lambda: found.extend(stream(Slow(), lambda: [TokenEvent(0, "a")])))
    thread.start()
    thread.join()
    assert [event.text for event in found] == ["a"]


def test_long_wait_is_shown_until_the_first_event(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eftlite.cli.output.on_terminal", lambda stream: True)
    monkeypatch.setattr(StatusLine, "DELAY_S", 0.0)

    def late() -> Iterator[TokenEvent]:
        time.sleep(0.3)
        yield TokenEvent(0, "a")
        time.sleep(0.3)
        yield TokenEvent(1, "b")

    assert len(list(stream(Slow(), late))) == 2
    assert capsys.readouterr().err == "\rreading …\r         \r"


def test_timing_says_what_it_took() -> None:
    assert timing(Statistics()) == "no tokens"
    plain = Statistics(n_tokens=1, prompt_s=0.5)
    assert timing(plain) == "1 token · first after 0.50 s"
    drafts = DraftStatistics(n_rounds=2, n_drafted=8, n_accepted=6)
    full = Statistics(n_tokens=11, prompt_s=0.5, decode_s=2.0, shift=0.123, drafts=drafts)
    assert timing(full) == "11 tokens · 5.0 tokens/s · first after 0.50 s · shift 0.12 · accepted 75% of 8 drafted"


def test_a_third_press_does_not_leave_again() -> None:
    """Whoever is leaving waits for llama.cpp, whose memory is freed next."""
    presses = Presses(lambda: None)
    presses(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        presses(signal.SIGINT, None)
    presses(signal.SIGINT, None)
    assert presses.count == 3


def test_other_machines_are_given_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    monkeypatch.setattr("eftlite.remote.hang_up", lambda: calls.append(None))
    presses = Presses(lambda: None)
    presses.give_up()
    presses(signal.SIGINT, None)
    presses.leaving = time.monotonic()
    presses.give_up()
    assert not calls
    presses.leaving -= 3
    presses.give_up()
    assert len(calls) == 1
