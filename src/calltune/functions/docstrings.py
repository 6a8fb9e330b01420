"""What a docstring says of a function and of each parameter: Google, NumPy and reST styles."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field

PARAMETER_SECTIONS = frozenset(
    ["args", "arguments", "parameters", "params", "keyword args", "keyword arguments", "other parameters"]
)
OTHER_SECTIONS = frozenset(
    [
        "attributes",
        "returns",
        "return",
        "yields",
        "raises",
        "example",
        "examples",
        "note",
        "notes",
        "see also",
        "warning",
        "warnings",
        "reference",
        "references",
        "todo",
    ]
)
REST_PARAM = re.compile(r"^:(?:param|parameter|arg|argument|key|keyword)\s+(?:[^:]*\s)?\*{0,2}(\w+)\s*:\s*(.*)$")
REST_FIELD = re.compile(r"^:\w[^:]*:")
GOOGLE_ITEM = re.compile(r"^\*{0,2}(\w+)\s*(?:\(.*?\))?\s*:(?:\s+(.*))?$")
NUMPY_ITEM = re.compile(r"^\*{0,2}(\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?$")


@dataclass(frozen=True)
class Docstring:
    """`description` is the text before the first section; `parameters` the words on each parameter."""

    description: str = ""
    parameters: dict[str, str] = field(default_factory=dict)


def read_docstring(text: str | None) -> Docstring:
    """Reads any of the three styles, also mixed; text that is in none of them is the description."""
    lines = inspect.cleandoc(text or "").split("\n")
    description: list[str] = []
    parameters: dict[str, str] = {}
    section: str | None = None
    body: list[str] = []
    numpy = False

    def close() -> None:
        if section in PARAMETER_SECTIONS:
            parameters.update(_numpy_items(body) if numpy else _google_items(body))

    i = 0
    while i < len(lines):
        line = lines[i]
        underlined = i + 1 < len(lines) and re.fullmatch(r"\s*-{3,}\s*", lines[i + 1]) is not None
        heading = _heading(line, underlined)
        rest = REST_FIELD.match(line)
        if heading or rest:
            close()
            section, body, numpy = heading or "rest", [], underlined
            if rest:
                i = _rest_field(lines, i, parameters)
                continue
            i += 2 if underlined else 1
            continue
        (description if section is None else body).append(line)
        i += 1
    close()
    return Docstring(_flow(description), {name: words for name, words in parameters.items() if words})


def _heading(line: str, underlined: bool) -> str | None:
    """The section that starts here, in lower case: `Args:` (Google) or `Parameters` over dashes (NumPy)."""
    if line[:1].isspace():
        return None
    name = line.strip().removesuffix(":").lower()
    marked = underlined or line.rstrip().endswith(":")
    return name if marked and name in PARAMETER_SECTIONS | OTHER_SECTIONS else None


def _google_items(lines: list[str]) -> dict[str, str]:
    """`name (type): words`, with continuation lines indented deeper."""
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    first = min(indents, default=0)
    items: dict[str, list[str]] = {}
    current: str | None = None
    for line in lines:
        match = GOOGLE_ITEM.match(line.strip()) if len(line) - len(line.lstrip()) == first else None
        if match:
            current = match[1]
            items[current] = [match[2] or ""]
        elif current is not None:
            items[current].append(line)
    return {name: _flow(words) for name, words in items.items()}


def _numpy_items(lines: list[str]) -> dict[str, str]:
    """`name : type` at the margin, the words indented below it; `a, b : type` gives both the same."""
    items: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        match = NUMPY_ITEM.match(line) if line[:1].strip() else None
        if match:
            current = [name.strip(" *") for name in match[1].split(",")]
            items.update({name: [] for name in current})
        else:
            for name in current:
                items[name].append(line)
    return {name: _flow(words) for name, words in items.items()}


def _rest_field(lines: list[str], start: int, parameters: dict[str, str]) -> int:
    """Reads the field at `start` with its indented continuation; returns the index after it."""
    end = start + 1
    while end < len(lines) and (lines[end][:1].isspace() and lines[end].strip()):
        end += 1
    match = REST_PARAM.match(lines[start])
    if match:
        parameters[match[1]] = _flow([match[2], *lines[start + 1 : end]])
    return end


def _flow(lines: list[str]) -> str:
    """Wrapped lines joined by spaces, paragraphs by a newline."""
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip())
    return "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs).strip()
