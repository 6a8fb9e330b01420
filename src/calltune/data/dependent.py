"""Two calls of which the second needs what the first one gives: `find_order(customer)`, then `refund(order_id)`.

Such pairs are found in the tools themselves: a field of one function's result (by its return type, or the example in
its docstring, data/results.py) has the name and the type of a required parameter of another one. The request then
speaks of "that order" where the value would stand, and training shows both calls with the result between them.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from calltune.data.kinds import name_words
from calltune.data.parts import Part
from calltune.data.phrases import PhraseTable, Template
from calltune.data.results import result_of, result_schema
from calltune.functions import Function
from calltune.schema import ToolCall

Place = tuple[str | int, ...]  # where a value stands in a result: ("orders", 0, "id")
Found = tuple[Place, list[str], Mapping[str, Any]]
NUMBERS = ("integer", "number")
DEEPEST = 3


@dataclass(frozen=True)
class Link:
    """`first` gives, at `place` of its result, the value of the parameter `name` of `second`."""

    first: Function
    second: Function
    name: str
    place: Place


def links_of(functions: Sequence[Function], tables: Mapping[str, PhraseTable]) -> list[Link]:
    """The links between functions for which requests can be made."""
    known = [function for function in functions if function.name in tables]
    found = []
    for first in known:
        places = list(_places(result_schema(first) or {}, first.name, ()))
        for second in known:
            for name in second.tool.required if second is not first else ():
                kind = second.tool.properties[name]
                place = next((p for p, words, schema in places if _same(first, name, kind, words, schema)), None)
                if place is not None and name not in first.tool.properties and _speaks_of(tables[second.name], name):
                    found.append(Link(first, second, name, place))
    return found


def _places(
    schema: Mapping[str, Any], name: str, place: Place
) -> Iterator[tuple[Place, list[str], Mapping[str, Any]]]:
    """The single values of a result: place, words of its name, schema. Of a list, those of its first item."""
    fields, items = schema.get("properties"), schema.get("items")
    if len(place) > DEEPEST:
        return
    if isinstance(fields, Mapping):
        for key, inner in fields.items():
            yield from _places(inner, key, (*place, key))
    elif isinstance(items, Mapping):
        yield from _places(items, name.removesuffix("s"), (*place, 0))
    elif "type" in schema:
        yield place, name_words(name), schema


def _same(first: Function, name: str, kind: Mapping[str, Any], words: list[str], schema: Mapping[str, Any]) -> bool:
    """Whether a parameter and a value in the result are one thing: `order_id` and `order_id`, or the `id` in the
    result of `find_order`, or the whole result of `find_order_id`."""
    wanted, of = name_words(name), name_words(first.name)
    types = {schema.get("type"), kind.get("type")}
    if (len(types) > 1 and not types <= set(NUMBERS)) or schema.get("format") != kind.get("format"):
        return False
    if types & {"boolean", None} or "enum" in kind:
        return False
    named = wanted == words or (wanted[-len(words) :] == words and set(wanted[: -len(words)]) <= set(of))
    return named or (words == of and words[-len(wanted) :] == wanted)


def _speaks_of(table: PhraseTable, name: str) -> bool:
    return any(_having(table, part, name) for part in ("train", "valid", "test"))


def _having(table: PhraseTable, part: Part, name: str) -> list[Template]:
    """The clauses in which the parameter's slot stands."""
    return [t for t in table.of("clause", part) if f"{{{name}}}" in t.text and not t.fixed_second]


def spoken_of(link: Link, table: PhraseTable, part: Part, rng: random.Random) -> Template | None:
    """A clause of the second tool that speaks of what the first one gives: `refund that order`."""
    clauses = _having(table, part, link.name)
    if not clauses:
        return None
    chosen, words = rng.choice(clauses), name_words(link.name)
    thing = " ".join(words[:-1] if words[-1] in ("id", "number", "code") and len(words) > 1 else words)
    said = rng.choice((f"that {thing}", f"this {thing}", f"the {thing} you get"))
    slot = rf"(?:\b(?:{re.escape(' '.join(words))}|{re.escape(thing)}) )?\{{{link.name}\}}"  # no "order that order"
    return replace(chosen, id=f"{chosen.id}/after", text=re.sub(slot, said, chosen.text))


def linked_result(link: Link, call: ToolCall, part: Part, rng: random.Random) -> tuple[str, Any] | None:
    """The first call's result as JSON text, and the value in it that the second call takes; None where there is
    none, as in an empty list, or where a list of several leaves open which is meant."""
    text = result_of(call, link.first, part, rng)
    try:
        value: Any = json.loads(text) if text is not None else None
        for step in link.place:
            if isinstance(value, list) and len(value) != 1:
                return None
            value = value[step]
    except (LookupError, TypeError):
        return None
    return None if text is None or isinstance(value, list | dict) or value is None else (text, value)
