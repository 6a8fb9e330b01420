"""What the row forms share: role names, contents, raw text, and a reading that carries its problems."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from calltune.data.tool_rows import ToolFound, placed
from calltune.errors import Problem
from calltune.schema import Conversation, Message, Role, Tool, ToolCall, shorten

ROLE_NAMES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
    "gpt": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "tool_response": "tool",
}


@dataclass
class Reading:
    """What was found in one row while it is read: messages, tools, and what is wrong.

    `calls` are all calls with their JSON pointers. `repairs` are problems that reading has already put
    right without loss (an arguments text in Python's quotes): `check` reports them, training need not mind.
    `schema`: why calls cannot be judged by the schemas of the tools.
    """

    messages: list[Message] = field(default_factory=list)
    tools: tuple[Tool, ...] = ()
    calls: list[tuple[str, ToolCall]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    repairs: list[Problem] = field(default_factory=list)
    schema: list[Problem] = field(default_factory=list)
    at: list[int] = field(default_factory=list)  # of each message its place in the row, where they differ

    def add_tool(self, found: ToolFound, path: str) -> None:
        """Notes what was found of one tool, at its place."""
        self.problems += placed(found.problems, path)
        self.repairs += placed(found.repairs, path)
        self.schema += placed(found.schema, path)

    def problem(self, kind: str, found: Any, expected: str, path: str) -> None:
        self.problems.append(Problem(kind, shorten(found), expected, path))


def raw_text(conversation: Conversation) -> str | None:
    """The text of a row that is raw text (no messages, the text in `meta`); None for every other row."""
    text = None if conversation.messages else conversation.meta.get("text")
    return text if isinstance(text, str) else None


def role_and_text(item: Any, path: str, reading: Reading) -> tuple[Role, str, str] | None:
    """(role, the row's own name for it, content) of a message; None, with a problem noted, if unreadable."""
    if not isinstance(item, Mapping):
        reading.problem("bad_message", item, "an object with role and content", path)
        return None
    key = "role" if "role" in item else "from"
    named = item.get(key)
    role = ROLE_NAMES.get(named.lower()) if isinstance(named, str) else None
    content_key = "content" if "content" in item else "value"
    text = text_of(item.get(content_key), f"{path}/{content_key}", reading)
    if role is None or not isinstance(named, str):
        found = "no role" if named is None else named
        reading.problem("unknown_role", found, f"one of: {', '.join(ROLE_NAMES)}", f"{path}/{key}")
        return None
    return None if text is None else (role, named, text)


def text_of(content: Any, path: str, reading: Reading) -> str | None:
    """Content as text: null is empty (T13), text parts are joined, an object is its JSON."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        return json.dumps(content, ensure_ascii=False)
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(parts):
            return "".join(texts)
    reading.problem("bad_content", content, "text, null, or a list of text parts", path)
    return None
