"""Calls in the shapes that models give JSON objects: shared by all formats that write a call as an object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from calltune.formats.literals import read_value
from calltune.schema import ToolCall, shorten

KNOWN_KEYS = frozenset(["name", "arguments", "parameters", "id", "type", "function"])


def calls_of(value: Any, raw: str) -> Iterator[tuple[ToolCall, str]]:
    """The calls that a value (an object, or a list of them) stands for, each with a note or ''.

    An object has `name` and `arguments` (or `parameters`; an object, or its JSON text; none: no
    arguments), or is OpenAI's `{"type": "function", "function": {...}}`. Other keys are noted.
    """
    if type(value) is not dict and isinstance(value, list):
        if not value:
            yield ToolCall("", raw=raw, error="a list without a call"), ""
        for item in value:
            if isinstance(item, list):
                yield ToolCall("", raw=raw, error="a list within a list of calls"), ""
            else:
                yield from calls_of(item, json.dumps(item, ensure_ascii=False))
        return
    if type(value) is not dict and not isinstance(value, Mapping):  # the first is quick, and nearly always so
        yield ToolCall("", raw=raw, error=f"a call is an object, not {shorten(value, 40)}"), ""
        return
    outer = value
    if (inner := value.get("function")) is not None and isinstance(inner, Mapping):
        value = inner
    name, identity = value.get("name"), outer.get("id")
    keys = [key for key in ("arguments", "parameters") if key in value]
    other = [key for key in (outer if outer is value else dict.fromkeys([*outer, *value])) if key not in KNOWN_KEYS]
    error = _shape_error(name, keys, other)
    arguments: Any = {}
    if not error and keys:
        arguments, error = arguments_of(value[keys[0]])
    if error:
        name = name if isinstance(name, str) else ""
        yield ToolCall(name, raw=raw, error=error), ""
        return
    note = f"unknown key beside name and arguments: {', '.join(map(repr, other))}" if other else ""
    identity = identity if isinstance(identity, str) else None
    yield ToolCall(name, arguments, identity, raw if other else None), note


def _shape_error(name: Any, keys: list[str], other: list[str]) -> str | None:
    if not isinstance(name, str) or not name:
        return "a call without a name"
    if len(keys) == 2:
        return "both `arguments` and `parameters`"
    if not keys and other:
        return f"no `arguments`, but {', '.join(map(repr, other))}"
    return None


def arguments_of(value: Any) -> tuple[dict[str, Any], str | None]:
    """The arguments object (or its JSON text) and None, or {} and what is wrong."""
    if isinstance(value, str) and value.strip():
        try:
            value = read_value(value)
        except ValueError as error:
            return {}, f"the arguments are text that is {error}"
    if value is None or value == "":
        return {}, None
    if not isinstance(value, dict):
        return {}, f"the arguments are no object: {shorten(value, 40)}"
    return value, None
