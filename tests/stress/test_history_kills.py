"""Nothing that was shown is lost: processes that record a conversation are killed at random moments.

Duration: about 2 minutes on one quiet core, ``pytest -m stress tests/stress/test_history_kills.py -s``.
"""

from __future__ import annotations

import os
import random
import re
import select
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from eftlite.history import Conversation, History

if sys.platform == "win32":
    pytest.skip("Windows has neither SIGKILL nor pseudo-terminals", allow_module_level=True)
import pty

pytestmark = pytest.mark.stress
ROOT = Path(__file__).resolve().parents[2]
N_KILLS = 200
N_TERMINALS = 20

# Shows on stdout each question that was kept and each piece of an answer once it was kept.
TALKER = """
import os, random, sys
from pathlib import Path
from eftlite.history import History
draw = random.Random(int(sys.argv[2]))
def show(text): os.write(1, text.encode())
def text(): return "".join(draw.choices("abc de é€😀\\n", k=draw.choice((1, 5, 50))))
with History(Path(sys.argv[1])) as history:
    name, parent = history.create(), None
    show(name)
    while True:
        question = "Q" + text()
        asked = history.add_user(name, question, parent)
        show(question)
        recorder = history.begin_answer(name, asked, settings={"beta": 1.0})
        for _ in range(draw.choice((1, 100, 2000))):
            piece = text()
            recorder.add(piece)
            show(piece)
        recorder.finish(draw.choice(("complete", "stopped")), {"n": 1}, [{"t": piece}] * 20)
        parent = recorder.message_id
"""


def reopened(path: Path, name: str) -> tuple[Conversation, float]:
    """A conversation as the next start finds it, and the seconds that took."""
    began = time.perf_counter()
    with History(path) as history:
        kept = history.get(name)
    took = time.perf_counter() - began
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM pieces").fetchone() == (0,)
    return kept, took


def test_two_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    """Row 17, the history's part: all that was shown is there, the file is sound, the next start takes < 2 s."""
    path, draw = tmp_path / "history.db", random.Random(17)
    slowest, n_shown, n_interrupted = 0.0, 0, 0
    for number in range(N_KILLS):
        with subprocess.Popen(
            [sys.executable, "-c", TALKER, str(path), str(number)], stdout=subprocess.PIPE, cwd=ROOT
        ) as process:
            assert process.stdout is not None
            name = process.stdout.read(12).decode()
            timer = threading.Timer(draw.uniform(0.0, 0.3), process.kill)
            timer.start()
            shown = process.stdout.read().decode()
            timer.join()
        assert process.returncode == -signal.SIGKILL
        kept, took = reopened(path, name)
        turns = kept.path()
        said = "".join(message.content for message in turns)
        assert said.startswith(shown), f"kill {number}: shown {shown[-200:]!r}, kept {said[-200:]!r}"
        assert len(said) - len(shown) <= 51  # a text that was kept and could not be shown any more
        assert all(message.state in {"complete", "stopped"} for message in turns[:-1])
        assert not turns or turns[-1].state in {"complete", "stopped", "interrupted"}
        slowest, n_shown = max(slowest, took), n_shown + len(shown)
        n_interrupted += bool(turns) and turns[-1].state == "interrupted"
    assert n_interrupted > N_KILLS / 8
    assert slowest < 2
    size = path.stat().st_size >> 10
    print(
        f"{N_KILLS} kills: {n_shown} characters shown, none lost; {n_interrupted} answers interrupted; "
        f"slowest start {slowest * 1e3:.0f} ms with {size} KiB"
    )


# --- the program itself ---


class Terminal:
    """`eftlite chat` in a terminal, with all it has shown."""

    def __init__(self, *words: str) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
            command = [sys.executable, "-m", "eftlite", "chat", *words]
            os.execve(sys.executable, command, environment)
        self.shown = b""

    def type(self, text: str) -> None:
        """Send keys."""
        os.write(self._fd, text.encode())

    def wait(self, is_there: Callable[[bytes], bool], seconds: float = 60) -> None:
        """Read until something has been shown, or the time is over."""
        deadline = time.monotonic() + seconds
        while not is_there(self.shown) and (left := deadline - time.monotonic()) > 0:
            if select.select([self._fd], [], [], left)[0]:
                self.shown += os.read(self._fd, 65536)

    def kill(self) -> None:
        """End it at once, and read what it had shown."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        try:
            while data := os.read(self._fd, 65536):
                self.shown += data
        except OSError:  # Linux's way to say that the other end is closed
            pass
        os.close(self._fd)

    @property
    def answer(self) -> str:
        """What is to be seen of the last answer: all between the prompt's end and the dim line under it."""
        last = self.shown.decode("utf-8", "ignore").rpartition(ANSWERS)[2].partition("\x1b[2m")[0]
        return re.sub(r"\r[^\n]*\r", "", last.replace("\r\n", "\n")).rstrip("\n")


ANSWERS = "\x1b[?2004l"  # the prompt is over


def test_killed_chats_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 17 through `eftlite chat` on a terminal, killed while the bundled family answers."""
    monkeypatch.delenv("NO_COLOR")
    draw, path = random.Random(17), None
    n_cut, n_shown, slowest = 0, 0, 0.0
    for number in range(N_TERMINALS):
        terminal = Terminal("--seed", str(number), "--no-speculative", *([] if number % 2 else ["--mode", "base"]))
        terminal.wait(lambda shown: b"> " in shown or b"\x08\x1b[2C" in shown)
        terminal.type("Where is Kelworth?\r")
        terminal.wait(lambda shown: b"first after" in shown)
        terminal.type("And who lives there?\r")
        terminal.wait(lambda shown: shown.count(ANSWERS.encode()) == 2)
        terminal.wait(lambda shown: False, draw.uniform(0.0, 0.15))
        terminal.kill()
        with History() as history:
            path, name = history.path, history.latest()
        kept, took = reopened(path, name or "")
        slowest = max(slowest, took)
        assert [message.content for message in kept.path()][::2] == ["Where is Kelworth?", "And who lives there?"]
        said = kept.path()[3].content if len(kept.path()) > 3 else ""
        assert said.startswith(terminal.answer), f"shown {terminal.answer!r}, kept {said!r}"
        n_shown += len(terminal.answer)
        n_cut += kept.path()[-1].state == "interrupted"
    assert n_cut > N_TERMINALS / 4
    print(
        f"{N_TERMINALS} terminals killed: {n_cut} in an answer, {n_shown} characters shown, none lost; "
        f"slowest start {slowest * 1e3:.0f} ms"
    )
