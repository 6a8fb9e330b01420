"""The forms of rows: which one a row has, and its turns in OpenAI's form.

What other data sets write becomes `Turns` (a function a form, in the files beside): messages and tools for
`openai_rows.py`, with the places where they stand in the row, so that problems are told there. docs/data.md shows
a row of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from calltune.data.foreign_tools import as_text
from calltune.data.hermes_rows import has_markup
from calltune.data.openai_rows import is_structured

FORMS = ("openai", "hermes", "sharegpt", "xlam", "glaive", "toolace", "bfcl", "pair", "text")
MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
TOOL_COLUMNS = ("tools", "functions")
PAIR = {"prompt": "user", "completion": "assistant"}
CALL_ROLES = ("function_call", "tool_call")  # of ShareGPT turns that hold a call as JSON
TOOLACE_MARK = "list of functions in JSON format"


@dataclass
class Turns:
    """Messages and tools in OpenAI's form, made from the columns `used`. `places`: prefixes of the JSON pointers
    into these messages, and what they are in the row; the first that fits counts."""

    messages: list[Any]
    tools: list[Any] | None
    used: set[str]
    places: list[tuple[str, str]] = field(default_factory=list)


def own_path(path: str, places: Sequence[tuple[str, str]]) -> str:
    """A path into the messages as it is in the row (see `Turns.places`)."""
    for ours, theirs in places:
        if path == ours or path.startswith(f"{ours}/"):
            return theirs + path[len(ours) :]
    return path


def guess_form(value: Mapping[str, Any]) -> str:
    """The form of a row by its columns, roles and marks; `none` where it has none of them."""
    column = message_column(value)
    if column is None:
        if value.get("query") is not None and value.get("answers") is not None:
            return "xlam"
        if value.get("question") is not None and value.get("function") is not None:
            return "bfcl"
        if isinstance(value.get("chat"), str):
            return "glaive"
        if all(value.get(name) is not None for name in PAIR):
            return "pair"
        return "text" if value.get("text") is not None else "none"
    messages = value[column]
    if messages == [] and isinstance(value.get("meta"), Mapping) and isinstance(value["meta"].get("text"), str):
        return "text"  # as Conversation.to_openai writes it
    if not isinstance(messages, list) or is_structured(messages):
        return "openai"
    turns = [m for m in messages if isinstance(m, Mapping)]
    if any(m.get("from", m.get("role")) in CALL_ROLES for m in turns):
        return "sharegpt"
    if has_markup(messages):
        return "hermes"
    texts = [m.get("content", m.get("value")) for m in turns]
    if any(isinstance(text, str) and "<functioncall>" in text for text in texts):
        return "glaive"
    opening = texts[:1] if turns and turns[0].get("from", turns[0].get("role")) == "system" else ()
    if any(isinstance(text, str) and TOOLACE_MARK in text for text in (value.get("system"), *opening)):
        return "toolace"
    return "sharegpt" if any("from" in m for m in turns) else "openai"


def message_column(value: Mapping[str, Any]) -> str | None:
    return next((name for name in MESSAGE_COLUMNS if value.get(name) is not None), None)


def plain_turn(item: Any, place: str) -> tuple[str, str, str]:
    """(role, text, place) of a turn of text; roles by their first names."""
    if not isinstance(item, Mapping):
        return "", as_text(item), place
    role = str(item.get("from", item.get("role")))
    names = {"human": "user", "gpt": "assistant", "model": "assistant", "function": "tool", "observation": "tool"}
    text = item.get("value", item.get("content"))
    return names.get(role, role), "" if text is None else as_text(text), place
