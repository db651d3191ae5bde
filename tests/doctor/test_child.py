"""The child process: answers come back, and so does the way in which it failed or died."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from eftlite.doctor.child import ChildDiedError, call
from eftlite.errors import EFTError, VocabularyError
from tests.doctor import deaths

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def tests_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def silent(_: str) -> None:
    pass


def test_it_answers_and_reports() -> None:
    told: list[str] = []
    assert call(deaths.answer, 2, 3, report=told.append) == 5
    assert told == ["adding"]


def test_an_exit_is_told_with_its_last_line() -> None:
    with pytest.raises(ChildDiedError, match="exit code 3") as error:
        call(deaths.exit_at_once, 3, report=silent)
    assert error.value.last_line == "ggml: assertion failed"
    assert not error.value.illegal_instruction


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_signal_is_named() -> None:
    with pytest.raises(ChildDiedError, match="died of SIGSEGV") as error:
        call(deaths.signalled, int(signal.SIGSEGV), report=silent)
    assert not error.value.illegal_instruction
    with pytest.raises(ChildDiedError) as error:
        call(deaths.illegal, report=silent)
    assert error.value.illegal_instruction


def test_one_that_hangs_is_ended() -> None:
    with pytest.raises(ChildDiedError, match="did not answer in time"):
        call(deaths.hang, report=silent, limit_s=0.5)


def test_errors_come_back_as_they_were() -> None:
    with pytest.raises(VocabularyError) as error:
        call(deaths.refuse, report=silent)
    assert (error.value.hint, error.value.token_id, error.value.texts) == ("choose others", 7, ("a", "b"))
    with pytest.raises(EFTError, match="ValueError: no such thing"):
        call(deaths.fail, report=silent)
