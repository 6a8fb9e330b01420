"""The `messages` of a chat request as messages of ours; everything that is wrong with them, with its place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from calltune.errors import InputError
from calltune.formats.literals import read_json
from calltune.schema import Message, Role, ToolCall, shorten
from calltune.serve.errors import Wrong

ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant",
                          "tool": "tool"}  # fmt: skip
TEXT_PARTS = ("text", "input_text", "output_text")


def read_messages(values: Sequence[Any], problems: list[Wrong]) -> tuple[Message, ...]:
    """The messages; what is wrong is added to `problems`."""
    messages: list[Message] = []
    names: dict[str, str] = {}  # of the calls so far, by their ids
    for i, value in enumerate(values):
        path = f"messages[{i}]"
        if not isinstance(value, Mapping):
            problems.append(Wrong(path, "a message is an object"))
            continue
        role = value.get("role")
        if not isinstance(role, str) or role not in ROLES:
            found = f"not {shorten(role)}" if "role" in value else "and is missing"
            problems.append(Wrong(f"{path}.role", f"it is one of {', '.join(ROLES)}, {found}"))
            continue
        content = _text(value.get("content"), f"{path}.content", problems)
        if content is None and role != "assistant":
            problems.append(Wrong(f"{path}.content", "a text is wanted here"))
        messages.append(_message(ROLES[role], content or "", value, path, names, problems))
    return tuple(messages)


def _message(
    role: Role, content: str, value: Mapping[str, Any], path: str, names: dict[str, str], problems: list[Wrong]
) -> Message:
    if role == "assistant":
        thinking = value.get("reasoning_content")
        if thinking is not None and not isinstance(thinking, str):
            problems.append(Wrong(f"{path}.reasoning_content", "it is a text"))
            thinking = None
        if value.get("function_call"):
            problems.append(Wrong(f"{path}.function_call", "this older form is not supported; use tool_calls"))
        calls = _calls(value.get("tool_calls"), f"{path}.tool_calls", problems)
        names.update((call.id, call.name) for call in calls if call.id)
        return Message(role, content, thinking, calls)
    if role != "tool":
        return Message(role, content)
    identity = value.get("tool_call_id")
    if not isinstance(identity, str) or identity not in names:
        known = f"one of {', '.join(map(shorten, names))}" if names else "but no call was made before it"
        found = shorten(identity) if "tool_call_id" in value else "nothing"
        problems.append(Wrong(f"{path}.tool_call_id", f"it is the id of a call made before ({known}), not {found}"))
        return Message(role, content)
    return Message(role, content, name=names[identity], call_id=identity)


def _text(value: Any, path: str, problems: list[Wrong]) -> str | None:
    """A content as one text: a text, or a list of text parts. None where there is none."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, Sequence):
        problems.append(Wrong(path, "it is a text or a list of text parts"))
        return ""
    texts = []
    for i, part in enumerate(value):
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind not in TEXT_PARTS:
            problems.append(Wrong(f"{path}[{i}]", f"a part of type {shorten(kind)} is not supported: the model reads "
                                  "text only; leave it out"))  # fmt: skip
        elif kind is None or not isinstance(text, str):
            problems.append(Wrong(f"{path}[{i}]", 'a part is {"type": "text", "text": "..."}'))
        else:
            texts.append(text)
    return "".join(texts)


def _calls(value: Any, path: str, problems: list[Wrong]) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        problems.append(Wrong(path, "it is a list of calls"))
        return ()
    calls: list[ToolCall] = []
    for i, item in enumerate(value):
        place = f"{path}[{i}]"
        function = item.get("function") if isinstance(item, Mapping) else None
        if not isinstance(function, Mapping):
            problems.append(Wrong(f"{place}.function", 'a call is {"id", "type": "function", "function": {...}}'))
            continue
        identity, name = item.get("id"), function.get("name")
        if not isinstance(identity, str) or not identity:
            problems.append(Wrong(f"{place}.id", "it is a text that the result's tool_call_id names"))
        elif identity in [call.id for call in calls]:
            problems.append(Wrong(f"{place}.id", f"{shorten(identity)} stands twice in this message"))
        if not isinstance(name, str) or not name:
            problems.append(Wrong(f"{place}.function.name", "it is the name of the function that was called"))
            continue
        arguments = _arguments(function.get("arguments"), f"{place}.function.arguments", problems)
        calls.append(ToolCall(name, arguments, identity if isinstance(identity, str) else None))
    return tuple(calls)


def _arguments(value: Any, path: str, problems: list[Wrong]) -> Mapping[str, Any]:
    """OpenAI's messages carry arguments as JSON text."""
    if isinstance(value, str):
        try:
            found = read_json(value) if value.strip() else {}
        except (ValueError, InputError) as error:
            problems.append(Wrong(path, f"it is the text of a JSON object; this one does not read: {error}"))
            return {}
        if isinstance(found, dict):
            return found
        problems.append(Wrong(path, f"it is the text of a JSON object, not of {shorten(json.dumps(found))}"))
    else:
        problems.append(Wrong(path, "it is the text of a JSON object"))
    return {}
