"""Made rows that go on after the call: the tool's result, and an answer that tells it.

Only functions marked `@tool(pure=True)` are executed. Of every other one the result is made up from its return type
(values by type and name, as for arguments), or from an example of it in the docstring:

    Returns:
        {"order_id": 4711, "status": "shipped"}

A function without either gives no result, and its rows stay as they are.
"""

from __future__ import annotations

import inspect
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from calltune.data.kinds import BY_NAME, kind_of, name_words, spoken_name
from calltune.data.parts import Part
from calltune.data.phrasing import content_key, rank
from calltune.data.slots import draw
from calltune.functions import Function, execute
from calltune.functions.hints import UnsupportedHint, schema_of
from calltune.functions.read import type_hints
from calltune.schema import Conversation, Message, ToolCall

RESULT_PLAN = "I have the result; I tell it."
RESULTS_PLAN = "I have the results; I tell them."
ANSWERS = ("{told}.", "Here it is: {told}.", "Done. {Told}.", "The result: {told}.", "I found this: {told}.")
LONGEST = 400  # characters of a result that is told


@dataclass
class Results:
    """The rows, and why rows that were chosen stayed without results: counts by function."""

    rows: list[Conversation]
    executed: int = 0
    made_up: int = 0
    without: dict[str, int] = field(default_factory=dict)


Teller = Callable[[Sequence[ToolCall], Sequence[Any], random.Random], str]


def with_results(
    rows: Sequence[Conversation],
    functions: Sequence[Function],
    share: float,
    seed: int = 0,
    tell: Teller | None = None,
) -> Results:
    """The rows, `share` of those that end with calls going on with results and an answer: what `tell` makes of the
    calls and their results, else the results' fields in words."""
    if not share:
        return Results(list(rows))
    found = Results([])
    by_name = {function.name: function for function in functions}
    for row in rows:
        key = content_key(row)
        chosen = bool(row.messages) and bool(row.messages[-1].calls) and rank(seed, f"results/{key}") < share
        rng = random.Random(f"{seed}/results/{key}")
        longer = _longer(row, by_name, rng, found, tell or _in_words) if chosen else None
        found.rows.append(longer or row)
    return found


def _in_words(calls: Sequence[ToolCall], results: Sequence[Any], rng: random.Random) -> str:
    told = "; ".join(map(_told, results))
    return rng.choice(ANSWERS).format(told=told, Told=told[:1].upper() + told[1:])


def _longer(
    row: Conversation, functions: Mapping[str, Function], rng: random.Random, found: Results, tell: Teller
) -> Conversation | None:
    reply = row.messages[-1]
    part: Part = row.meta.get("part", "train")
    earlier = sum(len(m.calls) for m in row.messages[:-1])
    calls = tuple(replace(call, id=f"call_{i}") for i, call in enumerate(reply.calls, start=earlier))
    results: list[str] = []
    for call in calls:
        function = functions.get(call.name)
        result = result_of(call, function, part, rng) if function else None
        if result is None or len(result) > LONGEST:
            found.without[call.name] = found.without.get(call.name, 0) + 1
            return None
        results.append(result)
        pure = function is not None and function.pure and function.call is not None
        found.executed, found.made_up = found.executed + pure, found.made_up + (not pure)
    turns = [Message("tool", r, name=c.name, call_id=c.id) for c, r in zip(calls, results, strict=True)]
    text = tell(calls, [json.loads(result) for result in results], rng)
    plan = None if reply.thinking is None else RESULT_PLAN if len(calls) == 1 else RESULTS_PLAN
    messages = (*row.messages[:-1], replace(reply, calls=calls), *turns, Message("assistant", text, plan))
    return replace(row, messages=messages, meta={**row.meta, "results": True})


def result_of(call: ToolCall, function: Function, part: Part, rng: random.Random) -> str | None:
    """The result as JSON text: executed where the function is pure, else made up; None where it cannot be."""
    if function.pure and function.call is not None:
        outcome = execute(call, [function])
        value = json.loads(outcome.content)
        told = isinstance(value, dict) and set(value) == {"error"}  # the function's own word for it
        return None if outcome.error or told else outcome.content
    schema = result_schema(function)
    if schema is None:
        return None
    try:
        value = made_value(schema, function.name, part, rng)
    except ValueError:
        return None
    return json.dumps(value, ensure_ascii=False)


def result_schema(function: Function) -> dict[str, Any] | None:
    """What the function returns: by its return type, or where that has no fields (`dict`), by the docstring's
    example. None where neither says it."""
    if function.call is None:
        return None
    hint = type_hints(function.call).get("return", inspect.Signature.empty)
    try:
        schema = {} if hint in (inspect.Signature.empty, None, type(None)) else schema_of(hint)
    except UnsupportedHint:
        schema = {}
    if schema in ({}, {"type": "object"}, {"type": "array"}):
        example = _example(inspect.getdoc(function.call) or "")
        return None if example is None else _schema_of_example("", example)
    return schema


def _example(doc: str) -> Any:
    """The JSON object or list under the docstring's `Returns:`; None where there is none."""
    section = re.search(r"^Returns?:[ \t]*\n((?:[ \t]+.*\n?|\n)+)", f"{doc}\n", re.MULTILINE)
    start = re.search(r"[{[]", section[1]) if section else None
    if section is None or start is None:
        return None
    try:
        return json.JSONDecoder().raw_decode(section[1], start.start())[0]
    except ValueError:  # words with a bracket in them
        return None


def _schema_of_example(name: str, value: Any) -> dict[str, Any]:
    """Values of its kind may stand in an example's place; a text whose name says no kind stays as it is."""
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int | float):
        return {"type": "integer" if isinstance(value, int) else "number"}
    if isinstance(value, dict):
        fields = {key: _schema_of_example(key, item) for key, item in value.items()}
        return {"type": "object", "properties": fields}
    if isinstance(value, list):
        return {"type": "array", "items": _schema_of_example(name.removesuffix("s"), value[0]) if value else {}}
    known = isinstance(value, str) and any(word in BY_NAME for word in name_words(name))
    return {"type": "string"} if known else {"enum": [value]}


def made_value(schema: Mapping[str, Any], name: str, part: Part, rng: random.Random, depth: int = 0) -> Any:
    """A value of a schema, by type, format and the name of its field. Raises ValueError for what has none."""
    if depth > 4:
        raise ValueError("nested too deeply")
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "anyOf" in schema:
        return made_value(schema["anyOf"][0], name, part, rng, depth + 1)
    kind = schema.get("type")
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "object":
        fields = schema.get("properties")
        if not isinstance(fields, Mapping) or not fields:
            raise ValueError("an object without fields")
        return {key: made_value(inner, key, part, rng, depth + 1) for key, inner in fields.items()}
    if kind == "array" and isinstance(schema.get("items"), Mapping):
        return [
            made_value(schema["items"], name.removesuffix("s"), part, rng, depth + 1)
            for _ in range(rng.randint(1, 3))
        ]
    slot = kind_of(name, schema)
    if slot is None:
        raise ValueError(f"no values for {name}")
    return draw(slot, part, rng).value


def _told(value: Any) -> str:
    """A result in words: `degrees 21, rain no`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{spoken_name(str(key))} {_told(item)}" for key, item in value.items()) or "nothing"
    if isinstance(value, list):
        return ", ".join(map(_told, value)) or "nothing"
    return "nothing" if value is None or value == "" else str(value)
