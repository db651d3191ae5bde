"""Who may call: tables of hosts, origins and keys, asked of an app without a network; what every response carries."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from eftlite.errors import InputError, UnavailableError
from eftlite.server import guards
from eftlite.server.guards import HEADERS, Rules, guard
from eftlite.server.hosts import checked_host, checked_origin, host_of, is_loopback
from eftlite.server.keys import Keys, collect_keys
from eftlite.server.replies import exception_handlers
from tests.server.wire import KEY, LOCAL, Reply, exchange, head, local, open_endpoints, request, running, status_of

JSON = ("Content-Type", "application/json")
SECRET = "the-prompt-nobody-may-see"


async def hello(request: Request) -> Response:
    return PlainTextResponse(f"{request.method} {request.url.path}")


async def fails(request: Request) -> Response:
    raise ValueError(SECRET)


async def refuses(request: Request) -> Response:
    raise UnavailableError("engine: it is being loaded", retry_after_s=3)


async def fails_midway(request: Request) -> Response:
    def parts() -> Iterator[bytes]:
        yield b"begun"
        raise ValueError(SECRET)

    return StreamingResponse(parts())


ROUTES = [
    Route("/", hello),
    Route("/assets/page.js", hello),
    Route("/health", hello),
    Route("/v1/health", hello),
    Route("/v1/models", hello),
    Route("/v1/models/{name}", hello),
    Route("/v1/chat/completions", hello, methods=["POST"]),
    Route("/conversations/{id:int}", hello, methods=["GET", "PATCH", "DELETE"]),
    Mount("/inner", routes=[Route("/deep", hello, methods=["PUT"])]),
    Route("/fails", fails),
    Route("/fails-midway", fails_midway),
    Route("/refuses", refuses),
]
APP = Starlette(routes=ROUTES, exception_handlers=exception_handlers())
PAGES = frozenset({"/", "/assets/page.js"})
RULES = Rules("127.0.0.1", pages=PAGES)


def ask(rules: Rules, *headers: tuple[str, str], method: str = "GET", path: str = "/v1/models") -> Reply:
    return request(guard(APP, rules), method, path, headers)


# ---- hosts

OWN_NAME = socket.gethostname().lower()

LOOPBACK_HOSTS = [
    ("localhost", True),
    ("localhost:8484", True),
    ("localhost:1", True),  # a tunnel's other end
    ("LOCALHOST:8484", True),
    ("localhost.", True),
    ("localhost.:8484", True),
    ("eft.localhost:8484", True),
    ("127.0.0.1", True),
    ("127.0.0.1:8484", True),
    ("127.255.0.3:8484", True),
    ("[::1]", True),
    ("[::1]:8484", True),
    ("[0:0:0:0:0:0:0:1]:8484", True),
    ("[::ffff:127.0.0.1]:8484", True),
    ("", False),
    (" ", False),
    ("evil.example", False),
    ("evil.example:8484", False),
    ("localhost.evil.example:8484", False),
    ("127.0.0.1.evil.example", False),
    ("evillocalhost", False),
    (".localhost", False),
    ("localhost..", False),
    ("localhost@evil.example", False),
    ("evil.example@localhost", False),
    ("localhost:8484@evil.example", False),
    ("localhost:8484:8484", False),
    ("localhost:", False),
    ("localhost:0", False),
    ("localhost:65536", False),
    ("localhost:-1", False),
    ("localhost:http", False),
    ("localhost, evil.example", False),
    ("localhost evil.example", False),
    ("localhost/evil.example", False),
    ("http://localhost", False),
    ("loc\u00e4lhost", False),
    ("::1", False),
    ("[::1", False),
    ("::1]", False),
    ("[localhost]", False),
    ("[127.0.0.1]", False),
    ("[::1%lo]:8484", False),
    ("[::2]:8484", False),
    ("0.0.0.0:8484", False),
    ("192.168.1.5:8484", False),
    ("2130706433:8484", False),  # 127.0.0.1 in other spellings, which no client sends
    ("0x7f000001", False),
    ("127.1", False),
    ("127.0.0.01", False),
    (OWN_NAME if OWN_NAME != "localhost" else "evil.example", False),
]

OPEN_HOSTS = [
    ("localhost:8484", True),
    ("[::1]:8484", True),
    ("192.168.1.5:8484", True),
    ("203.0.113.9", True),  # cannot be rebound, and the machine's addresses change while it runs
    ("[2001:db8::5]:8484", True),
    (f"{OWN_NAME}:8484", True),
    (f"{OWN_NAME.partition('.')[0]}.local:8484", True),
    ("evil.example:8484", False),
    ("192.168.1.5.evil.example", False),
    ("", False),
]


@pytest.mark.parametrize(("host", "allowed"), LOOPBACK_HOSTS)
@pytest.mark.parametrize("bound", ["127.0.0.1", "::1", "localhost"])
def test_hosts_on_loopback(bound: str, host: str, allowed: bool) -> None:
    reply = ask(Rules(bound), ("Host", host))
    assert reply.status == (200 if allowed else 403)
    if not allowed:
        assert reply.error["type"] == "permission_error"


@pytest.mark.parametrize(("host", "allowed"), OPEN_HOSTS)
@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "192.168.1.5"])
def test_hosts_elsewhere(bound: str, host: str, allowed: bool) -> None:
    reply = ask(Rules(bound, keys=(KEY,)), ("Host", host), ("X-Api-Key", KEY))
    assert reply.status == (200 if allowed else 403)


def test_one_host_is_needed() -> None:
    assert ask(RULES).status == 403
    assert ask(RULES, ("Host", LOCAL), ("Host", LOCAL)).status == 403
    assert ask(RULES, ("Host", LOCAL), ("Host", "evil.example")).status == 403
    assert ask(RULES, ("Host", "evil.example"), ("X-Forwarded-Host", "localhost")).status == 403


def test_hosts_are_checked_before_routing() -> None:
    for path in ("/", "/health", "/unknown", "/v1/models/../..", "*", "http://localhost/"):
        assert ask(RULES, ("Host", "evil.example"), path=path).status == 403
    assert ask(RULES, ("Host", LOCAL), path="/unknown").status == 404


def test_the_network_side_agrees_on_hosts() -> None:
    """Two hosts, none, and one in the request's target, byte for byte."""
    with running(APP, RULES) as address:
        assert status_of(exchange(address, b"GET / HTTP/1.1\r\n\r\n")) == 400
        assert status_of(exchange(address, b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n")) == 400
        assert status_of(exchange(address, b"GET / HTTP/1.0\r\n\r\n")) == 403
        target = b"GET http://localhost/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        assert status_of(exchange(address, target)) == 403
        folded = b"GET / HTTP/1.1\r\nHost: evil.example\r\n localhost\r\nConnection: close\r\n\r\n"
        assert status_of(exchange(address, folded)) in {400, 403}


def test_hosts_given_by_the_user() -> None:
    rules = Rules("127.0.0.1", allow_hosts=("Chat.Example.", "2001:DB8::5", "192.168.1.7"))
    for host in ("chat.example", "CHAT.example:443", "chat.example.:1", "[2001:db8:0::5]:8484", "192.168.1.7:80"):
        assert ask(rules, ("Host", host)).status == 200, host
    for host in ("a.chat.example", "example", "192.168.1.8"):
        assert ask(rules, ("Host", host)).status == 403, host
    for wrong in ("*", "", "*.example", "chat.example:80", "[::1]:80", "http://chat.example", "a b", "a/b", "a@b"):
        with pytest.raises(InputError, match="allow-host"):
            Rules("127.0.0.1", allow_hosts=(wrong,))
    assert checked_host("[::1]") == "::1"


def test_a_host_has_one_spelling() -> None:
    assert host_of("EXAMPLE.com.:80") == "example.com"
    assert host_of("[2001:DB8:0:0::5]:80") == "2001:db8::5"
    assert is_loopback("127.9.9.9")
    assert not is_loopback("")


# ---- origins

OWN = f"http://{LOCAL}"
FOREIGN = (
    "http://evil.example",
    "https://evil.example:8484",
    f"https://{LOCAL}",  # another scheme
    "http://127.0.0.1:3000",  # another port of this machine
    "http://127.0.0.1",
    "http://localhost:8484",  # another name of this machine
    "http://127.0.0.1:8484.evil.example",
    "http://evil.example?http://127.0.0.1:8484",
    "http://user@127.0.0.1:8484",
    f"{OWN}/",
    f"{OWN}, http://evil.example",
    "null",
    "",
    "*",
    "file://",
    "chrome-extension://abcdefgh",
)
KINDS = ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "QUERY"])
def test_foreign_origins_are_refused(origin: str, method: str) -> None:
    for path in ("/v1/chat/completions", "/", "/health", "/unknown"):
        reply = ask(RULES, ("Host", LOCAL), ("Origin", origin), method=method, path=path)
        assert reply.status == 403
        assert not any(name.startswith("access-control") for name in reply.headers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("origin", ["http://evil.example", "null"])
def test_posts_that_need_no_preflight_are_refused(kind: str, origin: str) -> None:
    """A form or a fetch of text from another page: the browser asks nobody before it sends them."""
    for sent in ([("Origin", origin)], [("Sec-Fetch-Site", "cross-site")], [("Sec-Fetch-Site", "same-site")]):
        headers = local(*sent, ("Content-Type", kind), ("Content-Length", "2"))
        reply = request(guard(APP, RULES), "POST", "/v1/chat/completions", headers, b"{}")
        assert reply.status == 403
        assert reply.error["type"] == "permission_error"


# What Sec-Fetch-* and Origin say, and what becomes of GET / (the page), GET /v1/models (data), POST (a change).
SITES: list[tuple[dict[str, str], tuple[int, int, int]]] = [
    ({}, (200, 200, 200)),  # curl, the openai client
    ({"Origin": OWN}, (200, 200, 200)),
    ({"Origin": OWN.upper()}, (200, 200, 200)),
    ({"Origin": OWN, "Sec-Fetch-Site": "same-origin"}, (200, 200, 200)),
    ({"Sec-Fetch-Site": "same-origin"}, (200, 200, 200)),
    ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, (200, 200, 200)),  # typed into the address bar
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, (200, 403, 403)),  # a link elsewhere
    ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"}, (200, 403, 403)),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, (403, 403, 403)),  # an image, a script
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, (403, 403, 403)),
    ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, (403, 403, 403)),  # localhost:3000
    ({"Sec-Fetch-Site": "cross-site"}, (403, 403, 403)),
    ({"Sec-Fetch-Site": ""}, (403, 403, 403)),
    ({"Sec-Fetch-Site": "nonsense"}, (403, 403, 403)),
    ({"Origin": OWN, "Sec-Fetch-Site": "cross-site"}, (403, 403, 403)),
    ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, (403, 403, 403)),
    ({"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, (403, 403, 403)),
    ({"Origin": "http://evil.example", "Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, (403, 403, 403)),
    ({"Origin": "null", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, (403, 403, 403)),
]


@pytest.mark.parametrize(("sent", "expected"), SITES)
def test_where_a_request_comes_from(sent: dict[str, str], expected: tuple[int, int, int]) -> None:
    headers = [("Host", LOCAL), *sent.items()]
    asked = (("GET", "/"), ("GET", "/v1/models"), ("POST", "/v1/chat/completions"))
    assert tuple(ask(RULES, *headers, method=method, path=path).status for method, path in asked) == expected


def test_a_form_elsewhere_is_no_visit() -> None:
    """It navigates like a link, but sends something."""
    for method in ("POST", "PUT", "OPTIONS"):
        sent = (("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"))
        assert ask(RULES, ("Host", LOCAL), *sent, method=method, path="/").status == 403


def test_two_origins_are_one_too_many() -> None:
    rules = replace(RULES, allow_origins=("http://localhost:3000",))
    allowed, evil = ("Origin", "http://localhost:3000"), ("Origin", "http://evil.example")
    assert ask(rules, ("Host", LOCAL), allowed).status == 200
    for pair in ((allowed, evil), (evil, allowed), (("Origin", OWN), evil)):
        assert ask(rules, ("Host", LOCAL), *pair).status == 403


def test_the_pages_own_origin_follows_its_host() -> None:
    for host in ("localhost:8484", "[::1]:8484", "localhost.:1", "eft.localhost"):
        assert ask(RULES, ("Host", host), ("Origin", f"http://{host}"), method="POST").status == 405
        assert ask(RULES, ("Host", host), ("Origin", OWN), method="POST").status == 403


def test_origins_given_by_the_user_get_cors() -> None:
    origin = "http://localhost:3000"
    rules = replace(RULES, keys=(KEY,), allow_origins=("HTTP://localhost:3000", "app://obsidian.md"))
    preflight = [
        ("Host", LOCAL),
        ("Origin", origin),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,content-type,x-stainless-os"),
        ("Sec-Fetch-Site", "cross-site"),
    ]
    answer = ask(rules, *preflight, method="OPTIONS", path="/v1/chat/completions")
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert "x-stainless-os" in answer.headers["access-control-allow-headers"]
    near = ("Access-Control-Request-Private-Network", "true")  # Chrome asks before a public page reaches this machine
    answer = ask(rules, *preflight, near, method="OPTIONS", path="/v1/chat/completions")
    assert answer.headers["access-control-allow-private-network"] == "true"

    reply = ask(rules, ("Host", LOCAL), ("Origin", origin), ("Authorization", f"Bearer {KEY}"))
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, origin)
    assert "access-control-allow-credentials" not in {**answer.headers, **reply.headers}
    assert "origin" in reply.headers["vary"].lower()

    without = ask(rules, ("Host", LOCAL), ("Origin", origin))
    assert (without.status, without.headers["access-control-allow-origin"]) == (401, origin)  # the page may read it
    foreign = ask(rules, ("Host", LOCAL), ("Origin", "http://evil.example"), ("Authorization", f"Bearer {KEY}"))
    assert foreign.status == 403
    assert "access-control-allow-origin" not in foreign.headers
    assert ask(rules, ("Host", LOCAL), ("Sec-Fetch-Site", "cross-site"), ("X-Api-Key", KEY)).status == 403


def test_only_whole_origins_can_be_allowed() -> None:
    for wrong in ("*", "null", "", "localhost:3000", "http://", "http://a/", "http://a/b", "http://*.a", "http://u@a"):
        with pytest.raises(InputError, match="allow-origin"):
            Rules("127.0.0.1", allow_origins=(wrong,))
    for right in ("http://a", "https://a.b:1", "http://[::1]:3000", "vscode-webview://0af1", "moz-extension://a-b"):
        assert checked_origin(right) == right


# ---- keys

KEYED = replace(RULES, keys=("first-key", KEY))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 401),
        ([("Authorization", f"Bearer {KEY}")], 200),
        ([("Authorization", "Bearer first-key")], 200),
        ([("authorization", f"bearer {KEY}")], 200),
        ([("Authorization", f"BEARER   {KEY} ")], 200),
        ([("X-Api-Key", KEY)], 200),
        ([("x-api-key", "first-key")], 200),
        ([("X-Api-Key", "wrong"), ("Authorization", f"Bearer {KEY}")], 200),
        ([("Authorization", "Bearer wrong")], 401),
        ([("Authorization", f"Basic {KEY}")], 401),
        ([("Authorization", KEY)], 401),
        ([("Authorization", "Bearer")], 401),
        ([("Authorization", "Bearer ")], 401),
        ([("Authorization", f"Bearer{KEY}")], 401),
        ([("Authorization", f"Bearer {KEY[:-1]}")], 401),
        ([("Authorization", f"Bearer {KEY}x")], 401),
        ([("Authorization", f"Bearer {KEY.upper()}")], 401),
        ([("Authorization", f"Bearer first-key {KEY}")], 401),
        ([("Authorization", "Bearer \u00e9")], 401),
        ([("X-Api-Key", "")], 401),
        ([("X-Api-Key", "\u00ff")], 401),
        ([("Cookie", f"key={KEY}")], 401),
    ],
)
def test_keys(headers: list[tuple[str, str]], status: int) -> None:
    reply = ask(KEYED, ("Host", LOCAL), *headers)
    assert reply.status == status
    if status == 401:
        assert reply.error["type"] == "authentication_error"
        assert reply.headers["www-authenticate"] == "Bearer"
        assert not any(key in json.dumps(reply.error) for key in KEYED.keys)


