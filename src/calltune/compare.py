"""Is this the call that was expected, and if not, what differs? Compares calls as JSON values.

Numbers are compared by value, arrays in order, objects by key, strings letter by letter; an argument (or
a property of an object) equal to its schema's default may be left out or given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from calltune.schema import Tool, ToolCall, find_tool, shorten

Kind = Literal[
    "exact",
    "no_call",
    "over_call",
    "wrong_tool",
    "missing_call",
    "extra_call",
    "missing_argument",
    "extra_argument",
    "wrong_type",
    "wrong_value",
    "format",
    "truncated",
]

_MISSING = object()


@dataclass(frozen=True)
class Difference:
    """The first thing that keeps a call from being the expected one; `path` is a JSON pointer."""

    kind: Kind
    path: str
    reason: str


def pair_calls(
    expected: Sequence[ToolCall], found: Sequence[ToolCall], tools: Sequence[Tool]
) -> tuple[list[tuple[ToolCall, ToolCall]], list[ToolCall], list[ToolCall]]:
    """Pairs of an expected and a found call, the likest first; then what is left over on either side.

    Taking the likest pair first finds every match there is: to be the same call is an equivalence, so
    no choice among equal calls can rob another one of its partner.
    """
    scores = sorted(
        (-_likeness(want, got, tools), i, j) for i, want in enumerate(expected) for j, got in enumerate(found)
    )
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for _, i, j in scores:
        if i not in partner and j not in taken:
            partner[i] = j
            taken.add(j)
    pairs = [(want, found[partner[i]]) for i, want in enumerate(expected) if i in partner]
    missing = [want for i, want in enumerate(expected) if i not in partner]
    extra = [got for j, got in enumerate(found) if j not in taken]
    return pairs, missing, extra


def _likeness(want: ToolCall, got: ToolCall, tools: Sequence[Tool]) -> float:
    """1 for the same call, less for each argument that differs, negative for another tool."""
    if want.name != got.name:
        return -1.0
    differences = compare_arguments(want, got, find_tool(tools, want.name))
    return 1.0 - len(differences) / (1 + len(set(want.arguments) | set(got.arguments)))


def compare_arguments(want: ToolCall, got: ToolCall, tool: Tool | None) -> list[Difference]:
    """At most one difference an argument; the schema is needed only for defaults."""
    schema: Mapping[str, Any] = tool.parameters if tool else {}
    return _compare_objects(want.arguments, got.arguments, schema, "")


def _compare_objects(want: Mapping[str, Any], got: Mapping[str, Any], schema: Any, path: str) -> list[Difference]:
    differences = []
    for key in [*want, *(key for key in got if key not in want)]:
        place = f"{path}/{key}"
        inner = _property(schema, key)
        default = inner.get("default", _MISSING)
        left, right = want.get(key, default), got.get(key, default)
        if right is _MISSING:
            difference = Difference("missing_argument", place, f"{_argument(place)} is missing")
        elif left is _MISSING:
            reason = f"{_argument(place)} was not asked for ({shorten(right, 60)})"
            difference = Difference("extra_argument", place, reason)
        else:
            found = _compare_values(left, right, inner, place)
            if found is None:
                continue
            difference = found
        differences.append(difference)
    return differences


def _compare_values(want: Any, got: Any, schema: Mapping[str, Any], path: str) -> Difference | None:
    """The first difference of two JSON values. Goes as deep as `want` does, whatever `got` is."""
    if _json_type(want) != _json_type(got):
        reason = (
            f"{_argument(path)} is {shorten(repr(got), 60)} ({_json_type(got)}), "
            f"expected {shorten(repr(want), 60)} ({_json_type(want)})"
        )
        return Difference("wrong_type", path, reason)
    if isinstance(want, Mapping):
        return next(iter(_compare_objects(want, got, schema, path)), None)
    if isinstance(want, (list, tuple)) and len(want) == len(got):
        items = schema.get("items")
        inner = items if isinstance(items, Mapping) else {}
        pairs = enumerate(zip(want, got, strict=True))
        found = (_compare_values(left, right, inner, f"{path}/{i}") for i, (left, right) in pairs)
        return next((difference for difference in found if difference), None)
    if not isinstance(want, (list, tuple)) and want == got:
        return None
    reason = f"{_argument(path)} is {shorten(repr(got), 60)}, expected {shorten(repr(want), 60)}"
    return Difference("wrong_value", path, reason)


def _property(schema: Any, key: str) -> Mapping[str, Any]:
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    inner = properties.get(key) if isinstance(properties, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):  # before numbers: Python's True is an int
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    if isinstance(value, Mapping):
        return "object"
    return "array" if isinstance(value, (list, tuple)) else type(value).__name__


def _argument(path: str) -> str:
    return f"argument {path[1:].replace('/', '.')}"
