"""The `messages` of a chat request as messages of ours; everything that is wrong with them, with its place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from calltune.errors import InputError
from calltune.formats.literals import read_json
from calltune.schema import Message, Role, ToolCall, shorten
from calltune.serve.errors import ENOUGH, Wrong, said

ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant",
                          "tool": "tool"}  # fmt: skip
# OpenAI's rule, and dots, which packages of functions have. What is written beside it could end a call's markup.
NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
NAME_WORDS = "a function's name should be up to 64 letters, digits, _, - and ."
UNREADABLE = "unreadable_arguments"
MOST_IDS = 5  # that are named
TEXT_PARTS = ("text", "input_text", "output_text")


def read_messages(values: Sequence[Any], problems: list[Wrong]) -> tuple[Message, ...]:
    """The messages; what is wrong is added to `problems`, up to ENOUGH of it."""
    messages: list[Message] = []
    names: dict[str, str] = {}  # of the calls so far, by their ids
    for i, value in enumerate(values):
        if len(problems) >= ENOUGH:
            break
        path = f"messages[{i}]"
        if not isinstance(value, Mapping):
            problems.append(Wrong(path, f'a message should be {{"role": ..., "content": ...}}, not {said(value)}'))
            continue
        role = value.get("role")
        if not isinstance(role, str) or role not in ROLES:
            found = _not(value, "role")
            older = "; send the older role function as tool, with a tool_call_id" if role == "function" else ""
            problems.append(Wrong(f"{path}.role", f"it should be one of {', '.join(ROLES)}, {found}{older}"))
            continue
        content = _text(value.get("content"), f"{path}.content", problems)
        if content is None and role != "assistant":
            words = f"it should be a text or a list of text parts, {_not(value, 'content')}"
            problems.append(Wrong(f"{path}.content", words))
        messages.append(_message(ROLES[role], content or "", value, path, names, problems))
    return tuple(messages)


def _message(
    role: Role, content: str, value: Mapping[str, Any], path: str, names: dict[str, str], problems: list[Wrong]
) -> Message:
    if role == "assistant":
        thinking = value.get("reasoning_content")
        if thinking is not None and not isinstance(thinking, str):
            problems.append(Wrong(f"{path}.reasoning_content", f"it should be a text, not {said(thinking)}"))
            thinking = None
        if value.get("function_call"):
            words = f"{said(value['function_call'])}: this older form is not supported; use tool_calls"
            problems.append(Wrong(f"{path}.function_call", words))
        calls = _calls(value.get("tool_calls"), f"{path}.tool_calls", problems)
        names.update((call.id, call.name) for call in calls if call.id)
        return Message(role, content, thinking, calls)
    if role != "tool":
        return Message(role, content)
    identity = value.get("tool_call_id")
    if not isinstance(identity, str) or identity not in names:
        known = _known(list(names))
        words = f"it should be the id of a call made before, {_not(value, 'tool_call_id')} ({known})"
        problems.append(Wrong(f"{path}.tool_call_id", words))
        return Message(role, content)
    return Message(role, content, name=names[identity], call_id=identity)


def _text(value: Any, path: str, problems: list[Wrong]) -> str | None:
    """A content as one text: a text, or a list of text parts. None where there is none."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, Sequence):
        problems.append(Wrong(path, f"it should be a text or a list of text parts, not {said(value)}"))
        return ""
    texts = []
    for i, part in enumerate(value):
        if len(problems) >= ENOUGH:
            break
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind not in TEXT_PARTS:
            problems.append(Wrong(f"{path}[{i}]", f"a part of type {shorten(kind)} is not supported: the model reads "
                                  "text only; leave it out"))  # fmt: skip
        elif kind is None or not isinstance(text, str):
            words = f'a part should be {{"type": "text", "text": "..."}}, not {said(part)}'
            problems.append(Wrong(f"{path}[{i}]", words))
        else:
            texts.append(text)
    return "".join(texts)


def _calls(value: Any, path: str, problems: list[Wrong]) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        problems.append(Wrong(path, f"it should be a list of calls, not {said(value)}"))
        return ()
    calls: list[ToolCall] = []
    seen: set[str] = set()
    for i, item in enumerate(value):
        if len(problems) >= ENOUGH:
            break
        place = f"{path}[{i}]"
        function = item.get("function") if isinstance(item, Mapping) else None
        if not isinstance(function, Mapping):
            words = 'a call should be {"id": ..., "type": "function", "function": {"name": ..., "arguments": ...}}'
            problems.append(Wrong(f"{place}.function", f"{words}, not {said(item)}"))
            continue
        identity, name = item.get("id"), function.get("name")
        if not isinstance(identity, str) or not identity:
            words = f"it should be a text that a result's tool_call_id names, {_not(item, 'id')}"
            problems.append(Wrong(f"{place}.id", words))
        elif identity in seen:
            words = f"{said(identity)} stands twice in this message; give each call its own"
            problems.append(Wrong(f"{place}.id", words))
        seen.add(str(identity))
        if not isinstance(name, str) or not NAME.fullmatch(name):
            problems.append(Wrong(f"{place}.function.name", f"{NAME_WORDS}, {_not(function, 'name')}"))
            continue
        arguments = _arguments(function.get("arguments"), f"{place}.function.arguments", problems)
        calls.append(ToolCall(name, arguments, identity if isinstance(identity, str) else None))
    return tuple(calls)


def _known(ids: Sequence[str]) -> str:
    """The ids that a result may name, of many the last ones."""
    if not ids:
        return "there is none; send the message that calls"
    more = f" and {len(ids) - MOST_IDS} before" if len(ids) > MOST_IDS else ""
    return f"one of {', '.join(map(shorten, ids[-MOST_IDS:]))}{more}"


def _arguments(value: Any, path: str, problems: list[Wrong]) -> Mapping[str, Any]:
    """OpenAI's messages carry arguments as JSON text; none as an empty one. Clients send back what a model wrote,
    also where that is no JSON object: then the model reads it as a text, under a name that says so."""
    if not isinstance(value, str):
        problems.append(Wrong(path, f"it should be the text of a JSON object, not {said(value)}; write it as a text"))
        return {}
    try:
        found = read_json(value) if value.strip() else {}
    except (ValueError, InputError):
        return {UNREADABLE: value}
    return found if isinstance(found, dict) else {UNREADABLE: value}


def _not(value: Mapping[str, Any], key: str) -> str:
    """What was found in place of what it should be."""
    return f"not {said(value[key])}" if key in value else "and it is missing"
