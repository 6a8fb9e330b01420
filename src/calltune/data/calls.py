"""Calls against the schemas of their tools: what is wrong, and the repairs that lose nothing."""

from __future__ import annotations

import datetime
import ipaddress
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from calltune.errors import Problem, pointer
from calltune.formats.literals import read_value
from calltune.schema import Tool, ToolCall, find_tool, shorten, validate_call

INTEGER = re.compile(r"[+-]?\d{1,18}")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")
EMAIL = re.compile(r"[^@\s]+@[^@\s]+")

# JSON Schema's words for formats, read with some patience (a time without a zone is one); other names are not
# checked, as the specification allows.
FORMATS: Mapping[str, Callable[[str], Any]] = {
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "date-time": datetime.datetime.fromisoformat,
    "email": lambda text: _full(EMAIL, text),
    "uri": lambda text: _full(URI, text),
    "uuid": uuid.UUID,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
}


def judge(call: ToolCall, tools: Sequence[Tool], path: str) -> list[Problem]:
    """Every way in which a call does not fit its tool, its `format`s among them."""
    problems = validate_call(call, tools, path)
    tool = None if call.error else find_tool(tools, call.name)
    if tool is not None and _has_formats(tool):
        problems += _bad_formats(call.arguments, tool.parameters, f"{path}/arguments")
    return problems


def _full(pattern: re.Pattern[str], text: str) -> None:
    if not pattern.fullmatch(text):
        raise ValueError(text)


def _has_formats(tool: Tool) -> bool:
    """Whether any parameter of the tool has a format to check; kept with the tool."""
    known = tool.__dict__.get("_has_formats")
    if known is None:
        known = tool.__dict__["_has_formats"] = any(True for _ in _formats(tool.parameters))
    return bool(known)


def _formats(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        if isinstance(schema.get("format"), str) and schema["format"] in FORMATS:
            yield schema["format"]
        for item in schema.values():
            yield from _formats(item)
    elif isinstance(schema, list):
        for item in schema:
            yield from _formats(item)


def _bad_formats(value: Any, schema: Any, path: str) -> list[Problem]:
    if not isinstance(schema, Mapping):
        return []
    if isinstance(value, Mapping):
        properties = schema.get("properties")
        inner = properties if isinstance(properties, Mapping) else {}
        return [p for key, item in value.items() for p in _bad_formats(item, inner.get(key), path + pointer(key))]
    if isinstance(value, list):
        return [p for i, item in enumerate(value) for p in _bad_formats(item, schema.get("items"), f"{path}/{i}")]
    name = schema.get("format")
    if not isinstance(value, str) or not isinstance(name, str) or name not in FORMATS:
        return []
    try:
        FORMATS[name](value)
    except ValueError:
        return [Problem("bad_format", shorten(value), f"format {name}", path)]
    return []


def repair_call(call: ToolCall, tools: Sequence[Tool]) -> ToolCall:
    """The call with every text that its schema wants as something else made into that, where it is lossless:
    `"63"` for an integer, `"12.50"` for a number, `"true"` for a boolean, `"['a']"` for an array; and without
    the nulls that stand for "not given"."""
    tool = find_tool(tools, call.name)
    if tool is None:
        return call
    return replace(call, arguments=_repaired(call.arguments, tool.parameters))


def _repaired(value: Any, schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, str):
        value = _from_text(value, schema.get("type"))
    if isinstance(value, Mapping):
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        padded = [key for key, item in value.items() if item is None and _is_padding(key, schema, properties)]
        return {key: _repaired(item, properties.get(key)) for key, item in value.items() if key not in padded}
    if isinstance(value, list):
        return [_repaired(item, schema.get("items")) for item in value]
    return value


def _is_padding(key: str, schema: Mapping[str, Any], properties: Mapping[str, Any]) -> bool:
    """Whether a null is what Arrow puts where a row has no such key: the schema does not want it, and says of
    the parameter a type that null is not of, or does not know the parameter."""
    required = schema.get("required")
    if isinstance(required, list) and key in required:
        return False
    if key not in properties:
        return "additionalProperties" not in schema
    own = properties[key]
    return isinstance(own, Mapping) and isinstance(own.get("type"), str) and own["type"] != "null"


def _from_text(text: str, kind: Any) -> Any:
    """A text as the integer, number, boolean, array or object that it spells; the text itself otherwise."""
    word = text.strip()
    if kind in ("integer", "number") and INTEGER.fullmatch(word):
        return int(word)
    if kind == "number" and NUMBER.fullmatch(word):
        number = float(word)
        return number if number - number == 0 else text
    if kind == "boolean" and word.lower() in ("true", "false"):
        return word.lower() == "true"
    if (kind == "array" and word[:1] in ("[", "(")) or (kind == "object" and word[:1] == "{"):
        try:
            value = read_value(word)
        except ValueError:
            return text
        return value if isinstance(value, list if kind == "array" else dict) else text
    return text
