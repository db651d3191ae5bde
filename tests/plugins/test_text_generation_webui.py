"""The extension for text-generation-webui, in a host that behaves like it, against a server with the bundled models.

10 s. The real program was not run: it does not come as a package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.plugins.readme import commands
from tests.plugins.textgen import Textgen
from tests.server.serving import served

pytest.importorskip("openai")

FILE = Path(__file__).resolve().parents[2] / "plugins" / "text-generation-webui" / "script.py"
HELLO = [{"role": "user", "content": "Hello. Who are you?"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where a server is."""
    with served("--n-ctx", "512") as url:
        yield url


@pytest.fixture
def host(url: str, monkeypatch: pytest.MonkeyPatch) -> Textgen:
    """textgen with the extension set to the server in settings.yaml."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return Textgen(FILE, {"eftlite-base_url": url}, monkeypatch)


def direct(url: str, model: str, messages: Any = HELLO, **more: Any) -> str:
    """The server's own answer."""
    body = {"model": model, "messages": messages, **GREEDY, **more}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, trust_env=False, timeout=60).json()
    return str(reply["choices"][0]["message"]["content"])


def test_a_chat(host: Textgen, url: str) -> None:
    """Rendered by textgen with the tuned model's template, it is the conversation that the server would have made."""
    *pieces, whole = host.chat(HELLO)
    assert whole == direct(url, "demo")
    assert len(pieces) > 3
    assert all(later.startswith(earlier) for earlier, later in zip(pieces, [*pieces[1:], whole], strict=True))
    props = httpx.get(f"{url}/props", trust_env=False).json()  # templates write the tokens that begin and end a text
    assert (host.shared.bos_token, host.shared.eos_token) == (props["bos_token"], props["eos_token"]) != ("<s>", "</s>")
    turns = [*HELLO, {"role": "assistant", "content": whole}, {"role": "user", "content": "What is water?"}]
    assert [*host.chat(turns)][-1] == direct(url, "demo", turns)


def test_a_text_is_continued(host: Textgen, url: str) -> None:
    wanted = {"model": "demo", "prompt": "Water is", **GREEDY}
    reply = httpx.post(f"{url}/v1/completions", json=wanted, trust_env=False, timeout=60).json()
    assert [*host.complete("Water is")][-1] == reply["choices"][0]["text"]
    host.controls["eftlite's server"].moved(f" {url}/v1/ ")
    assert [*host.complete("Water is")][-1] == reply["choices"][0]["text"]


@pytest.mark.parametrize(("who", "name"), [("base alone", "demo:base"), ("tuned alone", "demo:tuned")])
def test_who_answers(host: Textgen, url: str, who: str, name: str) -> None:
    host.controls["Who answers"].moved(who)
    assert [*host.chat(HELLO)][-1] == direct(url, name)
    host.controls["Who answers"].moved("EFT")
    assert [*host.chat(HELLO)][-1] == direct(url, "demo")


def test_controls(host: Textgen, url: str) -> None:
    """They begin with what the server has, and nothing is sent that was not moved."""
    assert [host.controls[name].value for name in ("alpha", "beta", "conservative_p")] == [1.0, 1.0, 0.0]
    assert host.script.request_fields({"max_new_tokens": 1}, ())["eft"] == {}
    host.controls["beta"].moved(0)
    host.controls["conservative_p"].moved(0.9)
    assert host.script.request_fields({"max_new_tokens": 1}, ())["eft"] == {"beta": 0, "conservative_p": 0.9}
    assert [*host.chat(HELLO)][-1] == direct(url, "demo", eft={"beta": 0, "conservative_p": 0.9})
    host.controls["alpha"].moved(0)
    host.controls["beta"].moved(1)
    assert [*host.chat(HELLO)][-1] == direct(url, "demo:base")


def test_samplers(host: Textgen, url: str) -> None:
    """What textgen sets arrives: the same seed and law give the same text."""
    law: dict[str, Any] = {"temperature": 1.5, "top_p": 0.9, "top_k": 0, "min_p": 0}
    penalty = {"repeat_penalty": 2.0, "repeat_last_n": 64}
    found = [*host.chat(HELLO, seed=7, repetition_penalty=2.0, repetition_penalty_range=64, **law)][-1]
    assert found == direct(url, "demo", seed=7, **penalty, **law)
    assert found != direct(url, "demo", seed=8, **penalty, **law)
    assert found != direct(url, "demo", seed=7, **law)
    assert [*host.chat(HELLO, temperature=1.5, do_sample=False)][-1] == direct(url, "demo")
    assert [*host.chat(HELLO, grammar_string='root ::= "yes" | "no"')][-1] in {"yes", "no"}


def test_stopping_strings(host: Textgen, url: str) -> None:
    """Also when textgen has more than the server takes."""
    first_word = direct(url, "demo").split()[0]
    assert [*host.chat(HELLO, stop=[" "])][-1] == first_word
    assert [*host.chat(HELLO, stop=[*"QXZ€§µßøłđŋħĸæðþ", " "])][-1] == first_word


def test_what_goes_wrong_is_said_in_the_reply(host: Textgen) -> None:
    host.controls["alpha"].moved(1000)
    assert [*host.chat(HELLO)][-1] == "[eftlite: eft.alpha: expected at most 100.0]"
    host.controls["eftlite's server"].moved("http://127.0.0.1:9")
    assert [*host.chat(HELLO)][-1] == "[eftlite: no answer from http://127.0.0.1:9/props]"
    host.controls["Who answers"].moved("nobody")
    assert [*host.chat(HELLO)][-1].startswith("[eftlite: who: expected EFT, ")


def test_it_loads_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    host = Textgen(FILE, {"eftlite-base_url": "http://127.0.0.1:9", "eftlite-alpha": 0.5}, monkeypatch)
    assert [host.controls[name].value for name in ("alpha", "beta", "conservative_p")] == [0.5, 1.0, 0.0]


def test_the_readmes_commands_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """``eftlite serve`` is the fixture; the others are of programs that are not here."""
    page = FILE.with_name("README.md")
    (_, install), (_, serve), (_, run) = commands(page)
    assert install == ["pip", "install", "-r", "user_data/extensions/eftlite/requirements.txt"]
    assert FILE.with_name("requirements.txt").read_text(encoding="utf-8").startswith("openai")
    assert (serve, run) == (["eftlite", "serve"], ["python", "server.py", "--extensions", "eftlite"])
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    settings = dict(re.findall(r"^eftlite-(\w+): (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE))
    params = Textgen(FILE, {}, monkeypatch).script.params
    assert settings.keys() <= params.keys()
    assert settings["base_url"] == params["base_url"]
