"""OpenAI's routes over an engine that plays scripts: shapes, streams, several answers, tools, errors, leaving."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from eftlite.errors import BusyError, ContextError, WorkerError
from eftlite.events import TokenEvent
from eftlite.server.metrics import Totals
from eftlite.settings import Knobs
from tests.server.asgi import CHAT, COMPLETIONS, HELLO, Visitor, client_of, events_of, make_app, run, until
from tests.server.fakes import ABOUT, END, FakeEngine, Script, words
from tests.server.test_requests import NUMBERS, OUT_OF_RANGE, body


def chat(engine: FakeEngine | None = None, **fields: Any) -> Any:
    """The reply to a chat request."""
    response = client_of(engine or FakeEngine()).post(CHAT, json={"messages": HELLO, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def chat_stream(engine: FakeEngine | None = None, **fields: Any) -> list[Any]:
    """The events of a streamed chat."""
    response = client_of(engine or FakeEngine()).post(CHAT, json={"messages": HELLO, "stream": True, **fields})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events_of(response.text)
    assert done == "[DONE]"
    return chunks


def complete(engine: FakeEngine | None = None, **fields: Any) -> Any:
    """The reply to a completion request."""
    response = client_of(engine or FakeEngine()).post(COMPLETIONS, json={"prompt": "Say", **fields})
    assert response.status_code == 200, response.text
    return response.json()


def refusal(engine: FakeEngine | None = None, path: str = CHAT, **fields: Any) -> tuple[int, Any]:
    """Status and error of a request."""
    data = {"messages": HELLO, "prompt": "Say", **fields}
    response = client_of(engine or FakeEngine()).post(path, json=data)
    return response.status_code, response.json()["error"]


# ---- models


def test_models() -> None:
    data = client_of(FakeEngine()).get("/v1/models").json()
    assert data["object"] == "list"
    assert [model["id"] for model in data["data"]] == ["fake", "fake:base", "fake:tuned", "fake:reference"]
    assert all({"id", "object", "created", "owned_by"} <= set(model) for model in data["data"])
    whole, base, *_ = data["data"]
    assert whole["meta"]["n_params"] == 9_000_000
    assert whole["meta"]["n_ctx_train"] == 2048
    assert base["meta"] == {
        "n_vocab": ABOUT.n_vocab, "n_ctx": 2048, "n_ctx_train": 4096, "n_params": 7_000_000, "size": 4_000_000,
    }  # fmt: skip  # a record


def test_one_model() -> None:
    client = client_of(FakeEngine())
    assert client.get("/v1/models/fake:tuned").json()["id"] == "fake:tuned"
    for name in ("gpt-4", "..%2F..%2Fetc", "a/b", "%00"):
        response = client.get(f"/v1/models/{name}")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_nothing_is_known_before_it_is_loaded() -> None:
    engine = FakeEngine(about=None, state="loading")
    for reply in (client_of(engine).get("/v1/models"), client_of(engine).post(CHAT, json={"messages": HELLO})):
        assert reply.status_code == 503
        assert reply.json()["error"]["type"] == "unavailable_error"
        assert reply.headers["retry-after"] == "1"


# ---- chat


def test_a_chat_answer() -> None:
    totals = Totals()
    engine = FakeEngine()
    reply = client_of(engine, totals).post(CHAT, json={"messages": HELLO, "model": "fake", "seed": 5}).json()
    assert reply["object"] == "chat.completion"
    assert reply["model"] == "fake"
    message = {"role": "assistant", "content": "Hello there, friend.", "refusal": None}
    assert reply["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    assert reply["usage"] == {
        "prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 2},
    }  # fmt: skip  # a record
    assert reply["eft"]["seed"] == 5
    assert reply["eft"]["acceptance"] == 0.75
    assert reply["eft"]["member_s"] == {"base": 0.4, "tuned": 0.2, "reference": 0.1}
    assert reply["timings"]["predicted_n"] == 4
    assert engine.asks[0].messages == HELLO
    assert engine.clients == ["testclient"]
    assert engine.runnings[0].left.is_set()
    assert (totals.n_answers, totals.taken.n_tokens) == (1, 4)


@pytest.mark.parametrize(("model", "mode"), [("fake:base", "base"), ("fake:tuned", "tuned")])
def test_a_member_alone_answers_by_its_name(model: str, mode: str) -> None:
    engine = FakeEngine()
    assert chat(engine, model=model)["model"] == model
    assert engine.asks[0].knobs == Knobs.alone(mode, 1)


def test_chat_logprobs() -> None:
    content = chat(logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["Hello", " there,", " friend."]
    assert [len(entry["top_logprobs"]) for entry in content] == [2, 2, 2]
    assert bytes(byte for entry in content for byte in entry["bytes"]) == b"Hello there, friend."


def test_several_answers_are_several_choices() -> None:
    engine = FakeEngine([Script("One."), Script("Two."), Script("Three.")])
    reply = chat(engine, n=3, seed=5)
    assert [(c["index"], c["message"]["content"]) for c in reply["choices"]] == [
        (0, "One."),
        (1, "Two."),
        (2, "Three."),
    ]
    assert [ask.sampling.seed for ask in engine.asks] == [5, 6, 7]
    assert reply["usage"]["completion_tokens"] == 3
    assert reply["eft"]["seed"] == 5
    assert reply["eft"]["drafts"]["n_drafted"] == 12


def test_an_answer_that_reaches_its_limit() -> None:
    (choice,) = chat(max_tokens=2)["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hello there,", "length")


# ---- streams


def test_a_streamed_chat() -> None:
    chunks = chat_stream()
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant"}, {"content": "Hello"}, {"content": " there,"}, {"content": " friend."}, {},
    ]  # fmt: skip  # as they come
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["stop"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)
    assert ["eft" in chunk for chunk in chunks] == [False] * 4 + [True]
    assert chunks[-1]["eft"]["acceptance"] == 0.75
    assert chunks[-1]["timings"]["cache_n"] == 2


def test_usage_comes_when_asked_for() -> None:
    *chunks, last = chat_stream(stream_options={"include_usage": True})
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 8


def test_several_answers_in_one_stream() -> None:
    chunks = chat_stream(FakeEngine([Script("One."), Script("Two.")]), n=2, stream_options={"include_usage": True})
    by_index: dict[int, str] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        by_index[choice["index"]] = by_index.get(choice["index"], "") + choice["delta"].get("content", "")
    assert by_index == {0: "One.", 1: "Two."}
    assert sum("eft" in chunk for chunk in chunks) == 1
    assert chunks[-1]["usage"]["completion_tokens"] == 2


def test_a_stream_with_logprobs_has_a_chunk_for_each_token() -> None:
    chunks = chat_stream(logprobs=True)
    tokens = [chunk["choices"][0]["logprobs"]["content"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
    assert [entry["token"] for (entry,) in tokens] == ["Hello", " there,", " friend."]


def test_whole_and_streamed_say_the_same() -> None:
    chunks = chat_stream(seed=3)
    whole = chat(seed=3)
    assert (
        "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        == (whole["choices"][0]["message"]["content"])
    )
    assert chunks[-1]["eft"] == whole["eft"]


# ---- completions


def test_a_completion() -> None:
    engine = FakeEngine()
    reply = complete(engine)
    assert reply["object"] == "text_completion"
    assert reply["choices"] == [{"index": 0, "text": "Hello there, friend.", "logprobs": None, "finish_reason": "stop"}]
    assert (engine.asks[0].prompt, engine.asks[0].limits.max_tokens) == ("Say", 16)


def test_completions_of_several_prompts() -> None:
    engine = FakeEngine([Script(word) for word in "abcd"])
    reply = complete(engine, prompt=["x", "y"], n=2)
    assert [(choice["index"], choice["text"]) for choice in reply["choices"]] == list(enumerate("abcd"))
    assert [ask.prompt for ask in engine.asks] == ["x", "x", "y", "y"]


def test_a_streamed_completion() -> None:
    response = client_of(FakeEngine()).post(COMPLETIONS, json={"prompt": "Say", "stream": True, "echo": True})
    *chunks, done = events_of(response.text)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Say", "Hello", " there,", " friend.", ""]
    assert (chunks[-1]["choices"][0]["finish_reason"], done) == ("stop", "[DONE]")


def test_a_stream_of_an_answer_without_tokens() -> None:
    data = {"prompt": "Say", "stream": True, "echo": True, "max_tokens": 0}
    *chunks, _ = events_of(client_of(FakeEngine()).post(COMPLETIONS, json=data).text)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Say", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "length"]


@pytest.mark.parametrize("prompt", ["Say", [83, 97, 121]])
def test_echo_scores_the_prompt(prompt: Any) -> None:
    """As lm-evaluation-harness asks: it cuts the last token off, which must not be the prompt's."""
    for events in (None, [TokenEvent(END, "", b"<|end|>", -0.1, finish_reason="stop", is_end=True)]):
        engine = FakeEngine([Script(events=events)])
        reply = complete(engine, prompt=prompt, echo=True, logprobs=1, max_tokens=1, temperature=0)
        (choice,) = reply["choices"]
        logprobs = choice["logprobs"]
        assert choice["text"] == ("SayHello" if events is None else "Say")
        assert logprobs["tokens"][:3] == ["S", "a", "y"]
        assert logprobs["token_logprobs"][:3] == [None, -0.1, -0.2]
        assert logprobs["top_logprobs"][0] is None
        assert logprobs["top_logprobs"][1] == {"a": -0.5}
        assert logprobs["text_offset"] == [0, 1, 2, 3]
        assert {len(values) for values in logprobs.values()} == {4}
        assert reply["usage"]["completion_tokens"] == (1 if events is None else 0)


