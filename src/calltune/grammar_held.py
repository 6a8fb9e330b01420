"""What of a schema llguidance can hold decoding to: the words that it does not know are left out, and told."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from calltune.grammar_values import compile_error, compiler_error
from calltune.references import LISTS, NAMED, SINGLE

MOST_COMPILED = 50  # times that parts of a schema are compiled to find which of them cannot be: all replies wait
MOST_TEXT = 300_000  # characters that are compiled for it, about a third of a second
MOST_TRIED = 100  # formats and patterns of a schema
MOST_TOLD = 10
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
SILENT = ("$dynamicAnchor", "$recursiveAnchor")  # they ask for nothing
# Of the words of JSON Schema, those that a grammar may not know.
ASKED = {
    "not": {}, "if": {}, "then": {}, "else": {}, "dependentSchemas": {}, "dependentRequired": {}, "dependencies": {},
    "unevaluatedProperties": False, "unevaluatedItems": False, "contains": {}, "minContains": 1, "maxContains": 2,
    "propertyNames": {}, "uniqueItems": True, "$dynamicRef": "#q", "$dynamicAnchor": "q", "$recursiveRef": "#",
    "$recursiveAnchor": True,
}  # fmt: skip


@lru_cache(maxsize=1)
def unknown_words() -> frozenset[str]:
    """The words that llguidance says it does not know."""
    found = re.search(r"Unimplemented keys: (\[.*?\])", compiler_error(ASKED))
    return frozenset(json.loads(found[1])) if found else frozenset()


@dataclass(frozen=True)
class Held:
    """A schema as far as decoding can be held to it; in words what was `left` out; whether it has to be compiled
    `lenient`; the `error` for which it still cannot be compiled."""

    schema: Mapping[str, Any]
    left: tuple[str, ...] = ()
    lenient: bool = False
    error: str = ""


def hold(schema: Mapping[str, Any]) -> Held:
    """The schema without the words, formats and patterns that llguidance does not know, wherever they are."""
    if not compile_error(schema):
        return Held(schema)
    known = _Known()
    made = known.held(schema)
    error = compile_error(made)
    if error != "oneOf":
        return Held(made, tuple(known.left), error=error)
    return Held(made, (*known.left, *known.choices), True, compile_error(made, lenient=True))


class _Known:
    """What llguidance knows of one schema. `left`: the rest with its places (`/a: "not"`); `choices`: each oneOf."""

    def __init__(self) -> None:
        self.left: list[str] = []
        self.choices: list[str] = []
        self.tried: dict[tuple[str, str], str] = {}

    def held(self, schema: Any, path: str = "") -> Any:
        if not isinstance(schema, Mapping):
            return schema
        made = {}
        before = f"{path}: " if path else ""
        if "oneOf" in schema:
            self.choices.append(f"{before}only one of oneOf")
        for key, value in schema.items():
            if key in unknown_words():
                self.left += [f'{before}"{key}"'] if key not in SILENT else []
            elif key in ("format", "pattern") and isinstance(value, str) and (error := self._error(key, value)):
                self.left.append(before + error)
            else:
                made[key] = self._inside(key, value, path)
        return made

    def _inside(self, key: str, value: Any, path: str) -> Any:
        """The value of a keyword, with what is known of the schemas in it."""
        if key in NAMED and isinstance(value, Mapping):
            at = path if key == "properties" else f"{path}/{key}"
            return {name: self.held(each, f"{at}/{name}") for name, each in value.items()}
        if key in LISTS and isinstance(value, list):
            return [self.held(each, f"{path}/{key}/{i}") for i, each in enumerate(value)]
        if key in SINGLE:
            return self.held(value, f"{path}/*" if key == "additionalProperties" else f"{path}/{key}")
        return value

    def _error(self, key: str, value: str) -> str:
        """Why a format or a pattern is not known."""
        if (key, value) not in self.tried:
            many = len(self.tried) >= MOST_TRIED
            error = f"{key}, as there are too many to try" if many else \
                compile_error({"type": "string", key: value})  # fmt: skip
            self.tried[key, value] = error
        return self.tried[key, value]


class Mending:
    """The properties of a schema as far as they compile, found by halves; a limit of work bounds it. `left`: why
    those that are not whole are not."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.around = {key: root[key] for key in ("$defs", "definitions") if key in root}
        self.compiled = self.text = 0
        self.left: list[str] = []

    def mended(self, properties: Mapping[str, Any]) -> dict[str, Any]:
        if not (error := self._error(properties)):
            return dict(properties)
        if len(properties) > 1:
            items = list(properties.items())
            middle = len(items) // 2
            return self.mended(dict(items[:middle])) | self.mended(dict(items[middle:]))
        ((name, value),) = properties.items()
        self.left.append(f"/{name}: {error}")
        return {name: self._simpler(value)}

    def _simpler(self, value: Any) -> Any:
        """A property's schema as far as it compiles."""
        if not isinstance(value, Mapping):
            return True
        for left_out in value:  # one keyword that is not supported leaves the others
            part = {key: inner for key, inner in value.items() if key != left_out}
            if part and left_out != "type" and not self._error({"x": part}):
                return part
        for keys in (("type", "enum", "items", "properties", "required"), ("type", "enum")):
            part = {key: value[key] for key in keys if key in value}
            if part and not self._error({"x": part}):
                return part
        return {"type": value["type"]} if value.get("type") in TYPES else True

    def _error(self, properties: Mapping[str, Any]) -> str:
        """Why properties that must be there do not compile; it says that no value fits only of what must be."""
        if self.compiled >= MOST_COMPILED or self.text >= MOST_TEXT:
            return "the schema has too many parts that cannot be enforced"
        schema = {**self.around, "type": "object", "properties": properties, "required": list(properties)}
        self.compiled += 1
        self.text += len(json.dumps(schema))
        return compile_error(schema, lenient=True)


def told(left: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """The first of what was left out, and how much more there is."""
    more = len(left) - MOST_TOLD
    return (*left[:MOST_TOLD], f"and {more} more") if more > 0 else tuple(left)
