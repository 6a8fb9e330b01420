"""Rows in OpenAI's form: `messages` with `tool_calls`, and `tools`.

    {"messages": [{"role": "user", "content": "Weather in Paris?"},
                  {"role": "assistant", "content": null, "tool_calls": [{"id": "call_0", "type": "function",
                   "function": {"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}}]}],
     "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {...}}}]}

Arguments are an object or its JSON text (T12); `function_call` and `functions` are the older names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from calltune.data.messages import Reading, role_and_text, text_of
from calltune.errors import Problem
from calltune.formats import pieces
from calltune.formats.literals import is_whole_text, read_json, read_value
from calltune.schema import Message, ToolCall, shorten

THINKING_KEYS = ("reasoning_content", "reasoning", "thinking")


def is_structured(messages: list[Any]) -> bool:
    """Whether calls or plans stand in keys of their own, not in the text."""
    keys = ("tool_calls", "function_call", *THINKING_KEYS)
    return any(isinstance(m, Mapping) and any(m.get(key) for key in keys) for m in messages)


def read_openai(messages: list[Any], path: str, reading: Reading) -> None:
    """Reads the messages into `reading`. `path`: JSON pointer of the list."""
    names: dict[str, str] = {}  # call id -> tool, for results that name only the call
    for i, item in enumerate(messages):
        place = f"{path}/{i}"
        found = role_and_text(item, place, reading)
        if found is None:
            continue
        role, _, text = found
        if role == "assistant":
            message = _assistant(item, text, place, reading)
            names |= {call.id: call.name for call in message.calls if call.id}
        elif role == "tool":
            call_id = item.get("tool_call_id")
            call_id = call_id if isinstance(call_id, str) else None
            name = item.get("name") or names.get(call_id or "")
            message = Message("tool", text, name=name if isinstance(name, str) else None, call_id=call_id)
        else:
            message = Message(role, text)
        reading.messages.append(message)


def _assistant(item: Mapping[str, Any], text: str, place: str, reading: Reading) -> Message:
    calls = item.get("tool_calls") or []
    path = f"{place}/tool_calls"
    if not calls and item.get("function_call"):
        calls, path = [item["function_call"]], f"{place}/function_call"
    if not isinstance(calls, list):
        reading.problem("bad_call", calls, "a list of calls", path)
        calls = []
    read: list[ToolCall] = []
    for j, value in enumerate(calls):
        inner = isinstance(value, Mapping) and isinstance(value.get("function"), Mapping)
        where = path if path.endswith("function_call") else f"{path}/{j}{'/function' if inner else ''}"
        call = _call(value, where, reading)
        if call is not None:
            read.append(call)
            reading.calls.append((where, call))
    key = next((k for k in THINKING_KEYS if item.get(k) is not None), None)
    thinking = text_of(item[key], f"{place}/{key}", reading) if key else None
    if thinking is None and text.lstrip().startswith(pieces.THINK) and pieces.END_THINK in text:
        plan, _, text = text.lstrip().removeprefix(pieces.THINK).partition(pieces.END_THINK)
        thinking, text = plan.strip(), text.strip()
    return Message("assistant", text, thinking, tuple(read))


def _call(value: Any, path: str, reading: Reading) -> ToolCall | None:
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        reading.problem("unreadable_call", value, "an object with name and arguments", path)
        return None
    arguments = _arguments(function.get("arguments"), f"{path}/arguments", reading)
    if arguments is None:
        return None
    identity = value.get("id")
    return ToolCall(function["name"], arguments, identity if isinstance(identity, str) else None)


def _arguments(value: Any, path: str, reading: Reading) -> dict[str, Any] | None:
    """The arguments as a dictionary, whatever form the row gives them (T12); None if unreadable."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}
    given = value
    plain = True  # an object, or an object's JSON text
    for _ in range(2):  # some sets encode the text twice
        if isinstance(value, str):
            try:
                value, plain = _read(value, plain)
            except ValueError as error:
                reading.problem("unreadable_call", given, f"arguments as a JSON object; they are {error}", path)
                return None
    if not isinstance(value, Mapping):
        reading.problem("unreadable_call", given, "arguments as a JSON object", path)
        return None
    if isinstance(given, str) and "\\u" in given and not is_whole_text(value):
        reading.problem("bad_text", given, "no lone surrogate (half a character)", path)
        return None
    if not plain:
        found = Problem("not_json", shorten(given), json.dumps(value, ensure_ascii=False), path)
        reading.repairs.append(found)
    return dict(value)


def _read(text: str, plain: bool) -> tuple[Any, bool]:
    """The value of an arguments text, and whether it is an object's JSON. Raises ValueError."""
    try:
        value = read_json(text)
    except ValueError:
        return read_value(text), False
    if not isinstance(value, dict):
        return value, False
    return value, plain and ("\n" not in text or _is_json_object(text))


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
