"""The history's file: several processes, a full disk, damage, and versions. About 8 s, most of it starts of Python."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eftlite.errors import EFTError, HistoryError
from eftlite.history import History, database
from eftlite.history.database import Database, migrate
from eftlite.history.recorder import SYNC_S
from eftlite.history.schema import MIGRATIONS
from tests.history.versions import LATER, dying, state

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


def python(code: str, *words: object) -> subprocess.Popen[str]:
    """Another process."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def at_once(n: int, imports: str, code: str, *words: object) -> None:
    """Several processes that import first and then begin at the same moment; the number of each is its first word."""
    waiting, start = os.pipe()
    begin = f"import sys\n{imports}\nprint(flush=True)\nsys.stdin.read()\n{code}"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", begin, str(number), *map(str, words)],
            stdin=waiting,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for number in range(n)
    ]
    os.close(waiting)
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    os.close(start)
    for process in running:
        ended(process)


def ended(process: subprocess.Popen[str]) -> str:
    """What a process printed, when it has ended well."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def talk(history: History, n_turns: int, answer: str = "Because.") -> str:
    """A conversation of so many turns; its id."""
    name, parent = history.create(), None
    for index in range(n_turns):
        recorder = history.begin_answer(name, history.add_user(name, f"Question {index}", parent))
        recorder.add(answer)
        recorder.finish("complete")
        parent = recorder.message_id
    return name


def whole(path: Path) -> bool:
    """SQLite's own opinion."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# --- what waits for the disk ---


def test_one_connection_waits_for_the_disk_and_one_does_not(path: Path) -> None:
    opened = Database(path, MIGRATIONS)
    for durable, level in ((True, 2), (False, 1)):
        with opened.change(durable) as connection:
            assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
            assert connection.execute("PRAGMA secure_delete").fetchone() == (1,)
            assert durable or connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
    opened.close()


def test_pieces_wait_for_the_disk_once_a_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[bool] = []
    change = Database.change

    def noted(self: Database, durable: bool = True) -> Any:
        waits.append(durable)
        return change(self, durable)

    with History(path) as history:
        name = history.create()
        monkeypatch.setattr(Database, "change", noted)
        asked = history.add_user(name, "Why?", None)
        now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: now)
        recorder = history.begin_answer(name, asked)
        for step in (0.0, 0.5, 0.5, 0.1, SYNC_S):
            now += step
            recorder.add("x")
        recorder.finish("complete")
    assert waits == [True, False, False, False, True, False, True, True]


# --- several processes ---

TALKER = """
import sys
from pathlib import Path
from eftlite.history import History
with History(Path(sys.argv[1])) as history:
    name, parent = history.create(title=sys.argv[2]), None
    for index in range(int(sys.argv[3])):
        recorder = history.begin_answer(name, history.add_user(name, f"{index}?", parent))
        recorder.add(f"{index}")
        recorder.add("!")
        recorder.finish("complete")
        parent = recorder.message_id
"""


@pytest.mark.parametrize("n_turns", [200, pytest.param(1000, marks=pytest.mark.stress)])
def test_two_processes_keep_every_turn(path: Path, n_turns: int) -> None:
    """Row 23: as many questions and answers as were asked, nobody is told that the file is locked.

    2,000 turns take 2 s on a quiet machine with an SSD.
    """
    for process in [python(TALKER, path, title, n_turns) for title in ("one", "two")]:
        ended(process)
    with History(path) as history:
        for summary in history.list():
            said = [message.content for message in history.get(summary.id).path()]
            assert said == [text for index in range(n_turns) for text in (f"{index}?", f"{index}!")]
        assert {summary.title for summary in history.list()} == {"one", "two"}
    assert whole(path)


def test_processes_may_make_the_file_at_the_same_moment(path: Path) -> None:
    """Each waits for the others."""
    code = "with History(Path(sys.argv[2])) as history: history.create(title=sys.argv[1])"
    at_once(8, "from pathlib import Path\nfrom eftlite.history import History", code, path)
    with History(path) as history:
        assert sorted(summary.title for summary in history.list()) == list("01234567")


