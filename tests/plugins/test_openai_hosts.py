"""LangChain and LlamaIndex through their own classes for OpenAI's interface, as the manual shows them.

Half a minute, and once 300 MB for their libraries. LangChain's own standard tests run, but for those of structured
output: their schemas hold free texts, and the bundled models never close one. A closed schema is tested in their place.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.hosts import host_python
from tests.server.serving import served

pytestmark = pytest.mark.hosts

ROOT = Path(__file__).resolve().parents[2]
LANGCHAIN = ("langchain-openai>=1.1,<2", "langchain-tests>=1.1,<2")
LLAMA_INDEX = ("llama-index-llms-openai-like==0.8.1",)
HELLO = [{"role": "user", "content": "Where is Kelworth?"}]

STANDARD = """
import os

from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class TestEFT(ChatModelIntegrationTests):
    chat_model_class = ChatOpenAI
    has_tool_calling = False
    has_structured_output = False
    chat_model_params = {
        "model": "demo",
        "base_url": os.environ["EFTLITE_URL"],
        "api_key": "none",
        "stream_usage": True,
        "temperature": 0,
        "max_tokens": 64,
    }
    supports_model_override = True
    model_override_value = "demo:base"
"""

# The manual's example stands before each.
LANGCHAIN_MORE = '''
import asyncio
import json
from typing import Literal

from pydantic import BaseModel


class Animal(BaseModel):
    """An animal."""

    kind: Literal["cat", "dog", "eel"]


plain = model.bind(temperature=0, max_tokens=24)
closed = model.with_structured_output(Animal, method="json_schema")
print(json.dumps({
    "whole": plain.invoke("Where is Kelworth?").text,
    "stream": "".join(chunk.text for chunk in plain.stream("Where is Kelworth?")),
    "async": asyncio.run(plain.ainvoke("Where is Kelworth?")).text,
    "kind": closed.invoke("Where is Kelworth?").kind,
}))
'''
LLAMA_INDEX_MORE = """
import asyncio
import json

from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import ChatMessage

llm = llm.model_copy(update={"temperature": 0, "max_tokens": 24})
question = [ChatMessage(role="user", content="Where is Kelworth?")]
engine = SimpleChatEngine.from_defaults(llm=llm)
print(json.dumps({
    "whole": llm.complete("Where is Kelworth?").text,
    "chat": llm.chat(question).message.content,
    "stream": "".join(piece.delta or "" for piece in llm.stream_chat(question)),
    "async": asyncio.run(llm.achat(question)).message.content,
    "engine": str(engine.chat("Where is Kelworth?")),
    "turns": len(engine.chat_history) and str(engine.chat("And who founded it?")) != "",
}))
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where a server is."""
    with served() as url:
        yield f"{url}/v1"


def run(python: Path, folder: Path, url: str, *arguments: str) -> str:
    """What a program of the host prints."""
    environment = {**os.environ, "EFTLITE_URL": url, "NO_PROXY": "127.0.0.1"}
    result = subprocess.run(
        [str(python), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        check=False,
        timeout=240,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def manual(heading: str, url: str) -> str:
    """The example below a heading of the manual, asking this server."""
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    match = re.search(rf"^## {heading}$.*?^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert match, heading
    assert "http://127.0.0.1:8484/v1" in match[1]
    return match[1].replace("http://127.0.0.1:8484/v1", url)


def answer(url: str) -> Any:
    """The server's own, with the knobs of the examples."""
    wanted = {"model": "demo", "messages": HELLO, "temperature": 0, "max_tokens": 24, "eft": {"alpha": 0.8}}
    reply = httpx.post(f"{url}/chat/completions", json=wanted, trust_env=False, timeout=60).json()
    return reply["choices"][0]["message"]["content"]


def test_langchains_standard_tests(url: str, tmp_path: Path) -> None:
    (tmp_path / "test_standard.py").write_text(STANDARD, encoding="utf-8")
    # The class shares its connections between event loops' lives; one loop for all tests is what its own suite has.
    options = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_test_loop_scope=session", "-W", "default")
    printed = run(
        host_python("langchain", *LANGCHAIN), tmp_path, url, "-m", "pytest", "-q", *options, "test_standard.py"
    )
    match = re.search(r"(\d+) passed", printed)
    assert match, printed
    print(printed.splitlines()[-1])
    assert int(match[1]) >= 20


def test_langchain_as_the_manual_has_it(url: str, tmp_path: Path) -> None:
    printed = run(host_python("langchain", *LANGCHAIN), tmp_path, url, "-c", manual("LangChain", url) + LANGCHAIN_MORE)
    found = json.loads(printed[printed.rindex('{"whole"') :])
    assert found.pop("kind") in {"cat", "dog", "eel"}
    assert set(found.values()) == {answer(url)}


def test_llama_index_as_the_manual_has_it(url: str, tmp_path: Path) -> None:
    code = manual("LlamaIndex", url) + LLAMA_INDEX_MORE
    printed = run(host_python("llama_index", *LLAMA_INDEX), tmp_path, url, "-c", code)
    *_, shift, told = printed.splitlines()
    assert float(shift) > 0
    found = json.loads(told)
    assert found.pop("turns")
    assert set(found.values()) == {answer(url)}
