"""Rows in Glaive's form: the functions in the system text, the dialogue in one text, calls after `<functioncall>`.

    {"system": "SYSTEM: You are a helpful assistant with access to the following functions. ... {...}",
     "chat": "USER: Weather? ASSISTANT: <functioncall> {\"name\": ..., \"arguments\": '{...}'} <|endoftext|> ..."}

Also the same as messages. Source: glaiveai/glaive-function-calling-v2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from calltune.data.foreign_tools import foreign_tools, tools_in_text, unreadable
from calltune.data.forms import TOOL_COLUMNS, Turns, message_column, plain_turn
from calltune.data.messages import Reading
from calltune.formats.literals import read_value

TURN = re.compile(r"\s*(USER|ASSISTANT|FUNCTION RESPONSE|SYSTEM):\s?")
CALL = re.compile(r"<functioncall>\s*(.*?)\s*(?:<\|endoftext\|>|</functioncall>|$)", re.DOTALL)
QUOTED = re.compile(r"(['\"])arguments\1\s*:\s*'(.*)'\s*\}\s*", re.DOTALL)
BOILERPLATE = re.compile(
    r"^(SYSTEM:\s*)?(You are a helpful assistant,? with (no )?access to (the following |external )?functions\.?\s*"
    r"(Use them if required\s*-?)?)?", re.IGNORECASE,
)  # fmt: skip
ROLES = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool", "SYSTEM": "system"}


def glaive(value: Mapping[str, Any], reading: Reading) -> Turns | None:
    """The turns of a row of one text or of messages; None where it has neither."""
    places: list[tuple[str, str]] = []
    if isinstance(value.get("chat"), str):
        pieces = TURN.split(value["chat"])
        given = list(zip(pieces[1::2], pieces[2::2], strict=True))
        if pieces[0].strip():
            reading.problem("bad_content", pieces[0], "text that begins with USER:", "/chat")
        turns = [(ROLES[role], text.strip(), "/chat") for role, text in given]
        used = {"chat", "system"}
    elif (column := message_column(value)) and isinstance(value[column], list):
        turns = [plain_turn(m, f"/{column}/{i}") for i, m in enumerate(value[column])]
        used = {column, "system", *TOOL_COLUMNS}
    else:
        return None
    system = value.get("system")
    if isinstance(system, str) and system.strip():
        turns.insert(0, ("system", system, "/system"))
    messages: list[Any] = []
    tools: list[Any] | None = None
    for role, text, place in turns:
        if role == "system":
            found, text = tools_in_text(text, place, reading)
            tools = [*(tools or []), *found] if found else tools
            text = BOILERPLATE.sub("", text).strip()
            if not text:
                continue
        places += [(f"/messages/{len(messages)}/tool_calls", place), (f"/messages/{len(messages)}", place)]
        messages.append(_glaive_turn(role, text))
    if tools is None and (column := next((c for c in TOOL_COLUMNS if value.get(c) is not None), None)):
        tools = foreign_tools(value[column], f"/{column}", reading)
    elif tools is not None:
        places.append(("/tools", "/system" if "system" in value else f"/{message_column(value)}/0"))
    return Turns(messages, tools, used, places)


def _glaive_turn(role: str, text: str) -> dict[str, Any]:
    text = text.removesuffix("<|endoftext|>").strip()
    call = CALL.search(text) if role == "assistant" else None
    if call is None:
        return {"role": role, "content": text}
    return {"role": role, "content": text[: call.start()].strip(), "tool_calls": [_glaive_call(call[1])]}


def _glaive_call(text: str) -> dict[str, Any]:
    """`{"name": "f", "arguments": '{"a": 1}'}`: the arguments in single quotes, which their own text may hold."""
    if quoted := QUOTED.search(text):
        text = f"{text[: quoted.start()].rstrip().removesuffix(',')}}}"
    try:
        call = read_value(text)
    except ValueError as error:
        return unreadable(text, str(error))
    if not isinstance(call, dict):
        return unreadable(text, "an object is expected")
    if not quoted:
        return call
    try:
        return call | {"arguments": read_value(quoted[2])}
    except ValueError:
        try:  # quotes that are escaped for the quotes around
            return call | {"arguments": read_value(quoted[2].replace("\\'", "'"))}
        except ValueError as error:
            return unreadable(quoted[2], str(error))