def test_echo_leaves_out_the_token_that_begins_every_text() -> None:
    """Clients count their own tokens only."""

    class Begins(FakeEngine):
        """Scores texts as models with a BOS do."""

        async def score(self, prompt: Any, knobs: Knobs, n_top: int, client: str = "") -> list[TokenEvent]:
            scored = await super().score(prompt, knobs, n_top, client)
            return [TokenEvent(1, "", b"", float("nan")), *(replace(event, logprob=-1.0) for event in scored)]

    logprobs = complete(Begins(), echo=True, logprobs=0, max_tokens=0)["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["S", "a", "y"]
    assert logprobs["token_logprobs"] == [-1.0] * 3


def test_echo_without_logprobs_scores_nothing() -> None:
    assert complete(echo=True, max_tokens=1)["choices"][0]["text"] == "SayHello"
    assert complete(prompt="", echo=True, logprobs=1)["choices"][0]["text"] == "Hello there, friend."


def test_log_probabilities_that_json_cannot_hold() -> None:
    """Minus infinity is OpenAI's -9999."""
    events = [TokenEvent(65, "A", b"A", float("-inf")), TokenEvent(66, "B", b"B", float("nan"), finish_reason="length")]
    logprobs = complete(FakeEngine([Script(events=events)]), logprobs=0)["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"] == [-9999.0, None]


# ---- tools

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALL_TEXT = 'Let me see. <tool_call> {"name": "weather", "arguments": {"city": "Oslo"}} </tool_call>'


def test_a_call_in_an_answer() -> None:
    (choice,) = chat(FakeEngine([Script(CALL_TEXT)]), tools=TOOLS)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see."
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["id"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("weather", {"city": "Oslo"})


def test_a_call_in_a_stream() -> None:
    chunks = chat_stream(FakeEngine([Script(CALL_TEXT)]), tools=TOOLS)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == "Let me see."
    (call,) = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert (call["index"], call["function"]["name"]) == (0, "weather")
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_an_answer_that_is_a_call_has_no_content() -> None:
    text = '{"name": "weather", "parameters": {}}'
    (choice,) = chat(FakeEngine([Script(text)]), tools=TOOLS, tool_choice="required")["choices"]
    assert choice["message"]["content"] is None
    assert len(choice["message"]["tool_calls"]) == 1


def test_without_tools_a_call_is_text() -> None:
    for fields in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        (choice,) = chat(FakeEngine([Script(CALL_TEXT)]), **fields)["choices"]
        assert choice["message"]["content"] == CALL_TEXT
        assert choice["finish_reason"] == "stop"


def test_what_was_held_back_is_shown_at_the_end() -> None:
    chunks = chat_stream(FakeEngine([Script("a <tool_call> b")]), tools=TOOLS)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "a <tool_call> b"


# ---- errors


@pytest.mark.parametrize("path", NUMBERS)
def test_every_number_out_of_range_is_refused_by_its_name(path: str) -> None:
    client = client_of(FakeEngine())
    for wrong in OUT_OF_RANGE:
        content = json.dumps(body(path, wrong))
        response = client.post(CHAT, content=content, headers={"Content-Type": "application/json"})
        error = response.json()["error"]
        assert response.status_code == 400
        assert error["type"] == "invalid_request_error"
        is_json = not isinstance(wrong, float) or abs(wrong) <= 1e308
        assert error["param"] == (path if is_json else None)


@pytest.mark.parametrize(
    ("engine", "status", "kind", "code"),
    [
        (FakeEngine(refusal=BusyError("queue: full", retry_after_s=2)), 429, "rate_limit_error", "rate_limit_exceeded"),
        (FakeEngine(state="restarting"), 503, "unavailable_error", None),
        (FakeEngine(state="failed", failure="no"), 503, "unavailable_error", None),
        (FakeEngine([Script(events=(), error=WorkerError("died"))]), 503, "server_error", None),
        (
            FakeEngine([Script(events=(), error=ContextError("x", n_prompt=9, n_ctx=5))]),
            400, "exceed_context_size_error", "context_length_exceeded",
        ),
    ],
)  # fmt: skip  # a table
@pytest.mark.parametrize("stream", [True, False])
def test_an_engine_that_cannot_answer(
    engine: FakeEngine, status: int, kind: str, code: str | None, stream: bool
) -> None:
    found, error = refusal(engine, stream=stream)
    assert (found, error["type"], error["code"]) == (status, kind, code)
    assert all(running.left.is_set() for running in engine.runnings)


def test_an_engine_that_dies_in_the_middle_of_a_stream() -> None:
    engine = FakeEngine([Script(events=words("Hello there")[:1], error=WorkerError("engine: died", "Ask again"))])
    response = client_of(engine).post(CHAT, json={"messages": HELLO, "stream": True})
    *_, error = events_of(response.text)
    assert response.status_code == 200
    assert error["error"]["message"] == "engine: died. Ask again"
    assert engine.runnings[0].left.is_set()


def test_unknown_models_are_not_found() -> None:
    status, error = refusal(model="gpt-4")
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "fake:tuned" in error["message"]


def test_there_are_no_embeddings() -> None:
    status, error = refusal(path="/v1/embeddings")
    assert (status, error["type"]) == (501, "not_supported_error")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", CHAT, 405), ("POST", "/v1/models", 405), ("POST", "/v1/nowhere", 404)]
)
def test_other_routes_and_methods(method: str, path: str, status: int) -> None:
    response = client_of(FakeEngine()).request(method, path)
    assert (response.status_code, set(response.json()["error"])) == (status, {"message", "type", "param", "code"})


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 200, b'{"messages": NaN}', b"5"])
def test_bodies_that_are_no_request(content: bytes) -> None:
    response = client_of(FakeEngine()).post(CHAT, content=content)
    assert (response.status_code, response.json()["error"]["param"]) == (400, None)


