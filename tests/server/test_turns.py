from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from eftlite.eft import EFT
from eftlite.errors import ContextError, EngineError
from eftlite.server.asking import Ask
from eftlite.server.protocol import (
    WINDOW,
    Began,
    Begin,
    Call,
    Credit,
    Detokenize,
    Ended,
    Events,
    Render,
    Reply,
    SetKnobs,
    Stop,
    Tokenize,
)
from eftlite.server.turns import Turns
from eftlite.settings import Knobs, Sampling
from tests.server.fake_worker import FakeEFT


class Sent:
    """Turns over a fake EFT, and what they told."""

    def __init__(self, n_slots: int = 2) -> None:
        self.messages: list[Any] = []
        self.changed = threading.Event()
        self.turns = Turns(self.send)
        self.turns.use(cast("EFT", FakeEFT(n_slots)))

    def send(self, message: Any) -> None:
        self.messages.append(message)
        self.changed.set()

    def begin(self, number: int, prompt: str, seed: int | None = None) -> None:
        self.turns.take(Begin(number, Ask(Knobs(), prompt=prompt, sampling=Sampling(seed=seed))))

    def until_all_ended(self, n: int) -> None:
        turning = threading.Thread(target=self._turn_until_all_ended, args=(n,), daemon=True)
        turning.start()
        turning.join(10)
        assert not turning.is_alive(), "it waits for something that does not come"

    def _turn_until_all_ended(self, n: int) -> None:
        while len(self.of(Ended)) < n:
            self.turns.turn()

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]

    def text(self, number: int) -> str:
        return "".join(event.text for m in self.of(Events) if m.id == number for event in m.events)


def test_an_answer_is_told_from_beginning_to_end() -> None:
    sent = Sent()
    sent.begin(5, "count 2", seed=99)
    sent.until_all_ended(1)
    began, first, second, ended = sent.messages
    assert began == Began(5, 99)
    assert [event.text for event in (*first.events, *second.events)] == ["0 ", "end"]
    assert (ended.id, ended.error, ended.statistics.finish_reason) == (5, None, "stop")


def test_answers_take_turns() -> None:
    sent = Sent()
    sent.begin(1, "count 3")
    sent.begin(2, "count 3")
    sent.until_all_ended(2)
    assert [message.id for message in sent.of(Events)] == [1, 2, 1, 2, 1, 2]


def test_an_answer_that_begins_later_joins_in() -> None:
    sent = Sent()
    sent.begin(1, "count 9")
    sent.turns.turn()
    sent.begin(2, "count 2")
    sent.until_all_ended(2)
    assert [message.id for message in sent.of(Events)] == [1, 1, 2, 1, 2, 1, 1, 1, 1, 1, 1]


def test_slots_return() -> None:
    sent = Sent(n_slots=1)
    for number in range(5):
        sent.begin(number, "count 2")
        sent.until_all_ended(number + 1)
    assert all(message.error is None for message in sent.of(Ended))


@pytest.mark.parametrize(("prompt", "kind"), [("refuse 9", ContextError), ("bug", EngineError)])
def test_an_error_ends_one_answer_alone(prompt: str, kind: type, capsys: pytest.CaptureFixture[str]) -> None:
    sent = Sent()
    sent.begin(1, prompt)
    sent.begin(2, "count 3")
    sent.until_all_ended(2)
    errors = {message.id: message.error for message in sent.of(Ended)}
    assert type(errors[1]) is kind
    assert errors[2] is None
    assert sent.text(2) == "0 1 end"
    assert "secret" not in str(errors[1])
    assert ("secret detail" in capsys.readouterr().err) == (prompt == "bug")


def test_an_error_while_it_starts_gives_the_slot_back() -> None:
    sent = Sent(n_slots=1)
    sent.begin(1, "early")
    sent.begin(2, "count 1")
    sent.until_all_ended(2)
    assert [type(message.error) for message in sent.of(Ended)] == [ContextError, type(None)]


def test_a_stop_reaches_one_answer() -> None:
    sent = Sent()
    sent.begin(1, "forever")
    sent.begin(2, "count 3")
    sent.turns.turn()
    sent.turns.take(Stop(1))
    sent.until_all_ended(2)
    reasons = {message.id: message.statistics.finish_reason for message in sent.of(Ended)}
    assert reasons == {1: "cancelled", 2: "stop"}


def test_an_answer_without_credit_waits_and_others_go_on() -> None:
    sent = Sent()
    sent.begin(1, "forever")
    sent.begin(2, "count 999")
    sent.turns.take(Credit(2, 10_000))
    sent.until_all_ended(1)
    assert sum(len(message.events) for message in sent.of(Events) if message.id == 1) == WINDOW
    assert sent.of(Ended)[0].id == 2


def test_the_main_thread_sleeps_until_there_is_something_to_do() -> None:
    """Paused answers cost nothing; credit, a stop or a new answer wake it."""
    sent = Sent()
    sent.begin(1, "forever")
    for _ in range(WINDOW):
        sent.turns.turn()
    n_steps = sent.turns.n_steps
    waiting = threading.Thread(target=sent.turns.turn)
    waiting.start()
    while not sent.turns.idle:
        pass
    assert sent.turns.n_steps == n_steps
    sent.changed.clear()
    sent.turns.take(Credit(1, 1))
    waiting.join(5)
    assert not waiting.is_alive()
    assert sent.turns.n_steps == n_steps + 1


def test_messages_about_answers_that_are_over_are_dropped() -> None:
    sent = Sent()
    messages: list[Stop | Credit | SetKnobs] = [Stop(9), Credit(9, 5), SetKnobs(9, Knobs())]
    for message in messages:
        sent.turns.take(message)
    sent.begin(1, "count 1")
    sent.until_all_ended(1)
    assert sent.text(1) == "end"


def test_calls_are_served_beside_the_answers(capsys: pytest.CaptureFixture[str]) -> None:
    sent = Sent()
    threading.Thread(target=sent.turns.serve_calls, daemon=True).start()
    calls: list[Call] = [
        Tokenize(1, "ab\ud800", True, False),
        Detokenize(2, [104, 105], False),
        Render(3, [{"role": "user", "content": "x"}], None),
        Detokenize(4, [999], False),
        Tokenize(5, "c", False, False),
    ]
    for call in calls:
        sent.turns.take(call)
    while len(sent.messages) < len(calls):
        assert sent.changed.wait(5)
        sent.changed.clear()
    replies: list[Reply] = sent.messages
    assert [reply.id for reply in replies] == [1, 2, 3, 4, 5]
    assert replies[0].value == [1, *b"ab", *"�".encode()]
    assert (replies[1].value, replies[2].value, replies[4].value) == (b"hi", "1 None", [99])
    assert isinstance(replies[3].error, EngineError)
    assert "Traceback" in capsys.readouterr().err
