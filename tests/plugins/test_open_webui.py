"""The pipe for Open WebUI, in a host that behaves like it, against a server with the bundled models. 10 s.

The real program is driven in test_real_open_webui.py.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.plugins.open_webui import OpenWebUI
from tests.plugins.readme import commands, started
from tests.server.serving import served

pytest.importorskip("openai")

FILE = Path(__file__).resolve().parents[2] / "plugins" / "open-webui" / "eftlite_pipe.py"
HELLO = [{"role": "user", "content": "Hello. Who are you?"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
COMPARED = ["demo:base", "demo:tuned", "demo"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where a server is."""
    with served("--n-ctx", "512") as url:
        yield url


@pytest.fixture
def host(url: str, monkeypatch: pytest.MonkeyPatch) -> OpenWebUI:
    """Open WebUI with the pipe set to the server."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    host = OpenWebUI(FILE)
    host.save("valves", {"base_url": f"{url}/v1"})
    return host


def ask(host: OpenWebUI, model: str, messages: Any = HELLO, **more: Any) -> Any:
    """What the host gets for a question."""
    metadata = {name: more.pop(name) for name in list(more) if name.startswith("__")}
    body = {"model": f"eftlite.{model}", "messages": messages, **GREEDY, **more}
    return asyncio.run(host.answer(body, **metadata))


def direct(url: str, model: str, messages: Any = HELLO, **more: Any) -> str:
    """The same from the server itself."""
    body = {"model": model, "messages": messages, **GREEDY, **more}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, trust_env=False, timeout=60).json()
    return str(reply["choices"][0]["message"]["content"])


def parts(text: str) -> dict[str, str]:
    """Answers of a comparison by their headings."""
    before, *found = re.split(r"^#### (.+)$", text, flags=re.MULTILINE)
    assert before == ""
    return {name: answer.strip() for name, answer in zip(found[::2], found[1::2], strict=True)}


def test_the_file_is_one_that_the_host_takes(host: OpenWebUI) -> None:
    assert {"title", "author", "version", "license", "requirements"} <= host.about.keys()
    assert host.about["requirements"] == "openai"  # which Open WebUI has: nothing is compiled in its place


def test_models(host: OpenWebUI) -> None:
    names = ["demo", "demo:base", "demo:tuned", "demo:reference", "demo:compare"]
    assert asyncio.run(host.models()) == {f"eftlite.{name}": f"eftlite/{name}" for name in names}


@pytest.mark.parametrize("name", ["demo", "demo:base"])
@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_is_the_servers(host: OpenWebUI, url: str, name: str, stream: bool) -> None:
    answer = ask(host, name, stream=stream)
    assert "".join(answer) == direct(url, name)
    assert isinstance(answer, list) == stream
    assert not stream or len(answer) > 3


def test_knobs(host: OpenWebUI, url: str) -> None:
    """A user's win over the administrator's, a request's over both; a member alone has none."""
    off = '{"helpful": 0, "harmless": 0}'
    base, eft = direct(url, "demo:base"), direct(url, "demo")
    assert base != eft
    host.save("valves", {**host.valves, "alpha": "1", "deltas": off})
    assert ask(host, "demo") == direct(url, "demo", eft={"deltas": {"helpful": 0, "harmless": 0}}) == base
    assert ask(host, "demo:tuned") == direct(url, "demo:tuned")
    host.save("user_valves", {"alpha": "1", "beta": None, "deltas": '{"helpful": 1, "harmless": 0}'})
    assert ask(host, "demo") == eft
    assert ask(host, "demo", eft={"deltas": {"helpful": 0, "harmless": 0}}) == base


@pytest.mark.parametrize("form", [{"alpha": "much"}, {"deltas": "helpful=1"}, {"deltas": '{"helpful": "x"}'}])
def test_a_form_that_is_filled_in_wrongly_is_not_saved(host: OpenWebUI, form: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(form))):
        host.save("user_valves", form)
    assert host.user_valves == {}


def test_a_comparison(host: OpenWebUI, url: str) -> None:
    found = parts("".join(ask(host, "demo:compare", stream=True)))
    assert list(found) == COMPARED
    assert found == {name: direct(url, name).strip() for name in COMPARED}
    assert parts(ask(host, "demo:compare")) == found


def test_a_second_turn_of_a_comparison(host: OpenWebUI, url: str) -> None:
    """Each goes on with its own first answer, as if the others were not there."""
    first = ask(host, "demo:compare")
    turns = [*HELLO, {"role": "assistant", "content": first}, {"role": "user", "content": "What is water?"}]
    second = parts(ask(host, "demo:compare", turns))
    for name in COMPARED:
        seen = host.module._seen_by(name, COMPARED, turns)
        assert [message["content"] for message in seen] == [HELLO[0]["content"], parts(first)[name], "What is water?"]
        own = [*HELLO, {"role": "assistant", "content": parts(first)[name]}, turns[-1]]
        assert second[name] == direct(url, name, own).strip()


def test_only_eft_makes_a_title(host: OpenWebUI, url: str) -> None:
    assert ask(host, "demo:compare", __task__="title_generation") == direct(url, "demo")


def test_errors_are_shown(host: OpenWebUI) -> None:
    """The server's words, streamed or not; and a server that is not there is told in the picker."""
    host.save("valves", {**host.valves, "alpha": "1000"})
    *_, streamed = ask(host, "demo", stream=True)
    assert "eft.alpha: expected at most 100" in streamed["error"]["detail"]
    assert "eft.alpha: expected at most 100" in ask(host, "demo")["error"]["detail"]
    host.save("valves", {"base_url": "http://127.0.0.1:9/v1"})
    assert asyncio.run(host.models()) == {"eftlite.unreachable": "eftlite/no answer from http://127.0.0.1:9/v1/models"}
    assert ask(host, "demo", stream=True) == [
        {"error": {"detail": "no answer from http://127.0.0.1:9/v1/chat/completions"}}
    ]


def test_the_readmes_servers() -> None:
    """The second can be asked from a container: by another name, with its key."""
    (plain, words), (settings, words_outside) = commands(FILE.with_name("README.md"))
    assert (plain, words) == ({}, ["eftlite", "serve"])
    key = {"Authorization": f"Bearer {settings['EFTLITE_API_KEY']}"}
    with started(settings, words_outside) as port:
        models = f"http://127.0.0.1:{port}/v1/models"
        inside = {"Host": f"host.docker.internal:{port}"}
        assert httpx.get(models, headers=inside, trust_env=False).status_code == 401
        assert httpx.get(models, headers={**inside, **key}, trust_env=False, timeout=60).status_code == 200