def test_prompts_are_not_in_errors() -> None:
    secret = "The code is 1234."
    messages = [{"role": "user", "content": secret}]
    for fields in ({"n": 9}, {"eft": {"x": 1}}, {"messages": [*messages, {"role": "user"}]}, {"stop": [""]}):
        data = {"messages": messages, "prompt": secret, **fields}
        response = client_of(FakeEngine()).post(CHAT, json=data)
        assert response.status_code == 400
        assert "1234" not in response.text


# ---- leaving


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("hold_at", [0, 2])
def test_a_client_that_leaves_frees_the_engine(stream: bool, hold_at: int) -> None:
    async def main() -> None:
        engine = FakeEngine([Script(hold_at=hold_at)])
        visitor = Visitor(make_app(engine), CHAT, {"messages": HELLO, "stream": stream})
        visit = asyncio.ensure_future(visitor.visit())
        await until(lambda: engine.runnings and len(engine.runnings[0].sent) == hold_at)
        visitor.leave.set()
        await visit
        assert engine.runnings[0].left.is_set()
        assert engine.n_running == 0

    run(main())


def test_a_client_that_leaves_asks_no_more() -> None:
    """Of several answers those that were not begun are not."""

    async def main() -> None:
        engine = FakeEngine([Script("One."), Script(hold_at=1), Script("Three.")])
        visitor = Visitor(make_app(engine), CHAT, {"messages": HELLO, "n": 3})
        visit = asyncio.ensure_future(visitor.visit())
        await until(lambda: len(engine.runnings) == 2)
        visitor.leave.set()
        await visit
        assert (len(engine.runnings), engine.n_running) == (2, 0)

    run(main())
