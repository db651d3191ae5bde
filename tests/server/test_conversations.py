"""The page's conversations over a real history: listed, read, changed, exported, deleted; what cannot be asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
import pytest
from starlette.applications import Starlette

from eftlite.errors import HistoryError
from eftlite.history import History
from eftlite.server import conversations
from eftlite.server.conversations import disposition, kept
from eftlite.server.replies import exception_handlers
from tests.server.fakes import FakeEngine

BASE = "/api/conversations"
NOBODY = "0" * 12


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "history.db") as opened:
        yield opened


class Api:
    """The routes, asked without a network."""

    def __init__(self, history: History, engine: FakeEngine | None = None) -> None:
        routes = conversations.routes(engine or FakeEngine(), history)
        self._app = Starlette(routes=routes, exception_handlers=exception_handlers())

    def __call__(self, method: str, path: str, body: Any = None) -> httpx.Response:
        async def call() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url="http://page") as client:
                return await client.request(method, path, json=body)

        return asyncio.run(call())


@pytest.fixture
def api(history: History) -> Api:
    return Api(history)


def talk(history: History, *turns: str, title: str = "") -> str:
    """A conversation of questions and answers in turn."""
    name, parent = history.create(title=title, system="Be brief.", family="fake"), None
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        recorder = history.begin_answer(name, history.add_user(name, question, parent), settings={"max_tokens": 9})
        recorder.add(answer)
        recorder.finish("complete", {"n_tokens": 1}, [{"t": answer}])
        parent = recorder.message_id
    return name


# ---- reading


def test_a_conversation_is_begun_and_read(api: Api, history: History) -> None:
    reply = api("POST", BASE, {"title": "Towns", "system": "Be brief."})
    assert reply.status_code == 201
    found = api("GET", f"{BASE}/{reply.json()['id']}").json()
    assert found.keys() == {"id", "title", "system", "family", "leaf", "created", "updated", "messages"}
    assert (found["title"], found["system"], found["family"]) == ("Towns", "Be brief.", "fake")
    assert (found["messages"], found["leaf"]) == ([], None)


def test_a_conversation_may_begin_before_the_engine_is_loaded(history: History) -> None:
    reply = Api(history, FakeEngine(about=None, state="loading"))("POST", BASE, {})
    assert reply.status_code == 201
    assert history.get(reply.json()["id"]).family == ""


def test_messages_are_told_whole(api: Api, history: History) -> None:
    name = talk(history, "Hi", "Hello.")
    question, answer = api("GET", f"{BASE}/{name}").json()["messages"]
    keys = {"id", "parent", "role", "content", "state", "mode", "created", "settings", "result"}
    assert question.keys() == answer.keys() == keys
    assert (answer["content"], answer["parent"], answer["mode"]) == ("Hello.", question["id"], "eft")
    assert (answer["settings"], answer["result"]) == ({"max_tokens": 9}, {"n_tokens": 1})
    assert api("GET", f"/api/messages/{answer['id']}/tokens").json() == {"tokens": [{"t": "Hello."}]}
    assert api("GET", f"/api/messages/{question['id']}/tokens").json() == {"tokens": []}


def test_an_answer_is_read_while_it_is_written(api: Api, history: History) -> None:
    name = history.create()
    history.begin_answer(name, history.add_user(name, "Hi", None)).add("Hel")
    answer = api("GET", f"{BASE}/{name}").json()["messages"][-1]
    assert (answer["state"], answer["content"]) == ("streaming", "Hel")


def test_conversations_are_listed_and_searched(api: Api, history: History) -> None:
    towns, rivers = talk(history, "Where is Oakworth?", "In Upper Kess."), talk(history, "Who named the Zinner?", "Me.")
    found = api("GET", BASE).json()["conversations"]
    assert [entry["id"] for entry in found] == [rivers, towns]
    assert found[0].keys() == {"id", "title", "family", "created", "updated", "n_messages", "preview"}
    assert found[0]["n_messages"] == 2
    assert [entry["id"] for entry in api("GET", f"{BASE}?query=KESS").json()["conversations"]] == [towns]
    assert [entry["id"] for entry in api("GET", f"{BASE}?limit=1&offset=1").json()["conversations"]] == [towns]
    assert api("GET", f"{BASE}?query=nowhere").json() == {"conversations": []}


# ---- changing


def test_a_conversation_is_changed(api: Api, history: History) -> None:
    name = talk(history, "One", "1", "Two", "2")
    first = history.get(name).messages[1].id
    for change in ({"title": "New"}, {"system": ""}, {"leaf": first}):
        assert api("PATCH", f"{BASE}/{name}", change).status_code == 204
    found = history.get(name)
    assert (found.title, found.system, found.leaf) == ("New", "", first)
    assert api("PATCH", f"{BASE}/{name}", {"leaf": 0}).status_code == 204
    assert history.get(name).leaf is None
    other = history.get(talk(history, "Else", "where")).messages[0].id
    assert api("PATCH", f"{BASE}/{name}", {"leaf": other}).status_code == 404


def test_a_conversation_is_deleted(api: Api, history: History) -> None:
    name = talk(history, "Hi", "Hello.")
    answer = history.get(name).messages[-1].id
    assert api("DELETE", f"{BASE}/{name}").status_code == 204
    assert api("GET", f"{BASE}/{name}").status_code == 404
    assert api("DELETE", f"{BASE}/{name}").status_code == 404
    assert api("GET", f"/api/messages/{answer}/tokens").status_code == 404


# ---- exports


def test_a_conversation_is_exported(api: Api, history: History) -> None:
    name = talk(history, "Where is Oakworth?", "In Upper Kess.")
    document = api("GET", f"{BASE}/{name}/export")
    assert document.headers["Content-Type"] == "text/markdown; charset=utf-8"
    assert "In Upper Kess." in document.text
    whole = api("GET", f"{BASE}/{name}/export?format=json")
    assert whole.headers["Content-Type"] == "application/json"
    assert whole.json()["messages"][-1] == {"role": "assistant", "content": "In Upper Kess."}
    assert 'filename="conversation.json"' in whole.headers["Content-Disposition"]
    assert api("GET", f"{BASE}/{name}/export?format=exe").status_code == 400
    assert api("GET", f"{BASE}/{NOBODY}/export").status_code == 404


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Where is Oakworth?", "Where-is-Oakworth.md"),
        ("Wo liegt Köln? 東京", "Wo-liegt-Köln-東京.md"),
        ("../../etc/passwd", "etc-passwd.md"),
        ('a"; filename="evil.exe', "a-filename-evil-exe.md"),
        ("C:\\Windows\\system32\r\nSet-Cookie: x", "C-Windows-system32-Set-Cookie-x.md"),
        ("\u202egnp.exe\0\x7f", "gnp-exe.md"),
        ("…", "conversation.md"),
        ("", "conversation.md"),
        ("long " * 50, "-".join(["long"] * 12) + ".md"),
    ],
)
def test_files_are_named_by_titles_and_safely(api: Api, history: History, title: str, name: str) -> None:
    given = disposition(title, "md")
    assert given.isascii()
    assert given.isprintable()
    assert given.startswith("attachment; filename=\"conversation.md\"; filename*=UTF-8''")
    assert unquote(given.rpartition("''")[2]) == name
    reply = api("GET", f"{BASE}/{talk(history, 'Hi', 'Hello.', title=title)}/export")
    assert title == "" or reply.headers["Content-Disposition"] == given


# ---- what cannot be asked


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", BASE, {"title": "x" * 201}, 400),
        ("POST", BASE, {"title": None}, 400),
        ("POST", BASE, {"system": "x" * (1 << 20)}, 400),
        ("POST", BASE, {"name": "x"}, 400),
        ("POST", BASE, [], 400),
        ("PATCH", f"{BASE}/{NOBODY}", {"title": "x"}, 404),
        ("PATCH", f"{BASE}/{NOBODY}", {"leaf": -1}, 400),
        ("PATCH", f"{BASE}/{NOBODY}", {"leaf": 1 << 63}, 400),
        ("PATCH", f"{BASE}/{NOBODY}", {"leaf": "1"}, 400),
        ("GET", f"{BASE}?limit=0", None, 400),
        ("GET", f"{BASE}?limit=201", None, 400),
        ("GET", f"{BASE}?limit=1e3", None, 400),
        ("GET", f"{BASE}?limit={'9' * 5000}", None, 400),
        ("GET", f"{BASE}?offset=-1", None, 400),
        ("GET", f"{BASE}?offset={1 << 63}", None, 400),
        ("GET", f"{BASE}?query={'x' * 201}", None, 400),
        ("GET", f"{BASE}?sort=title", None, 400),
        ("PUT", BASE, {}, 405),
        ("POST", f"{BASE}/{NOBODY}", {}, 405),
    ],
)
def test_what_cannot_be_asked(api: Api, history: History, method: str, path: str, body: Any, status: int) -> None:
    reply = api(method, path, body)
    assert reply.status_code == status, reply.text
    assert reply.json()["error"].keys() == {"message", "type", "param", "code"}
    assert len(reply.text) < 500
    assert history.list() == []


def test_a_number_in_a_query_is_named(api: Api) -> None:
    error = api("GET", f"{BASE}?limit=many").json()["error"]
    assert (error["message"], error["param"]) == ("limit: expected an integer", "limit")


HOSTILE = [
    "..",
    "../history.db",
    "/etc/passwd",
    "\0",
    "C:\\x",
    "' OR 1=1 --",
    "%",
    "A" * 12,
    "0" * 11,
    "0" * 13,
    "9" * 5000,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_ids_are_checked_by_their_pattern(api: Api, history: History, name: str) -> None:
    """Row 39, and a beginning of an id, which the history itself would take, is none."""
    talk(history, "Hi", "Hello.")
    asked = quote(name, safe="")
    for method, path in (
        ("GET", f"{BASE}/{asked}"),
        ("PATCH", f"{BASE}/{asked}"),
        ("DELETE", f"{BASE}/{asked}"),
        ("GET", f"{BASE}/{asked}/export"),
        ("GET", f"/api/messages/{asked}/tokens"),
    ):
        assert api(method, path, {} if method == "PATCH" else None).status_code == 404, (method, path)
    assert len(history.list()) == 1


@pytest.mark.parametrize("number", ["0", "-1", "1.0", "٣", "01", "9" * 19, "1" * 18])
def test_numbers_of_messages_are_checked(api: Api, number: str) -> None:
    assert api("GET", f"/api/messages/{quote(number)}/tokens").status_code == 404


def test_a_beginning_of_an_id_is_no_id(api: Api, history: History) -> None:
    name = talk(history, "Hi", "Hello.")
    assert api("GET", f"{BASE}/{name[:11]}").status_code == 404


def test_half_a_character_is_refused(api: Api) -> None:
    async def call() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api._app), base_url="http://page") as client:
            return await client.post(BASE, content=b'{"title": "\\ud800"}')

    assert asyncio.run(call()).status_code == 400


def test_texts_come_back_as_they_were(api: Api) -> None:
    title = "\0 \u2028 \U0001f600 <script> ' \" \\ %s {x}"
    name = api("POST", BASE, {"title": title, "system": title * 3}).json()["id"]
    found = api("GET", f"{BASE}/{name}").json()
    assert (found["title"], found["system"]) == (title, title * 3)


# ---- a history that fails


def test_a_damaged_file_is_told_without_its_folder(history: History, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise HistoryError("history.db: the file is damaged", f"The file is {tmp_path / 'A Name' / 'history.db'}")

    history.list = fail  # type: ignore[method-assign,assignment]  # one method fails
    reply = Api(history)("GET", BASE)
    assert reply.status_code == 500
    assert reply.json()["error"]["message"] == "history.db: the file is damaged"


def test_the_event_loop_never_waits_for_the_history() -> None:
    """A call that takes its time lets others run."""

    async def test() -> None:
        loop, ran = asyncio.get_running_loop(), asyncio.Event()

        def slow() -> bool:
            asyncio.run_coroutine_threadsafe(set_it(), loop).result(5)
            return True

        async def set_it() -> None:
            ran.set()

        assert await kept(slow)
        assert ran.is_set()

    asyncio.run(test())


def test_the_list_is_json_that_everyone_reads(api: Api, history: History) -> None:
    talk(history, "Hi \ud83d\ude00", "\u2028")
    assert json.loads(api("GET", BASE).content)
