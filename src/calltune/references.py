"""The schemas inside a schema, and its references that lead nowhere or back to where they stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from calltune.errors import pointer

# Where schemas stand: under a word, in a list under it, under names. Those in place judge the same value.
IN_PLACE = ("not", "if", "then", "else", "allOf", "anyOf", "oneOf", "dependentSchemas")
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
NAMED = ("dependentSchemas", "properties", "patternProperties", "$defs", "definitions")
SINGLE = (
    "not", "if", "then", "else", "items", "contains", "additionalProperties", "propertyNames",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
REFERENCES = ("$ref", "$dynamicRef")
Place = tuple[Any, ...]


def inner(schema: Mapping[str, Any], words: tuple[str, ...] | None = None) -> Iterator[tuple[Place, Any]]:
    """The schemas right inside a schema, with their keys; `words`: only those under these."""
    for word in schema if words is None else (word for word in words if word in schema):
        value = schema[word]
        if word in NAMED and isinstance(value, Mapping):
            yield from (((word, name), each) for name, each in value.items())
        elif word in LISTS and isinstance(value, list):
            yield from (((word, i), each) for i, each in enumerate(value))
        elif word in SINGLE:
            yield (word,), value


def schemas(schema: Any) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """The schema and every one inside it, with their places; none for true and false."""
    stack: list[tuple[Place, Any]] = [((), schema)]
    while stack:
        place, node = stack.pop()
        if isinstance(node, Mapping):
            yield place, node
            stack += [((*place, *keys), each) for keys, each in inner(node)]


def reference_problems(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The references of a schema that cannot be followed: a JSON pointer and words. None of a schema with several
    `$id`s, whose references count from other places."""
    nodes = list(schemas(schema))
    if any(place and isinstance(node.get("$id"), str) for place, node in nodes):
        return
    anchors = {node[word]: node for _, node in nodes for word in ("$dynamicAnchor", "$anchor")
               if isinstance(node.get(word), str)}  # fmt: skip
    for place, node in nodes:
        for word in REFERENCES:
            ref = node.get(word)
            if isinstance(ref, str) and _target(ref, schema, anchors) is None:
                yield pointer(*place, word), f"{ref} leads nowhere in this schema, and nothing is fetched"
    yield from _endless(nodes, schema, anchors)


def _target(ref: str, root: Mapping[str, Any], anchors: Mapping[str, Any]) -> Any:
    """The schema that a reference leads to; None where it leads nowhere."""
    own = root.get("$id")
    ref = ref.removeprefix(own) if isinstance(own, str) and own else ref
    if not ref.startswith("#"):
        return None if ref else root
    if ref[1:2] not in ("", "/"):
        return anchors.get(ref[1:])
    found: Any = root
    for part in unquote(ref[1:]).split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, Mapping) and key in found:
            found = found[key]
        else:
            return None
    return found if isinstance(found, Mapping | bool) else None


def _endless(
    nodes: list[tuple[Place, Mapping[str, Any]]], root: Mapping[str, Any], anchors: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """The references by which judging a value begins with judging the same value by the same schema."""

    def edges(place: Place, node: Mapping[str, Any]) -> Iterator[tuple[Place, Any]]:
        for word in REFERENCES:
            if isinstance(node.get(word), str):
                yield (*place, word), _target(node[word], root, anchors)
        yield from (((*place, *keys), each) for keys, each in inner(node, IN_PLACE))

    done: dict[int, bool] = {}  # by the schema's id: False while it is judged, in this walk
    for place, node in nodes:
        if id(node) in done:
            continue
        done[id(node)] = False
        stack = [(node, edges(place, node))]
        while stack:
            schema, more = stack[-1]
            step = next(more, None)
            if step is None:
                done[id(schema)] = True
                stack.pop()
            elif isinstance(step[1], Mapping):
                if done.get(id(step[1])) is False:
                    yield pointer(*step[0]), "it leads back to where it stands, so that judging a value has no end"
                elif id(step[1]) not in done:
                    done[id(step[1])] = False
                    stack.append((step[1], edges(*step)))
