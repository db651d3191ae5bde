"""The page in headless Chromium: on the whole server with an engine that plays scripts, and once on the bundled family.

About 30 seconds, most of it Chromium's. After every test the tab is checked: no error on the console, no violation of
the page's policy, no request to another origin.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from eftlite.errors import BusyError, EFTError, HistoryError
from eftlite.server.engine import WorkerEngine
from eftlite.server.protocol import LoadRequest
from eftlite.settings import Knobs, ModelSettings
from tests.server import browser
from tests.server.browser import DEADLINE_MS, Served, Tab, serving, tab
from tests.server.fakes import ABOUT, TWO_DELTAS, FakeEngine, Script, words

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Route

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "there is a browser")

TABLE = "| town | year |\n|---|---|\n| Ashwick | 1412 |"
MARKDOWN = f"**Ashwick** was founded in *1412*.\n\n```python\nyear = 1412\n```\n\n{TABLE}"
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = browser.launch(playwright)
        yield opened
        opened.close()


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(about=TWO_DELTAS)


@pytest.fixture
def served(engine: FakeEngine) -> Iterator[Served]:
    with serving(engine) as found:
        yield found


@pytest.fixture
def opened(chromium: Browser, served: Served) -> Iterator[Tab]:
    with tab(chromium, served.url) as found:
        yield found


@pytest.fixture
def page(opened: Tab) -> Page:
    return opened.page


def say(page: Page, text: str, wait: bool = True) -> None:
    """Ask something; by default until the answer is there."""
    n_before = page.locator(".took, .state").count()
    page.fill("#say", text)
    page.press("#say", "Enter")
    page.locator(".question p", has_text=text).last.wait_for()
    if wait:
        page.locator(".took, .state").nth(n_before).wait_for()
        page.locator(".send:not(.stop)").wait_for()


def until(page: Page, condition: Callable[[], object], what: str) -> None:
    """Wait for a condition on this side, with the page's events handled meanwhile."""
    for _ in range(DEADLINE_MS // 20):
        if condition():
            return
        page.wait_for_timeout(20)
    pytest.fail(f"{what}: not within {DEADLINE_MS} ms")


def texts(found: Locator) -> list[str]:
    return [text.strip() for text in found.all_inner_texts()]


# ---- a conversation


def test_a_conversation(engine: FakeEngine, page: Page) -> None:
    engine.scripts = [Script(MARKDOWN), Script("Gladly.")]
    say(page, "When was Ashwick founded?")
    prose = page.locator(".prose")
    assert texts(prose.locator("strong")) == ["Ashwick"]
    assert texts(prose.locator("em")) == ["1412"]
    assert texts(prose.locator("td")) == ["Ashwick", "1412"]
    assert prose.locator("pre .hljs-number").inner_text() == "1412"
    took = page.locator(".took").inner_text()
    assert "75 % accepted" in took
    assert "shift .25" in took
    assert "123 MB" in took
    assert re.search(r"\d+ tokens/s", took)
    say(page, "And Lunport?")
    assert texts(prose)[1] == "Gladly."
    first, second = engine.asks
    assert first.messages is not None
    assert second.messages is not None
    assert [message["content"] for message in second.messages] == [
        "When was Ashwick founded?",
        MARKDOWN,
        "And Lunport?",
    ]
    assert texts(page.locator(".entry-open")) == ["When was Ashwick founded?"]
    assert page.title().startswith("When was Ashwick founded?")


def test_a_suggestion_and_a_system_prompt(engine: FakeEngine, page: Page) -> None:
    page.get_by_role("button", name="System prompt").click()
    page.locator(".system textarea").fill("Be brief.")
    say(page, "Hello")
    assert engine.asks[0].messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    ]
    page.locator(".system textarea").fill("Be long.")
    page.locator(".system textarea").blur()
    page.get_by_role("button", name="System prompt (set)").wait_for()
    page.wait_for_load_state("networkidle")
    say(page, "Hello again")
    assert engine.asks[1].messages is not None
    assert engine.asks[1].messages[0]["content"] == "Be long."


