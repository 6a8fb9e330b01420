"""What all training rows have in common of what is said: parameters whose numbers, dates and times somebody said, and
whether a reply makes the same call twice.

Copied texts (data/copied.py) stand word for word in the conversation. These values may stand there in another form
(`three`, `March 5, 2026`; data/told.py). Where nobody said one, a function that needs it cannot be called yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from calltune.data.copied import FEWEST, Key, always, heard_arguments, spoken
from calltune.data.told import Kind, Value, kind_of, may_tell, values_told
from calltune.schema import Conversation, Message, Reply, Tool, without_repeats

Said = Mapping[str, Mapping[str, Kind]]  # tool -> parameter -> kind
TYPES: Mapping[Kind, tuple[str, ...]] = {"number": ("integer", "number"), "date": ("string",), "time": ("string",)}


def said_parameters(conversations: Sequence[Conversation]) -> dict[str, dict[str, Kind]]:
    """Of each tool the parameters whose values, all of one kind, were said before the call, in every one of at least
    FEWEST calls that have them; beside these a call may have the default."""
    times, free, kinds = Counter[Key](), set[Key](), dict[Key, Kind]()
    heard = _Heard([])
    for key, value, schema, said in heard_arguments(conversations):
        if key in free or _is_default(value, schema):
            continue
        if heard.texts is not said:
            heard = _Heard(said)
        kind = heard.kind(value, schema)
        if kind is None or kinds.setdefault(key, kind) != kind:
            free.add(key)
        times[key] += 1
    found: dict[str, dict[str, Kind]] = {}
    for key in always(times, free):
        found.setdefault(key[0], {})[key[1]] = kinds[key]
    return found


def repeats_no_call(conversations: Sequence[Conversation]) -> bool:
    """Whether the replies with several calls, FEWEST at least, never make the same call twice."""
    several = [message.calls for row in conversations for message in row.messages if len(message.calls) > 1]
    return len(several) >= FEWEST and all(without_repeats(Reply(calls=calls)).calls == calls for calls in several)


def listed_of(said: Said, tools: Sequence[Tool], messages: Sequence[Message]) -> dict[str, dict[str, Sequence[str]]]:
    """Of each tool the dates and times that can only be one of these texts: those said, where none may have been said
    in other words, and the default."""
    known = [one for one in _known(said, tools) if one[2] != "number"]
    texts = spoken(messages) if known else []
    told = {kind: _all_told(texts, kind) for kind in {kind for _, _, kind, _ in known}}
    found: dict[str, dict[str, Sequence[str]]] = {}
    for tool, name, kind, schema in known:
        if words := told[kind]:
            default = schema.get("default")
            found.setdefault(tool.name, {})[name] = (*words, *([default] if isinstance(default, str) else []))
    return found


def lacking_of(said: Said, tools: Sequence[Tool], messages: Sequence[Message]) -> dict[str, str]:
    """The tools that cannot be called with what was said, and which required value each lacks."""
    needed = [one for one in _known(said, tools) if one[1] in one[0].required and "default" not in one[3]]
    texts = spoken(messages) if needed else []
    lacked = {kind for kind in {kind for _, _, kind, _ in needed} if not any(_tells(text, kind) for text in texts)}
    found: dict[str, str] = {}
    for tool, name, kind, _ in needed:
        if kind in lacked:
            found.setdefault(tool.name, name)
    return found


def _tells(text: str, kind: Kind) -> bool:
    """Whether a text says a value of the kind, or may say one."""
    return may_tell(text, kind) or next(values_told(text, kind), None) is not None


def _all_told(texts: Sequence[str], kind: Kind) -> tuple[str, ...]:
    """The values of a kind that texts say; none where they may say others."""
    if any(may_tell(text, kind) for text in texts):
        return ()
    return tuple(dict.fromkeys(str(value) for text in texts for value in values_told(text, kind)))


class _Heard:
    """The texts of a conversation so far, and the values in them, each text read once."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.read: dict[Kind, tuple[int, set[Value]]] = {}

    def kind(self, value: Any, schema: Any) -> Kind | None:
        """The kind of a value that was said; None for any other."""
        kind = kind_of(value, schema) if isinstance(schema, Mapping) else None
        if kind is None:
            return None
        count, values = self.read.get(kind, (0, set()))
        values.update(told for text in self.texts[count:] for told in values_told(text, kind))
        self.read[kind] = len(self.texts), values
        return kind if value in values else None


def _known(said: Said, tools: Sequence[Tool]) -> Iterator[tuple[Tool, str, Kind, Mapping[str, Any]]]:
    """The parameters of these tools, which may be others of the same names, whose values are of the kind."""
    for tool in tools:
        for name, kind in said.get(tool.name, {}).items():
            schema = tool.properties.get(name)
            if isinstance(schema, Mapping) and "enum" not in schema and schema.get("type") in TYPES[kind]:
                yield tool, name, kind, schema


def _is_default(value: Any, schema: Any) -> bool:
    return isinstance(schema, Mapping) and "default" in schema and bool(schema["default"] == value)
