"""Conversations kept and read again: trees, answers that stream, searching, exports, deleting."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eftlite.cli.conversation import Conversation as Talk
from eftlite.errors import InputError, NotFoundError
from eftlite.history import Conversation, History, Message, export_json, export_markdown
from eftlite.history.search import MAX_PREVIEW, _around

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "state" / "history.db") as history:
        yield history


def turn(history: History, conversation: str, question: str, answer: str, parent: int | None = None) -> tuple[int, int]:
    """A question with its whole answer; their ids."""
    asked = history.add_user(conversation, question, parent)
    recorder = history.begin_answer(conversation, asked)
    recorder.add(answer)
    recorder.finish("complete")
    return asked, recorder.message_id


def texts(messages: list[Message]) -> list[str]:
    return [message.content for message in messages]


# --- trees ---


def test_conversation_is_read_again_as_it_was(tmp_path: Path) -> None:
    with History(tmp_path / "history.db") as history:
        name = history.create(system="Be brief.", family="demo")
        asked = history.add_user(name, "Why?", None)
        recorder = history.begin_answer(name, asked, "tuned", {"beta": 1.5})
        for piece in ("Be", "", "cause", " € 😀."):
            recorder.add(piece)
        recorder.finish("stopped", {"n_tokens": 3}, [{"t": "Be"}])
    with History(tmp_path / "history.db") as history:
        kept = history.get(name)
        assert history.tokens(recorder.message_id) == [{"t": "Be"}]
    question, answer = kept.messages
    assert (kept.title, kept.system, kept.family, kept.leaf) == ("Why?", "Be brief.", "demo", answer.id)
    assert (question.role, question.content, question.parent, question.state) == ("user", "Why?", None, "complete")
    assert (answer.role, answer.mode, answer.parent, answer.state) == ("assistant", "tuned", asked, "stopped")
    assert (answer.content, answer.settings, answer.result) == ("Because € 😀.", {"beta": 1.5}, {"n_tokens": 3})
    assert kept.created <= question.created <= answer.created <= kept.updated
    assert kept.chat_messages() == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because € 😀."},
    ]


def test_edited_and_repeated_turns_are_siblings(history: History) -> None:
    name = history.create()
    first, answered = turn(history, name, "a", "A")
    turn(history, name, "b", "B", answered)
    _, again = turn(history, name, "b, edited", "B2", answered)
    recorder = history.begin_answer(name, first)
    recorder.add("A2")
    recorder.finish("complete")
    kept = history.get(name)
    assert texts(list(kept.messages)) == ["a", "A", "b", "B", "b, edited", "B2", "A2"]
    assert texts(kept.path()) == ["a", "A2"]
    assert texts(kept.path(again)) == ["a", "A", "b, edited", "B2"]


def test_three_answers_side_by_side(history: History) -> None:
    name = history.create()
    asked = history.add_user(name, "Why?", None)
    recorders = {
        mode: history.begin_answer(name, asked, mode, leads=mode == "eft") for mode in ("base", "eft", "tuned")
    }
    for mode, recorder in recorders.items():
        recorder.add(mode)
        recorder.finish("complete")
    kept = history.get(name)
    assert {message.mode for message in kept.messages if message.parent == asked} == set(recorders)
    assert texts(kept.path()) == ["Why?", "eft"]


def test_questions_without_an_answer_are_left_out_of_turns(history: History) -> None:
    name = history.create()
    lost = history.add_user(name, "never answered", None)
    empty = history.begin_answer(name, history.add_user(name, "failed", lost))
    empty.finish("failed")
    last = history.add_user(name, "last", empty.message_id)
    kept = history.get(name)
    assert texts(kept.path()) == ["never answered", "failed", "", "last"]
    assert texts(kept.turns()) == ["last"]
    assert texts(kept.turns(empty.message_id)) == ["failed"]
    assert [message["content"] for message in kept.chat_messages(last)] == ["last"]


def test_leaf_moves_and_returns_to_the_beginning(history: History) -> None:
    name = history.create()
    asked, answered = turn(history, name, "a", "A")
    turn(history, name, "b", "B", answered)
    history.update(name, leaf=asked)
    assert texts(history.get(name).path()) == ["a"]
    history.update(name, leaf=0)
    kept = history.get(name)
    assert (kept.leaf, kept.path(), len(kept.messages)) == (None, [], 4)


def test_messages_of_other_conversations_are_refused(history: History) -> None:
    one, other = history.create(), history.create()
    asked, answered = turn(history, one, "a", "A")
    for refused in (
        lambda: history.add_user(other, "x", answered),
        lambda: history.begin_answer(other, asked),
        lambda: history.update(other, leaf=answered),
        lambda: history.get(other).path(answered),
        lambda: history.tokens(answered + 1),
    ):
        with pytest.raises(NotFoundError, match="message: expected one"):
            refused()
    with pytest.raises(InputError, match="parent: expected a question"):
        history.begin_answer(one, answered)
    with pytest.raises(InputError, match="content: expected a question"):
        history.add_user(one, "", None)
    assert history.get(other).messages == ()


def test_unknown_conversations_are_refused(history: History) -> None:
    for refused in (
        lambda: history.get("abc"),
        lambda: history.get(""),
        lambda: history.update("abc", title="x"),
        lambda: history.delete("abc"),
        lambda: history.add_user("abc", "x", None),
        lambda: history.begin_answer("abc", 1),
    ):
        with pytest.raises(NotFoundError, match="conversation: expected the id"):
            refused()


def test_beginning_of_an_id_is_enough_if_it_is_one(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["aaa1", "aab2", "bbb3"])
    monkeypatch.setattr("secrets.token_hex", lambda n: next(ids))
    for _ in range(3):
        history.create()
    assert history.get("aab").id == "aab2"
    with pytest.raises(NotFoundError, match="with which several begin"):
        history.get("aa")
    with pytest.raises(NotFoundError):
        history.get("%")


def test_titles(history: History) -> None:
    name = history.create()
    turn(history, name, "  What is\n the capital " + "of this country " * 5, "x")
    title = history.get(name).title
    assert title == "What is the capital of this country of this country of this…"
    assert len(title) <= 60
    history.add_user(name, "other", None)
    assert history.get(name).title == title
    history.update(name, title="Mine", system="S")
    assert (history.get(name).title, history.get(name).system) == ("Mine", "S")
    assert history.get(history.create(title="Given")).title == "Given"


# --- answers that stream ---


def test_answer_is_seen_while_it_streams(history: History) -> None:
    name = history.create()
    recorder = history.begin_answer(name, history.add_user(name, "Why?", None))
    recorder.add("Be")
    recorder.add("cause")
    with History(history.path) as other:
        answer = other.get(name).messages[-1]
    assert (answer.content, answer.state) == ("Because", "streaming")
    recorder.finish("complete")
    answer = history.get(name).messages[-1]
    assert (answer.content, answer.state) == ("Because", "complete")
    assert rows(history.path, "SELECT count(*) FROM pieces") == [(0,)]


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """What another program sees."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