@pytest.mark.parametrize("how", ["button", "key"])
def test_stop(engine: FakeEngine, page: Page, how: str) -> None:
    engine.scripts = [Script("Once upon a time there was", hold_at=3)]
    say(page, "Tell me a story", wait=False)
    page.get_by_text("Once upon a").wait_for()
    with page.expect_request(lambda request: request.method == "DELETE"):
        if how == "button":
            page.get_by_role("button", name="Stop").click()
        else:
            page.keyboard.press("Escape")
    page.locator(".state.stopped").wait_for()
    assert texts(page.locator(".prose")) == ["Once upon a"]
    assert engine.runnings[0].stopped.is_set()
    page.reload()
    page.locator(".state.stopped").wait_for()
    assert texts(page.locator(".prose")) == ["Once upon a"]


def test_stop_before_the_first_token(engine: FakeEngine, page: Page) -> None:
    engine.scripts = [Script("Once", hold_at=0)]
    say(page, "Tell me a story", wait=False)
    until(page, lambda: engine.runnings, "an answer")
    page.get_by_role("button", name="Stop").click()
    page.locator(".state.stopped").wait_for()
    page.locator(".send:not(.stop)").wait_for()


def test_leaving_ends_the_answer_and_keeps_what_came(engine: FakeEngine, page: Page) -> None:
    engine.scripts = [Script("Once upon a time there was", hold_at=3)]
    say(page, "Tell me a story", wait=False)
    page.get_by_text("Once upon a").wait_for()
    page.reload()
    page.get_by_text("Once upon a").wait_for()
    until(page, engine.runnings[0].left.is_set, "the end of the answer")


def test_sliders_act_while_an_answer_is_written(engine: FakeEngine, served: Served, page: Page) -> None:
    engine.scripts = [Script("one two three four", hold_at=2)]
    page.locator("input[name=temperature]").fill("0.3")
    say(page, "Count", wait=False)
    page.get_by_text("one two").wait_for()
    assert engine.asks[0].sampling.temperature == 0.3
    assert engine.asks[0].knobs.alphas == (1.0, 0.5)
    page.locator("input[name='alpha:harmless']").fill("1.25")
    page.locator("input[name=beta]").fill("1.5")
    page.locator("input[name=conservative_p]").fill("0.9")
    page.locator("input[name=temperature]").fill("0.1")
    running = engine.runnings[0]
    until(page, lambda: running.knobs.temperature == 0.1, "the knobs")
    assert running.knobs.conservative_p == 0.9
    assert running.knobs.alphas == (1.0, 1.25)
    assert running.knobs.beta == 1.5
    assert texts(page.locator(".slider output")) == ["1.00", "1.25", "1.50", "0.90", "0.10"]
    assert re.sub(r"\s", "", page.locator(".formula").inner_text()) == (
        "logp=1.50logpbase+1.00(logphelpful−logpreference)+1.25(logpharmless−logpreference)−0.50logpreference−logZ"
    )
    served.call(engine.release.set)
    page.locator(".took").wait_for()
    page.reload()
    until(page, lambda: texts(page.locator(".slider output"))[:3] == ["1.00", "1.25", "1.50"], "the kept knobs")
    page.get_by_role("button", name="Reset").click()
    assert texts(page.locator(".slider output")) == ["1.00", "0.50", "1.00", "off", "0.80"]


def test_a_slider_moved_before_the_answer_began(engine: FakeEngine, page: Page) -> None:
    """The knobs go to the answer when it has an id, whenever they were moved."""
    engine.scripts = [Script("one two", hold_at=1)]
    held: list[Any] = []
    page.route("**/answers", lambda route: held.append(route))  # noqa: PLW0108  # playwright marks the function
    page.fill("#say", "Count")
    page.press("#say", "Enter")
    until(page, lambda: held, "the request")
    page.locator("input[name=beta]").fill("2")
    page.wait_for_timeout(300)  # longer than the page waits for the next movement
    held[0].continue_()
    until(page, lambda: engine.runnings and engine.runnings[0].knobs.beta == 2, "the knobs")
    assert engine.asks[0].knobs.beta == 1
    page.unroute_all(behavior="ignoreErrors")


