from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlite.errors import BusyError
from eftlite.server.waiting import MAX_RETRY_S, WaitingLine


def line(*items: tuple[str, int], limit: int = 99, n_slots: int = 2) -> WaitingLine[int]:
    made: WaitingLine[int] = WaitingLine(limit, n_slots)
    for client, item in items:
        made.add(client, item)
    return made


def popped(waiting: WaitingLine[int]) -> list[int]:
    return [waiting.pop() for _ in range(len(waiting))]


def test_one_client_is_served_in_order() -> None:
    assert popped(line(("a", 1), ("a", 2), ("a", 3))) == [1, 2, 3]


def test_clients_take_turns() -> None:
    assert popped(line(("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6))) == [1, 4, 5, 2, 6, 3]


def test_a_client_that_comes_back_queues_behind_the_others() -> None:
    waiting = line(("a", 1), ("b", 2))
    assert waiting.pop() == 1
    waiting.add("a", 3)
    assert popped(waiting) == [2, 3]


def test_a_full_line_refuses_and_keeps_what_it_has() -> None:
    waiting = line(("a", 1), ("b", 2), limit=2)
    with pytest.raises(BusyError, match="at most 2") as caught:
        waiting.add("c", 3)
    assert caught.value.retry_after_s == 1
    assert popped(waiting) == [1, 2]
    waiting.add("c", 3)


def test_nobody_is_waiting() -> None:
    with pytest.raises(IndexError):
        line().pop()


def test_removing_leaves_the_turns_of_others() -> None:
    waiting = line(("a", 1), ("b", 2), ("a", 3), ("c", 4))
    waiting.remove(1)
    waiting.remove(2)
    waiting.remove(99)
    assert popped(waiting) == [3, 4]


def test_clearing_gives_everything_back() -> None:
    waiting = line(("a", 1), ("b", 2), ("a", 3))
    assert sorted(waiting.clear()) == [1, 2, 3]
    assert len(waiting) == 0


def test_retry_after_grows_with_the_line_and_with_what_answers_take() -> None:
    waiting = line(n_slots=2)
    assert waiting.retry_after_s == 1
    waiting.served(8.0)
    waiting.served(12.0)
    assert waiting.retry_after_s == 1
    for item in range(5):
        waiting.add("a", item)
    assert waiting.retry_after_s == 25
    waiting.served(1e9)
    assert waiting.retry_after_s == MAX_RETRY_S


def test_only_recent_answers_count() -> None:
    waiting = line(("a", 1), n_slots=1)
    waiting.served(500.0)
    for _ in range(40):
        waiting.served(3.0)
    assert waiting.retry_after_s == 3


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_nothing_is_lost_doubled_or_reordered(steps: list[tuple[str, bool]]) -> None:
    """Whatever comes and goes: each client's items leave in order, and no client is passed over twice."""
    waiting: WaitingLine[tuple[str, int]] = WaitingLine(20, 1)
    inside: dict[str, list[tuple[str, int]]] = {"a": [], "b": [], "c": []}
    passed_over = dict.fromkeys("abc", 0)
    for number, (client, comes) in enumerate(steps):
        if comes and len(waiting) < 20:
            waiting.add(client, (client, number))
            inside[client].append((client, number))
        elif len(waiting):
            served, at = waiting.pop()
            assert inside[served].pop(0) == (served, at)
            passed_over[served] = 0
            for other in "abc":
                passed_over[other] = passed_over[other] + 1 if inside[other] and other != served else 0
            assert max(passed_over.values()) <= 2, "with three clients each waits for two others at most"
        assert len(waiting) == sum(map(len, inside.values()))
