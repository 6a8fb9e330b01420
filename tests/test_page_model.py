"""The page with a real small model behind it: `calltune serve` on the demo's run, in Chromium."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import page_place
import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Page, expect, sync_playwright

RUN = os.environ.get("CALLTUNE_TEST_RUN")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not RUN, reason="needs the demo's run: CALLTUNE_TEST_RUN"),
    pytest.mark.skipif(not page_place.chromium(), reason="needs Chromium (Debian: `apt-get install chromium`)"),
]
WAIT = 180_000  # ms: a reply of a CPU that is busy elsewhere


@pytest.fixture(scope="module")
def address():
    command = [
        sys.executable,
        "-m",
        "calltune",
        "serve",
        str(Path(RUN or "").resolve()),
        "--port",
        "0",
        "--name",
        "demo",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        first = server.stdout.readline()
        yield first.split()[-1]
        server.terminate()
        assert server.wait(60) == 143


@pytest.fixture
def page(address):
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=page_place.chromium(), args=["--no-sandbox"])
        tab = chromium.new_context(permissions=["clipboard-read", "clipboard-write"])
        page = tab.new_page()
        page.noise = []
        page.on("console", lambda line: page.noise.append(line.text))
        page.on("pageerror", lambda error: page.noise.append(str(error)))
        page.goto(address)
        expect(page.locator("#send")).to_be_enabled()
        yield page
        assert page.noise == []
        chromium.close()


def ask(page: Page, text: str) -> None:
    """Asks, and waits until every model has answered."""
    page.get_by_label("Request", exact=True).fill(text)
    page.keyboard.press("Enter")
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator("#stop")).to_be_hidden(timeout=WAIT)


def arguments(page: Page) -> dict:
    return json.loads(page.locator(".answer.after .call .arguments").last.text_content())


def test_a_conversation_with_the_demos_run(page):
    expect(page.locator("#tools li")).to_have_count(10)
    page.get_by_role("switch", name="Compare").check()
    ask(page, "What's the weather in Lisbon in fahrenheit?")
    expect(page.get_by_role("article", name="Answer of demo:base")).not_to_contain_text("failed")
    tuned = page.get_by_role("article", name="Answer of demo", exact=True)
    expect(tuned.locator(".plan")).to_contain_text("get_weather")
    assert arguments(page) == {"city": "Lisbon", "unit": "fahrenheit"}
    expect(tuned.locator(".foot")).to_contain_text(re.compile(r"\d+ tokens.*prompt \d+"))
    page.get_by_role("button", name="Run get_weather", exact=True).last.click()
    expect(tuned.locator(".result")).to_contain_text('"unit": "fahrenheit"')
    page.keyboard.press("Escape")  # the demo does not teach to go on after a result
    expect(page.locator("#stop")).to_be_hidden()


def test_without_grammar_and_the_copied_requests_call_the_same(page, tmp_path):
    pytest.importorskip("openai")
    page.get_by_role("button", name="None", exact=True).click()
    page.get_by_label("set_timer").check()
    page.get_by_role("switch", name="Grammar").uncheck()
    ask(page, "Set a timer for 25 minutes")
    expect(page.locator(".call code")).to_have_text("set_timer")
    expect(page.locator(".foot")).to_contain_text("grammar off")
    assert arguments(page) == {"minutes": 25}
    for what in ("curl", "Python"):
        page.get_by_role("button", name=f"Copy this request as {what}").click()
        expect(page.locator("#status")).to_have_text(f"Copied as {what}")
        text = page.evaluate("navigator.clipboard.readText()")
        command = ["bash", "-c", text] if what == "curl" else [sys.executable, "-c", text]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=WAIT / 1000)
        assert done.returncode == 0, done.stderr
        assert re.search(r'set_timer.*\{\\?"minutes\\?": ?25\}', done.stdout, re.DOTALL)