def test_three_columns(engine: FakeEngine, page: Page) -> None:
    page.get_by_text("Three columns").click()
    engine.scripts = [Script("I am the base."), Script("I am tuned."), Script("I am both.")]
    say(page, "Who are you?", wait=False)
    page.locator(".took").nth(2).wait_for()
    assert texts(page.locator(".column-head strong")) == ["Base alone", "Tuned alone", "EFT"]
    assert sorted(texts(page.locator(".column .prose"))) == ["I am both.", "I am the base.", "I am tuned."]
    boxes = [column.bounding_box() for column in page.locator(".column").all()]
    assert all(box and box["width"] > 250 for box in boxes)
    assert len({box["y"] for box in boxes if box}) == 1
    by_knobs = {ask.knobs for ask in engine.asks}
    assert len(by_knobs) == 3
    assert len({ask.sampling.seed for ask in engine.asks}) == 1
    # Going on from the base's answer, and still there after a reload.
    page.locator(".column.base input[type=radio]").check()
    base = texts(page.locator(".column.base .prose"))[0]
    page.wait_for_load_state("networkidle")
    page.reload()
    page.locator(".column.base input:checked").wait_for()
    assert texts(page.locator(".column-head strong")) == ["Base alone", "Tuned alone", "EFT"]
    page.get_by_text("EFT", exact=True).last.click()
    say(page, "Go on")
    assert engine.asks[3].messages is not None
    assert engine.asks[3].messages[1]["content"] == base


def test_three_columns_are_stopped_together(engine: FakeEngine, page: Page) -> None:
    page.get_by_text("Three columns").click()
    engine.scripts = [Script("one two three", hold_at=1)]
    say(page, "Count", wait=False)
    page.locator(".column .prose", has_text="one").nth(2).wait_for()
    page.get_by_role("button", name="Stop").click()
    page.locator(".state.stopped").nth(2).wait_for()
    assert all(running.stopped.is_set() for running in engine.runnings)


# ---- why


def test_tokens_are_coloured_and_have_a_card(engine: FakeEngine, page: Page) -> None:
    events = words("Founded in **1412** by Orla.", n_top=5, shift=0.05)
    events[2] = replace(events[2], shift=0.93, origin="corrected")
    engine.scripts = [Script(events=events)]
    say(page, "When?")
    assert page.locator(".token").count() == 0
    page.get_by_role("button", name="Why").click()
    page.locator(".legend").wait_for()
    token = page.locator("strong .token")
    assert token.inner_text() == "1412"
    assert "s10" in (token.get_attribute("class") or "")
    assert "corrected" in (token.get_attribute("class") or "")
    strong, faint = (colour(page.locator(".prose .token").nth(i)) for i in (2, 0))
    assert strong != faint
    token.hover()
    card = page.locator(".card")
    card.wait_for()
    assert texts(card.locator("h3")) == ["base", "tuned · helpful", "reference", "EFT"]
    assert card.locator("section").first.locator("li").count() == 5
    assert card.locator("section").first.locator(".number").first.inner_text() == "61 %"
    assert "shift .93" in card.inner_text()
    assert "a draft was refused here" in card.inner_text()
    assert texts(page.locator(".tail .token")) == ["<|end|>"]
    # The same from the history, and by keyboard.
    page.reload()
    page.locator(".tail .token").wait_for()  # the last that is painted
    page.locator(".prose").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    card.wait_for()
    assert "shift .93" in card.inner_text()
    page.keyboard.press("ArrowLeft")
    until(page, lambda: "shift .05" in card.inner_text(), "the token before")


def colour(token: Locator) -> str:
    return str(token.evaluate("(element) => getComputedStyle(element).backgroundColor"))


def test_tokens_stay_coloured_while_they_come(engine: FakeEngine, served: Served, page: Page) -> None:
    page.get_by_role("button", name="Why").click()
    engine.scripts = [Script("a *b* c `d` e", hold_at=3)]
    say(page, "Letters", wait=False)
    page.locator(".token", has_text="c").wait_for()
    page.locator(".token", has_text="b").hover()
    page.locator(".card").wait_for()
    served.call(engine.release.set)
    page.locator(".took").wait_for()
    assert texts(page.locator(".prose .block .token")) == ["a", "b", "c", "d", "e"]
    assert page.locator(".card").is_visible()


# ---- versions


