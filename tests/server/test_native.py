"""llama-server's routes: health, properties, tokenizing, templates, the description."""

from __future__ import annotations

from typing import Any

import pytest

from eftlite.server.native import MAX_PIECES
from tests.server.asgi import HELLO, client_of
from tests.server.fakes import ABOUT, TEMPLATE, FakeEngine


def post(path: str, engine: FakeEngine | None = None, **data: Any) -> Any:
    """The reply to a request."""
    response = client_of(engine or FakeEngine()).post(path, json=data)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("path", ["/health", "/v1/health"])
@pytest.mark.parametrize(
    ("state", "status"), [("ready", 200), ("loading", 503), ("restarting", 503), ("failed", 503), ("closed", 503)]
)
def test_health(path: str, state: str, status: int) -> None:
    response = client_of(FakeEngine(state=state, failure="/srv/secret.gguf")).get(path)
    assert response.status_code == status
    if status == 200:
        assert response.json() == {"status": "ok"}
    else:
        assert response.json()["error"]["code"] == 503
        assert response.json()["error"]["type"] == "unavailable_error"
    assert "secret" not in response.text


def test_props() -> None:
    props = client_of(FakeEngine()).get("/props").json()
    assert props["default_generation_settings"]["n_ctx"] == 2048
    assert props["default_generation_settings"]["params"]["temperature"] == 0.8
    assert props["default_generation_settings"]["params"]["repeat_last_n"] == 64
    assert (props["total_slots"], props["model_path"], props["chat_template"]) == (4, "base.gguf", TEMPLATE)
    assert (props["bos_token"], props["eos_token"]) == ("", "<|end|>")
    assert props["eft"]["deltas"] == ["tuned"]
    assert props["eft"]["knobs"]["alphas"] == [1.0]
    assert [member["name"] for member in props["eft"]["members"]] == ["base", "tuned", "reference"]
    assert props["eft"]["models"]["fake:base"] == "base"


def test_tokenizing() -> None:
    assert post("/tokenize", content="ab") == {"tokens": [97, 98]}
    assert post("/tokenize", content="ab", add_special=True) == {"tokens": [1, 97, 98]}
    assert post("/tokenize", prompt="ab", add_special_tokens=True) == {"tokens": [1, 97, 98]}


def test_pieces_are_texts_or_bytes() -> None:
    """As llama-server tells tokens that are no text by themselves."""
    assert post("/tokenize", content="aá", with_pieces=True)["tokens"] == [
        {"id": 97, "piece": "a"}, {"id": 195, "piece": [195]}, {"id": 161, "piece": [161]},
    ]  # fmt: skip  # a record


def test_pieces_are_limited() -> None:
    content = "a" * (MAX_PIECES + 1)
    response = client_of(FakeEngine()).post("/tokenize", json={"content": content, "with_pieces": True})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "content")


def test_detokenizing() -> None:
    assert post("/detokenize", tokens=[97, 98]) == {"content": "ab", "prompt": "ab"}
    assert post("/detokenize", tokens=[])["content"] == ""
    assert post("/detokenize", tokens=[195])["content"] == "\ufffd"
    response = client_of(FakeEngine()).post("/detokenize", json={"tokens": [ABOUT.n_vocab]})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tokens")


def test_what_is_told_of_the_tokenizer() -> None:
    told = client_of(FakeEngine()).get("/tokenizer_info").json()
    assert told == {"eos_token": "<|end|>", "bos_token": None, "chat_template": TEMPLATE}


def test_templates() -> None:
    assert post("/apply-template", messages=HELLO) == {"prompt": "<|user|>Hello<|assistant|>"}
    response = client_of(FakeEngine()).post("/apply-template", json={"messages": []})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "messages")


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/apply-template"])
def test_an_engine_that_is_not_there(path: str) -> None:
    data = {"content": "a", "tokens": [], "messages": HELLO}
    response = client_of(FakeEngine(about=None, state="loading")).post(path, json=data)
    assert (response.status_code, response.json()["error"]["type"]) == (503, "unavailable_error")


def test_the_description_is_served() -> None:
    assert client_of(FakeEngine()).get("/openapi.json").json()["openapi"] == "3.1.0"
