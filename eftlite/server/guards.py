"""What stands between the network and the routes: who may call, with which key, and what every response carries.

Guards run before routing, for unknown paths too, and everything is refused that is not allowed: a new route is behind
them all without doing anything. Knows requests' heads; bodies are in bodies.py, connections in deadlines.py.

The page and its files load without a key, since they hold no data; everything the page fetches needs one. It asks the
user for it at the first 401, keeps it in sessionStorage, and sends it as a Bearer token.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware

from eftlite.errors import EFTError
from eftlite.server.bodies import Bodies
from eftlite.server.hosts import Hosts, checked_host, checked_origin, host_of
from eftlite.server.keys import Keys, check_keys, presented
from eftlite.server.refusals import ForbiddenError, HeadTooLargeError, UnauthorizedError, refusal
from eftlite.server.replies import error_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

MAX_HEADERS = 100
MAX_HEAD_BYTES = 16 << 10
HEALTH = frozenset({"/health", "/v1/health"})
READS = ("GET", "HEAD")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

# For every response: a browser that opens one as a document then runs nothing that is not the page's own.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": POLICY,
}


@dataclass(frozen=True)
class Rules:
    """Who may call, and what a request may cost before a route sees it.

    Attributes:
        host: the address that is listened on.
        keys: open everything; none means that no key is needed.
        allow_hosts: further hosts under which the server may be asked, behind a proxy for example.
        allow_origins: origins of other pages that may use the server.
        pages: paths of the page and its files.
        max_body_bytes: of a request's body.
        head_s, body_s: seconds in which a request's head and its body must be complete.
        drain_s: seconds in which a client must take what was sent; see deadlines.py.

    Raises:
        InputError: a key, a host or an origin is malformed.
    """

    host: str
    keys: tuple[str, ...] = field(default=(), repr=False)
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    pages: frozenset[str] = frozenset({"/"})
    max_body_bytes: int = 1 << 20
    head_s: float = 10.0
    body_s: float = 30.0
    drain_s: float = 30.0

    def __post_init__(self) -> None:
        check_keys(self.keys)
        for host in self.allow_hosts:
            checked_host(host)
        for origin in self.allow_origins:
            checked_origin(origin)


def guard(app: ASGIApp, rules: Rules) -> ASGIApp:
    """The app behind all guards, the outermost last."""
    app = Bodies(app, rules.max_body_bytes, rules.body_s)
    if rules.keys:
        app = Gate(app, KeyCheck(rules))
    if rules.allow_origins:
        # Outside the keys: a preflight brings none, and a page must be able to read a 401.
        app = CORSMiddleware(
            app,
            allow_origins=[checked_origin(origin) for origin in rules.allow_origins],
            allow_methods=METHODS,
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=("Retry-After", "X-Request-Id"),
        )
    return Envelope(Gate(app, CallerCheck(rules)))


@dataclass(frozen=True)
class Gate:
    """Passes a request on to ``app`` unless ``check`` raises; the error is then the response."""

    app: ASGIApp
    check: Callable[[Scope], None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            try:
                self.check(scope)
            except EFTError as error:
                await refusal(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class CallerCheck:
    """Which programs and pages may call, by the head of their requests.

    A browser says where a request comes from: ``Origin`` with everything that could change something, and
    ``Sec-Fetch-Site`` with every request. Both must say "from this page", also when no preflight was needed (a form,
    an image). Programs send neither and pass.
    """

    def __init__(self, rules: Rules) -> None:
        self._hosts = Hosts(rules.host, rules.allow_hosts)
        self._origins = {checked_origin(origin) for origin in rules.allow_origins}
        self._pages = rules.pages

    def __call__(self, scope: Scope) -> None:
        """Raise HeadTooLargeError or ForbiddenError unless the caller may pass."""
        _check_head(scope)
        headers = Headers(scope=scope)
        self._check_host(headers)
        self._check_origin(scope, headers)

    def _check_host(self, headers: Headers) -> None:
        given = headers.getlist("host")
        host = host_of(given[0]) if len(given) == 1 else None
        if host is None or host not in self._hosts:
            raise ForbiddenError(
                f"Host: expected an address of this server, got {', '.join(given)[:100]!r}",
                "Other names are allowed with --allow-host",
            )

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        origins, sites = headers.getlist("origin"), headers.getlist("sec-fetch-site")
        if len(origins) == 1 and origins[0].lower() in self._origins:
            return
        own = f"http://{headers['host'].lower()}"
        from_here = all(site in {"same-origin", "none"} for site in sites)
        if all(origin.lower() == own for origin in origins) and (from_here or self._is_visit(scope, headers)):
            return
        raise ForbiddenError(
            f"Origin: expected this server's own page, got {', '.join(origins or sites)[:100]!r}",
            "Other pages are allowed with --allow-origin",
        )

    def _is_visit(self, scope: Scope, headers: Headers) -> bool:
        """Whether someone follows a link to the page."""
        return scope["method"] in READS and scope["path"] in self._pages and headers.get("sec-fetch-mode") == "navigate"


def _check_head(scope: Scope) -> None:
    """Bound what every later step looks at; h11 bounds a head only while it is incomplete."""
    headers = scope["headers"]
    n_bytes = len(scope["path"]) + len(scope["query_string"]) + sum(len(name) + len(value) for name, value in headers)
    if len(headers) > MAX_HEADERS or n_bytes > MAX_HEAD_BYTES:
        raise HeadTooLargeError(
            f"request head: expected at most {MAX_HEADERS} headers and {MAX_HEAD_BYTES} bytes, "
            f"got {len(headers)} and {n_bytes}"
        )


class KeyCheck:
    """A key for everything but reading the health and the page."""

    def __init__(self, rules: Rules) -> None:
        self._keys = Keys(rules.keys)
        self._open = HEALTH | rules.pages

    def __call__(self, scope: Scope) -> None:
        """Raise UnauthorizedError unless the path is open or a key is presented."""
        if scope["method"] in READS and scope["path"] in self._open:
            return
        if not any(key in self._keys for key in presented(Headers(scope=scope))):
            raise UnauthorizedError("API key: expected one of this server's keys, got none or another")


class Envelope:
    """What every response carries, and the answer when nobody else gives one.

    Headers for browsers and a request id (also in ``scope["state"]["request_id"]``). Of an error that nobody caught
    the client learns that id only; the log has it with the error's class, and with its traceback at debug level.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the app's start and end; WebSockets are not served at all."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_dressed(message: Message) -> None:
            """Pass a message on; the first gets the headers that every response has."""
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers["X-Request-Id"] = request_id
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            await self._app(scope, receive, send_dressed)
        except Exception as error:
            if not isinstance(error, EFTError):
                logger.error("request %s: %s", request_id, type(error).__name__)  # noqa: TRY400  see the class
                logger.debug("request %s", request_id, exc_info=error)
            if not started:
                known = (
                    error if isinstance(error, EFTError) else EFTError(f"server: internal error, request {request_id}")
                )
                await error_response(known)(scope, receive, send_dressed)
            # A response that was begun stays unfinished: uvicorn then closes the connection, and the client knows.