def test_edit_and_regenerate(engine: FakeEngine, page: Page) -> None:
    engine.scripts = [Script("First."), Script("Second."), Script("Third."), Script("Fourth.")]
    say(page, "One")
    page.get_by_role("button", name="Answer again").click()
    page.get_by_text("Second.").wait_for()
    assert texts(page.locator(".turn-actions .arrows")) == ["2/2"]
    page.get_by_role("button", name="Earlier answer").click()
    page.get_by_text("First.").wait_for()
    page.get_by_role("button", name="Edit").click()
    page.locator(".edit textarea").fill("Two")
    page.keyboard.press("Enter")
    page.get_by_text("Third.").wait_for()
    assert texts(page.locator(".question .arrows")) == ["2/2"]
    assert texts(page.locator(".question p")) == ["Two"]
    page.get_by_role("button", name="Earlier version").click()
    page.get_by_text("Second.").wait_for()
    page.locator(".send:not(.stop)").wait_for()
    page.wait_for_load_state("networkidle")
    page.reload()
    page.get_by_text("Second.").wait_for()
    assert texts(page.locator(".question p")) == ["One"]
    say(page, "Three")
    assert [message["content"] for message in engine.asks[3].messages or ()] == ["One", "Second.", "Three"]


def test_an_answer_that_cannot_be_kept_is_shown(served: Served, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise HistoryError("history: the disk is full")

    monkeypatch.setattr(served.history, "add_user", full)
    say(page, "Hello?")
    assert texts(page.locator(".prose")) == ["Hello there, friend."]
    page.get_by_role("alert").get_by_text("the disk is full").wait_for()


def test_what_is_refused_is_not_lost(engine: FakeEngine, opened: Tab) -> None:
    page, opened.expected = opened.page, ["status of 5", "status of 4"]
    engine.refusal = BusyError("engine: 64 answers are waiting")
    page.fill("#say", "Hello?")
    page.press("#say", "Enter")
    page.get_by_text("64 answers are waiting").wait_for()
    assert page.locator(".send:not(.stop)").is_visible()
    engine.refusal = None
    if not page.locator(".question").count():
        assert page.input_value("#say") == "Hello?"


def test_an_answer_that_fails(engine: FakeEngine, page: Page) -> None:
    engine.scripts = [Script("Well,", error=EFTError("engine: it broke"))]
    say(page, "Hello?")
    assert "engine: it broke" in page.locator(".state.failed").inner_text()


def test_a_server_that_goes_away_and_comes_back(engine: FakeEngine, opened: Tab) -> None:
    page, opened.expected = opened.page, ["ERR_FAILED"]
    engine.scripts = [Script("one two three", hold_at=1), Script("Back again.")]
    page.route("**/api/**", lambda route: route.abort())
    page.fill("#say", "Are you there?")
    page.press("#say", "Enter")
    page.locator(".server-state", has_text="cannot be reached").wait_for()
    assert page.input_value("#say") == "Are you there?"
    page.unroute_all(behavior="ignoreErrors")
    until(page, lambda: not page.locator(".server-state").inner_text(), "the server")
    page.press("#say", "Enter")
    page.locator(".prose", has_text="one").wait_for()


# ---- what is kept


def test_reload_and_draft(engine: FakeEngine, served: Served, page: Page) -> None:
    say(page, "Remember me")
    address = page.url
    page.fill("#say", "not sent yet")
    page.reload()
    page.locator(".question p", has_text="Remember me").wait_for()
    assert page.url == address
    assert page.input_value("#say") == "not sent yet"
    page.get_by_role("button", name="New", exact=True).click()
    page.locator(".welcome").wait_for()
    assert page.input_value("#say") == ""
    page.go_back()
    page.locator(".question p", has_text="Remember me").wait_for()
    assert page.input_value("#say") == "not sent yet"


def test_search_rename_delete_export(engine: FakeEngine, page: Page) -> None:
    for text in ("Apples are red", "Pears are green"):
        page.get_by_role("button", name="New", exact=True).click()
        say(page, text)
    entries = page.locator(".entry-open")
    until(page, lambda: texts(entries) == ["Pears are green", "Apples are red"], "the list")
    page.keyboard.press("Control+k")
    page.keyboard.type("apples")
    until(page, lambda: entries.count() == 1, "the search")
    entries.first.click()
    page.locator(".question p", has_text="Apples are red").wait_for()
    page.locator(".entry").hover()
    page.get_by_role("button", name="Rename").click()
    page.keyboard.type("Fruit")
    page.keyboard.press("Enter")
    page.locator("h1", has_text="Fruit").wait_for()
    page.fill("#search", "")
    until(page, lambda: sorted(texts(entries)) == ["Fruit", "Pears are green"], "the new title")
    page.locator("summary[aria-label=Export]").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON").click()
    assert download.value.suggested_filename == "Fruit.json"
    assert "Apples are red" in json.dumps(json.loads(download.value.path().read_text(encoding="utf-8")))
    page.locator(".entry.open").hover()
    page.locator(".entry.open").get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Keep").click()
    page.locator(".entry.open").hover()
    page.locator(".entry.open").get_by_role("button", name="Delete").click()
    page.locator(".deleting").get_by_role("button", name="Delete").click()
    page.locator(".welcome").wait_for()
    until(page, lambda: texts(entries) == ["Pears are green"], "the shorter list")


# ---- hostile output


def test_the_policy_allows_the_page_alone(chromium: Browser, served: Served) -> None:
    with tab(chromium, served.url) as opened:
        response = opened.page.reload()
        assert response is not None
        policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert not re.search(r"unsafe|https?:|\*", policy)


PAYLOADS = [
    "<script>hit(1)</script>",
    "<img src=x onerror=hit(2)>",
    "<svg onload=hit(3)><animate onbegin=hit(3)></svg>",
    "<iframe srcdoc='<script>parent.hit(4)</script>'></iframe>",
    "[a](javascript:hit(5)) [b](JaVaScRiPt&#58;hit(5)) <javascript:hit(5)>",
    "[a](data:text/html,<script>opener.hit(6)</script>)",
    "![a](http://evil.example/7.png) ![b][c]\n\n[c]: http://evil.example/7b.png",
    "<style>@import 'http://evil.example/8.css'; body{background:url(http://evil.example/8.png)}</style>",
    "<meta http-equiv=refresh content='0;url=http://evil.example/9'>",
    "<base href='http://evil.example/10/'><link rel=stylesheet href='http://evil.example/10.css'>",
    "<form action='http://evil.example/11'><button autofocus onfocus=hit(11)>x</button></form>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=hit(12)&gt;'>",
    "<noscript><p title='</noscript><img src=x onerror=hit(13)>'>",
    '```"><img src=x onerror=hit(14)>\n</code></pre><script>hit(14)</script>\n```',
    '[a](http://a.example "x\\" onmouseover=\\"hit(15)") [b](<http://a.example/" onmouseover="hit(15)>)',
    "<details open ontoggle=hit(16)><summary>x</summary></details>",
    "<object data='http://evil.example/17'></object><embed src='http://evil.example/17b'>",
    "| <img src=x onerror=hit(18)> | `<script>hit(18)</script>` |\n|---|---|\n| <video src=x onerror=hit(18)> | b |",
    "<template><script>hit(19)</script></template><a id=about href='vbscript:hit(19)'>x</a>",
    "&lt;script&gt;hit(20)&lt;/script&gt; \\<img src=x onerror=hit(20)\\> <!-- --!><script>hit(20)</script> -->",
]
# What Markdown may become; anything else came from the model.
PLAIN = set(
    "a blockquote br code del div em h1 h2 h3 h4 h5 h6 hr li ol p pre span strong table tbody td th thead tr ul".split()
) | {"button"}


def test_nothing_that_a_model_writes_is_executed(engine: FakeEngine, page: Page) -> None:
    """Twenty payloads, as answers while they come, from the history, and as tokens and candidates of the why view."""
    assert len(PAYLOADS) == 20
    engine.scripts = [Script(text) for text in PAYLOADS]
    page.get_by_role("button", name="Why").click()
    for i in range(len(PAYLOADS)):
        say(page, f"Payload {i}")
    look_for_foreign_elements(page)
    for element in page.locator(".prose .token").all()[::7]:
        element.hover(force=True)
    page.reload()
    page.locator(".took").nth(len(PAYLOADS) - 1).wait_for()
    page.locator(".token").first.wait_for()
    look_for_foreign_elements(page)
    page.get_by_role("button", name="Why").click()
    look_for_foreign_elements(page)
    page.wait_for_load_state("networkidle")


def look_for_foreign_elements(page: Page) -> None:
    found = page.evaluate(
        """() => [...document.querySelectorAll(".prose *")].map((element) =>
            [element.localName, ...[...element.attributes].map(({ name, value }) => `${name}=${value}`)])"""
    )
    assert {name for name, *_ in found} <= PLAIN
    attributes = [attribute for _, *given in found for attribute in given]
    assert not [text for text in attributes if re.match(r"on|style|id|src|srcdoc|formaction|name", text)]
    links = [text for text in attributes if text.startswith("href=")]
    assert all(re.match(r"href=(https?://|mailto:)", text) for text in links)
    assert links, "the links that are allowed are gone too"
    n_links = page.locator(".prose a").count()
    assert page.locator(".prose a[rel~=noopener][target=_blank]").count() == n_links


def test_hostile_titles_questions_and_names(engine: FakeEngine, page: Page) -> None:
    engine.about = replace(TWO_DELTAS, family="<img src=x onerror=hit('family')>")
    say(page, "<img src=x onerror=hit('question')>")
    page.reload()
    page.locator(".took").wait_for()
    assert page.locator("img").count() == 0


# ---- form


def test_a_phone(chromium: Browser, engine: FakeEngine, served: Served) -> None:
    with tab(chromium, served.url, viewport=PHONE, has_touch=True, is_mobile=True) as opened:
        page = opened.page
        assert not page.locator(".knobs").count()
        page.get_by_role("button", name="Knobs").tap()
        page.get_by_text("Three columns").tap()
        long = f"{MARKDOWN}\n\n{'unbroken' * 40}\n\n```\n{'x' * 300}\n```\n\n|{'a|' * 30}\n|{'-|' * 30}\n"
        engine.scripts = [Script(long)]
        say(page, f"A long one {'w' * 200}", wait=False)
        page.locator(".column.eft .took").wait_for()
        assert page.locator(".column:visible").count() == 1
        page.get_by_role("button", name="Base alone").tap()
        page.locator(".column.base").wait_for()
        assert page.locator(".column:visible").count() == 1
        page.get_by_role("button", name="Why").tap()
        page.locator(".column.base .token").first.tap()
        page.locator(".card").wait_for()
        assert_fits(page)
        page.get_by_role("button", name="Conversations").tap()
        page.locator(".entry").wait_for()
        assert_fits(page)


def assert_fits(page: Page) -> None:
    """Nothing is wider than the window, the card included."""
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"]
    for selector in ("main", ".thread-content", ".composer", ".card"):
        for box in (element.bounding_box() for element in page.locator(selector).all()):
            assert box is None or box["x"] + box["width"] <= PHONE["width"] + 0.5, selector


def test_light_and_dark(chromium: Browser, served: Served) -> None:
    with tab(chromium, served.url, color_scheme="dark") as opened:
        page = opened.page
        page.locator("#say").wait_for()
        paper = "getComputedStyle(document.documentElement).backgroundColor"
        dark = page.evaluate(paper)
        page.get_by_role("button", name="Colours: as the system").click()
        light = page.evaluate(paper)
        assert light == "rgb(255, 255, 255)" != dark
        page.reload()
        page.get_by_role("button", name="Colours: light").click()
        assert page.evaluate(paper) == dark


def test_everything_can_be_used_without_a_mouse(engine: FakeEngine, page: Page) -> None:
    """Every control has a name, and the tab key reaches the field, the sliders, and both ways to be answered."""
    say(page, "Hello")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, summary, select")].filter((element) =>
            !(element.getAttribute("aria-label") || element.textContent.trim() || element.labels?.length))
            .map((element) => element.outerHTML)"""
    )
    assert not unnamed
    page.keyboard.press("Shift+Escape")
    assert page.evaluate("document.activeElement.id") == "say"
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.name || document.activeElement.ariaLabel || ''"))
    assert {"alpha:helpful", "beta", "temperature", "who", "Knobs", "Export", "Search conversations"} <= reached
    page.keyboard.press("Control+/")
    page.get_by_role("dialog").get_by_text("new conversation").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Shift+O")
    page.locator(".welcome").wait_for()
    assert page.evaluate("document.activeElement.id") == "say"


# ---- the server's state


def test_a_key_is_asked_for(chromium: Browser, engine: FakeEngine) -> None:
    key = "an-api-key-of-enough-length"
    with serving(engine, (key,)) as served, tab(chromium, served.url) as opened:
        page, opened.expected = opened.page, ["status of 401"]
        field = page.locator("dialog input")
        field.fill("not-it-but-just-as-long-as-it")
        field.press("Enter")
        page.get_by_text("That was not it").wait_for()
        field.fill(key)
        field.press("Enter")
        page.locator(".loaded").wait_for()
        say(page, "Hello")
        page.reload()
        page.locator(".took").wait_for()
        assert page.evaluate("Object.values(localStorage).join()").find(key) == -1


def test_an_engine_that_is_not_ready(engine: FakeEngine, opened: Tab) -> None:
    page, opened.expected = opened.page, ["status of 503"]
    page.locator(".loaded").wait_for()
    engine.state = "restarting"
    page.reload()
    page.locator(".server-state", has_text="being loaded again").wait_for()
    page.fill("#say", "Hello?")
    page.press("#say", "Enter")
    page.get_by_role("alert").get_by_text("engine").wait_for()
    until(page, lambda: page.input_value("#say") == "Hello?" or page.locator(".question").count(), "the question")
    engine.state = "ready"
    until(page, lambda: not page.locator(".server-state").inner_text(), "the engine")


def test_a_base_alone(chromium: Browser) -> None:
    about = replace(ABOUT, deltas=(), members=ABOUT.members[:1], knobs=Knobs(()))
    engine = FakeEngine(about=about)
    with serving(engine) as served, tab(chromium, served.url) as opened:
        say(opened.page, "Hello")
        assert texts(opened.page.locator(".slider-name em")) == ["T"]
        assert not opened.page.get_by_role("button", name="Why").count()
        assert not opened.page.locator(".who").count()


# ---- the bundled family


@pytest.fixture(scope="module")
def real() -> Iterator[Served]:
    request = LoadRequest(settings=ModelSettings(n_threads=1, n_threads_batch=1))
    with serving(WorkerEngine(request)) as found:
        yield found


def test_with_the_bundled_family(chromium: Browser, real: Served) -> None:
    with tab(chromium, real.url) as opened:
        page = opened.page
        page.locator(".suggestions button").first.wait_for()
        page.locator("input[name=temperature]").fill("0")
        page.get_by_text("Three columns").click()
        page.get_by_role("button", name="Why").click()
        page.locator(".suggestions button").first.click()
        page.locator(".took").nth(2).wait_for()
        base, tuned, eft = (page.locator(f".column.{mode}") for mode in ("base", "tuned", "eft"))
        assert len({column.locator(".prose").inner_text() for column in (base, tuned, eft)}) == 3
        assert eft.locator(".tail .token").count() == 1, "EFT ends by itself"
        assert eft.locator(".token.s0").count() < eft.locator(".token").count()
        eft.locator(".token:not(.s0)").first.hover()
        card = page.locator(".card")
        card.wait_for()
        assert {"base", "reference", "EFT"} <= set(texts(card.locator("h3")))
        assert card.locator("section:last-child .taken").count() == 1


def test_alpha_moved_in_mid_answer_changes_what_follows(chromium: Browser, real: Served) -> None:
    """With alpha 0 nobody asks the tuned model; after alpha was moved, it is among those who chose the token."""
    with tab(chromium, real.url) as opened:
        page = opened.page
        page.get_by_role("button", name="Why").click()
        alpha = page.locator("input[name='alpha:helpful']")
        alpha.fill("0")
        page.route("**/answers", make_endless)
        say(page, "Tell me a long story", wait=False)
        page.locator(".block .token").nth(3).wait_for()
        with page.expect_request(lambda request: request.method == "PATCH"):
            alpha.fill("1")
        page.locator(".block .token:not(.s0)").first.wait_for()
        page.keyboard.press("Escape")
        page.locator(".took").wait_for()
        tokens = page.locator(".block .token")
        card = page.locator(".card")
        tokens.first.hover()
        until(page, lambda: texts(card.locator("h3")) == ["base", "EFT"], "the base's token")
        tokens.locator("nth=-1").hover()
        until(page, lambda: "tuned · helpful" in texts(card.locator("h3")), "a token of all members")
        page.unroute_all(behavior="ignoreErrors")


def make_endless(route: Route) -> None:
    """Have tokens drawn almost evenly, so that the one that ends an answer is rare."""
    body = dict(route.request.post_data_json or {})
    body["sampling"] = {"top_k": 0, "top_p": 1, "min_p": 0, "seed": 1}
    body["knobs"]["temperature"] = 100
    body["max_tokens"] = 700
    route.continue_(post_data=body)
