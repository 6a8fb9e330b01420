"""The report's page in headless Chromium: figures shown, no console errors, no requests, no overflow."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from report_sample import sample_report

from calltune.report import write_report

pytestmark = pytest.mark.browser
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
# Chromium's own errands (updates, the time), which no switch quite stops and which resolve to nothing here.
OWN = r"file:|data:|chrome|https?://[^/]*(google|googleapis|gvt1|gstatic)\.com/"
POLICY = r'<meta http-equiv="Content-Security-Policy"[^>]*>'
# Measures the page from inside: its width, and whatever sticks out of the window on the right.
PROBE = """<script>
window.onload = () => {
  const wide = document.documentElement.scrollWidth, room = document.documentElement.clientWidth;
  const out = [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, .sr, svg')
    && e.getBoundingClientRect().right > room + 1).map(e => e.tagName + '.' + e.className);
  document.title = JSON.stringify({room, wide, out, ink: getComputedStyle(document.body).color});
};
</script>"""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    found = found or (MAC if Path(MAC).exists() else None)
    if not found:
        pytest.skip("no Chromium or Chrome found: install Debian's `chromium` to run the browser tests")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, sample_report())
    return folder / "report.html"


def browse(chromium: str, page: Path, folder: Path, *options: str) -> tuple[str, str, list[str]]:
    """The page's DOM after loading, the console's lines, and the addresses that the page asked for."""
    log = folder / "net.json"
    base = (
        "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
        "--disable-sync --no-first-run --enable-logging=stderr --virtual-time-budget=3000 --dump-dom"
    )
    closed = "--host-resolver-rules=MAP * ~NOTFOUND"  # the test stays off the network
    command = [
        chromium,
        *base.split(),
        closed,
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={log}",
    ]
    done = subprocess.run([*command, *options, page.as_uri()], capture_output=True, text=True, timeout=90, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    asked = re.findall(r'"url":\s*"([^"]+)"', log.read_text("utf-8", "replace"))
    return done.stdout, "\n".join(console), [url for url in asked if not re.match(OWN, url)]


def test_the_page_in_a_browser_shows_the_figures_without_noise(chromium, page, tmp_path):
    dom, console, asked = browse(chromium, page, tmp_path)
    document = json.loads((page.parent / "report.json").read_text("utf-8"))
    assert f"{document['after']['call_exact_match'] * 100:.1f} %" in dom
    assert f"{document['before']['exact_match'] * 100:.1f} %" in dom
    assert dom.count("<svg") == dom.count("</svg>") >= 15
    assert console == ""
    assert asked == []


@pytest.mark.parametrize("guarded", [True, False])
def test_the_page_refuses_scripts_and_requests_whoever_puts_them_in(chromium, page, tmp_path, guarded):
    # The page's own policy holds even where escaping would have failed. Without the policy the same
    # noise is seen, so the checks of this file can fail.
    intruder = '<script>document.title = "ran"</script><img src="http://calltune.test/x.png">'
    html = page.read_text("utf-8").replace("<main>", "<main>" + intruder)
    bad = page.with_name(f"bad-{guarded}.html")
    bad.write_text(html if guarded else re.sub(POLICY, "", html), "utf-8")
    dom, console, asked = browse(chromium, bad, tmp_path)
    assert ("<title>ran</title>" in dom) is not guarded
    assert bool(asked) is not guarded
    assert ("Content Security Policy" in console) is guarded


@pytest.mark.parametrize(("width", "dark"), [(400, False), (700, True), (1280, False)])
def test_nothing_sticks_out_at_any_width_in_either_scheme(chromium, page, tmp_path, width, dark):
    probed = page.with_name(f"probed-{width}.html")
    html = re.sub(POLICY, "", page.read_text("utf-8"))
    probed.write_text(html.replace("</body>", PROBE + "</body>"), "utf-8")
    scheme = "--blink-settings=preferredColorScheme=" + ("0" if dark else "1")
    dom, _, _ = browse(chromium, probed, tmp_path, f"--window-size={width},900", scheme)
    seen = json.loads(re.search(r"<title>(\{.*?\})</title>", dom).group(1))
    assert seen["room"] <= width + 100  # some builds have a least width of 500
    assert seen["wide"] == seen["room"]
    assert seen["out"] == []
    assert seen["ink"] == ("rgb(230, 235, 241)" if dark else "rgb(23, 32, 43)")
