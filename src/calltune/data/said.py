"""Parameters whose values somebody says, as the training rows show it: numbers, dates, times, words of a closed set.

Copied texts (data/copied.py) stand word for word in the conversation. These may stand there in another form (`three`,
`March 5, 2026`; data/told.py), and can be listed: what of a kind was said is all that a call may hold, and where no
number, date or time was, a function that needs one cannot be called yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from calltune.data.copied import FEWEST, spoken
from calltune.data.told import Kind, Value, is_hinted, kind_of, values_told
from calltune.schema import Conversation, Message, Reply, Tool, find_tool, without_repeats

Said = Mapping[str, Mapping[str, Kind]]  # tool -> parameter -> kind
LACKED: frozenset[Kind] = frozenset({"number", "date", "time"})
INSIDE = frozenset({"anyOf", "oneOf", "allOf", "$ref", "const", "items", "properties"})


def said_parameters(conversations: Sequence[Conversation]) -> dict[str, dict[str, Kind]]:
    """Of each tool the parameters whose values, all of one kind, were said before the call, in every one of at least
    FEWEST calls that have them; beside these a call may have the default."""
    times, free = Counter[tuple[str, str]](), set[tuple[str, str]]()
    kinds: dict[tuple[str, str], Kind] = {}
    for conversation in conversations:
        said: list[str] = []
        for message in conversation.messages:
            for call in message.calls:
                tool = find_tool(conversation.tools, call.name)
                for name, value in call.arguments.items():
                    key, schema = (call.name, name), tool.properties.get(name) if tool else None
                    if key in free or _is_default(value, schema):
                        continue
                    kind = _kind_told(value, schema, said)
                    if kind is None or kinds.setdefault(key, kind) != kind:
                        free.add(key)
                    times[key] += 1
            said += spoken([message])
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
    """Of each tool the parameters that can only be one of these texts: those said, and the default."""
    texts, found = spoken(messages), dict[str, dict[str, Sequence[str]]]()
    for tool in tools:
        for name, kind, schema in _known(said, tool):
            if kind != "number" and not _is_open(texts, kind) and (values := _told(texts, kind, schema)):
                default = schema.get("default")
                words = [*values, default] if isinstance(default, str) else values
                found.setdefault(tool.name, {})[name] = tuple(map(str, words))
    return found


def lacking_of(said: Said, tools: Sequence[Tool], messages: Sequence[Message]) -> dict[str, str]:
    """The tools that cannot be called with what was said, and which required value each lacks. A word of a closed set
    may be meant by any other word (`grams` for `g`, `notes` for `cash`), so no tool lacks one."""
    texts, found = spoken(messages), dict[str, str]()
    for tool in tools:
        required = tool.parameters.get("required")
        for name, kind, schema in _known(said, tool):
            needed = isinstance(required, list) and name in required
            if needed and kind in LACKED and not _is_open(texts, kind) and not _told(texts, kind, schema):
                found.setdefault(tool.name, name)
    return found


def _kind_told(value: Any, schema: Any, said: Sequence[str]) -> Kind | None:
    """The kind of a value that was said."""
    if not isinstance(schema, Mapping) or not _is_plain(schema):
        return None
    kind = kind_of(value, schema)
    return kind if kind and value in _told(said, kind, schema) else None


def _told(texts: Sequence[str], kind: Kind, schema: Mapping[str, Any]) -> list[Value]:
    """The values that stand in the texts, each once, in the order in which they were said."""
    words = schema.get("enum", ())
    return list(dict.fromkeys(value for text in texts for value in values_told(text, kind, words)))


def _is_open(texts: Sequence[str], kind: Kind) -> bool:
    """Whether such a value may have been said in words that are not read here: then it is free."""
    return any(is_hinted(text, kind) for text in texts)


def _known(said: Said, tool: Tool) -> Iterator[tuple[str, Kind, Mapping[str, Any]]]:
    """The parameters of this tool, which may be another one of the same name, whose values are of the kind."""
    for name, kind in said.get(tool.name, {}).items():
        schema = tool.properties.get(name)
        if isinstance(schema, Mapping) and _is_plain(schema) and ("enum" in schema) == (kind == "choice"):
            yield name, kind, schema


def _is_plain(schema: Mapping[str, Any]) -> bool:
    """Whether the schema says of one value what it is, and not by way of others."""
    return INSIDE.isdisjoint(schema)


def _is_default(value: Any, schema: Any) -> bool:
    return isinstance(schema, Mapping) and "default" in schema and bool(schema["default"] == value)
