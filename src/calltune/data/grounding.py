"""Values of calls that the dialogue does not contain: the model is taught to make them up."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from calltune.data.spoken import SMALL
from calltune.errors import Problem, pointer
from calltune.schema import Conversation, Tool, find_tool, shorten

NO_WORD = re.compile(r"[\W_]+")
LONG = 200  # characters; a longer text is composed, not copied


def values_of(value: Any, schema: Any, path: str) -> Iterator[tuple[str, str | int | float]]:
    """The texts and numbers in arguments that somebody must have said: no booleans, no words of an enum, no
    defaults."""
    if type(value) is dict or isinstance(value, Mapping):
        inner = schema.get("properties") if isinstance(schema, Mapping) else None
        known = isinstance(inner, Mapping)
        for key, item in value.items():
            own = inner.get(key) if known and inner is not None else None
            kind = type(item)
            if kind is str or kind is int or kind is float:
                if not _is_decided(item, own):
                    yield f"{path}{pointer(key)}", item
            else:
                yield from values_of(item, own, path + pointer(key))
    elif isinstance(value, list):
        items = schema.get("items") if isinstance(schema, Mapping) else None
        for i, item in enumerate(value):
            yield from values_of(item, items, f"{path}/{i}")
    elif isinstance(value, str | int | float) and not isinstance(value, bool) and not _is_decided(value, schema):
        yield path, value


def _is_decided(value: Any, schema: Any) -> bool:
    """Whether nobody needs to say a value: it is of a closed set, the default, empty, or composed."""
    if value == "" or (isinstance(value, str) and len(value) > LONG):
        return True
    if type(schema) is not dict and not isinstance(schema, Mapping):
        return False
    return "enum" in schema or "const" in schema or ("default" in schema and schema["default"] == value)


def squeeze(text: str) -> str:
    """Letters and digits alone: `New-York`, `new york` and `1,000` as they compare."""
    return NO_WORD.sub("", text.casefold())


def is_said(value: str | int | float, squeezed: str) -> bool:
    """Whether the dialogue (squeezed) has the value, or each of its words."""
    if isinstance(value, float) and value == int(value):
        value = int(value)
    text = str(value)
    if (text.isalnum() and text.casefold() in squeezed) or (plain := squeeze(text)) in squeezed:
        return True
    if isinstance(value, str):
        parts = [squeeze(part) for part in NO_WORD.split(text)]
        return len(parts) > 1 and all(part in squeezed for part in parts)
    return plain.isdecimal() and int(plain) < len(SMALL) and SMALL[int(plain)] in squeezed


def unsaid(conversation: Conversation, calls_at: Mapping[int, str]) -> tuple[int, list[Problem]]:
    """How many values the calls of a conversation have, and those that stand nowhere before the call.
    `calls_at`: `id(call)` -> its JSON pointer."""
    total, problems = 0, []
    squeezed = ""
    for message in conversation.messages:
        for call in message.calls:
            tool: Tool | None = find_tool(conversation.tools, call.name)
            path = f"{calls_at.get(id(call), '')}/arguments"
            for place, value in values_of(call.arguments, tool and tool.parameters, path):
                total += 1
                if not is_said(value, squeezed):
                    found = f"{call.name}: {shorten(value)}"
                    problems.append(Problem("value_not_in_dialogue", found, "a value that somebody said", place,
                                            severity="warning"))  # fmt: skip
        if message.content:
            squeezed += squeeze(message.content)
    return total, problems