def test_a_key_in_the_query_is_no_key() -> None:
    query = f"api_key={KEY}&key={KEY}".encode()
    assert request(guard(APP, KEYED), "GET", "/v1/models", local(), query_string=query).status == 401


def test_every_route_needs_the_key_but_health_and_page() -> None:
    expected = {
        (method, path) for method in ("GET", "HEAD") for path in ("/", "/assets/page.js", "/health", "/v1/health")
    }
    assert open_endpoints(APP, PAGES) == expected
    assert open_endpoints(Starlette(routes=[*ROUTES, Route("/new", hello)]), PAGES) == expected


def test_open_paths_are_open_for_reading_only_and_exactly() -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        assert ask(KEYED, ("Host", LOCAL), method=method, path="/").status == 401
    for path in ("//", "/health/", "/Health", "/health/..", "/assets/", "/assets/page.js/", "/assets/../v1/models", ""):
        assert ask(KEYED, ("Host", LOCAL), path=path).status == 401
    assert ask(KEYED, ("Host", "evil.example"), path="/health").status == 403  # guards of callers stay


def test_keys_come_from_options_the_environment_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("from-file\n\n  other \r\nfrom-file\n", encoding="utf-8")
    environment = {"EFTLITE_API_KEY": "from-environment"}
    assert collect_keys(("given",), file, environment) == ("given", "from-environment", "from-file", "other")
    assert collect_keys((), None, {"EFTLITE_API_KEY": ""}) == ()