def test_new_file_that_another_program_writes_is_waited_for(path: Path) -> None:
    """SQLite itself refuses at once to switch to a write-ahead log then."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.1, other.execute, ("COMMIT",))
        timer.start()
        with History(path) as history:
            talk(history, 1)
        timer.join()


def test_lock_that_does_not_end_is_told_and_nothing_is_half_done(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    with History(path) as history, closing(sqlite3.connect(path, isolation_level=None)) as other:
        name = talk(history, 1)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(HistoryError, match=r"history\.db: another program has kept it locked"):
            history.add_user(name, "Why?", None)
        assert len(history.get(name).messages) == 2
        other.execute("COMMIT")
        history.add_user(name, "Why?", None)
        assert len(history.get(name).messages) == 3


# --- a full disk ---


def fill(history: History, name: str, kept: list[str], n_turns: int, seed: int) -> None:
    """Go on with a conversation of texts long and short; what was acknowledged of each is put into ``kept``."""
    draw = random.Random(seed)
    for _ in range(n_turns):
        asked = "Question? " * draw.choice((1, 100, 1000))
        message = history.add_user(name, asked, history.get(name).leaf)
        kept.append(asked)
        recorder = history.begin_answer(name, message)
        kept.append("")
        for _ in range(draw.choice((1, 10))):
            piece = "Because. " * draw.choice((1, 100, 1000))
            recorder.add(piece)
            kept[-1] += piece
        recorder.finish("complete", tokens=[{"t": str(number)} for number in range(draw.choice((1, 5000)))])


def check_kept(history: History, name: str, kept: list[str]) -> None:
    """What was acknowledged is there, nothing else is, and no row is half written."""
    said = [message.content for message in history.get(name).path()]
    assert said == kept


def check_after(path: Path, name: str, kept: list[str]) -> None:
    """The same when there is room again; the file is sound and can be used."""
    assert whole(path)
    with History(path) as history:
        check_kept(history, name, kept)
        history.list("question")
        talk(history, 1)


def test_full_disk_at_every_page(path: Path) -> None:
    """Row 19, SQLite's own limit on pages: at each further page some other write is the first that fails."""
    with History(path) as history:
        name = talk(history, 1)
    old = ["Question 0", "Because."]
    told, ends = [], set()
    for extra in range(20):
        here = path.with_name(f"{extra}.db")
        shutil.copy(path, here)
        kept = old.copy()
        with History(here) as history:
            for connection in (history._database._sure, history._database._quick):
                (n_pages,) = connection.execute("PRAGMA page_count").fetchone()
                connection.execute(f"PRAGMA max_page_count={n_pages + extra}")
            try:
                fill(history, name, kept, 100, seed=extra)
            except HistoryError as error:
                told.append(str(error))
                ends.add(history.get(name).messages[-1].state)
            check_kept(history, name, kept)
        check_after(here, name, kept)
    assert len(told) == 20
    assert ends == {"complete", "streaming"}  # questions failed, and answers
    for line in told:
        assert re.match(r"\d+\.db: there is no room on its disk\. Make room there\. The file is /.*/\d+\.db$", line)


