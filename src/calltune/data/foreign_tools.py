"""Tools as other data sets write them, as JSON Schema.

xLAM lists parameters flat with Python's type names (`{"city": {"type": "str, optional", "default": ""}}`), BFCL and
ToolACE write `dict`, `float`, `tuple`, `any`. A type that no table knows is left out: then any value fits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from calltune.data.messages import Reading
from calltune.formats.literals import read_value
from calltune.schema import shorten

NAMES: Mapping[str, str] = {
    "str": "string", "string": "string", "text": "string", "char": "string", "int": "integer", "integer": "integer",
    "long": "integer", "float": "number", "double": "number", "number": "number", "bool": "boolean",
    "boolean": "boolean", "list": "array", "array": "array", "arraylist": "array", "tuple": "array", "set": "array",
    "sequence": "array", "iterable": "array", "dict": "object", "object": "object", "mapping": "object",
    "hashmap": "object", "null": "null", "none": "null",
}  # fmt: skip
GENERIC = re.compile(r"(\w+)\s*\[(.*)\]", re.DOTALL)
OPTIONAL = re.compile(r"[,;]?\s*\(?optional\)?\.?\s*$|[,;]\s*default.*$", re.IGNORECASE)


def foreign_tools(value: Any, path: str, reading: Reading) -> list[Any]:
    """A list of tools (or its JSON text) in OpenAI's form; what is no list is noted as a problem."""
    if isinstance(value, str):
        try:
            value = read_value(value) if value.strip() else []
        except ValueError as error:
            reading.problem("bad_tools", value, f"JSON ({error})", path)
            return []
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        reading.problem("bad_tools", value, "a list of tools", path)
        return []
    return [_tool(item) for item in value]


def _tool(item: Any) -> Any:
    function = item.get("function", item) if isinstance(item, Mapping) else item
    if not isinstance(function, Mapping):
        return item
    given = function.get("parameters")
    parameters = {"type": "object", "properties": {}} if not given else _parameters(given)
    if isinstance(function.get("required"), list) and isinstance(parameters, dict):  # ToolACE has it outside too
        names = [n for n in function["required"] if isinstance(n, str) and n in _keys(parameters.get("properties"))]
        parameters.setdefault("required", names)
    made = {"name": function.get("name"), "description": str(function.get("description") or "")}
    return {"type": "function", "function": made | {"parameters": parameters}}


def _keys(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _parameters(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    flat = "properties" not in given and all(isinstance(item, Mapping) for item in given.values())
    if not flat:
        return json_schema(given) | {"type": "object"}
    properties = {str(name): json_schema(item) for name, item in given.items()}
    required = [str(name) for name, item in given.items() if not _is_optional(item)]
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def _is_optional(item: Mapping[str, Any]) -> bool:
    kind = item.get("type")
    named = isinstance(kind, str) and ("optional" in kind.lower() or "default" in kind.lower())
    return named or "default" in item or item.get("required") is False


def json_schema(given: Any) -> Any:
    """A schema with the type names of other sets as JSON Schema."""
    if not isinstance(given, Mapping):
        return given
    made: dict[str, Any] = {}
    for key, item in given.items():
        if key == "properties" and isinstance(item, Mapping):
            made[key] = {name: json_schema(inner) for name, inner in item.items()}
        elif key in ("items", "additionalProperties"):
            made[key] = json_schema(item)
        elif key == "required" and not isinstance(item, list):
            continue  # a word on the parameter itself, which its object's list repeats
        elif key == "optional" and isinstance(item, bool):
            continue
        elif key == "type" and isinstance(item, str):
            made = _typed(item) | made
        elif key != "type" or isinstance(item, list):
            made[key] = item
    return made


def _typed(name: str) -> dict[str, Any]:
    """The schema of a type's name: `str`, `List[int]`, `Optional[str]`, `str, optional`."""
    text = OPTIONAL.sub("", name.strip()).strip()
    if plain := NAMES.get(text.lower()):
        return {"type": plain}
    match = GENERIC.fullmatch(text)
    if match is None:
        return {}
    outer, inner = match[1].lower(), match[2]
    if outer == "optional":
        return _typed(inner)
    if outer == "union":
        kinds = [_typed(part) for part in _split(inner)]
        kinds = [kind for kind in kinds if kind != {"type": "null"}]
        return kinds[0] if len(kinds) == 1 else {} if {} in kinds else {"anyOf": kinds}
    kind = NAMES.get(outer)
    if kind == "array" and outer != "tuple" and (items := _typed(inner)):
        return {"type": kind, "items": items}
    return {"type": kind} if kind else {}


def _split(text: str) -> list[str]:
    """At the commas outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def tools_in_text(text: str, path: str, reading: Reading) -> tuple[list[Any], str]:
    """The tools that stand in a system text as JSON (one list, or objects one after the other), and the text
    before them."""
    from calltune.formats.literals import balanced_end

    begin = re.search(r"\[\s*(?=\{)|\{", text)
    if begin is None:
        return [], text.strip()
    found, start = [], begin.start()
    while text[start : start + 1] in ("[", "{"):
        try:
            end = balanced_end(text, start)
            value = read_value(text[start:end]) if end else None
        except ValueError:
            value = None
        if value is None:
            reading.problem("bad_tools", text[start:], "tools as JSON", path)
            return [], text[: begin.start()].strip()
        found += value if isinstance(value, list) else [value]
        start = (end or 0) + len(text[end:]) - len(text[end:].lstrip(" \t\r\n,"))
    return foreign_tools(found, path, reading), text[: begin.start()].strip()


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def unreadable(text: str, why: str) -> dict[str, Any]:
    """A call that could not be read, for `read_openai` to refuse with the reason."""
    return {"unreadable": f"{shorten(text)} ({why})"}