def test_keys_that_could_not_be_sent_are_refused(tmp_path: Path) -> None:
    for wrong in ("", " ", "two words", "k\u00e9y", "line\nbreak", "\x7f"):
        with pytest.raises(InputError, match="API key") as caught:
            collect_keys((wrong,), None, {})
        assert not wrong.strip() or wrong not in str(caught.value)
        with pytest.raises(InputError, match="API key"):
            Rules("127.0.0.1", keys=(wrong,))
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.write_text("\n \n", encoding="utf-8")
    binary.write_bytes(b"\xff\xfe\x00")
    for file, reason in ((empty, "empty"), (binary, "not text"), (tmp_path / "none", "No such"), (tmp_path, "dir")):
        with pytest.raises(InputError, match=reason):
            collect_keys((), file, {})


def test_a_key_is_compared_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return a == b

    monkeypatch.setattr("hmac.compare_digest", compare)
    assert "a" in Keys(("a", "b", "c"))
    assert len(compared) == 3


def test_rules_do_not_show_their_keys() -> None:
    assert KEY not in repr(KEYED)


# ---- heads


def test_heads_are_bounded() -> None:
    many = [(f"x-{n}", "1") for n in range(100)]
    assert ask(RULES, ("Host", LOCAL), *many[:99]).status == 200
    assert ask(RULES, ("Host", LOCAL), *many).status == 431
    assert ask(RULES, ("Host", LOCAL), ("x", "a" * 16000)).status == 200
    assert ask(RULES, ("Host", LOCAL), ("x", "a" * 16400)).status == 431
    assert ask(RULES, ("Host", LOCAL), path="/" + "a" * 16400).status == 431
    assert request(guard(APP, RULES), "GET", "/", local(), query_string=b"a" * 16400).status == 431


