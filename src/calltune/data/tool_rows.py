"""The tools of a row: read once for each content, with what is wrong with their schemas.

In most sets the same tools come again and again, so what was found is kept by content (MOST of them).
A null in a schema (sets that went through Arrow are padded with them) is left out, which is a repair;
a `$ref` may point into its own schema only and is never fetched.
"""

from __future__ import annotations

import marshal
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from calltune.errors import InputError, Problem, pointer
from calltune.formats.literals import read_value
from calltune.schema import Tool, shorten

MOST = 4096  # tools kept; memory does not grow with the file
TYPES = frozenset(["object", "array", "string", "number", "integer", "boolean", "null"])
PLAIN_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "description": str,
    "title": str,
    "format": str,
    "enum": list,
    "required": list,
    "default": object,
    "minimum": (int, float),
    "maximum": (int, float),
}
VALUES = ("default", "const", "enum", "examples")  # keys under which a value stands, not a schema
NAMED = ("properties", "patternProperties", "$defs", "definitions")  # keys whose own keys are names
LOCAL = "a $ref into this schema (#/$defs/...); nothing is fetched"


@dataclass(frozen=True)
class ToolFound:
    """One tool as it was read; all paths count from the tool's own place.

    `problems`: it could not be read. `schema`: it was, but calls cannot be judged by it. `repairs`: put right.
    """

    tool: Tool | None
    problems: tuple[Problem, ...] = ()
    schema: tuple[Problem, ...] = ()
    repairs: tuple[Problem, ...] = ()


_kept: dict[bytes, ToolFound] = {}


def read_tool(value: Any) -> ToolFound:
    """One tool in OpenAI's form, or bare."""
    try:
        key = marshal.dumps(value, 2)  # version 2: equal values give equal bytes
    except ValueError:  # something that is no JSON, in rows from memory
        return _read(value)
    found = _kept.get(key)
    if found is None:
        if len(_kept) >= MOST:
            _kept.clear()
        found = _kept[key] = _read(value)
    return found


def _read(value: Any) -> ToolFound:
    repairs: list[Problem] = []
    value = _without_nulls(value, "", repairs)
    try:
        tool = Tool.from_openai(value, "")
    except InputError as error:
        return ToolFound(None, tuple(error.problems))
    if not tool.name.strip():
        return ToolFound(None, (Problem("bad_tool", "an empty name", "the name of a function", "/name"),))
    place = "/function/parameters" if "function" in value else "/parameters"
    return ToolFound(tool, (), tuple(schema_problems(tool, place)), tuple(repairs))


def _without_nulls(value: Any, path: str, repairs: list[Problem], names: bool = False) -> Any:
    """The tool without its nulls, except where a null is a value (default, enum). `names`: the keys are names
    of parameters, not words of JSON Schema."""
    if isinstance(value, Mapping):
        made = {}
        for key, item in value.items():
            is_value = key in VALUES and not names
            if item is None and not (is_value and key in ("default", "const")):
                repairs.append(Problem("null_in_schema", "null", "no such key", path + pointer(key)))
            elif is_value:
                made[key] = item
            else:
                made[key] = _without_nulls(item, path + pointer(key), repairs, key in NAMED and not names)
        return made
    if isinstance(value, list):
        return [_without_nulls(item, f"{path}/{i}", repairs) for i, item in enumerate(value)]
    return value


def schema_problems(tool: Tool, place: str = "/parameters") -> Iterator[Problem]:
    """Why calls cannot be judged by the schema of a tool."""
    if plain_schema(tool.parameters):
        return
    try:
        Draft202012Validator.check_schema(dict(tool.parameters))
    except SchemaError as error:
        found = f"{tool.name}: {shorten(error.message, 160)}"
        yield Problem("bad_schema", found, "JSON Schema", place + pointer(*error.absolute_path))
        return
    except Exception as error:  # keys that are no text, endless recursion: each another kind
        found = f"{tool.name}: {type(error).__name__}: {shorten(str(error))}"
        yield Problem("bad_schema", found, "JSON Schema", place)
        return
    if tool.parameters.get("type", "object") != "object":
        found = f"{tool.name}: type {shorten(tool.parameters['type'])}"
        yield Problem("bad_schema", found, "type object, which arguments are", f"{place}/type")
    for path, schema in _schemas(tool.parameters, place):
        if "$ref" in schema and not _resolves(schema, tool.parameters):
            yield Problem("bad_schema", f"{tool.name}: $ref {shorten(schema['$ref'])}", LOCAL, f"{path}/$ref")
        patterns = [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
        if isinstance(schema.get("patternProperties"), Mapping):
            patterns += schema["patternProperties"]
        for pattern in patterns:
            if not _is_pattern(pattern):
                yield Problem("bad_schema", f"{tool.name}: {shorten(pattern)}", "a regular expression", path)


def plain_schema(schema: Any) -> bool:
    """Whether a schema is a valid one at a glance; the full check takes a millisecond a tool."""
    if not isinstance(schema, Mapping) or not isinstance(schema.get("type"), str):
        return False
    if schema["type"] not in TYPES:
        return False
    for key, value in schema.items():
        if key == "properties":
            if not isinstance(value, Mapping) or not all(map(plain_schema, value.values())):
                return False
        elif key == "items":
            if not plain_schema(value):
                return False
        elif key != "type" and not isinstance(value, PLAIN_KEYS.get(key, ())):
            return False
    return all(isinstance(name, str) for name in schema.get("required", ()))


def _schemas(value: Any, path: str, names: bool = False) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema inside a schema, with its JSON pointer."""
    if isinstance(value, Mapping):
        if not names:
            yield path, value
        for key, item in value.items():
            if names or key not in VALUES:
                yield from _schemas(item, path + pointer(key), key in NAMED and not names)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _schemas(item, f"{path}/{i}")


def _resolves(schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    """Whether the `$ref` leads to a schema of the same tool, and not through other `$ref`s back to itself."""
    seen: set[str] = set()
    while isinstance(schema, Mapping) and "$ref" in schema:
        target = schema["$ref"]
        if not isinstance(target, str) or not target.startswith("#") or target in seen:
            return False
        seen.add(target)
        found: Any = root
        for part in target[1:].split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, Mapping) and key in found:
                found = found[key]
            else:
                return False
        schema = found
    return isinstance(schema, Mapping | bool)


@lru_cache(maxsize=1024)
def _is_pattern(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def placed(problems: Sequence[Problem], path: str) -> list[Problem]:
    """The problems of one tool at its place in the row."""
    return [replace(problem, path=path + problem.path) for problem in problems]


def read_tool_list(items: Sequence[Any], path: str, add: Callable[[ToolFound, str], None]) -> tuple[Tool, ...]:
    """The readable tools of a list; what was found of each goes to `add` with its place."""
    tools = []
    for i, item in enumerate(items):
        found = read_tool(item)
        if found.problems or found.schema or found.repairs:
            add(found, f"{path}/{i}")
        if found.tool is not None:
            tools.append(found.tool)
    return tuple(tools)


def tool_items(value: Any, path: str) -> Sequence[Any]:
    """The items of a tools column: a list, one tool, or either as text (T13). Raises InputError."""
    if isinstance(value, str):
        try:
            value = read_value(value) if value.strip() else []
        except ValueError as error:
            problem = Problem("bad_tools", shorten(value), f"JSON ({error})", path)
            raise InputError("the tools could not be read", problems=[problem]) from None
    if type(value) is list:
        return value
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, list | tuple):
        problem = Problem("bad_tools", shorten(value), "a list of tools", path)
        raise InputError("the tools could not be read", problems=[problem])
    return value
