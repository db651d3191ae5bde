"""Real clients against a real server with the bundled models: the official ``openai`` package and the ``llm`` program.

Takes about 20 s, most of it the start of programs.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from tests.server.serving import figure, served

openai = pytest.importorskip("openai")
pytest.importorskip("llm")

HELLO = [{"role": "user", "content": "Hello. Who are you?"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where a server is."""
    with served("--n-ctx", "512") as url:
        yield url


@pytest.fixture
def client(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """OpenAI's client, as a user makes it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


# ---- the openai package


def test_models(client: Any) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["demo", "demo:base", "demo:tuned", "demo:reference"]
    assert client.models.retrieve("demo:base").id == "demo:base"


def test_a_chat(client: Any) -> None:
    answer = client.chat.completions.create(model="demo", messages=HELLO, seed=1, max_tokens=32)
    again = client.chat.completions.create(model="demo", messages=HELLO, seed=1, max_tokens=32)
    assert answer.choices[0].message.content
    assert answer.choices[0].message.content == again.choices[0].message.content
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert again.usage.prompt_tokens_details.cached_tokens > 0
    assert answer.model_extra["eft"]["seed"] == 1
    assert set(answer.model_extra["eft"]["member_s"]) >= {"base", "tuned", "reference"}


def test_a_stream_is_the_answer_in_pieces(client: Any) -> None:
    wanted: dict[str, Any] = {"model": "demo", "messages": HELLO, **GREEDY}
    whole = client.chat.completions.create(**wanted)
    with client.chat.completions.create(**wanted, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert [bool(chunk.usage) for chunk in chunks[:-1]] == [False] * (len(chunks) - 1)


def test_the_stream_helper_of_the_package(client: Any) -> None:
    """It checks the order of everything that comes."""
    with client.chat.completions.stream(model="demo", messages=HELLO, temperature=0) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content


def test_logprobs(client: Any) -> None:
    answer = client.chat.completions.create(model="demo", messages=HELLO, logprobs=True, top_logprobs=3, **GREEDY)
    tokens = answer.choices[0].logprobs.content
    assert bytes(byte for token in tokens for byte in token.bytes).decode() == answer.choices[0].message.content
    for token in tokens:
        assert token.logprob == token.top_logprobs[0].logprob <= 0  # greedy
        assert sum(math.exp(top.logprob) for top in token.top_logprobs) <= 1 + 1e-6


class Animal(BaseModel):
    """What the model is to fill in."""

    kind: Literal["cat", "dog", "eel"]
    is_wet: bool


def test_a_json_schema(client: Any) -> None:
    """The package makes the schema and reads the answer."""
    answer = client.chat.completions.parse(model="demo", messages=HELLO, response_format=Animal, temperature=0)
    assert isinstance(answer.choices[0].message.parsed, Animal)


def test_several_answers(client: Any) -> None:
    answer = client.chat.completions.create(model="demo", messages=HELLO, n=2, seed=5, temperature=1.5, max_tokens=16)
    alone = client.chat.completions.create(model="demo", messages=HELLO, seed=6, temperature=1.5, max_tokens=16)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[1].message.content == alone.choices[0].message.content


def test_knobs(client: Any) -> None:
    """Without any delta the base answers, as it does by its own name."""
    wanted: dict[str, Any] = {"messages": HELLO, **GREEDY}
    knobs = {"eft": {"deltas": {"helpful": 0, "harmless": 0}, "speculative": False}}
    base = client.chat.completions.create(model="demo:base", **wanted)
    same = client.chat.completions.create(model="demo", **wanted, extra_body=knobs)
    full = client.chat.completions.create(model="demo", **wanted)
    assert same.choices[0].message.content == base.choices[0].message.content
    assert full.choices[0].message.content != base.choices[0].message.content
    assert same.model_extra["eft"]["speculation"].startswith("off")


def test_closing_a_stream_ends_the_answer(client: Any, url: str) -> None:
    for _ in range(5):
        stream = client.chat.completions.create(
            model="demo", messages=HELLO, max_tokens=400, stream=True, logit_bias={}, temperature=2
        )
        next(iter(stream))
        stream.close()
    end = time.monotonic() + 5
    while figure(url, "llamacpp:requests_processing"):
        assert time.monotonic() < end, "an answer that nobody reads goes on"
        time.sleep(0.01)


def test_completions(client: Any) -> None:
    answer = client.completions.create(model="demo", prompt=["The capital of", "Water is"], **GREEDY)
    alone = client.completions.create(model="demo", prompt="Water is", **GREEDY)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[1].text == alone.choices[0].text


def test_a_scored_prompt(client: Any) -> None:
    """The log-probability of a text is the same whether it is scored or was generated."""
    made = client.completions.create(model="demo", prompt="Water is", logprobs=1, **GREEDY)
    text = "Water is" + made.choices[0].text
    scored = client.completions.create(model="demo", prompt=text, echo=True, logprobs=1, max_tokens=1, temperature=0)
    ours, theirs = made.choices[0].logprobs, scored.choices[0].logprobs
    assert theirs.token_logprobs[0] is None
    assert "".join(theirs.tokens[:-1]) == text
    n = len(ours.tokens)
    if theirs.tokens[:-1][-n:] == ours.tokens:  # the tokenizer may cut the text elsewhere
        assert theirs.token_logprobs[:-1][-n:] == pytest.approx(ours.token_logprobs, abs=1e-3)


def test_errors_are_of_the_packages_classes(client: Any) -> None:
    wanted: dict[str, Any] = {"model": "demo", "messages": HELLO}
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**wanted | {"model": "gpt-4"})
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(**wanted, n=99)
    assert (wrong.value.param, wrong.value.type) == ("n", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as unknown:
        client.chat.completions.create(**wanted, extra_body={"eft": {"gamma": 1}})
    assert unknown.value.param == "eft.gamma"
    for stream in (True, False):
        with pytest.raises(openai.BadRequestError) as long:
            client.chat.completions.create(
                model="demo", messages=[{"role": "user", "content": "so " * 2000}], stream=stream
            )
        assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as tools:
        client.chat.completions.create(**wanted, tools=[{"type": "function", "function": {"name": "f"}}])
    assert tools.value.param == "tools"
    with pytest.raises(openai.InternalServerError) as embeddings:
        client.embeddings.create(model="demo", input="x")
    assert embeddings.value.status_code == 501


# ---- the llm program


@pytest.fixture
def folder(url: str, tmp_path: Path) -> Path:
    """The folder of a user of ``llm`` who added this server."""
    entry = f"- model_id: eft\n  model_name: demo\n  api_base: {url}/v1\n"
    (tmp_path / "extra-openai-models.yaml").write_text(entry, encoding="utf-8")
    return tmp_path


def ask_llm(folder: Path, *arguments: str) -> str:
    """What the program prints."""
    environment = {**os.environ, "LLM_USER_PATH": str(folder), "NO_PROXY": "127.0.0.1", "LLM_LOAD_PLUGINS": ""}
    command = [sys.executable, "-m", "llm", *arguments]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment, stdin=subprocess.DEVNULL, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_llm_program(folder: Path, client: Any) -> None:
    """A prompt, streamed and whole, and a second turn that has the first before it."""
    options = ("-m", "eft", "-o", "temperature", "0", "-o", "max_tokens", "24")
    first = ask_llm(folder, *options, "Hello. Who are you?")
    assert first == client.chat.completions.create(model="demo", messages=HELLO, **GREEDY).choices[0].message.content
    assert ask_llm(folder, *options, "--no-stream", "--no-log", "Hello. Who are you?") == first
    second = ask_llm(folder, *options, "-c", "What is water?")
    turns = [*HELLO, {"role": "assistant", "content": first}, {"role": "user", "content": "What is water?"}]
    assert second == client.chat.completions.create(model="demo", messages=turns, **GREEDY).choices[0].message.content
    logged = json.loads(ask_llm(folder, "logs", "--json", "-n", "2"))
    assert len({entry["conversation_id"] for entry in logged}) == 1
