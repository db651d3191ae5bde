"""A headless Chromium for tests, and a server in a thread for it to talk to.

A tab remembers everything that must not happen: errors on the console, violations of the page's policy, scripts that
ran though they should not, requests to other origins.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Queue
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from eftlite.history import History
from eftlite.server.app import make_app, page_paths
from eftlite.server.guards import Rules
from eftlite.server.listen import bind, make_server, url_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Dialog, Page, Playwright

    from eftlite.server.asking import Engine

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DEADLINE_MS = 10_000  # for a condition; a busy machine is slow
DEADLINE_S = DEADLINE_MS / 1000
# Runs before the page's own script, and is not bound by its policy.
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
window.hits = [];
window.hit = (what) => window.hits.push(String(what));
"""


def missing() -> str:
    """Why there can be no browser; empty when there can."""
    try:
        import playwright.sync_api  # noqa: F401  # only whether it is there
    except ImportError:
        return "playwright is not installed"
    return "" if executable() else f"no Chromium: none of {', '.join(NAMES)} is in the PATH"


def executable() -> str | None:
    """Where Chromium is."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def launch(playwright: Playwright) -> Browser:
    """A browser without windows."""
    return playwright.chromium.launch(executable_path=executable(), args=list(ARGUMENTS), headless=True)


@dataclass
class Tab:
    """A tab of its own profile.

    Attributes:
        page: playwright's.
        origin: of the server; requests to any other are remembered and fail.
        problems: what must not happen and did.
        expected: words of console errors that a test brings about.
    """

    page: Page
    origin: str
    problems: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        page = self.page
        page.set_default_timeout(DEADLINE_MS)
        page.add_init_script(WATCH)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("dialog", self._dismiss)
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("request", lambda request: self._look(request.url))

    def _dismiss(self, dialog: Dialog) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"} and not any(words in text for words in self.expected):
            self.problems.append(f"{kind}: {text}")

    def _look(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"data", "blob"} and f"{parts.scheme}://{parts.netloc}" != self.origin:
            self.problems.append(f"request: {url}")

    def check(self) -> None:
        """Fail if anything happened that must not."""
        self.problems += [f"policy: {text}" for text in self.page.evaluate("window.violations")]
        self.problems += [f"a script ran: {text}" for text in self.page.evaluate("window.hits")]
        assert not self.problems, "\n".join(self.problems)


@contextmanager
def tab(browser: Browser, url: str, **settings: Any) -> Iterator[Tab]:
    """The page in a new profile; it is checked at the end.

    Args:
        browser: from ``launch``.
        url: the page's.
        settings: of the profile, such as ``viewport`` or ``color_scheme``.
    """
    context: BrowserContext = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **settings})
    try:
        opened = Tab(context.new_page(), url.rstrip("/"))
        opened.page.goto(url)
        yield opened
        opened.check()
    finally:
        context.close()


@dataclass
class Served:
    """A running server.

    Attributes:
        url: the page's.
        history: what it keeps.
    """

    url: str
    history: History
    _loop: asyncio.AbstractEventLoop

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the server's event loop and wait for it."""
        done = threading.Event()

        def run() -> None:
            function()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(DEADLINE_S)


@contextmanager
def serving(engine: Engine, keys: tuple[str, ...] = ()) -> Iterator[Served]:
    """The whole server in a thread, guards included, with a history that is forgotten."""
    started: Queue[asyncio.AbstractEventLoop] = Queue()
    rules = Rules("127.0.0.1", keys, pages=page_paths())
    with History.temporary() as history, bind("127.0.0.1", 0, keys) as listener:
        server = make_server(make_app(engine, history), rules, lambda: started.put(asyncio.get_running_loop()))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server")
        thread.start()
        try:
            yield Served(url_of(listener), history, started.get(timeout=DEADLINE_S))
        finally:
            server.should_exit = True
            thread.join(DEADLINE_S)
        assert not thread.is_alive(), "the server did not end"
