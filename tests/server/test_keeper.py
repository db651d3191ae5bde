from __future__ import annotations

from eftlite.errors import EngineError, UnavailableError
from eftlite.server.keeper import MAX_BACK_OFF_S, away_s, back_off_s


def test_the_first_death_costs_nothing_and_many_do_not_burn_the_machine() -> None:
    """The lives themselves are tested in test_engine.py."""
    waits_s = [back_off_s(n) for n in range(12)]
    assert waits_s[:5] == [0.0, 0.0, 0.5, 1.0, 2.0]
    assert waits_s == sorted(waits_s)
    assert waits_s[-1] == MAX_BACK_OFF_S
    assert back_off_s(5000) == MAX_BACK_OFF_S


def test_what_another_machine_lacks_may_come_back() -> None:
    assert away_s(UnavailableError("RPC worker a:1: it cannot be reached", retry_after_s=2)) == 2
    assert [away_s(error) for error in (None, EngineError("no memory"), UnavailableError("for ever"))] == [0, 0, 0]
