"""The schemas inside a schema, and its references that lead nowhere or back to where they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from calltune.errors import pointer

# Where schemas stand: under a word, in a list under it, under names. Those in place judge the same value.
IN_PLACE = ("not", "if", "then", "else", "allOf", "anyOf", "oneOf", "dependentSchemas")
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
NAMED = ("dependentSchemas", "properties", "patternProperties", "$defs", "definitions")
SINGLE = (
    "not", "if", "then", "else", "items", "contains", "additionalProperties", "propertyNames",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
DEFINITIONS = ("$defs", "definitions")  # only references lead there
VALUES = ("enum", "const", "default", "examples")  # no schemas stand in them
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


def mapped(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A copy of the schema with every schema in it changed, the outer ones first, also under words that nobody knows,
    where references may lead. `change` gets a dictionary that is its own."""
    box = [schema]
    stack: list[tuple[Any, Any]] = [(box, 0)]
    while stack:
        holder, key = stack.pop()
        value = holder[key]
        if isinstance(value, list):
            holder[key] = list(value)
            stack += [(holder[key], i) for i in range(len(value))]
        elif isinstance(value, Mapping):
            holder[key] = made = change(dict(value))
            for word, each in made.items():
                if word in NAMED and isinstance(each, Mapping):
                    made[word] = named = dict(each)
                    stack += [(named, name) for name in named]
                elif word not in VALUES:
                    stack.append((made, word))
    return box[0]


def reachable(schema: Mapping[str, Any]) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Every schema that judging by this one may come to, once, with its place: not the definitions that no reference
    leads to."""
    anchors, seen = _anchors(schema), set[int]()
    stack: list[tuple[Place, Any]] = [((), schema)]
    while stack:
        place, node = stack.pop()
        if not isinstance(node, Mapping) or id(node) in seen:
            continue
        seen.add(id(node))
        yield place, node
        stack += [((*place, *keys), each) for keys, each in inner(node) if keys[0] not in DEFINITIONS]
        for word in REFERENCES:
            found = _target(node[word], schema, anchors) if isinstance(node.get(word), str) else None
            stack += [found] if found else []


def reference_problems(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The references of a schema that cannot be followed: a JSON pointer and words. None of a schema with several
    `$id`s, whose references count from other places, and none in definitions that nothing leads to."""
    if any(place and isinstance(node.get("$id"), str) for place, node in schemas(schema)):
        return
    nodes, anchors = list(reachable(schema)), _anchors(schema)
    for place, node in nodes:
        for word in REFERENCES:
            ref = node.get(word)
            if isinstance(ref, str) and _target(ref, schema, anchors) is None:
                yield pointer(*place, word), f"{ref} leads nowhere in this schema, and nothing is fetched"
    yield from _endless(nodes, schema, anchors)


def fragment_of(ref: str, root: Mapping[str, Any]) -> str | None:
    """What a reference says after `#`; None where it leads out of the schema."""
    if ref.startswith("#"):
        return ref[1:]  # as it is: joining URLs drops tabs
    own = root.get("$id")
    own = own if isinstance(own, str) else ""
    try:
        document, fragment = urldefrag(urljoin(own, ref))
        return fragment if document == urldefrag(own)[0] else None
    except ValueError:  # no URL
        return None


def trail(fragment: str, root: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The keys and values from the root to where a JSON pointer leads. Raises LookupError and ValueError where it
    leads nowhere, read as jsonschema's library of references reads it."""
    found: Any = root
    for part in unquote(fragment).split("/")[1:]:
        key: Any = int(part) if isinstance(found, list) else part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, list | Mapping):
            raise LookupError(key)
        found = found[key]
        yield key, found


def _anchors(schema: Any) -> dict[str, tuple[Place, Mapping[str, Any]]]:
    return {node[word]: (place, node) for place, node in schemas(schema) for word in ("$dynamicAnchor", "$anchor")
            if isinstance(node.get(word), str)}  # fmt: skip


def _target(ref: str, root: Mapping[str, Any], anchors: Mapping[str, Any]) -> tuple[Place, Any] | None:
    """The schema that a reference leads to, with its place; None where it leads nowhere."""
    fragment = fragment_of(ref, root)
    if not fragment:
        return None if fragment is None else ((), root)
    if not fragment.startswith("/"):
        return anchors.get(fragment)
    try:
        steps = list(trail(fragment, root))
    except (LookupError, ValueError):
        return None
    found = steps[-1][1]
    return (tuple(key for key, _ in steps), found) if isinstance(found, Mapping | bool) else None


def _endless(
    nodes: list[tuple[Place, Mapping[str, Any]]], root: Mapping[str, Any], anchors: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """The references by which judging a value begins with judging the same value by the same schema."""

    def edges(place: Place, node: Mapping[str, Any]) -> Iterator[tuple[Place, Place, Any]]:
        """Where each stands, where it leads, and the schema there."""
        for word in REFERENCES:
            found = _target(node[word], root, anchors) if isinstance(node.get(word), str) else None
            if found:
                yield (*place, word), *found
        yield from (((*place, *keys), (*place, *keys), each) for keys, each in inner(node, IN_PLACE))

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
                continue
            stands, leads, inside = step
            if isinstance(inside, Mapping):
                if done.get(id(inside)) is False:
                    yield pointer(*stands), "it leads back to where it stands, so that judging a value has no end"
                elif id(inside) not in done:
                    done[id(inside)] = False
                    stack.append((inside, edges(leads, inside)))