FILLER = """
import json, resource, shutil, sys
from pathlib import Path
from eftlite.errors import HistoryError
from eftlite.history import History
from tests.history.test_database import check_after, check_kept, fill
path, name = Path(sys.argv[1]), sys.argv[2]
told = []
for limit in range(int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])):
    here, kept = path.with_name(f"{limit}.db"), ["Question 0", "Because."]
    shutil.copy(path, here)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        with History(here) as history:
            try:
                fill(history, name, kept, 3, seed=limit)
            except HistoryError as error:
                told.append(str(error))
            check_kept(history, name, kept)
    except HistoryError as error:
        told.append(str(error))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    check_after(here, name, kept)
    for file in here.parent.glob(here.name + "*"):
        file.unlink()
print(json.dumps(told))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no file's size")
def test_full_disk_at_every_write(path: Path) -> None:
    """Row 19 with real writes that the kernel refuses, in each file at each size."""
    with History(path) as history:
        name = talk(history, 1)
    told = json.loads(ended(python(FILLER, path, name, 4096, 400_000, 12_288)))
    assert len(told) > 20
    assert all(".db: its disk does not take or give data. Is the disk full" in line for line in told)
    assert all(str(path.parent) in line for line in told)


# --- damage ---


def test_file_of_something_else_is_left_alone(path: Path) -> None:
    path.write_text("My diary. " * 1000, encoding="utf-8")
    with pytest.raises(HistoryError, match=r"history\.db: the file is damaged") as caught:
        History(path)
    assert str(path) in caught.value.hint
    assert "left as it is" in caught.value.hint
    assert path.read_text(encoding="utf-8") == "My diary. " * 1000


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HistoryError) as caught:
        History(tmp_path / "file" / "history.db")
    assert "history.db" in caught.value.message
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(HistoryError, match=r"folder\.db: it cannot be opened"):
        History(tmp_path / "folder.db")


def use(path: Path) -> None:
    """Everything that can be done with a history."""
    with History(path) as history:
        for summary in history.list("question"):
            for message in history.get(summary.id).messages:
                history.tokens(message.id)
        talk(history, 2)
        for summary in history.list():
            history.update(summary.id, title="x")
        history.delete(history.latest() or "")


def test_damaged_files_give_no_traceback(path: Path) -> None:
    """Bytes changed, pages zeroed, ends cut off: an error in words or, where it does not matter, none."""
    with History(path) as history:
        for _ in range(5):
            talk(history, 20, "Because. " * 50)
    data = path.read_bytes()
    draw = random.Random(1)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        kind, at = draw.randrange(3), draw.randrange(len(data))
        if kind == 0:
            for _ in range(draw.choice((1, 20))):
                damaged[draw.randrange(len(data))] ^= draw.randrange(1, 256)
        elif kind == 1:
            damaged[at : at + 4096] = bytes(len(damaged[at : at + 4096]))
        else:
            del damaged[at:]
        path.write_bytes(damaged)
        try:
            use(path)
        except EFTError:
            refused += 1
        for beside in path.parent.glob("history.db-*"):
            beside.unlink()
    assert refused > 30


# --- versions ---


@pytest.fixture
def versions(path: Path) -> list[tuple[int, list[str]]]:
    """A file of version 1 in the middle of an answer, and what it is as each version."""
    with closing(Database(path, MIGRATIONS)) as opened, opened.change() as connection:
        connection.execute("INSERT INTO conversations VALUES ('c', 'T', '', '', 0, 0, 1)")
        connection.execute(
            "INSERT INTO messages VALUES (1, 'c', NULL, 'assistant', '', '', 'streaming', '{}', '{}', NULL, 0, 1, 1)"
        )
        connection.execute("INSERT INTO pieces VALUES (1, 1, 'piece')")
    found = [(0, []), state(path)]
    later = path.with_name("later.db")
    for number in range(2, len(LATER) + 1):
        shutil.copy(path, later)
        Database(later, LATER[:number]).close()
        found.append(state(later))
    return found


def test_later_versions_keep_everything(path: Path, versions: list[tuple[int, list[str]]]) -> None:
    Database(path, LATER).close()
    version, dump = state(path)
    assert version == 3
    assert sum("'piece'" in line for line in dump) == 1
    assert any("pinned" in line for line in dump)
    copy = path.with_name("history.db.v1.bak")
    assert state(copy) == versions[1]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600 or sys.platform == "win32"
    assert sorted(file.name for file in path.parent.glob("history.db*")) == ["history.db", copy.name]


class Interrupted(Exception):
    """A power cut, as far as a test can have one."""


def test_migration_interrupted_at_every_statement(path: Path, versions: list[tuple[int, list[str]]]) -> None:
    """Row 24: one version or another, whole; and the next start finishes it."""

    def die() -> None:
        raise Interrupted

    left = 0
    seen: set[int] = set()
    while True:
        left += 1
        for before in (True, False):
            here = path.with_name("here.db")
            for file in here.parent.glob("here.db*"):
                file.unlink()
            shutil.copy(path, here)
            with dying(here, left, before, die) as connection:
                try:
                    migrate(connection, here, LATER)
                except Interrupted:
                    pass
                else:
                    assert left > 15
                    assert seen == {1, 2, 3}
                    return
            found = state(here)
            assert found == versions[found[0]]
            seen.add(found[0])
            Database(here, LATER).close()
            assert state(here) == versions[3]


KILLED = """
import os, signal, sys
from pathlib import Path
from eftlite.history.database import migrate
from tests.history.versions import LATER, dying
path, left = Path(sys.argv[1]), int(sys.argv[2])
with dying(path, left, left % 2 == 0, lambda: os.kill(os.getpid(), signal.SIGKILL)) as connection:
    migrate(connection, path, LATER)