WRITER = """
import sys
from pathlib import Path
from eftlite.history import History
with History(Path(sys.argv[1])) as history:
    name = history.create()
    recorder = history.begin_answer(name, history.add_user(name, "Why?", None))
    recorder.add("Because")
    print(name, flush=True)
    sys.stdin.read()
    recorder.finish("complete")
"""


def writer(path: Path) -> tuple[subprocess.Popen[str], str]:
    """Another process in the middle of an answer; ends it when its input ends. Its conversation's id."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_answer_of_another_process_that_lives_is_streaming(history: History) -> None:
    process, name = writer(history.path)
    with process:
        assert history.get(name).messages[-1].state == "streaming"
        process.communicate(timeout=60)
    assert history.get(name).messages[-1].state == "complete"


def test_answer_whose_process_was_killed_is_interrupted(history: History) -> None:
    """Also before anybody has waited for the process, which is a zombie until then."""
    process, name = writer(history.path)
    with process:
        process.kill()
        deadline = time.monotonic() + 60
        while (answer := history.get(name).messages[-1]).state == "streaming":
            assert time.monotonic() < deadline
    assert (answer.content, answer.state) == ("Because", "interrupted")
    assert rows(history.path, "SELECT content, state FROM messages WHERE role = 'assistant'") == [
        ("Because", "interrupted")
    ]


def test_process_with_the_number_of_a_dead_one_is_not_taken_for_it(history: History) -> None:
    name = history.create()
    history.begin_answer(name, history.add_user(name, "Why?", None)).add("Because")
    assert history.get(name).messages[-1].state == "streaming"
    connection = sqlite3.connect(history.path)
    with connection:
        connection.execute("UPDATE messages SET writer_began = writer_began - 60")
    connection.close()
    assert history.list()[0].preview == "Because"
    assert history.get(name).messages[-1].state == "interrupted"


def test_answer_taken_for_interrupted_loses_nothing(history: History) -> None:
    """As when the process that writes it cannot be seen from where the history is opened."""
    name = history.create()
    recorder = history.begin_answer(name, history.add_user(name, "Why?", None))
    recorder.add("Be")
    connection = sqlite3.connect(history.path)
    with connection:
        connection.execute("UPDATE messages SET writer_pid = 0")
    connection.close()
    assert history.get(name).messages[-1].state == "interrupted"
    recorder.add("cause")
    assert history.get(name).messages[-1].content == "Because"
    recorder.finish("complete")
    assert texts(list(history.get(name).messages)) == ["Why?", "Because"]


def test_only_the_first_end_counts(history: History) -> None:
    name = history.create()
    recorder = history.begin_answer(name, history.add_user(name, "Why?", None))
    recorder.finish("stopped", {"n": 1})
    recorder.finish("complete")
    answer = history.get(name).messages[-1]
    assert (answer.state, answer.result, history.tokens(answer.id)) == ("stopped", {"n": 1}, [])


def test_deleting_a_conversation_ends_its_recording(history: History) -> None:
    """The number of the deleted message must not be given to another, which would get the rest of this answer."""
    name = history.create()
    recorder = history.begin_answer(name, history.add_user(name, "Why?", None))
    history.delete(name)
    _, other = turn(history, history.create(), "a", "A")
    assert other > recorder.message_id
    with pytest.raises(NotFoundError, match="was deleted while it was written"):
        recorder.add("x")
    with pytest.raises(NotFoundError, match="was deleted while it was written"):
        recorder.finish("complete")


def test_halves_of_characters_are_replaced(history: History) -> None:
    name = history.create(title="\ud800", system="\udcff")
    turn(history, name, "a\ud800b\0c", "\udfff!")
    kept = history.get(name)
    assert (kept.title, kept.system, texts(kept.path())) == ("?", "?", ["a?b\0c", "?!"])
    assert history.list("\ud800 b\0C")[0].id == name
    with pytest.raises(NotFoundError):
        history.get("\ud800")


def test_threads_share_a_history(history: History) -> None:
    """Answers of several threads at a time, read meanwhile."""
    started = threading.Barrier(8)

    def talk(number: int) -> str:
        started.wait(30)
        name, parent = history.create(), None
        for index in range(20):
            _, parent = turn(history, name, f"{number} asks {index}", f"{number} hears {index}", parent)
            history.list(str(number))
        return name

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(talk, range(8)))
    for number, name in enumerate(names):
        heard = [message.content for message in history.get(name).path()][1::2]
        assert heard == [f"{number} hears {index}" for index in range(20)]


# --- searching ---


def test_list_is_newest_first_in_pages(history: History) -> None:
    names = [history.create() for _ in range(5)]
    for name in (*names, names[1]):
        turn(history, name, f"question of {name}", "An answer\nof two lines")
    order = [names[1], names[4], names[3], names[2], names[0]]
    assert [summary.id for summary in history.list()] == order
    assert [summary.id for summary in history.list(limit=2, offset=1)] == order[1:3]
    assert history.latest() == names[1]
    first = history.list()[0]
    assert (first.n_messages, first.title, first.preview) == (4, f"question of {names[1]}", "An answer of two lines")


def test_empty_history_has_nothing(history: History) -> None:
    assert (history.list(), history.list("x"), history.latest()) == ([], [], None)


@pytest.mark.parametrize(
    ("query", "is_found"),
    [
        ("kelworth", True),
        ("KELWORTH river", True),
        ("  river\tkelworth ", True),
        ("kelworth lake", False),
        ("strasse", True),
        ("STRASSE", True),
        ("ΣΊΣΥΦΟΣ", True),
        ("съешь", True),
        ("my title", True),
        ("title river", True),
        ("%", False),
        ("_", False),
        ("", True),
    ],
)
def test_every_word_must_occur_somewhere(history: History, query: str, is_found: bool) -> None:
    name = history.create(title="My TITLE")
    _, answered = turn(history, name, "Where is Kelworth?", "On the River, in the große Straße.")
    turn(history, name, "σίσυφος?", "Съешь ещё.", answered)
    turn(history, history.create(), "something else", "altogether")
    found = [summary.id for summary in history.list(query)]
    assert (name in found) == is_found
    assert len(found) == (is_found if query.strip() else 2)


def test_preview_shows_the_hit(history: History) -> None:
    name = history.create()
    turn(history, name, "Tell me", "word " * 100 + "\nneedle in ß\n" + "more " * 100)
    for query in ("NEEDLE", "needle ss"):
        preview = history.list(query)[0].preview
        assert preview.startswith("…")
        assert preview.endswith("…")
        assert "word needle in ß more" in preview
    assert history.list("tell")[0].preview == "Tell me"


@given(st.text("abßŉİ 中", max_size=200), st.text("xyßİ中", min_size=1, max_size=20), st.text("abßŉİ 中", max_size=200))
@example("ŉ" * 150, "word", "")
def test_preview_has_the_word_wherever_it_is(before: str, word: str, after: str) -> None:
    """Letters that become longer when folded stand before, in and after it."""
    preview = _around(before + word + after, word.casefold())
    assert word.casefold() in preview.casefold()
    assert len(preview) <= MAX_PREVIEW + 2


def test_too_many_words_are_refused(history: History) -> None:
    turn(history, history.create(), " ".join(map(str, range(64))), "x")
    assert len(history.list(" ".join(map(str, range(64))))) == 1
    with pytest.raises(InputError, match="at most 64 words, got 65"):
        history.list(" ".join(map(str, range(65))))


# --- exports ---


def test_exported_json_is_read_by_load(history: History) -> None:
    name = history.create(system="S", family="demo")
    asked, answered = turn(history, name, "a", "A")
    turn(history, name, "b", "B", answered)
    history.begin_answer(name, asked, leads=False).finish("failed")
    last = history.add_user(name, "c", history.get(name).leaf)
    history.begin_answer(name, last).finish("failed")
    text = export_json(history.get(name))
    talk = Talk.from_json(text)
    assert (talk.system, talk.turns, talk.unsent) == ("S", [("a", "A"), ("b", "B")], "c")
    tree = json.loads(text)["conversation"]
    assert [(message["id"], message["parent"]) for message in tree["messages"]] == [
        (message.id, message.parent) for message in history.get(name).messages
    ]
    assert json.loads(text)["family"] == "demo"


def test_exported_markdown(history: History) -> None:
    name = history.create(system="S")
    _, answered = turn(history, name, "a", "A")
    recorder = history.begin_answer(name, history.add_user(name, "b", answered))
    recorder.add("B and")
    recorder.finish("stopped")
    assert export_markdown(history.get(name)) == "# a\n\n*S*\n\n**You:** a\n\nA\n\n**You:** b\n\nB and\n\n*(stopped)*\n"


def test_empty_conversation_is_exported(history: History) -> None:
    kept = history.get(history.create())
    assert export_markdown(kept) == "# Conversation\n"
    assert Talk.from_json(export_json(kept)) == Talk()


def test_path_of_a_conversation_without_messages() -> None:
    assert Conversation("x", "", "", "", 0.0, 0.0, None, ()).turns() == []


# --- the file ---


def test_deleted_text_is_nowhere_in_the_files(history: History) -> None:
    kept, gone = history.create(), history.create(title="GONE in the title")
    turn(history, kept, "kept", "kept too")
    for index in range(50):
        turn(history, gone, f"GONE {index} " * 40, "and GONE " * 400)
    history.delete(gone)
    assert [summary.id for summary in history.list()] == [kept]
    left = b"".join(path.read_bytes() for path in history.path.parent.iterdir())
    assert b"kept too" in left
    assert b"GONE" not in left


def test_text_that_was_folded_leaves_no_copy(history: History) -> None:
    name = history.create()
    recorder = history.begin_answer(name, history.add_user(name, "a", None))
    recorder.add("PIECE")
    recorder.finish("complete")
    history.delete(name)
    assert b"PIECE" not in b"".join(path.read_bytes() for path in history.path.parent.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_file_is_private(history: History) -> None:
    turn(history, history.create(), "a", "A")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in history.path.parent.iterdir()}
    assert modes == dict.fromkeys(("history.db", "history.db-wal", "history.db-shm"), 0o600)
    assert stat.S_IMODE(history.path.parent.stat().st_mode) == 0o700


def test_it_is_in_the_state_folder(user_directories: Path) -> None:
    with History() as history:
        assert history.path == user_directories / "state" / "history.db"
    assert history.path.exists()


def test_temporary_history_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with History.temporary() as history:
        name = history.create()
        turn(history, name, "a", "A")
        assert texts(history.get(name).path()) == ["a", "A"]
        history.delete(name)
    assert list(tmp_path.iterdir()) == []


def test_long_search_holds_up_no_answer(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    name = history.create()
    recorder = history.begin_answer(name, history.add_user(name, "Why?", None))
    searching, kept = threading.Event(), threading.Event()

    def slow(*words: object) -> list[object]:
        searching.set()
        assert kept.wait(30)
        return []

    monkeypatch.setattr("eftlite.history.store.find", slow)
    with ThreadPoolExecutor(1) as pool:
        search = pool.submit(history.list, "word")
        assert searching.wait(30)
        recorder.add("Because")
        recorder.finish("complete")
        kept.set()
        assert search.result(30) == []
