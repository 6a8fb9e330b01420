"""The server's page in Chromium: opened over a script, and what a test does in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from page_place import Running, Scripted, call_text, chromium, functions, start

pytest.importorskip("playwright")
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

PLAN = "The user wants the weather: get_weather."


@dataclass
class Place:
    """A page, the model behind it, and what the page did beside: console lines and addresses of other hosts."""

    page: Page
    worker: Scripted
    server: Running
    noise: list[str]

    def ask(self, text: str) -> None:
        self.page.get_by_label("Request", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def answer(self, model: str = "assistant") -> Locator:
        """The model's newest answer."""
        return self.page.get_by_role("article", name=f"Answer of {model}", exact=True).last


def weather(work) -> str:
    """Calls get_weather, and answers after its result."""
    if work.messages[-1].role == "tool":
        return f"It says {work.messages[-1].content}"
    return call_text("get_weather", '{"city": "Lisbon"}', PLAN)


def launched() -> Iterator[Browser]:
    """For a fixture: headless Chromium, or a skipped test where there is none."""
    path = chromium()
    if not path:
        pytest.skip("no Chromium or Chrome found: install Debian's `chromium` to run the browser tests")
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


def opened(browser: Browser) -> Iterator[Callable[..., Place]]:
    """For a fixture that opens the page over a script: `place(script, tools=..., key=..., models=..., **context)`."""
    pages = []

    def open_page(script, tools=None, key=None, models=("assistant", "assistant:base"), loads=True, **context):
        worker = Scripted(script, models)
        server = start(worker, functions() if tools is None else tools, key)
        tab = browser.new_context(permissions=["clipboard-read", "clipboard-write"], **context)
        page = tab.new_page()
        page.set_default_timeout(10_000)
        noise: list[str] = []
        page.on("console", lambda line: noise.append(line.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith(server.url) or noise.append(asked.url))
        page.goto(server.url)
        if loads:
            expect(page.locator("#send")).to_be_enabled()
        pages.append((tab, server))
        return Place(page, worker, server, noise)

    yield open_page
    for tab, server in pages:
        tab.close()
        server.stop()
