"""Answers on their way to the page: what is sent and kept, and when; who leaves, what fails."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

from eftlite.errors import BusyError, EngineError, HistoryError, WorkerError
from eftlite.events import Candidate, TokenEvent
from eftlite.history import History, Recorder
from eftlite.server.asking import Ask
from eftlite.server.streaming import QUEUED, token_of
from eftlite.settings import Knobs
from tests.server.fakes import FakeEngine, FakeRunning, Script, words
from tests.server.page import FEW_S, GOOD, TEXT, Page, Stream, make_app, named, run, text_of
from tests.server.wire import connected, head, read_until, running, until


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "history.db") as opened:
        yield opened


# ---- an answer


def test_an_answer_is_streamed_and_kept(history: History) -> None:
    async def test() -> None:
        page = Page(history)
        events = await page.ask(content="Hi", sampling={"temperature": 0.5, "seed": 11}, max_tokens=50, n_top=2)
        question, answer = page.messages()
        assert [name for name, _ in events] == ["user", "answer", *["tokens"] * 4, "done"]
        assert events[0][1] == {"id": question.id}
        assert events[1][1] | {"answer_id": ""} == {"mode": "eft", "message_id": answer.id, "answer_id": ""}
        assert text_of(events) == answer.content == TEXT
        assert (question.role, question.content, question.parent) == ("user", "Hi", None)
        assert (answer.role, answer.state, answer.mode, answer.parent) == ("assistant", "complete", "eft", question.id)
        done = events[-1][1]
        assert {**done, "result": 0} == {"mode": "eft", "state": "complete", "finish_reason": "stop", "result": 0}
        assert done["result"] == answer.result
        assert done["result"]["n_tokens"] == 4
        assert done["result"]["seed"] == 11
        assert done["result"]["drafts"]["n_accepted"] == 3
        assert history.get(page.conversation).leaf == answer.id
        sent = [token for data in named(events, "tokens") for token in data["tokens"]]
        assert history.tokens(answer.id) == sent
        assert answer.settings["knobs"] == {"beta": 1.0, "conservative_p": 0.0, "deltas": {"tuned": 1.0}}
        assert answer.settings["sampling"]["seed"] == 11
        assert answer.settings["max_tokens"] == 50

    run(test)


def test_answers_are_counted(history: History) -> None:
    async def test() -> None:
        page = Page(history)
        await page.ask(content="Hi", modes=["eft", "base"])
        assert page.totals.n_answers == 2
        assert page.totals.taken.n_tokens == 8

    run(test)


def test_a_token_in_the_pages_form() -> None:
    top: dict[str, tuple[Candidate, ...]] = {
        "eft": (Candidate(1, " a", -0.123456),),
        "base": (Candidate(2, " b", -math.inf),),
    }
    event = TokenEvent(5, "", b"\xe2\x82", -1.23456, 0.98765, "corrected", top)
    assert token_of(event) == {
        "t": "",
        "p": "\ufffd",
        "s": 0.9877,
        "o": "corrected",
        "l": -1.2346,
        "top": {"eft": [[" a", -0.1235]], "base": [[" b", None]]},
    }
    assert token_of(TokenEvent(5, "x", b"x", math.nan)) == {"t": "x", "p": "x", "s": None, "o": "plain", "l": None}


def test_text_that_comes_with_a_stop_is_kept_and_sent(history: History) -> None:
    async def test() -> None:
        script = Script(events=[*words("One two", "x")[:1], TokenEvent(-1, " (held)", finish_reason="cancelled")])
        page = Page(history, FakeEngine([script]))
        events = await page.ask(content="Hi")
        assert text_of(events) == page.last().content == "One (held)"

    run(test)


# ---- several modes


def test_three_modes_answer_at_the_same_time_and_eft_leads(history: History) -> None:
    async def test() -> None:
        page = Page(history, FakeEngine([Script("The base says."), Script("The tuned says."), Script("EFT says.")]))
        modes = ["base", "tuned", "eft"]
        events = await page.ask(content="Hi", modes=modes, knobs={"beta": 2.0})
        question, *kept = page.messages()
        assert {answer.mode: answer.content for answer in kept} == {mode: text_of(events, mode) for mode in modes}
        assert {answer.parent for answer in kept} == {question.id}
        leader = history.get(page.conversation).leaf
        assert [answer.mode for answer in kept if answer.id == leader] == ["eft"]
        alone = [Knobs.alone(mode, 1) for mode in ("base", "tuned")]
        assert [ask.knobs for ask in page.engine.asks] == [*alone, Knobs(beta=2.0)]
        assert len({ask.sampling.seed for ask in page.engine.asks}) == 1
        assert [name for name, _ in events].count("user") == 1
        assert {data["mode"] for data in named(events, "done")} == set(modes)
        assert "knobs" not in next(answer for answer in kept if answer.mode == "base").settings

    run(test)


def test_modes_interleave(history: History) -> None:
    """One that waits holds up no other."""

    async def test() -> None:
        page = Page(history, FakeEngine([Script("Slow one", hold_at=1), Script("Fast one")]))
        async with page.asking(content="Hi", modes=["eft", "base"]) as stream:
            first = await stream.until("done")
            assert first[-1][1]["mode"] == "base"
            assert text_of(first, "eft") == "Slow"
            page.engine.release.set()
            assert text_of([event async for event in stream], "eft") == " one"

    run(test)


def test_without_eft_the_first_mode_leads(history: History) -> None:
    async def test() -> None:
        page = Page(history)
        await page.ask(content="Hi", modes=["tuned", "base"])
        leader = history.get(page.conversation).leaf
        assert [answer.mode for answer in page.messages() if answer.id == leader] == ["tuned"]

    run(test)


def test_one_mode_may_fail_alone(history: History) -> None:
    async def test() -> None:
        page = Page(history, FakeEngine([Script("Half", error=EngineError("broken")), Script("Whole")]))
        events = await page.ask(content="Hi", modes=["eft", "base"])
        assert {data["mode"]: data["state"] for data in named(events, "done")} == {"eft": "failed", "base": "complete"}
        assert {message.mode: message.state for message in page.messages() if message.mode} == {
            "eft": "failed",
            "base": "complete",
        }

    run(test)


# ---- the order of things


class Watched(History):
    """A history whose steps can be held up, and made to fail.

    Attributes:
        go: no text is written before it is set.
        failing: names of the methods that fail.
        n_refused: calls that failed.
    """

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(path)
        self._patch = patch
        self.go = threading.Event()
        self.go.set()
        self.failing: set[str] = set()
        self.n_refused = 0

    def check(self, name: str) -> None:
        assert self.go.wait(FEW_S)
        if name in self.failing:
            self._refuse(name=name)

    def add_user(self, *args: Any) -> int:
        self.check("add_user")
        return super().add_user(*args)

    def begin_answer(self, *args: Any, **more: Any) -> Recorder:
        self.check("begin_answer")
        recorder = super().begin_answer(*args, **more)
        self._patch.setattr(recorder, "add", partial(self._add, recorder.add))
        self._patch.setattr(recorder, "finish", partial(self._finish, recorder.finish))
        return recorder

    def _add(self, add: Callable[[str], None], text: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if "add" in self.failing:  # below the recorder, so that it does what it does then
                patch.setattr(self._database, "change", self._refuse)
            self.check("")
            add(text)

    def _finish(self, finish: Callable[..., None], *args: Any) -> None:
        self.check("finish")
        finish(*args)

    def _refuse(self, *_: Any, name: str = "add") -> NoReturn:
        self.n_refused += 1
        raise HistoryError(f"history.db: no room for {name}", f"Make room. The file is {self.path}")


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    with Watched(tmp_path / "watched.db", monkeypatch) as opened:
        yield opened


def test_nothing_is_sent_before_it_is_kept(watched: Watched) -> None:
    async def test() -> None:
        page = Page(watched, FakeEngine([Script("One two three", hold_at=1)]))
        async with page.asking(content="Hi") as stream:
            shown = text_of(await stream.until("tokens"))
            assert page.last().content == shown == "One"
            watched.go.clear()
            page.engine.release.set()
            pending = asyncio.ensure_future(anext(stream))
            done, _ = await asyncio.wait([pending], timeout=0.1)
            assert not done, "sent before it was kept"
            watched.go.set()
            events = [await pending, *[event async for event in stream]]
            assert shown + text_of(events) == page.last().content == "One two three"

    run(test)


def test_every_text_is_in_the_store_when_it_is_shown(history: History) -> None:
    async def test() -> None:
        page, shown = Page(history, FakeEngine([Script("a b c d e f g h")])), ""
        async with page.asking(content="Hi") as stream:
            async for name, data in stream:
                if name == "user":
                    assert page.messages()[0].content == "Hi"
                shown += text_of([(name, data)])
                assert name == "user" or page.last().content.startswith(shown)
                assert name != "done" or page.last().state == data["state"] == "complete"
        assert shown == "a b c d e f g h"

    run(test)


def test_the_question_is_kept_before_the_engine_is_asked(history: History) -> None:
    class Curious(FakeEngine):
        async def answer(self, ask: Ask, client: str = "") -> FakeRunning:
            kept.extend(message.content for message in history.get(client).messages)
            return await super().answer(ask, client)

    kept: list[str] = []
    run(lambda: Page(history, Curious()).ask(content="Hi"))
    assert kept == ["Hi"]


# ---- clients that leave


@pytest.mark.parametrize(
    ("script", "n_seen", "content"),
    [
        pytest.param(Script("One two three", hold_at=0), 0, "", id="prompt"),
        pytest.param(Script("One two three", hold_at=1), 1, "One", id="after-a-token"),
        pytest.param(Script("One two three", hold_at=3), 3, "One two three", id="before-the-end"),
    ],
)
def test_a_client_that_leaves_frees_the_engine(history: History, script: Script, n_seen: int, content: str) -> None:
    async def test() -> None:
        page = Page(history, FakeEngine([script]))
        async with page.asking(content="Hi") as stream:
            await stream.until("tokens", n_seen) if n_seen else await stream.until("answer")
        assert page.engine.runnings[0].left.is_set()
        assert page.engine.n_running == 0
        assert (page.last().state, page.last().content) == ("stopped", content)
        assert len(history.tokens(page.last().id)) == n_seen

    run(test)


def test_a_client_that_leaves_ends_all_modes(history: History) -> None:
    async def test() -> None:
        page = Page(history, FakeEngine([Script("One two", hold_at=1)]))
        async with page.asking(content="Hi", modes=["eft", "base", "tuned"]) as stream:
            await stream.until("tokens", 3)
        assert all(running.left.is_set() for running in page.engine.runnings)
        assert {message.state for message in page.messages() if message.mode} == {"stopped"}
        assert len(page.messages()) == 4

    run(test)


def test_a_client_that_left_before_the_stream_began(history: History) -> None:
    """The question is kept; nothing runs on."""

    async def test() -> None:
        page = Page(history, FakeEngine([Script("One two", hold_at=0)]))
        async with page.asking(content="Hi"):
            pass
        assert page.engine.n_running == 0
        assert page.messages()[0].content == "Hi"
        assert {message.state for message in page.messages()} <= {"complete", "stopped"}

    run(test)


def test_a_client_that_leaves_while_a_text_is_written_to_the_disk(watched: Watched) -> None:
    async def test() -> None:
        page = Page(watched, FakeEngine([Script("One two three", hold_at=1)]))
        async with page.asking(content="Hi") as stream:
            await stream.until("tokens")
            watched.go.clear()
            page.engine.release.set()
            leaving = asyncio.ensure_future(stream.leave())
            await asyncio.sleep(0)
            watched.go.set()
            await leaving
        assert page.engine.n_running == 0
        assert page.last().state == "stopped"
        assert page.last().content in {"One", "One two"}

    run(test)


def test_a_client_that_stops_reading_holds_the_answer_back(history: History) -> None:
    """Memory is bounded: no more events are taken from the engine than fit the queue."""

    async def test() -> None:
        page = Page(history, FakeEngine([Script(" ".join(["word"] * 500))]))
        stream = Stream(page.app, page.path, GOOD)
        blocked = asyncio.Event()
        send = stream._send

        async def send_slowly(message: Any) -> None:
            await send(message)
            if b"tokens" in message.get("body", b""):
                await blocked.wait()

        stream._send = send_slowly  # type: ignore[method-assign]  # a slow client
        await stream.until("tokens")
        sent = page.engine.runnings[0].sent
        while len(sent) <= QUEUED:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # it could go on
        assert len(sent) < QUEUED + 5
        await stream.leave()
        assert page.engine.n_running == 0
        assert page.last().state == "stopped"

    run(test)


def test_a_connection_that_breaks(history: History) -> None:
    """Over a real socket: the engine is free at once, and what was sent is kept."""
    engine = FakeEngine([Script("One two three", hold_at=2)])
    app, conversation = make_app(engine, history), history.create()
    body = json.dumps({"content": "Hi", "modes": ["eft"]}).encode()
    with running(app) as address:
        with connected(address) as client:
            headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
            client.sendall(head("POST", f"/api/conversations/{conversation}/answers", address, headers) + body)
            read_until(client, b'" two"')
        until(lambda: engine.n_running == 0)
        until(lambda: history.get(conversation).messages[-1].state == "stopped")
    assert history.get(conversation).messages[-1].content == "One two"


# ---- engines that fail


def test_an_engine_that_dies_leaves_what_was_shown(history: History) -> None:
    async def test() -> None:
        error = WorkerError("engine: it died while answering", "Ask again")
        page = Page(history, FakeEngine([Script(events=words("One two", "length")[:1], error=error)]))
        events = await page.ask(content="Hi")
        assert [name for name, _ in events][-2:] == ["error", "done"]
        assert events[-2][1] == {
            "mode": "eft",
            "error": {"message": str(error), "type": "server_error", "param": None, "code": None},
        }
        why = {"error": str(error)}  # for whoever comes back later
        assert events[-1][1] == {"mode": "eft", "state": "failed", "finish_reason": None, "result": why}
        assert (page.last().state, page.last().content, page.last().result) == ("failed", "One", why)

    run(test)


def test_an_engine_that_refuses_leaves_the_question(history: History) -> None:
    async def test() -> None:
        page = Page(history, FakeEngine(refusal=BusyError("engine: too many requests are waiting", retry_after_s=3)))
        events = await page.ask(content="Hi", modes=["eft", "base"])
        assert [name for name, _ in events].count("error") == 2
        assert named(events, "error")[0]["error"]["type"] == "rate_limit_error"
        assert {data["state"] for data in named(events, "done")} == {"failed"}
        assert [message.content for message in page.messages()] == ["Hi"]
        page.engine.refusal = None
        again = await page.ask(parent=page.last().id)
        assert text_of(again) == TEXT

    run(test)


def test_an_engine_that_was_never_loaded_is_not_asked(history: History) -> None:
    async def test() -> None:
        page = Page(history, FakeEngine(about=None, state="loading"))
        reply = await page.call("POST", page.path, GOOD)
        assert reply.status_code == 503
        assert reply.headers["Retry-After"]
        assert page.messages() == []

    run(test)


def test_a_bug_in_the_engine_leaves_nothing_running(history: History) -> None:
    async def test() -> None:
        scripts = [Script("One", error=ValueError("bug")), Script("One two", hold_at=1)]  # type: ignore[arg-type]  # a bug
        page = Page(history, FakeEngine(scripts))
        with pytest.raises(ValueError, match="bug"):
            await page.ask(content="Hi", modes=["eft", "base"])
        assert page.engine.n_running == 0
        assert "streaming" not in {message.state for message in page.messages()}

    run(test)


# ---- histories that fail


@pytest.mark.parametrize(
    ("failing", "kept"),
    [
        (["add_user"], []),
        (["begin_answer"], [("complete", "Hi")]),
        (["add"], [("complete", "Hi"), ("complete", TEXT)]),
        (["finish"], [("complete", "Hi"), ("streaming", TEXT)]),
        (["add", "finish"], [("complete", "Hi"), ("streaming", "")]),
    ],
)
def test_a_full_disk_is_told_and_the_answer_comes(
    watched: Watched, failing: list[str], kept: list[tuple[str, str]]
) -> None:
    async def test() -> None:
        page = Page(watched)
        watched.failing = set(failing)
        events = await page.ask(content="Hi")
        assert text_of(events) == TEXT
        (told,) = named(events, "error")
        assert told["error"]["message"] == f"history.db: no room for {failing[0]}"
        assert told["error"]["type"] == "server_error"
        assert events[-1][1]["state"] == "complete"
        assert [(message.state, message.content) for message in page.messages()] == kept

    run(test)


def test_a_full_disk_is_told_at_once(watched: Watched) -> None:
    """Whoever reads on knows that it may not be there later."""

    async def test() -> None:
        page = Page(watched, FakeEngine([Script("One two three", hold_at=1)]))
        async with page.asking(content="Hi") as stream:
            await stream.until("tokens")
            watched.failing = {"add"}
            page.engine.release.set()
            assert [name for name, _ in await stream.until("tokens")] == ["error", "tokens"]

    run(test)


def test_a_file_that_is_locked_holds_an_answer_up_only_once(watched: Watched) -> None:
    """Each try may take seconds: there is one for the first text, and one for all at the end."""

    async def test() -> None:
        page = Page(watched, FakeEngine([Script("a b c d e f g h")]))
        watched.failing = {"add"}
        assert text_of(await page.ask(content="Hi")) == page.last().content == "a b c d e f g h"
        assert watched.n_refused == 2

    run(test)


def test_a_disk_that_recovers_loses_nothing(watched: Watched) -> None:
    """What could not be written in the middle is written at the end."""

    async def test() -> None:
        page = Page(watched, FakeEngine([Script("One two three four", hold_at=2)]))
        async with page.asking(content="Hi") as stream:
            await stream.until("tokens")
            watched.failing = {"add"}
            await stream.until("tokens")
            page.engine.release.set()
            await stream.until("tokens")
            watched.failing = set()
            async for _ in stream:
                pass
        assert (page.last().state, page.last().content) == ("complete", "One two three four")

    run(test)


def test_a_conversation_that_is_deleted_ends_its_answer(history: History) -> None:
    async def test() -> None:
        page = Page(history, FakeEngine([Script("One two three four", hold_at=1)]))
        async with page.asking(content="Hi") as stream:
            await stream.until("tokens")
            assert (await page.call("DELETE", f"/api/conversations/{page.conversation}")).status_code == 204
            page.engine.release.set()
            events = [event async for event in stream]
        assert events[-1][1]["state"] == "stopped"
        assert len(named(events, "error")) == 1
        assert page.engine.runnings[0].stopped.is_set()
        assert history.list() == []

    run(test)
