"""What of a schema is judged in bounded time: it is made simpler where that changes nothing, and the rest is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calltune.references import REFERENCES, fragment_of, mapped, reachable, trail

# jsonschema knows the metaschemas whatever the registry, and judges by those with rules that count nothing.
ELSEWHERE = "it has a reference to elsewhere"
# What jsonschema looks for by going over the whole schema each time, or judges by other rules than these.
BEYOND = ("$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveRef", "$schema", "$id")
SAYING = ("$schema", "$anchor", "$dynamicAnchor")  # left out: a reference to an anchor is not followed anyhow


def plain_of(root: Mapping[str, Any]) -> Any:
    """The schema without the words that say nothing of values and keep others from being judged in bounded time, its
    references as `#/...`. An `$id` stays where references count from it."""
    kept = _counts_from_ids(root)

    def change(node: dict[str, Any]) -> dict[str, Any]:
        made = {word: value for word, value in node.items()
                if not isinstance(value, str) or (word not in SAYING and (kept or word != "$id"))}  # fmt: skip
        for word in REFERENCES:
            fragment = fragment_of(made[word], root) if isinstance(made.get(word), str) else None
            if fragment is not None:
                made[word] = f"#{fragment}"
        return made

    plain = mapped(root, change)
    if isinstance(plain.get("$id"), str):
        del plain["$id"]
    return plain


def _counts_from_ids(root: Mapping[str, Any]) -> bool:
    """Whether a reference stands inside a schema that has an `$id`, below the root."""
    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack:
        node, inside = stack.pop()
        if isinstance(node, Mapping):
            inside = inside or (node is not root and isinstance(node.get("$id"), str))
            if inside and any(isinstance(node.get(word), str) for word in REFERENCES):
                return True
            stack += [(each, inside) for each in node.values()]
        elif isinstance(node, list):
            stack += [(each, inside) for each in node]
    return False


def beyond(schema: Any) -> str:
    """What of a schema (of `plain_of`) is not judged in bounded time, in words: looked for where judging comes to,
    also by references to what is no place of schemas."""
    words, led = set[str](), ""
    for _, node in reachable(schema):
        words.update(node)
        for word in BEYOND:
            if isinstance(node.get(word), str):
                return f"it has {word}"
        for word in REFERENCES:
            if isinstance(node.get(word), str) and (why := _leading(node[word], schema)):
                return f"it has a {word} {why}"
            if isinstance(node.get(word), str) and not node[word].startswith("#"):
                led = ELSEWHERE
    if led and {"unevaluatedProperties", "unevaluatedItems"} & words:  # they follow references by themselves
        return led
    if {"unevaluatedProperties", "patternProperties"} <= words:
        return "it has unevaluatedProperties and patternProperties"
    return ""


def _leading(ref: str, schema: Any) -> str:
    """Why a reference inside of the schema is not followed in bounded time."""
    if not ref.startswith("#"):
        return ""  # to elsewhere: told where judging comes to it
    if ref[1:2] not in ("", "/"):
        return "to an $anchor"
    try:
        if any(
            isinstance(value, Mapping) and isinstance(value.get("$id"), str) for _, value in trail(ref[1:], schema)
        ):
            return "that passes an $id"
    except (LookupError, ValueError):
        pass  # it leads nowhere, which is told when it is judged
    return ""
