"""The files of the server's page: complete in the wheel, closed to the network, in line with a strict policy."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "src" / "calltune" / "serve" / "page"
FILES = sorted(PAGE.iterdir())
SCRIPTS = {path.name: path.read_text("utf-8") for path in FILES if path.suffix == ".js"}
HTML = (PAGE / "index.html").read_text("utf-8")
# An XML namespace is a name, not an address that is asked for anything.
NAMESPACE = "http://www.w3.org/2000/svg"


class Elements(HTMLParser):
    """The page's elements as (tag, attributes, line)."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], int]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), self.getpos()[0]))


ELEMENTS = Elements(HTML).found
IDS = [attributes["id"] for _, attributes, _ in ELEMENTS if "id" in attributes]


def test_the_wheel_holds_the_page(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as held:
        for path in FILES:
            assert held.read(f"calltune/serve/page/{path.name}") == path.read_bytes()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_names_another_host(path):
    text = path.read_text("utf-8").replace(NAMESPACE, "")
    assert re.findall(r"\b(?:https?|wss?):|[\"'`(=]//\w|@import|[^\w]url\(", text) == []


def test_what_the_page_loads_is_there():
    loaded = [value for _, attributes, _ in ELEMENTS for name, value in attributes.items() if name in ("src", "href")]
    assert len(loaded) == 4
    for name in loaded:
        assert name.startswith("#") or (PAGE / name).is_file(), name
    imported = {name for text in SCRIPTS.values() for name in re.findall(r'from "\./([^"]+)"', text)}
    assert imported | {"main.js"} == set(SCRIPTS)


def test_nothing_stands_inline():
    for tag, attributes, line in ELEMENTS:
        assert tag != "style" and (tag != "script" or "src" in attributes), line
        assert not [name for name in attributes if name.startswith("on") or name == "style"], line


@pytest.mark.parametrize("name", SCRIPTS)
def test_text_never_becomes_html_or_code(name):
    ways = r"(?:inner|outer|Adjacent|set)HTML|document\.write|\beval\b|Function\(|DOMParser|srcdoc|Fragment\("
    assert re.findall(ways, SCRIPTS[name]) == []


def test_every_element_that_a_script_or_a_label_names_is_there():
    assert len(IDS) == len(set(IDS))
    named = {name for text in SCRIPTS.values() for name in re.findall(r'\$\("([\w-]+)"\)', text)}
    for _, attributes, _ in ELEMENTS:
        for key in ("for", "aria-describedby", "aria-labelledby"):
            named |= set((attributes.get(key) or "").split())
    assert len(named) > 25
    assert named - set(IDS) == set()


def test_every_field_has_a_name():
    labelled = {attributes["for"] for tag, attributes, _ in ELEMENTS if tag == "label" and "for" in attributes}
    for tag, attributes, line in ELEMENTS:
        if tag in ("input", "textarea") and attributes.get("id") not in labelled:
            before = HTML.splitlines()[line - 1]
            assert "aria-label" in attributes or "<label" in before, line
