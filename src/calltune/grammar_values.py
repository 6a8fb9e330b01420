"""Schemas as grammar rules of values that are not written as JSON: Python's, Gemma's, bare text between tags.

JSON itself is llguidance's part. What these rules do not hold of a schema stands in `missing`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from calltune.schema import shorten

# As json.dumps writes: what was trained, and most of it forced.
SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ANNOTATIONS = frozenset({
    "title", "description", "default", "examples", "example", "$schema", "$id", "$comment", "$defs", "definitions",
    "deprecated", "readOnly", "writeOnly", "x-guidance",
})  # fmt: skip
PLACE = re.compile(r"^at \d+\(\d+\): (?:failed to compile JSON schema: )?")  # in the grammar
BAD_PATTERN = re.compile(r"regex parse error:\n(.*)\n.*\nerror: (.*)")
WORDS = {
    "Unimplemented keys: ": "",
    "Unknown format: ": "format ",
    "Unsatisfiable schema: ": "no value fits: ",
    "Resource ": "nothing is fetched: ",
    "Pointer ": "no such place in the schema: ",
}
LENGTHS = ("minLength", "maxLength")
NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
LONGEST = 1_000  # of a text whose length the grammar counts


@dataclass(frozen=True)
class Words:
    """How a form writes values. `text(schema, values)` is the expression of a string and what of the schema it leaves
    out; `literal` that of one value, None where the form cannot say it; `key` a key's text."""

    text: Callable[[Mapping[str, Any], Values], tuple[str, tuple[str, ...]]]
    literal: Callable[[Any], str | None]
    key: Callable[[str], str]
    free_key: str  # an expression
    comma: str = ", "
    colon: str = ": "
    true: str = "True"
    false: str = "False"
    null: str = "None"


def compile_error(schema: Mapping[str, Any], *, lenient: bool = False) -> str:
    """Why llguidance cannot make a grammar of a schema, in plain words; empty where it can."""
    return shorten(plain(compiler_error(schema, lenient=lenient)), 160)


def compiler_error(schema: Mapping[str, Any], *, lenient: bool = False) -> str:
    """The same in llguidance's own words."""
    from llguidance import LLMatcher

    options = SPACING | ({"lenient": True} if lenient else {})
    try:
        grammar = "%llguidance {}\nstart: %json " + json.dumps(dict(schema) | {"x-guidance": options})
        said: str = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(grammar))
    except (ValueError, TypeError) as error:
        said = str(error)
    return said


def plain(said: str) -> str:
    """What llguidance says of a schema, without its place in the grammar and the grammar's text around it."""
    said = PLACE.sub("", said.partition("\n   1 | ")[0])
    if found := BAD_PATTERN.search(said):
        return f"the pattern {found[1].strip()}: {found[2]}"
    if said.startswith("oneOf constraints are not supported"):
        return "oneOf"
    for begin, words in WORDS.items():
        if said.startswith(begin):
            return words + said.removeprefix(begin)
    return said


def value_error(schema: Any, around: Mapping[str, Any] | None = None) -> str:
    """Why llguidance cannot make a value of a schema; empty where it can. It says that no value fits only of what
    must be there. `around`: the definitions that the schema refers to."""
    return compile_error({**(around or {}), "type": "object", "properties": {"x": schema}, "required": ["x"]})


def literal(text: str) -> str:
    """A literal of the grammar; '' for no text."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def without(parts: Sequence[str], body: str = "(?s:.+)") -> str:
    """A terminal: text of the form `body` that holds none of the patterns."""
    inner = "|".join(part.replace("/", "\\/").replace("\\\n", "\\n") for part in dict.fromkeys(parts))
    return f"/{body}/ & ~/(?s:.*)({inner})(?s:.*)/"


def counted(schema: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """A pattern of texts, at least a character, for a schema's lengths, and what of the schema is left out."""
    low, high = schema.get("minLength", 0), schema.get("maxLength")
    left = tuple(key for key in ("pattern", "format") if key in schema)
    whole = all(isinstance(n, int) and 0 <= n <= LONGEST for n in (low, 0 if high is None else high))
    if not whole or (high is not None and high < low):
        return "(?s:.+)", (*left, *(key for key in LENGTHS if key in schema))
    if not low and high is None:
        return "(?s:.+)", left
    return f"(?s:.{{{max(low, 1)},{'' if high is None else max(high, 1)}}})", left


