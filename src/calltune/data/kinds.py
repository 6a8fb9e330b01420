"""What kind of value a parameter takes, guessed from its schema and its name.

Open values get a kind of data/slots.py, closed ones (enum, boolean) get the words that stand for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from calltune.schema import Tool

# Kind of value -> words of parameter names that mean it; of several words in a name the last that is here counts.
NAMES: Mapping[str, str] = {
    "city": "city town location place origin destination station airport stop departure arrival",
    "country": "country nation",
    "street": "street address road",
    "person": "person recipient contact user username customer author attendee guest friend to name driver doctor "
    "teacher student patient passenger member owner manager employee colleague assignee sender client",
    "email": "email mail",
    "date": "date day birthday deadline start end since until",
    "time": "time hour",
    "datetime": "datetime timestamp when",
    "currency": "currency",
    "language": "language lang",
    "title": "title event subject appointment meeting",
    "work": "book novel film movie song album show series game",
    "chore": "task todo job",
    "text": "text content description comment feedback",
    "message": "message body note reason complaint",
    "phrase": "sentence phrase",
    "query": "query question topic keyword search term",
    "path": "path file filename folder",
    "url": "url link website",
    "code": "id code number key reference serial ref sku plate ticket",
    "isbn": "isbn ean barcode",
    "phone": "phone mobile telephone",
    "room": "room area zone",
    "artist": "artist singer band",
    "restaurant": "restaurant hotel venue",
    "company": "company brand employer shop store supplier vendor team",
    "color": "color colour",
    "product": "product item goods article device part",
    "grocery": "ingredient food dish meal recipe",
    "label": "label tag",
    "symbol": "symbol ticker stock",
}
BY_NAME: Mapping[str, str] = {word: kind for kind, words in NAMES.items() for word in words.split()}
# A title or name means another thing where the tool speaks of books or films.
WORKS = frozenset(("book", "books", "novel", "novels", "film", "films", "movie", "movies", "song", "songs", "album",
                   "albums", "series"))  # fmt: skip
BY_FORMAT = {
    "date": "date",
    "time": "time",
    "date-time": "datetime",
    "email": "email",
    "uri": "url",
    "uuid": "id",
}
# Words of parameter names -> the numbers that people say. Others are counts, most of them small.
INTEGERS = {
    "2 24": "people guests persons", "1 9": "travellers passengers adults children seats tables rooms tickets",
    "2 180": "minutes", "5 600": "seconds", "1 48": "hours", "1 60": "days quantity copies count parcels pieces",
    "1 14": "nights", "1 12": "weeks months", "1990 2035": "year", "1000 99999": "id number",
    "1 100": "percent brightness volume level", "18 90": "age", "1 5": "stars rating",
}  # fmt: skip
NUMBERS = {"degrees": "degrees temperature", "decimal 0 40": "weight kg kilos", "decimal 1 12": "hours",
           "decimal 1 100": "percent rate", "decimal 1 400": "distance km miles cm length width height"}  # fmt: skip


def _by_words(table: Mapping[str, str], name: str) -> str | None:
    """The key of the table whose words a name has."""
    words = set(name_words(name))
    return next((kind for kind, said in table.items() if words & set(said.split())), None)


def kind_of(name: str, schema: Mapping[str, Any], about: AbstractSet[str] = frozenset()) -> str | None:
    """The kind of value (data/slots.py) for a parameter; None for objects and other shapes. `about`: words of the
    tool's name and description."""
    for option in schema.get("anyOf", ()):
        if option.get("type") != "null":
            return kind_of(name, option, about)
    kind = schema.get("type")
    if kind == "array":
        inner = kind_of(name.removesuffix("s"), schema.get("items") or {}, about)
        return f"list {inner}" if inner and not inner.startswith("list ") else None
    bounded = "minimum" in schema or "maximum" in schema
    if kind == "integer":
        usual = _by_words(INTEGERS, name)
        if usual is None and not bounded:
            return "count"
        low, high = (usual or "1 500").split()
        return f"int {int(schema.get('minimum', low))} {int(schema.get('maximum', high))}"
    if kind == "number":
        usual = _by_words(NUMBERS, name) or "amount"
        return f"int {int(schema.get('minimum', 1))} {int(schema.get('maximum', 500))}" if bounded else usual
    if kind != "string":
        return None
    if "format" in schema:
        return BY_FORMAT.get(schema["format"])
    if "pattern" in schema:
        return None
    found = next((BY_NAME[word] for word in reversed(name_words(name)) if word in BY_NAME), "label")
    return "work" if name_words(name)[-1] in ("title", "name") and about & WORKS else found


def values_of(
    tool: Tool,
) -> tuple[dict[str, str | Mapping[str, str]], dict[str, dict[Any, tuple[str, ...]]], list[str]]:
    """Kinds of the open values, words for the closed ones (enum, boolean), notes on weak ones."""
    slots: dict[str, str | Mapping[str, str]] = {}
    words: dict[str, dict[Any, tuple[str, ...]]] = {}
    notes = []
    about = frozenset(re.findall(r"[a-z]+", f"{spoken_name(tool.name)} {tool.description}".lower()))
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
        elif kind := kind_of(name, schema, about):
            slots[name] = kind
    return slots, words, notes


def name_words(name: str) -> list[str]:
    return re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name).replace("_", " ").replace("-", " ").lower().split()


def spoken_name(name: str) -> str:
    return " ".join(name_words(name))
