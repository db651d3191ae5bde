"""The text for measuring models: the same each time, as long as asked for, and needing no torch."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def printed(*words: str, hash_seed: str = "0") -> str:
    """What the command prints."""
    code = "import runpy, sys; sys.modules['torch'] = None; runpy.run_module('lab.train.sample', run_name='__main__')"
    result = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        check=True,
    )
    return result.stdout.decode()


def test_the_text_of_the_manual() -> None:
    """A changed text would make the manual's figures wrong."""
    text = printed()
    assert hashlib.sha256(text.encode()).hexdigest().startswith("f67635525513")
    assert text == printed(hash_seed="1")


@pytest.mark.parametrize("chat", [[], ["--chat"]])
def test_length_and_seed(chat: list[str]) -> None:
    short, other = printed("--chars", "3000", *chat), printed("--chars", "3000", "--seed", "2", *chat)
    assert 3000 <= len(short) < 6000
    assert short != other


def test_conversations() -> None:
    for line in printed("--chars", "5000", "--chat").splitlines():
        turns = json.loads(line)
        assert {turn["role"] for turn in turns} <= {"system", "user", "assistant"}
        assert all(isinstance(turn["content"], str) for turn in turns)
