"""A picture of the server's page for the README: python scripts/serve_screenshot.py RUN OUT.png [REQUEST]

Serves the run, asks it and its base model the request in Chromium, runs the call and takes the picture. Needs
Chromium and Playwright. RUN is a real run of the built-in functions, as `calltune demo` makes it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright
from screenshot import browser

REQUEST = "How warm is it in Lisbon, in fahrenheit?"
SIZE = {"width": 1180, "height": 860}
WAIT = 120_000  # ms: the first reply reads the prompt of all functions, on a CPU


def talk(page: Page, url: str, request: str) -> None:
    """Ask both models, and run what the tuned one calls. The picture shows its result; what follows is another
    reply, for which the demo's run was not trained."""
    page.set_default_timeout(WAIT)
    expect.set_options(timeout=WAIT)
    page.goto(url)
    expect(page.locator("#send")).to_be_enabled()
    page.get_by_role("switch", name="Compare").check()
    page.get_by_label("Request", exact=True).fill(request)
    page.keyboard.press("Enter")
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator("#stop")).to_be_hidden()
    page.locator(".answer.after").get_by_role("button", name="Run ").first.click()
    expect(page.locator(".answer.after .result")).to_be_visible()
    page.evaluate("scrollTo(0, 0)")


def serve_screenshot(run: str, out: Path, request: str = REQUEST) -> None:
    """Write a picture of a conversation with the run at `run` as PNG."""
    command = [sys.executable, "-m", "calltune", "serve", run, "--port", "0", "--name", "assistant"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        first = server.stdout.readline().split() if server.stdout else []
        if not first:
            raise SystemExit(f"calltune serve {run} did not start")
        with sync_playwright() as driver:
            chromium = driver.chromium.launch(executable_path=browser(), args=["--no-sandbox"])
            page = chromium.new_page(viewport=SIZE, color_scheme="light")
            talk(page, first[-1], request)
            page.screenshot(path=out)
            chromium.close()
    finally:
        server.terminate()
        server.wait(30)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    serve_screenshot(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
    print(sys.argv[2])
