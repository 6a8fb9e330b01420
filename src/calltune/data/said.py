"""What all training rows have in common of what is said: parameters whose numbers, dates and times somebody said, and
whether a reply makes the same call twice.

Copied texts (data/copied.py) stand word for word in the conversation. These values may stand there in another form
(`three`, `March 5, 2026`; data/told.py). Where nobody said one, a function that needs it cannot be called yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from calltune.data.copied import FEWEST, spoken
from calltune.data.told import Kind, Value, kind_of, may_tell, values_told
from calltune.schema import Conversation, Message, Reply, Tool, find_tool, without_repeats

Said = Mapping[str, Mapping[str, Kind]]  # tool -> parameter -> kind
TYPES: Mapping[Kind, tuple[str, ...]] = {"number": ("integer", "number"), "date": ("string",), "time": ("string",)}


def said_parameters(conversations: Sequence[Conversation]) -> dict[str, dict[str, Kind]]:
    """Of each tool the parameters whose values, all of one kind, were said before the call, in every one of at least
    FEWEST calls that have them; beside these a call may have the default."""
    times, free = Counter[tuple[str, str]](), set[tuple[str, str]]()
    kinds: dict[tuple[str, str], Kind] = {}
    for conversation in conversations:
        heard = _Heard()
        for message in conversation.messages:
            for call in message.calls:
                tool = find_tool(conversation.tools, call.name)
                for name, value in call.arguments.items():
                    key, schema = (call.name, name), tool.properties.get(name) if tool else None
                    if key in free or _is_default(value, schema):
                        continue
                    kind = heard.kind(value, schema)
                    if kind is None or kinds.setdefault(key, kind) != kind:
                        free.add(key)
                    times[key] += 1
            heard.texts += spoken([message])
    found: dict[str, dict[str, Kind]] = {}
    for (tool_name, name), kind in sorted(kinds.items()):
        if times[tool_name, name] >= FEWEST and (tool_name, name) not in free:
            found.setdefault(tool_name, {})[name] = kind
    return found


def repeats_no_call(conversations: Sequence[Conversation]) -> bool:
    """Whether the replies with several calls, FEWEST at least, never make the same call twice."""
    several = [message.calls for row in conversations for message in row.messages if len(message.calls) > 1]
    return len(several) >= FEWEST and all(without_repeats(Reply(calls=calls)).calls == calls for calls in several)


def listed_of(said: Said, tools: Sequence[Tool], messages: Sequence[Message]) -> dict[str, dict[str, Sequence[str]]]:
    """Of each tool the dates and times that can only be one of these texts: those said, where none may have been said
    in other words, and the default."""
    texts, found = spoken(messages), dict[str, dict[str, Sequence[str]]]()
    told: dict[Kind, tuple[str, ...]] = {"date": _all_told(texts, "date"), "time": _all_told(texts, "time")}
    for tool in tools:
        for name, kind, schema in _known(said, tool):
            if words := told.get(kind):
                default = schema.get("default")
                found.setdefault(tool.name, {})[name] = (*words, *([default] if isinstance(default, str) else []))
    return found


def lacking_of(said: Said, tools: Sequence[Tool], messages: Sequence[Message]) -> dict[str, str]:
    """The tools that cannot be called with what was said, and which required value each lacks."""
    texts, found = spoken(messages), dict[str, str]()
    told = {kind: any(may_tell(text, kind) or [*values_told(text, kind)] for text in texts) for kind in TYPES}
    for tool in tools:
        for name, kind, schema in _known(said, tool):
            if name in tool.required and "default" not in schema and not told[kind]:
                found.setdefault(tool.name, name)
    return found


def _all_told(texts: Sequence[str], kind: Kind) -> tuple[str, ...]:
    """The values of a kind that texts say; none where they may say others."""
    if any(may_tell(text, kind) for text in texts):
        return ()
    return tuple(dict.fromkeys(str(value) for text in texts for value in values_told(text, kind)))


class _Heard:
    """The texts of a conversation so far, and the values in them, each text read once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
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


def _known(said: Said, tool: Tool) -> Iterator[tuple[str, Kind, Mapping[str, Any]]]:
    """The parameters of this tool, which may be another one of the same name, whose values are of the kind."""
    for name, kind in said.get(tool.name, {}).items():
        schema = tool.properties.get(name)
        if isinstance(schema, Mapping) and "enum" not in schema and schema.get("type") in TYPES[kind]:
            yield name, kind, schema


def _is_default(value: Any, schema: Any) -> bool:
    return isinstance(schema, Mapping) and "default" in schema and bool(schema["default"] == value)