def test_heads_are_bounded_on_the_network() -> None:
    """Complete when they arrive, so that h11 itself does not object."""
    with running(APP, RULES) as address:
        large = head("GET", "/", address, {"X": "a" * 17000, "Connection": "close"})
        assert status_of(exchange(address, large)) in {400, 431}
        many = head("GET", "/", address, {**{f"X-{n}": "1" for n in range(100)}, "Connection": "close"})
        assert status_of(exchange(address, many)) == 431


# ---- what every response carries


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", local()),
        ("/v1/models", local()),
        ("/unknown", local()),
        ("/fails", local()),
        ("/refuses", local()),
        ("/", [("Host", "evil.example")]),
        ("/", local(("Content-Length", str(1 << 30)), JSON)),
        ("/v1/models", local(("Origin", "null"))),
    ],
)
def test_every_response_has_the_headers(path: str, headers: list[tuple[str, str]]) -> None:
    reply = request(guard(APP, RULES), "GET", path, headers)
    for name, value in HEADERS.items():
        assert reply.headers[name.lower()] == value
    assert reply.headers["cache-control"] == "no-store"
    assert len(reply.headers["x-request-id"]) == 16


def test_the_policy_lets_only_the_page_itself_run() -> None:
    policy = dict(part.strip().split(" ", 1) for part in guards.POLICY.split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in guards.POLICY


def test_a_route_may_say_how_it_is_cached() -> None:
    async def cached(request: Request) -> Response:
        return PlainTextResponse("", headers={"Cache-Control": "no-cache", "X-Content-Type-Options": "sniff"})

    reply = request(guard(Starlette(routes=[Route("/", cached)]), RULES), "GET", "/", local())
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_routes_know_the_requests_number() -> None:
    async def number(request: Request) -> Response:
        return JSONResponse(request.state.request_id)

    reply = request(guard(Starlette(routes=[Route("/", number)]), RULES), "GET", "/", local())
    assert json.loads(reply.body) == reply.headers["x-request-id"]


# ---- errors


def test_an_unexpected_error_tells_the_client_and_the_log_nothing_of_the_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        reply = request(guard(APP, RULES), "GET", "/fails", local(), query_string=SECRET.encode())
    number = reply.headers["x-request-id"]
    assert reply.status == 500
    assert reply.error["type"] == "server_error"
    assert caplog.messages == [f"request {number}: ValueError"]
    told = f"{reply.body!r} {caplog.text}"
    assert SECRET not in told
    assert str(Path(__file__).parent) not in told


def test_the_traceback_is_there_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="eftlite"):
        request(guard(APP, RULES), "GET", "/fails", local())
    assert SECRET in caplog.text


