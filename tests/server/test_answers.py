"""The page's questions: what becomes of them, what is refused, what is changed and stopped meanwhile; what answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eftlite.history import History
from eftlite.server import answers
from eftlite.settings import Knobs, Sampling
from tests.server.fakes import TWO_DELTAS, FakeEngine, Script
from tests.server.page import GOOD, Page, named, run


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "history.db") as opened:
        yield opened


# ---- what is asked


def test_what_is_asked_of_the_engine(history: History) -> None:
    async def test() -> None:
        page = Page(history, FakeEngine(about=TWO_DELTAS))
        history.update(page.conversation, system="Be brief.")
        sampling = {"temperature": 0.5, "top_k": 7, "top_p": 0.9, "min_p": 0.1, "seed": 2**53 - 1}
        knobs = {"alpha": 2.0, "beta": 1.5, "conservative_p": 0.9, "deltas": {"harmless": 0.25}}
        await page.ask(content="Hi", sampling=sampling, knobs=knobs, max_tokens=9, n_top=3)
        (ask,) = page.engine.asks
        assert ask.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        assert ask.sampling == Sampling(temperature=0.5, top_k=7, top_p=0.9, min_p=0.1, seed=2**53 - 1)
        assert ask.knobs == Knobs((2.0, 0.25), beta=1.5, conservative_p=0.9)
        assert (ask.limits.max_tokens, ask.limits.n_top) == (9, 3)
        assert page.engine.clients == [page.conversation]

    run(test)


def test_a_question_that_names_no_seed_gets_one_that_is_kept(history: History) -> None:
    async def test() -> None:
        page = Page(history)
        await page.ask(content="Hi", sampling={"top_k": 3})
        sampling = page.engine.asks[0].sampling
        assert sampling == Sampling(top_k=3, seed=sampling.seed)
        assert sampling.seed is not None
        assert page.last().settings["sampling"]["seed"] == sampling.seed < 2**53

    run(test)


# ---- again, elsewhere, at once


def test_an_old_turn_is_answered_again(history: History) -> None:
    async def test() -> None:
        page = Page(history, FakeEngine([Script("First."), Script("Second.")]))
        question = named(await page.ask(content="Hi"), "user")[0]["id"]
        events = await page.ask(parent=question)
        assert named(events, "user") == [{"id": question}]
        _, first, second = page.messages()
        assert (first.content, second.content) == ("First.", "Second.")
        assert first.parent == second.parent == question
        assert history.get(page.conversation).leaf == second.id
        assert page.engine.asks[1].messages == [{"role": "user", "content": "Hi"}]

    run(test)


def test_a_turn_in_the_middle_is_edited(history: History) -> None:
    async def test() -> None:
        page = Page(history, FakeEngine([Script("A1"), Script("A2"), Script("B2")]))
        await page.ask(content="Q1")
        first = page.last().id
        await page.ask(content="Q2", parent=first)
        await page.ask(content="Q2, but better", parent=first)
        assert page.engine.asks[2].messages == [
            {"role": "user", "content": "Q1"},
            {"role": "assistant", "content": "A1"},
            {"role": "user", "content": "Q2, but better"},
        ]
        path = [message.content for message in history.get(page.conversation).path()]
        assert path == ["Q1", "A1", "Q2, but better", "B2"]
        assert len(page.messages()) == 6

    run(test)


def test_two_tabs_answer_in_one_conversation(history: History) -> None:
    async def test() -> None:
        page = Page(history, FakeEngine([Script("To the first", hold_at=1), Script("To the second")]))
        async with page.asking(content="First") as one:
            await one.until("tokens")
            await page.ask(content="Second")
            page.engine.release.set()
            async for _ in one:
                pass
        contents = {message.parent: message.content for message in page.messages() if message.mode}
        questions = {message.content: message.id for message in page.messages() if not message.mode}
        assert contents == {questions["First"]: "To the first", questions["Second"]: "To the second"}

    run(test)


# ---- changed and stopped meanwhile


def test_an_answer_is_stopped(history: History) -> None:
    async def test() -> None:
        page = Page(history, FakeEngine([Script("One two three", hold_at=2)]))
        async with page.asking(content="Hi") as stream:
            events = await stream.until("tokens", 2)
            answer = named(events, "answer")[0]["answer_id"]
            assert (await page.call("DELETE", f"/api/answers/{answer}")).status_code == 204
            done = [event async for event in stream][-1][1]
            assert (done["state"], done["finish_reason"]) == ("stopped", "cancelled")
            assert (page.last().state, page.last().content) == ("stopped", "One two")
            assert done["result"]["n_tokens"] == page.last().result["n_tokens"] == 2
            assert (await page.call("DELETE", f"/api/answers/{answer}")).status_code == 404

    run(test)


def test_knobs_change_while_an_answer_is_written(history: History) -> None:
    async def test() -> None:
        page = Page(history, FakeEngine([Script("One two", hold_at=1)], about=TWO_DELTAS))
        async with page.asking(content="Hi", knobs={"beta": 2.0}) as stream:
            answer = named(await stream.until("tokens"), "answer")[0]["answer_id"]
            path = f"/api/answers/{answer}"
            good: list[dict[str, Any]] = [{"alpha": 0.3}, {"deltas": {"harmless": 0.9}}, {"conservative_p": 0.5}, {}]
            for knobs in good:
                assert (await page.call("PATCH", path, {"knobs": knobs})).status_code == 204
            assert page.engine.runnings[0].knobs == Knobs((0.3, 0.9), beta=2.0, conservative_p=0.5)
            bad: list[dict[str, Any]] = [
                {"alpha": -1},
                {"beta": 1e9},
                {"deltas": {"no": 1}},
                {"gamma": 1},
                {"alpha": "1"},
            ]
            for knobs in bad:
                assert (await page.call("PATCH", path, {"knobs": knobs})).status_code == 400, knobs
            assert page.engine.runnings[0].knobs == Knobs((0.3, 0.9), beta=2.0, conservative_p=0.5)

    run(test)


def test_a_member_alone_has_no_knobs(history: History) -> None:
    async def test() -> None:
        page = Page(history, FakeEngine([Script("One two", hold_at=1)]))
        async with page.asking(content="Hi", modes=["base"]) as stream:
            answer = named(await stream.until("tokens"), "answer")[0]["answer_id"]
            assert (await page.call("PATCH", f"/api/answers/{answer}", {"knobs": {"alpha": 1}})).status_code == 400

    run(test)


@pytest.mark.parametrize("answer", ["0" * 32, "x", "..%2f..", "%00", "9" * 5000])
def test_answers_that_are_not_being_written(history: History, answer: str) -> None:
    async def test() -> None:
        page = Page(history)
        for method, body in (("PATCH", {"knobs": {}}), ("DELETE", None)):
            assert (await page.call(method, f"/api/answers/{answer}", body)).status_code == 404

    run(test)


# ---- what is refused

BAD: list[tuple[dict[str, Any], int]] = [
    ({"content": ""}, 400),
    ({"content": "x" * ((512 << 10) + 1)}, 400),
    ({"content": 1}, 400),
    ({"content": None}, 400),
    ({"content": "x", "parent": 99}, 404),
    ({"content": None, "parent": 99}, 404),
    ({"parent": -1}, 400),
    ({"parent": 2**63}, 400),
    ({"parent": 1.0}, 400),
    ({"parent": True}, 400),
    ({"modes": []}, 400),
    ({"modes": ["eft", "eft"]}, 400),
    ({"modes": ["eft", "base", "tuned", "reference", "eft"]}, 400),
    ({"modes": ["real"]}, 400),
    ({"modes": "eft"}, 400),
    ({"modes": ["base"], "knobs": {"alpha": 1}}, 400),
    ({"sampling": {"temperature": -1}}, 400),
    ({"sampling": {"temperature": 1e9}}, 400),
    ({"sampling": {"top_p": 1.5}}, 400),
    ({"sampling": {"top_k": 1 << 40}}, 400),
    ({"sampling": {"top_k": 2.5}}, 400),
    ({"sampling": {"min_p": "0"}}, 400),
    ({"sampling": {"seed": -1}}, 400),
    ({"sampling": {"seed": 2**64}}, 400),
    ({"sampling": {"grammar": "root ::= x"}}, 400),
    ({"knobs": {"alpha": -1}}, 400),
    ({"knobs": {"alpha": 101}}, 400),
    ({"knobs": {"beta": -0.1}}, 400),
    ({"knobs": {"conservative_p": 2}}, 400),
    ({"knobs": {"deltas": {"other": 1}}}, 400),
    ({"knobs": {"speed": 1}}, 400),
    ({"max_tokens": 0}, 400),
    ({"max_tokens": 1 << 40}, 400),
    ({"n_top": 11}, 400),
    ({"n_top": -1}, 400),
    ({"stream": True}, 400),
]


@pytest.mark.parametrize(("change", "status"), BAD, ids=[json.dumps(change)[:40] for change, _ in BAD])
def test_what_cannot_be_asked_leaves_no_trace(history: History, change: dict[str, Any], status: int) -> None:
    async def test() -> None:
        page = Page(history)
        reply = await page.call("POST", page.path, GOOD | change)
        assert reply.status_code == status, reply.text
        error = reply.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert len(error["message"]) < 300
        assert page.engine.asks == []
        assert page.messages() == []

    run(test)


@pytest.mark.parametrize("name", ["0" * 12, "..", "%2e%2e%2fetc", "%00", "A" * 12, "0" * 11, "0" * 5000])
def test_conversations_that_are_not_there(history: History, name: str) -> None:
    async def test() -> None:
        reply = await Page(history).call("POST", f"/api/conversations/{name}/answers", GOOD)
        assert reply.status_code == 404

    run(test)


def test_an_answer_is_no_question(history: History) -> None:
    async def test() -> None:
        page = Page(history)
        await page.ask(content="Hi")
        reply = await page.call("POST", page.path, {"parent": page.last().id, "modes": ["eft"]})
        assert reply.status_code == 400
        assert len(page.messages()) == 2

    run(test)


numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
fields = ("content", "parent", "modes", "sampling", "knobs", "max_tokens", "n_top", "other")


@settings(max_examples=60)
@given(body=st.dictionaries(st.sampled_from(fields), values | st.just(["eft"]), max_size=4) | values)
def test_no_body_breaks_the_server(tmp_path_factory: pytest.TempPathFactory, body: Any) -> None:
    async def test() -> None:
        with History(tmp_path_factory.mktemp("fuzz") / "history.db") as history:
            page = Page(history)
            for method, path in (
                ("POST", page.path),
                ("POST", "/api/conversations"),
                ("PATCH", f"/api/conversations/{page.conversation}"),
            ):
                assert (await page.call(method, path, body)).status_code < 500

    run(test)


# ---- what answers


def test_what_the_page_is_told(history: History) -> None:
    async def test() -> None:
        about = (await Page(history, FakeEngine(about=TWO_DELTAS)).call("GET", "/api/about")).json()
        assert about["state"] == "ready"
        assert about["modes"] == ["eft", "base", "tuned", "reference"]
        assert [member["name"] for member in about["members"]] == ["base", "tuned", "reference"]
        assert about["members"][0].keys() == {"name", "file", "description", "n_params", "size_bytes"}
        assert about["deltas"] == [{"name": "helpful", "alpha": 1.0}, {"name": "harmless", "alpha": 0.5}]
        assert about["knobs"] == {"beta": 1.0, "conservative_p": None}
        assert about["sampling"].keys() == {"temperature", "top_k", "top_p", "min_p"}
        assert about["memory"]["resident"] > 0
        assert about["suggestions"] == []
        assert about.keys() >= {"version", "family", "n_ctx"}

    run(test)


def test_the_bundled_family_comes_with_questions() -> None:
    found = answers.suggestions("demo")
    assert len(found) == len(set(found)) == 4
    assert all(question.endswith(("?", ".")) for question in found)


def test_little_is_told_of_an_engine_that_is_not_loaded(history: History) -> None:
    async def test() -> None:
        loading = (await Page(history, FakeEngine(about=None, state="loading")).call("GET", "/api/about")).json()
        assert loading.keys() == {"version", "state", "sampling"}
        failed = FakeEngine(about=None, state="failed", failure="")
        told = (await Page(history, failed).call("GET", "/api/about")).json()
        assert told["state"] == "failed"
        assert told["failure"] == "engine: failed"

    run(test)
