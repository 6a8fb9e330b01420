"""Wire formats: how a reply (plan, calls, content) is written as text and read back. One file a format."""

from __future__ import annotations

import re
from collections.abc import Sequence

from calltune.errors import InputError, Problem
from calltune.formats.functiongemma import FUNCTIONGEMMA
from calltune.formats.gemma4 import GEMMA4
from calltune.formats.hermes import HERMES
from calltune.formats.json_text import JSON
from calltune.formats.llama3 import LLAMA3
from calltune.formats.mistral import MISTRAL, MISTRAL_LIST
from calltune.formats.pieces import Format, Kind, Piece, join
from calltune.formats.python_hermes import PYTHON_HERMES
from calltune.formats.pythonic import LFM2, LIST, PYTHONIC
from calltune.formats.qwen3_coder import QWEN3_CODER
from calltune.schema import Reply, Tool

# Where two formats open at the same place, the first one here is taken: the more special stand first.
FORMATS: dict[str, Format] = {
    form.name: form
    for form in (QWEN3_CODER, PYTHON_HERMES, HERMES, MISTRAL_LIST, MISTRAL, GEMMA4, FUNCTIONGEMMA, LFM2, LLAMA3,
                 PYTHONIC, JSON)
}  # fmt: skip

CALL_LIST = re.compile(LIST)
BARE = re.compile(LIST + r"|\[\s*[\[{]|\{")

__all__ = ["FORMATS", "Format", "Kind", "Piece", "detect_format", "get_format", "join", "parse_any"]


def get_format(name: str) -> Format:
    """The format of that name. Raises InputError."""
    if name not in FORMATS:
        problem = Problem("unknown_format", name, f"one of: {', '.join(FORMATS)}")
        raise InputError(f"there is no format named {name}", problems=[problem])
    return FORMATS[name]


def detect_format(text: str) -> Format:
    """The format whose mark comes first in the text, unless calls without marks read before it; Hermes where there is
    neither (then it is content)."""
    return _detect(text)[0]


def parse_any(text: str, *, thinking_open: bool = False, tools: Sequence[Tool] = ()) -> Reply:
    """Reads a reply in the format that is found by its marks. Never raises; see hermes.parse."""
    form, reply = _detect(text)
    return reply if reply and not thinking_open else form.parse(text, thinking_open=thinking_open, tools=tools)


def _detect(text: str) -> tuple[Format, Reply | None]:
    """The format, and the reply where finding it meant reading it."""
    found = [
        (match.start(), i)
        for i, form in enumerate(FORMATS.values())
        if form.opens and form.mark in text and (match := form.opens.search(text))
    ]
    first = min(found) if found else (len(text), -1)
    bare = BARE.search(text, 0, first[0])
    listed = CALL_LIST.search(text, 0, first[0]) if bare else None
    for form in ((PYTHONIC,) if listed else ()) + ((JSON,) if bare else ()):
        reply = form.parse(text)
        if reply.calls and (not found or not reply.errors):
            return form, reply
    return (list(FORMATS.values())[first[1]] if found else HERMES), None