def test_an_error_that_a_route_lets_through_is_still_its_own() -> None:
    reply = request(guard(APP, RULES), "GET", "/refuses", local())
    assert (reply.status, reply.error["type"], reply.headers["retry-after"]) == (503, "unavailable_error", "3")


def test_an_answer_that_fails_midway_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), running(APP, RULES) as address:
        response = exchange(address, head("GET", "/fails-midway", address))
    assert status_of(response) == 200
    assert b"begun" in response
    assert not response.endswith(b"0\r\n\r\n")  # the end of a whole one
    assert SECRET not in caplog.text
    assert "Traceback" not in caplog.text


def test_an_app_that_is_no_starlette_app_may_fail_too() -> None:
    async def fail(scope: object, receive: object, send: object) -> None:
        raise error

    error: Exception = ValueError(SECRET)
    reply = request(guard(fail, RULES), "GET", "/", local())
    assert (reply.status, reply.error["type"]) == (500, "server_error")
    assert reply.headers["x-request-id"] in reply.error["message"]
    assert SECRET.encode() not in reply.body
    error = UnavailableError("engine: it is being loaded", retry_after_s=3)
    reply = request(guard(fail, RULES), "GET", "/", local())
    assert (reply.status, reply.error["type"], reply.headers["retry-after"]) == (503, "unavailable_error", "3")


# ---- other than HTTP


def test_websockets_are_not_served() -> None:
    async def shout(scope: object, receive: object, send: object) -> None:
        raise AssertionError("it was called")

    with pytest.raises(AssertionError, match="nobody answered"):
        request(guard(shout, RULES), "GET", "/", local(), type="websocket")
