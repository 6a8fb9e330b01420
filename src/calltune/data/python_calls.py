"""Calls written like Python, as ToolACE has them: `[get_weather(city="Paris"), other name(x=1)]`.

Names may hold spaces, dots and slashes, so this is no Python; values are JSON or Python literals.
"""

from __future__ import annotations

import re
from typing import Any

from calltune.formats.literals import read_value

STRING = re.compile(r""" "[^"\\]*+(?:\\.[^"\\]*+)*" | '[^'\\]*+(?:\\.[^'\\]*+)*' """, re.DOTALL | re.VERBOSE)
NAME = re.compile(r"\s*([^\s()\[\]{}'\"=,][^()\[\]{}'\"=,]*?)\s*\(")
LIST = re.compile(r"\s*\[\s*[^\s()\[\]{}'\"=,][^()\[\]{}'\"=,]*\(.*\)\s*\]\s*", re.DOTALL)
DEEP = 100


def is_call_list(text: str) -> bool:
    """Whether a whole text looks like a list of such calls."""
    return LIST.fullmatch(text) is not None


def read_python_calls(text: str) -> list[dict[str, Any]]:
    """The calls of `[name(key=value, ...), ...]`. Raises ValueError with the reason."""
    inner = text.strip()
    if not (inner.startswith("[") and inner.endswith("]")):
        raise ValueError("not in brackets")
    calls, position, inner = [], 0, inner[1:-1]
    while inner[position:].strip():
        match = NAME.match(inner, position)
        if match is None:
            raise ValueError(f"no name and bracket at {inner[position : position + 30]!r}")
        end = _end(inner, match.end())
        calls.append({"name": match[1], "arguments": _arguments(inner[match.end() : end])})
        position = end + 1
        rest = inner[position:].lstrip()
        if rest and not rest.startswith(","):
            raise ValueError(f"no comma before {rest[:30]!r}")
        position = len(inner) - len(rest) + bool(rest)
    if not calls:
        raise ValueError("no call in it")
    return calls


def _arguments(text: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for part in _parts(text):
        name, sign, value = part.partition("=")
        name = name.strip()
        if not sign or not name or name[0] in "'\"[{(":
            raise ValueError(f"{part.strip()[:40]!r} has no name")
        if name in arguments:
            raise ValueError(f"{name} is given twice")
        arguments[name] = read_value(value)
    return arguments


def _parts(text: str) -> list[str]:
    """At the commas outside of brackets and strings."""
    parts, position, begin = [], 0, 0
    while position <= len(text):
        position = _end(text, position, ",")
        if text[begin:position].strip():
            parts.append(text[begin:position])
        position += 1
        begin = position
    return parts


def _end(text: str, position: int, mark: str = ")") -> int:
    """Where the mark stands outside of brackets and strings; for the comma also the end of the text."""
    depth = 0
    while position < len(text):
        character = text[position]
        if character in "'\"":
            string = STRING.match(text, position)
            if string is None:
                raise ValueError("a string that does not end")
            position = string.end()
            continue
        if character == mark and depth == 0:
            return position
        depth += (character in "([{") - (character in ")]}")
        if depth > DEEP:
            raise ValueError(f"nested deeper than {DEEP} levels")
        position += 1
    if mark == ")":
        raise ValueError("a bracket that does not close")
    return position
