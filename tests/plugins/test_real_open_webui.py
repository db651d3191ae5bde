"""The pipe and the plain connection in the real Open WebUI, driven by its own interface. A minute, and once some GB.

The program's voice, vision and cloud libraries are not needed: in its slim mode it does not import them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.hosts import host_python
from tests.server.serving import served

pytestmark = pytest.mark.hosts

REQUIREMENT = "open-webui==0.12.4"
FILE = Path(__file__).resolve().parents[2] / "plugins" / "open-webui" / "eftlite_pipe.py"
START_S = 240
HELLO = [{"role": "user", "content": "Where is Kelworth?"}]
OFF = '{"helpful": 0, "harmless": 0}'  # without its deltas EFT is the base
SETTINGS = {
    "OFFLINE_MODE": "true",
    "USE_SLIM_DOCKER": "true",
    "RAG_EMBEDDING_ENGINE": "openai",  # the default one is fetched
    "ENABLE_OLLAMA_API": "false",
    "ANONYMIZED_TELEMETRY": "false",
    "SCARF_NO_ANALYTICS": "true",
    "DO_NOT_TRACK": "true",
    "WEBUI_SECRET_KEY": "none",
    "OPENAI_API_KEY": "none",
    "NO_PROXY": "127.0.0.1",
}
ACCOUNT = {"name": "a", "email": "a@example.org", "password": "Passw0rd!"}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where eftlite's server is."""
    with served() as url:
        yield f"{url}/v1"


@pytest.fixture(scope="module")
def host(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of Open WebUI, as its administrator, with both ways to eftlite set up."""
    program = host_python("open_webui", REQUIREMENT).with_name("open-webui")
    folder, port = tmp_path_factory.mktemp("open_webui"), free_port()
    environment = {**os.environ, **SETTINGS, "DATA_DIR": str(folder), "OPENAI_API_BASE_URL": url}
    command = [str(program), "serve", "--host", "127.0.0.1", "--port", str(port)]
    log = folder / "log.txt"
    with log.open("w") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
                wait_for(client, process, log)
                token = client.post("/api/v1/auths/signup", json=ACCOUNT).json()["token"]
                client.headers["Authorization"] = f"Bearer {token}"
                text = FILE.read_text(encoding="utf-8")
                pipe = {
                    "id": "eftlite",
                    "name": "eftlite",
                    "content": text,
                    "meta": {"description": "", "manifest": {}},
                }
                client.post("/api/v1/functions/create", json=pipe).raise_for_status()
                client.post("/api/v1/functions/id/eftlite/toggle").raise_for_status()
                yield client
        finally:
            process.terminate()


def wait_for(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the program answers."""
    end = time.monotonic() + START_S
    while True:
        assert process.poll() is None, log.read_text(encoding="utf-8")[-3000:]
        assert time.monotonic() < end, "it did not start"
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)


def set_valves(host: httpx.Client, valves: dict[str, Any], user: bool = False) -> int:
    """Fill in the pipe's form; gives the status."""
    of = "/user" if user else ""
    return host.post(f"/api/v1/functions/id/eftlite/valves{of}/update", json=valves).status_code


def models(host: httpx.Client) -> list[str]:
    """What the picker shows."""
    return [model["id"] for model in host.get("/api/models?refresh=true").json()["data"]]


def ask(host: httpx.Client, model: str, stream: bool = False) -> str:
    """An answer, or its error."""
    body = {"model": model, "messages": HELLO, "stream": stream, "temperature": 0, "max_tokens": 24}
    reply = host.post("/api/chat/completions", json=body)
    lines = reply.text.splitlines() if stream else [f"data: {reply.text}"]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    if errors := [chunk["error"]["detail"] for chunk in chunks if "error" in chunk]:
        return str(errors[0])
    return "".join(chunk["choices"][0]["delta" if stream else "message"].get("content", "") for chunk in chunks)


def test_both_ways_answer_the_same(host: httpx.Client, url: str) -> None:
    assert set_valves(host, {"base_url": url}) == 200
    names = {"demo", "demo:base", "demo:tuned", "demo:reference"}
    assert set(models(host)) >= names | {f"eftlite.{name}" for name in names | {"demo:compare"}}
    for name in ("demo", "demo:base"):
        assert ask(host, name) == ask(host, name, stream=True) == ask(host, f"eftlite.{name}")
        assert ask(host, f"eftlite.{name}", stream=True) == ask(host, name)
    assert ask(host, "demo") != ask(host, "demo:base")


def test_a_comparison(host: httpx.Client, url: str) -> None:
    set_valves(host, {"base_url": url})
    models(host)
    wanted = "\n\n".join(f"#### {name}\n\n{ask(host, name)}" for name in ("demo:base", "demo:tuned", "demo"))
    assert ask(host, "eftlite.demo:compare") == ask(host, "eftlite.demo:compare", stream=True) == wanted


def test_knobs(host: httpx.Client, url: str) -> None:
    """By valves, by a user's valves, and by a parameter of a model of one's own, as the manual says."""
    assert set_valves(host, {"base_url": url, "deltas": OFF, "alpha": None}) == 200
    assert set_valves(host, {"base_url": url, "deltas": "helpful=1"}) == 400
    models(host)
    base = ask(host, "demo:base")
    assert ask(host, "eftlite.demo") == base
    set_valves(host, {"deltas": '{"helpful": 1, "harmless": 0}'}, user=True)
    assert ask(host, "eftlite.demo") == ask(host, "demo")
    params = {"custom_params": {"eft": f'{{"deltas": {OFF}}}'}}
    own = {"id": "own", "name": "own", "base_model_id": "demo", "meta": {}, "params": params}
    host.post("/api/v1/models/create", json=own).raise_for_status()
    models(host)
    assert ask(host, "own") == base


def test_errors_are_shown(host: httpx.Client, url: str) -> None:
    set_valves(host, {}, user=True)
    set_valves(host, {"base_url": url})
    models(host)
    set_valves(host, {"base_url": url, "alpha": "1000"})
    for stream in (True, False):
        assert ask(host, "eftlite.demo", stream) == "eft.alpha: expected at most 100.0"
    set_valves(host, {"base_url": "http://127.0.0.1:9/v1"})
    assert "eftlite.unreachable" in models(host)
