"""A picture of a report's page for the README: python scripts/screenshot.py REPORT.html OUT.png [HEIGHT]

Needs Chromium or Chrome. The report must be a real run's: no picture of made-up numbers belongs in the project.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
WIDTH, HEIGHT = 1000, 900  # the figures and the first chart, as a reader sees them first


def browser() -> str:
    """The path of a Chromium. Stops with a line where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if not found and not Path(MAC).exists():
        raise SystemExit("no Chromium or Chrome found: install one (Debian: apt-get install chromium)")
    return found or MAC


def screenshot(page: Path, out: Path, height: int = HEIGHT) -> None:
    """Write the top `height` pixels of a page, in its light colours, as PNG."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            "--blink-settings=preferredColorScheme=1", "--virtual-time-budget=3000", f"--user-data-dir={profile}",
            f"--window-size={WIDTH},{height}", f"--screenshot={out.resolve()}", page.resolve().as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or not Path(sys.argv[1]).is_file():
        raise SystemExit(__doc__)
    screenshot(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
    print(sys.argv[2])
