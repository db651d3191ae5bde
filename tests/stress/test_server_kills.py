"""Server and engine are killed at random moments while people chat; nothing they were shown is lost (rows 17, 18).

Duration: about 25 minutes on two quiet cores, ``pytest -m stress tests/stress/test_server_kills.py -s``.
"""

from __future__ import annotations

import random
import signal
import sqlite3
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from eftlite.demo.scoring import load_questions
from tests.stress.serving import Served, events_of, served

if sys.platform == "win32":
    pytest.skip("signals of Unix", allow_module_level=True)

pytestmark = pytest.mark.stress

N_KILLS = 200
DEATHS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGSTOP)  # the last one is a hang
N_DEATHS = 40
N_PEOPLE = 3
CHAT_S = 1.5  # at most, before the kill
RESTART_S = 2.0
QUESTIONS = [question.text for question in load_questions()] + ["Ünïcödé \U0001f600 \u2028 \0 <b>?", "long " * 2000]
MODES = (["eft"], ["eft", "base", "tuned"], ["tuned"])


@dataclass
class Shown:
    """A message that someone was shown, so far.

    Attributes:
        content: of a question all of it, of an answer what has come.
        state: "" while it is being written.
    """

    content: str
    state: str = ""
    tokens: list[Any] = field(default_factory=list)


@dataclass
class Remembered:
    """A conversation as someone saw it.

    Attributes:
        titles: any of these may be its title: what was acknowledged last, and what was asked for since.
        may_be_gone, is_gone: deleting it was asked for, was acknowledged.
    """

    titles: set[str]
    messages: dict[int, Shown] = field(default_factory=dict)
    leaf: int | None = None
    may_be_gone: bool = False
    is_gone: bool = False


class Person:
    """Someone who chats until the server is gone, and remembers what was acknowledged and shown."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.conversations: dict[str, Remembered] = {}
        self.n_questions = 0

    def chat(self, url: str) -> None:
        """One thing after the other; returns when the server does not answer any more."""
        with suppress(httpx.TransportError), httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            while True:
                self._act(client)

    def _act(self, client: httpx.Client) -> None:
        at_hand = [name for name, seen in self.conversations.items() if not seen.may_be_gone]
        if not at_hand or self.random.random() < 0.2:
            self._begin(client)
            return
        name = self.random.choice(at_hand[-5:])
        act = self.random.choices((self._ask, self._rename, self._delete), (20, 2, 1))[0]
        act(client, name)

    def _begin(self, client: httpx.Client) -> None:
        title = f"Talk {self.random.random()}"
        reply = client.post("/api/conversations", json={"title": title})
        assert reply.status_code == 201, reply.text
        self.conversations[reply.json()["id"]] = Remembered({title})

    def _rename(self, client: httpx.Client, name: str) -> None:
        seen, title = self.conversations[name], f"Renamed {self.random.random()}"
        seen.titles.add(title)
        assert client.patch(f"/api/conversations/{name}", json={"title": title}).status_code == 204
        seen.titles = {title}

    def _delete(self, client: httpx.Client, name: str) -> None:
        seen = self.conversations[name]
        seen.may_be_gone = True
        assert client.delete(f"/api/conversations/{name}").status_code == 204
        seen.is_gone = True

    def _ask(self, client: httpx.Client, name: str) -> None:
        seen, content = self.conversations[name], self.random.choice(QUESTIONS)
        question = {
            "content": content,
            "parent": seen.leaf if self.random.random() < 0.8 else None,
            "modes": self.random.choice(MODES),
            "max_tokens": 48,
            "n_top": self.random.choice((0, 2)),
        }
        with client.stream("POST", f"/api/conversations/{name}/answers", json=question) as reply:
            if reply.status_code == 503:  # still loading
                time.sleep(0.05)
                return
            assert reply.status_code == 200, reply.read()
            self.n_questions += 1
            _read(reply, seen, content)


def _read(reply: httpx.Response, seen: Remembered, content: str) -> None:
    """Take in a stream, noting each event before the next is awaited."""
    answers: dict[str, int] = {}
    for event, data in events_of(reply):
        if event == "user":
            seen.messages[data["id"]] = Shown(content, "complete")
            seen.leaf = data["id"]
        elif event == "answer":
            answers[data["mode"]] = data["message_id"]
            seen.messages[data["message_id"]] = Shown("")
        elif event == "tokens":
            shown = seen.messages[answers[data["mode"]]]
            shown.content += "".join(token["t"] for token in data["tokens"])
            shown.tokens += data["tokens"]
        elif event == "done" and data["mode"] in answers:  # not: refused before it began
            seen.messages[answers[data["mode"]]].state = data["state"]
            if data["state"] == "complete" and data["mode"] in {"eft", "tuned"}:
                seen.leaf = answers[data["mode"]]


# ---- what must be there afterwards


def check(client: httpx.Client, name: str, seen: Remembered) -> int:
    """Compare what was seen with what is kept, byte for byte; returns the messages compared."""
    reply = client.get(f"/api/conversations/{name}")
    if seen.may_be_gone and reply.status_code == 404:
        return 0
    assert not seen.is_gone, f"{name} is back"
    assert reply.status_code == 200, f"{name} is lost: {reply.text}"
    assert reply.json()["title"] in seen.titles
    kept = {message["id"]: message for message in reply.json()["messages"]}
    for number, shown in seen.messages.items():
        message = kept[number]
        if shown.state:
            assert (message["content"], message["state"]) == (shown.content, shown.state)
            if message["role"] == "assistant":
                assert client.get(f"/api/messages/{number}/tokens").json()["tokens"] == shown.tokens
        else:
            assert message["content"].startswith(shown.content)
            assert message["state"] in {"interrupted", "complete", "stopped", "failed"}
    return len(seen.messages)


def check_all(url: str, people: Sequence[Person], n_last: int | None = None) -> int:
    """The same for everyone's conversations, or their last few."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        return sum(
            check(client, name, seen)
            for person in people
            for name, seen in list(person.conversations.items())[-n_last if n_last else None :]
        )


