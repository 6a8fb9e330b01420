"""Rows in ToolACE's form: the tools as JSON in the system text, calls written like Python.

    {"system": "You are an expert in composing functions. ... Here is a list of functions in JSON format that you
     can invoke: [...]", "conversations": [{"from": "user", "value": "Weather in Paris?"},
     {"from": "assistant", "value": "[get_weather(city=\"Paris\")]"}]}

Source: Team-ACE/ToolACE.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from calltune.data.foreign_tools import foreign_tools, tools_in_text, unreadable
from calltune.data.forms import TOOL_COLUMNS, TOOLACE_MARK, Turns, message_column, plain_turn
from calltune.data.messages import Reading
from calltune.data.python_calls import is_call_list, read_python_calls

BOILERPLATE = re.compile(
    r"You are an expert in composing functions\..*?" + TOOLACE_MARK + r" that you can invoke:?|"
    r"Here is a " + TOOLACE_MARK + r" that you can (?:invoke|use):?", re.DOTALL,
)  # fmt: skip


def toolace(value: Mapping[str, Any], reading: Reading) -> Turns | None:
    """The turns of a row; None where it has no messages."""
    column = message_column(value)
    if column is None or not isinstance(value[column], list):
        return None
    turns = [plain_turn(m, f"/{column}/{i}") for i, m in enumerate(value[column])]
    if isinstance(value.get("system"), str):
        turns.insert(0, ("system", value["system"], "/system"))
    messages: list[Any] = []
    places: list[tuple[str, str]] = []
    tools: list[Any] | None = None
    for role, text, place in turns:
        message: dict[str, Any] = {"role": role, "content": text}
        if role == "system" and TOOLACE_MARK in text:
            tools, before = tools_in_text(text, place, reading)
            places.append(("/tools", place))
            message["content"] = BOILERPLATE.sub("", before).strip()
            if not message["content"]:
                continue
        elif role == "assistant" and is_call_list(text):
            try:
                message = {"role": role, "tool_calls": read_python_calls(text)}
            except ValueError as error:
                message = {"role": role, "tool_calls": [unreadable(text, str(error))]}
        places += [(f"/messages/{len(messages)}", place)]
        messages.append(message)
    if tools is None and (own := next((c for c in TOOL_COLUMNS if value.get(c) is not None), None)):
        tools = foreign_tools(value[own], f"/{own}", reading)
    return Turns(messages, tools, {column, "system", *TOOL_COLUMNS}, places)
