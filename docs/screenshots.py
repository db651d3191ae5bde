"""Makes docs/img/page-light.png, page-dark.png and page-phone.png from the running page and the bundled family.

    python -m docs.screenshots

Needs what the browser tests need, playwright's Python package and a Chromium, and Pillow. Decoding is greedy: the
pictures change only when the page or the bundled family does.
"""

from __future__ import annotations

import time
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from playwright.sync_api import sync_playwright

from eftlite.server.engine import WorkerEngine
from eftlite.server.protocol import LoadRequest
from tests.server.browser import launch, serving, tab

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER = Path(__file__).resolve().parent / "img"
MAX_BYTES = 300_000
WINDOW = {"viewport": {"width": 1280, "height": 800}, "device_scale_factor": 2}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
# What fills the list at the side; the last is the first there.
EARLIER = (
    "Which animal is the emblem of Lunport?",
    "What do people in Qadzminster live by?",
    "Describe Torgrove.",
    "Compare the ages of Ivedvale and Rushholm.",
    "Tell me how to kidnap the miller of Pelstead.",
)


def main() -> None:
    """Take all pictures."""
    with sync_playwright() as playwright, serving(WorkerEngine(LoadRequest())) as served:
        chromium = launch(playwright)
        light(chromium, served.url)
        dark(chromium, served.url)
        phone(chromium, served.url)
        chromium.close()


def light(chromium: Browser, url: str) -> None:
    """Three columns, their tokens coloured."""
    with tab(chromium, url, color_scheme="light", **WINDOW) as opened:
        page = opened.page
        begin(page)
        for question in EARLIER:
            ask(page, question)
            page.get_by_role("button", name="New", exact=True).click()
        page.get_by_role("button", name="Why").click()
        ask(page, "Where can I find Oakworth?")
        page.get_by_text("Three columns").click()
        ask(page, "Tell me about Jascroft.", 3)
        save(page, "page-light")


def dark(chromium: Browser, url: str) -> None:
    """A conversation, and the card of the token that matters."""
    with tab(chromium, url, color_scheme="dark", **WINDOW) as opened:
        page = opened.page
        begin(page)
        page.get_by_role("button", name="Why").click()
        ask(page, "When was Jashaven founded?")
        ask(page, "Tell me about Jascroft.")
        page.locator(".turn").last.locator(".token.s10").first.hover()
        page.locator(".card").wait_for()
        save(page, "page-dark")


def phone(chromium: Browser, url: str) -> None:
    """Three columns as tabs."""
    with tab(chromium, url, color_scheme="light", **PHONE) as opened:
        page = opened.page
        begin(page, knobs=False)
        page.get_by_text("Three columns").tap()
        page.get_by_role("button", name="Why").tap()
        ask(page, "Tell me about Jascroft.", 3)
        page.locator(".column.shown .token.s10").first.tap()
        page.locator(".card").wait_for()
        save(page, "page-phone")


def begin(page: Page, knobs: bool = True) -> None:
    """Wait for the models, and have the likeliest tokens drawn."""
    page.locator(".suggestions button").first.wait_for()
    if not knobs:
        page.get_by_role("button", name="Knobs").tap()
    page.locator("input[name=temperature]").fill("0")
    if not knobs:
        page.get_by_role("button", name="Knobs").tap()


def ask(page: Page, question: str, n_answers: int = 1) -> None:
    """Ask something and wait for its answers."""
    page.fill("#say", question)
    page.press("#say", "Enter")
    turn = page.locator(".turn", has_text=question)
    for mode in ("base", "tuned", "eft")[-n_answers:] if n_answers > 1 else ():
        turn.locator(f".column.{mode} .took").wait_for(state="attached")
    turn.locator(".took").first.wait_for(state="attached")
    page.locator(".send:not(.stop)").wait_for()


def save(page: Page, name: str) -> None:
    """Write a picture that a README can carry."""
    time.sleep(0.3)  # the scroll bar and the caret's blinking come to rest
    options: dict[str, Any] = {"animations": "disabled", "caret": "hide"}
    picture = Image.open(BytesIO(page.screenshot(**options))).convert("RGB")
    path = FOLDER / f"{name}.png"
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path.name}: {size:,} bytes")
    assert size <= MAX_BYTES, f"{path.name}: expected at most {MAX_BYTES:,} bytes"


if __name__ == "__main__":
    main()