def chat_until_killed(server: Served, people: Sequence[Person], seconds: float) -> None:
    """Everyone chats; after so many seconds the server is killed."""
    threads = [threading.Thread(target=person.chat, args=(server.url,)) for person in people]
    for thread in threads:
        thread.start()
    time.sleep(seconds)  # the moment of the kill is what is drawn by lot
    server.kill()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def is_sound(path: Path) -> bool:
    """Whether SQLite finds nothing wrong in the file."""
    with closing(sqlite3.connect(path)) as database:
        return [row[0] for row in database.execute("PRAGMA integrity_check")] == ["ok"]


def test_nothing_that_was_shown_is_lost(user_directories: Path) -> None:
    """Every fourth kill comes while models are being loaded, the others while answers are written."""
    moments, people = random.Random(17), [Person(seed) for seed in range(N_PEOPLE)]
    path, restarts, n_sound, n_checked = user_directories / "state" / "history.db", [], 0, 0
    for number in range(N_KILLS):
        with served() as server:
            restarts.append(server.start_s)
            n_checked += check_all(server.url, people, n_last=8)
            if number % 4:
                server.wait_ready()
            chat_until_killed(server, people, moments.uniform(0.0, CHAT_S))
        n_sound += is_sound(path)
    with served() as server:
        n_messages = check_all(server.url, people)
    n_questions = sum(person.n_questions for person in people)
    restart_s = statistics.median(restarts)
    print(
        f"\n{N_KILLS} kills, {n_questions} questions asked, {n_messages} messages at the end, {n_checked} compared "
        f"after restarts, all there; {n_sound} of {N_KILLS} files sound; restart median {restart_s:.2f} s, "
        f"slowest {max(restarts):.2f} s"
    )
    assert n_sound == N_KILLS
    assert restart_s < RESTART_S  # the slowest only tells what else the machine was doing


def test_an_engine_that_dies_takes_nothing_along(user_directories: Path) -> None:
    """The history's part of row 18: ten engines each are killed, crash, abort and hang under one server."""
    moments, people = random.Random(18), [Person(seed) for seed in range(N_PEOPLE)]
    with served() as server:
        threads = [threading.Thread(target=person.chat, args=(server.url,)) for person in people]
        server.wait_ready()
        for thread in threads:
            thread.start()
        for number in range(N_DEATHS):
            time.sleep(moments.uniform(0.0, CHAT_S))  # the moment is what is drawn by lot
            (engine,) = psutil.Process(server.process.pid).children()
            engine.send_signal(DEATHS[number % len(DEATHS)])
            psutil.wait_procs([engine], timeout=60)
            server.wait_ready()
        server.kill()
        for thread in threads:
            thread.join(60)
    with served() as server:
        n_messages = check_all(server.url, people)
    failed = [shown for person in people for seen in person.conversations.values() for shown in seen.messages.values()]
    print(
        f"\n{N_DEATHS} engines died, {sum(person.n_questions for person in people)} questions asked, {n_messages} "
        f"messages, all there, {sum(shown.state == 'failed' for shown in failed)} of them ended by a death"
    )
    assert is_sound(user_directories / "state" / "history.db")