class Values:
    """The rules of one tool's arguments, under names that begin with `name`. `free`: there are objects of free keys,
    or numbers without limit, which have to be watched."""

    def __init__(self, words: Words, name: str, root: Mapping[str, Any]) -> None:
        self.words, self.name, self.root = words, name, root
        self.lines: list[str] = []
        self.missing: list[str] = []
        self.free = False
        self._known: dict[str, str] = {}

    def rule(self, body: str) -> str:
        name = f"{self.name}_{len(self.lines)}"
        self.lines.append(f"{name}: {body}")
        return name

    def terminal(self, body: str) -> str:
        if body not in self._known:
            name = f"{self.name.upper()}_{len(self.lines)}"
            self.lines.append(f"{name}: {body}")
            self._known[body] = name
        return self._known[body]

    def value(self, schema: Any, path: str) -> str:
        """The expression of a value."""
        if not isinstance(schema, Mapping) or not schema.keys() - ANNOTATIONS:
            return self.anything()
        if isinstance(ref := schema.get("$ref"), str):
            return self._reference(ref, path)
        if "const" in schema or isinstance(schema.get("enum"), list):
            return self._choice([schema["const"]] if "const" in schema else schema["enum"], path)
        for key in ("anyOf", "oneOf", "allOf"):
            options = schema.get(key)
            if isinstance(options, list) and options and not isinstance(schema.get("type"), str):
                self._leave(schema, {key, "type"}, path)
                if key != "anyOf" and len(options) > 1:
                    self.missing.append(f"{path}: {key}")
                found = [self.value(option, path) for option in (options[:1] if key == "allOf" else options)]
                return f"({' | '.join(dict.fromkeys(found))})"
        kinds = schema.get("type")
        if isinstance(kinds, list) and kinds:
            return f"({' | '.join(self.value({**schema, 'type': kind}, path) for kind in kinds)})"
        kind = kinds if isinstance(kinds, str) else "object" if "properties" in schema else \
            "array" if "items" in schema else ""  # fmt: skip
        return self._typed(kind, schema, path)

    def _typed(self, kind: str, schema: Mapping[str, Any], path: str) -> str:
        words = self.words
        if kind == "string":
            self._leave(schema, {"type", "pattern", "format", *LENGTHS}, path)
            found, left = words.text(schema, self)
            self.missing += [f"{path}: {key}" for key in left]
            return found
        if kind in ("integer", "number"):
            return self._number(kind, schema, path)
        if kind == "boolean":
            self._leave(schema, {"type"}, path)
            return f"({literal(words.true)} | {literal(words.false)})"
        if kind == "null":
            return literal(words.null)
        if kind == "array":
            return self._list(schema, path)
        if kind == "object":
            return f'"{{" {self.items(schema, path)} "}}"'
        self._leave(schema, set(), path)
        return self.anything()

    def _number(self, kind: str, schema: Mapping[str, Any], path: str) -> str:
        self.free = self.free or kind == "number"
        kept = {"type": kind} | {key: schema[key] for key in NUMBERS if key in schema}
        self._leave(schema, kept.keys(), path)
        if error := value_error(kept):
            self.missing.append(f"{path}: {error}")
            kept = {"type": kind}
        return self.rule(f"%json {json.dumps(kept)}")

    def _list(self, schema: Mapping[str, Any], path: str) -> str:
        self._leave(schema, {"type", "items", "minItems", "maxItems"}, path)
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        if high is not None and high < low:
            self.missing.append(f"{path}: minItems {low} and maxItems {high}, which no list fits")
            low, high = 0, None
        if high == 0:
            return '"[]"'
        item = self.rule(self.value(schema.get("items", True), path + "/items"))
        if high == 1:
            return f'"[" {item} "]"' if low else f'"[" ({item})? "]"'
        more = f"({literal(self.words.comma)} {item})"
        more += f"{{{max(low - 1, 0)},{'' if high is None else high - 1}}}" if low > 1 or high is not None else "*"
        inside = f"{item} {more}"
        return f'"[" {inside} "]"' if low else f'"[" ({inside})? "]"'

    def items(self, schema: Mapping[str, Any], path: str, assign: tuple[str, str] | None = None) -> str:
        """What stands between an object's brackets: its properties in order. `assign`: around a key, for arguments
        that are no object."""
        self._leave(schema, {"type", "properties", "required", "additionalProperties"}, path)
        properties = dict(schema.get("properties") or {})
        required = schema.get("required") or []
        properties |= {key: True for key in required if key not in properties}
        if not properties:
            return self._free_items(schema, path)
        comma, rest = literal(self.words.comma), ""
        begin: str | None = None
        for key, value in reversed(properties.items()):
            shown = f"{assign[0]}{key}{assign[1]}" if assign else self.words.key(key) + self.words.colon
            item = self.rule(f"{literal(shown)} {self.value(value, f'{path}/{key}')}")
            first = f"{item} {rest}".rstrip()
            if key in required:
                begin = first
                rest = self.rule(f"{comma} {first}")
            else:
                begin = f"({first})?" if begin is None else f"({first} | {begin})"
                rest = self.rule(f"({comma} {item})? {rest}".rstrip())
            begin = self.rule(begin)
        return begin or ""

    def _free_items(self, schema: Mapping[str, Any], path: str) -> str:
        extra = schema.get("additionalProperties", True)
        if extra is False:
            return ""
        self.free = True
        value = self.value(extra, f"{path}/*")
        item = self.rule(f"{self.words.free_key} {literal(self.words.colon)} {value}")
        return self.rule(f"({item} ({literal(self.words.comma)} {item})*)?")

    def anything(self) -> str:
        """Any value; one rule, which calls itself."""
        self.free = True
        if "any" not in self._known:
            self._known["any"] = name = f"{self.name}_any"
            words, comma = self.words, literal(self.words.comma)
            names = " | ".join(map(literal, (words.true, words.false, words.null)))
            item = f"{words.free_key} {literal(words.colon)} {name}"
            self.lines.append(
                f'{name}: {words.text({}, self)[0]} | %json {{"type": "number"}} | {names} '
                f'| "[" ({name} ({comma} {name})*)? "]" | "{{" ({item} ({comma} {item})*)? "}}"'
            )
        return self._known["any"]

    def _reference(self, ref: str, path: str) -> str:
        node: Any = self.root
        for part in ref.removeprefix("#/").split("/"):
            node = node.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(node, Mapping) else None
        if not ref.startswith("#/") or not isinstance(node, Mapping):
            self.missing.append(f"{path}: {ref}")
            return self.anything()
        if ref not in self._known:
            self._known[ref] = name = f"{self.name}_ref{len(self._known)}"
            self.lines.append(f"{name}: {self.value(node, path)}")
        return self._known[ref]

    def _choice(self, values: Sequence[Any], path: str) -> str:
        found = [said for value in values if (said := self.words.literal(value)) is not None]
        if not found:
            self.missing.append(f"{path}: none of its values can be written in this form")
            return self.anything()
        return f"({' | '.join(found)})"

    def _leave(self, schema: Mapping[str, Any], known: Any, path: str) -> None:
        """Notes what of a schema nobody looks at."""
        left = schema.keys() - ANNOTATIONS - set(known)
        if left:
            self.missing.append(f"{path}: {', '.join(sorted(left))}")
