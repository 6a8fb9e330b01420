"""Parameters whose values are taken word for word from the conversation, as the training rows show it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from itertools import chain
from typing import Any

from calltune.schema import Conversation, Message, Tool, find_tool

# Letters with nothing between words (Thai to Khmer, kana, Han) or between a word and what it is followed by (Hangul):
# a value may begin and end at each.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
UNSPACED += "\U00020000-\U0003ffff"
WORD = re.compile(rf"[^\W{UNSPACED}]")
BETWEEN_EDGES = re.compile(rf"[^\W{UNSPACED}]+|[\W{UNSPACED}]")  # what a text consists of, cut at each edge of a word
# tool -> parameter -> the texts that it may have though nobody says them
Copied = dict[str, dict[str, Sequence[str]]]
Key = tuple[str, str]  # tool and parameter
FIXED, CHOICES = frozenset({"enum", "const", "$ref"}), ("anyOf", "oneOf", "allOf")
INSIDE = frozenset({"items", *CHOICES})
FEWEST = 8  # calls that have a parameter, so that it is known for one that is copied


def copied_parameters(conversations: Sequence[Conversation]) -> dict[str, list[str]]:
    """Of each tool the parameters whose texts (or texts in a list) stand word for word in what was said before the
    call, in every one of at least FEWEST calls that have them; beside these a call may have the default."""
    times, free = Counter[Key](), set[Key]()
    for key, value, schema, said in heard_arguments(conversations):
        if key in free:
            continue
        if not _is_copied(value, schema, said):
            free.add(key)
        times[key] += value not in ([], *_unsaid(schema))
    found: dict[str, list[str]] = {}
    for tool_name, name in always(times, free):
        found.setdefault(tool_name, []).append(name)
    return found


def heard_arguments(conversations: Sequence[Conversation]) -> Iterator[tuple[Key, Any, Any, list[str]]]:
    """Every argument of a call: of which tool and parameter, its value, its schema, and the texts that were said
    before it, in one list a conversation that grows."""
    for conversation in conversations:
        said: list[str] = []
        for message in conversation.messages:
            for call in message.calls:
                tool = find_tool(conversation.tools, call.name)
                for name, value in call.arguments.items():
                    yield (call.name, name), value, tool.properties.get(name) if tool else None, said
            said += spoken([message])


def always(times: Mapping[Key, int], free: Set[Key]) -> list[Key]:
    """The parameters of enough calls of which none freed them."""
    return [key for key, count in sorted(times.items()) if count >= FEWEST and key not in free]


def copied_of(copied: Mapping[str, Sequence[str]], tools: Sequence[Tool]) -> Copied:
    """The copied parameters that these tools have too, as texts of no fixed set."""
    found: Copied = {}
    for tool in tools:
        schemas = {name: tool.properties.get(name) for name in copied.get(tool.name, ())}
        own = {name: _unsaid(schema) for name, schema in schemas.items() if schema and not _is_fixed(schema)}
        if own:
            found[tool.name] = own
    return found


def _is_copied(value: Any, schema: Any, said: Sequence[str]) -> bool:
    texts, others = value if isinstance(value, list) else [value], _unsaid(schema)
    copied = all(isinstance(text, str) and (text in others or stands_in(text, said)) for text in texts)
    return copied and not _is_fixed(schema)


def _is_fixed(schema: Any) -> bool:
    """Whether a text of it may be one of a fixed set; where that stands elsewhere (`$ref`), it is taken for one."""
    if not isinstance(schema, Mapping):  # JSON Schema's true: anything
        return False
    if INSIDE.isdisjoint(schema) or not FIXED.isdisjoint(schema):
        return not FIXED.isdisjoint(schema)
    choices = [schema[word] for word in CHOICES if isinstance(schema.get(word), list)]
    return any(map(_is_fixed, chain([schema.get("items")], *choices)))


def _unsaid(schema: Any) -> Sequence[str]:
    """The texts that nobody needs to say."""
    default = schema.get("default") if isinstance(schema, Mapping) else None
    return (default,) if isinstance(default, str) else ()


def spoken(messages: Sequence[Message]) -> list[str]:
    """What was said: the texts of all messages but the system's, and those that a result has in JSON's escapes."""
    said = list[str]()
    for message in messages:
        if message.role == "system" or not message.content:
            continue
        said.append(message.content)
        if message.role == "tool" and "\\" in message.content:
            with suppress(ValueError, RecursionError):  # no JSON: it stands there as it is
                said += _texts_of(json.loads(message.content))
    return said


def _texts_of(value: Any) -> list[str]:
    """The texts of a JSON value."""
    if isinstance(value, str):
        return [value]
    inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for one in inner for text in _texts_of(one)]


def stands_in(value: str, said: Sequence[str]) -> bool:
    """Whether a value stands in one of the texts, between the edges of words."""
    if not value or value.strip() != value:
        return False
    for text in said:
        start = text.find(value)
        while start >= 0:
            if word_edge(text, start) and word_edge(text, start + len(value)):
                return True
            start = text.find(value, start + 1)
    return False


def word_edge(text: str, at: int) -> bool:
    """Whether no word goes on there."""
    return not (0 < at < len(text) and WORD.match(text[at - 1]) and WORD.match(text[at]))
