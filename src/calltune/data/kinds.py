"""What kind of value a parameter takes, guessed from its schema and its name.

Open values get a kind of data/slots.py, closed ones (enum, boolean) get the words that stand for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from calltune.schema import Tool

# Words of parameter names -> kind of value. The first match of the name's words counts, from the end.
BY_NAME: Mapping[str, str] = {
    "city": "city", "town": "city", "location": "city", "place": "city", "origin": "city",
    "destination": "city", "address": "city", "country": "country", "nation": "country",
    "person": "person", "recipient": "person", "contact": "person", "user": "person",
    "username": "person", "customer": "person", "author": "person", "attendee": "person",
    "guest": "person", "friend": "person", "to": "person", "email": "email", "mail": "email",
    "date": "date", "day": "date", "birthday": "date", "deadline": "date", "time": "time", "hour": "time",
    "datetime": "datetime", "timestamp": "datetime", "when": "datetime", "currency": "currency",
    "language": "language", "lang": "language", "title": "title", "event": "title", "subject": "title",
    "task": "chore", "todo": "chore", "text": "text", "message": "message", "content": "text",
    "body": "message", "sentence": "phrase", "phrase": "phrase", "note": "message", "query": "query",
    "question": "query", "topic": "query", "keyword": "query", "search": "query", "term": "query",
    "path": "path", "file": "path", "filename": "path", "url": "url", "link": "url", "website": "url",
    "id": "id", "code": "id", "number": "id", "key": "id", "phone": "phone", "room": "room",
    "artist": "artist", "singer": "artist", "band": "artist", "restaurant": "restaurant",
    "company": "company", "brand": "company", "employer": "company", "color": "color", "colour": "color",
    "product": "product", "item": "product", "ingredient": "grocery", "food": "grocery", "label": "label",
    "tag": "label", "symbol": "symbol", "ticker": "symbol", "stock": "symbol", "name": "person",
}  # fmt: skip
BY_FORMAT = {
    "date": "date",
    "time": "time",
    "date-time": "datetime",
    "email": "email",
    "uri": "url",
    "uuid": "id",
}
INTEGERS = {
    "people": "2 24", "guests": "2 24", "minutes": "2 180", "seconds": "5 600", "hours": "2 48",
    "days": "2 60", "year": "1990 2035", "id": "1000 99999", "percent": "2 95", "age": "18 90",
    "quantity": "2 60", "count": "2 60",
}  # fmt: skip


def kind_of(name: str, schema: Mapping[str, Any]) -> str | None:
    """The kind of value (data/slots.py) for a parameter; None for objects and other shapes."""
    for option in schema.get("anyOf", ()):
        if option.get("type") != "null":
            return kind_of(name, option)
    kind = schema.get("type")
    if kind == "array":
        inner = kind_of(name.removesuffix("s"), schema.get("items") or {})
        return f"list {inner}" if inner and not inner.startswith("list ") else None
    if kind == "integer":
        low, high = next((INTEGERS[w] for w in name_words(name) if w in INTEGERS), "2 500").split()
        return f"int {int(schema.get('minimum', low))} {int(schema.get('maximum', high))}"
    if kind == "number":
        bounded = "minimum" in schema or "maximum" in schema
        return f"int {int(schema.get('minimum', 1))} {int(schema.get('maximum', 500))}" if bounded else "amount"
    if kind != "string":
        return None
    if "format" in schema:
        return BY_FORMAT.get(schema["format"])
    if "pattern" in schema:
        return None
    return next((BY_NAME[word] for word in reversed(name_words(name)) if word in BY_NAME), "label")


def values_of(
    tool: Tool,
) -> tuple[dict[str, str | Mapping[str, str]], dict[str, dict[Any, tuple[str, ...]]], list[str]]:
    """Kinds of the open values, words for the closed ones (enum, boolean), notes on weak ones."""
    slots: dict[str, str | Mapping[str, str]] = {}
    words: dict[str, dict[Any, tuple[str, ...]]] = {}
    notes = []
    for name, schema in tool.properties.items():
        spoken = spoken_name(name)
        if "enum" in schema:
            words[name] = {value: (str(value).replace("_", " "),) for value in schema["enum"]}
        elif schema.get("type") == "boolean":
            words[name] = {True: (f"with {spoken}",), False: (f"without {spoken}",)}
            if schema.get("default") is not None:  # the default needs no words
                words[name].pop(schema["default"], None)
            elif name in tool.required:
                words[name] = {
                    True: (f"with {spoken} set to true",),
                    False: (f"with {spoken} set to false",),
                }
                notes.append(f"{tool.name}.{name}: a boolean; add examples that say it in words (`=> {name}=true`)")
        elif kind := kind_of(name, schema):
            slots[name] = kind
    return slots, words, notes


def name_words(name: str) -> list[str]:
    return re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name).replace("_", " ").replace("-", " ").lower().split()


def spoken_name(name: str) -> str:
    return " ".join(name_words(name))