print("done")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_migration_killed_at_every_statement(path: Path, versions: list[tuple[int, list[str]]]) -> None:
    """Row 24 with real deaths."""
    seen: set[int] = set()
    running: list[tuple[Path, subprocess.Popen[str]]] = []
    for left in range(1, 25):
        here = path.with_name(f"{left}.db")
        shutil.copy(path, here)
        running.append((here, python(KILLED, here, left)))
        if len(running) < 4 and left < 24:
            continue
        for file, process in running:
            out, err = process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL or out == "done\n", err
            found = state(file)
            assert found == versions[found[0]]
            assert whole(file)
            seen.add(found[0])
            Database(file, LATER).close()
            assert state(file) == versions[3]
        running.clear()
    assert seen == {1, 2, 3}


def test_first_version_is_made_whole_or_not_at_all(path: Path) -> None:
    def die() -> None:
        raise Interrupted

    for left in range(1, 9):
        with dying(path, left, False, die) as connection, pytest.raises(Interrupted):
            migrate(connection, path, MIGRATIONS)
        assert state(path)[0] == 0
    with History(path) as history:
        talk(history, 1)


def test_two_processes_may_migrate_at_the_same_moment(path: Path, versions: list[tuple[int, list[str]]]) -> None:
    imports = """
from pathlib import Path
from eftlite.history.database import Database
from tests.history.versions import LATER"""
    at_once(4, imports, "Database(Path(sys.argv[2]), LATER).close()", path)
    assert state(path) == versions[3]
    assert state(path.with_name("history.db.v1.bak")) == versions[1]


def test_copy_that_was_not_finished_is_made_again(path: Path, versions: list[tuple[int, list[str]]]) -> None:
    path.with_name("history.db.v1.part").write_bytes(b"half" * 5000)
    Database(path, LATER).close()
    assert state(path.with_name("history.db.v1.bak")) == versions[1]
    assert not path.with_name("history.db.v1.part").exists()


def test_damaged_file_is_not_migrated(path: Path) -> None:
    with History(path) as history:
        talk(history, 50, "Because. " * 100)
    damaged = bytearray(path.read_bytes())
    damaged[-4096:] = bytes(4096)
    path.write_bytes(damaged)
    with pytest.raises(HistoryError, match="the file is damaged"):
        Database(path, LATER)
    assert path.read_bytes() == damaged
    assert not path.with_name("history.db.v1.bak").exists()


def test_migration_that_orphans_rows_is_undone(path: Path, versions: list[tuple[int, list[str]]]) -> None:
    with pytest.raises(HistoryError, match="rows that belong to nothing"):
        Database(path, (*MIGRATIONS, ("DELETE FROM messages",)))
    assert state(path) == versions[1]


def test_newer_file_is_refused_and_untouched(path: Path, versions: list[tuple[int, list[str]]]) -> None:
    Database(path, LATER).close()
    before = path.read_bytes()
    with pytest.raises(HistoryError, match=r"history\.db: expected version 1 or an older one, got 3") as caught:
        History(path)
    assert "update this one" in caught.value.hint
    assert path.read_bytes() == before
