"""What is wrong with every row, and the repairs that lose nothing.

A row is `ok`, `repaired` (a lossless repair makes it valid) or `rejected`; every row is one of the three.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from calltune.data.messages import raw_text
from calltune.data.readers import RowReading, readings
from calltune.data.sources import Source
from calltune.errors import Problem
from calltune.schema import Conversation, Message, Tool, ToolCall, find_tool, shorten, validate_call

INTEGER = re.compile(r"[+-]?\d{1,18}")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
Status = Literal["ok", "repaired", "rejected"]


@dataclass(frozen=True)
class Checked:
    """The verdict on one row. `conversation` is the repaired one where it was repaired, None if rejected;
    `value` is the row as it stood in the source."""

    line: int
    status: Status
    conversation: Conversation | None
    problems: tuple[Problem, ...] = ()
    value: Any = None


def check_rows(source: Source, columns: Mapping[str, str] | None = None) -> Iterator[Checked]:
    """Checks every row of a source, streamed; never raises for what a row holds."""
    seen: dict[str, int] = {}
    for reading in readings(source, columns=columns):
        yield replace(_check(reading, seen), value=reading.value)


def _check(reading: RowReading, seen: dict[str, int]) -> Checked:
    conversation = reading.conversation
    if conversation is None:
        return Checked(reading.line, "rejected", None, reading.problems)
    problems = _bad_schemas(conversation, reading.line) + _bad_turns(conversation, reading.line)
    first = seen.setdefault(conversation.id or "", reading.line)
    if first != reading.line:
        found = f"{conversation.id} (also line {first})"
        problems.append(Problem("duplicate_id", found, "an id of its own", "/id", reading.line))
    if problems:  # calls are not judged by schemas that are none
        return Checked(reading.line, "rejected", None, tuple(problems))
    repaired: dict[int, ToolCall] = {}
    hopeless = False
    for path, call in reading.calls:
        found_problems = _judge(call, conversation.tools, path)
        problems += [replace(problem, row=reading.line) for problem in found_problems]
        if found_problems:
            better = repair_call(call, conversation.tools)
            hopeless = hopeless or bool(_judge(better, conversation.tools, path))
            repaired[id(call)] = better
    problems += reading.repairs
    if hopeless:
        return Checked(reading.line, "rejected", None, tuple(problems))
    status: Status = "repaired" if problems else "ok"
    return Checked(reading.line, status, _with_calls(conversation, repaired), tuple(problems))


def _judge(call: ToolCall, tools: tuple[Tool, ...], path: str) -> list[Problem]:
    """`validate_call` that survives a schema which is one in form but cannot be applied: a `$ref` to
    nowhere or to the network (never fetched), a pattern that is no regular expression, endless recursion."""
    try:
        return validate_call(call, tools, path)
    except Exception as error:
        found = f"{call.name}: {type(error).__name__}: {shorten(str(error))}"
        return [Problem("bad_schema", found, "a schema that stands by itself", path)]


def _bad_schemas(conversation: Conversation, line: int) -> list[Problem]:
    problems = []
    for i, tool in enumerate(conversation.tools):
        if _plain_schema(tool.parameters):
            continue
        try:
            Draft202012Validator.check_schema(dict(tool.parameters))
        except SchemaError as error:
            place = "".join(f"/{part}" for part in error.absolute_path)
            found = f"{tool.name}: {shorten(error.message)}"
            problems.append(Problem("bad_schema", found, "JSON Schema", f"/tools/{i}/parameters{place}", line))
    return problems


TYPES = frozenset(["object", "array", "string", "number", "integer", "boolean", "null"])
PLAIN_KEYS = {
    "description": str,
    "title": str,
    "format": str,
    "enum": list,
    "required": list,
    "default": object,
}


def _plain_schema(schema: Any) -> bool:
    """Whether a schema is a valid one at a glance; the full check takes a millisecond a tool."""
    if not isinstance(schema, Mapping) or not isinstance(schema.get("type"), str):
        return False
    if schema["type"] not in TYPES:
        return False
    for key, value in schema.items():
        if key == "properties":
            if not isinstance(value, Mapping) or not all(map(_plain_schema, value.values())):
                return False
        elif key == "items":
            if not _plain_schema(value):
                return False
        elif key != "type" and not isinstance(value, PLAIN_KEYS.get(key, ())):
            return False
    return all(isinstance(name, str) for name in schema.get("required", ()))


def _bad_turns(conversation: Conversation, line: int) -> list[Problem]:
    """Results that answer no call, and rows in which nothing can be learnt (of raw text all is)."""
    if raw_text(conversation) is not None:
        return []
    problems = []
    called = False
    for i, message in enumerate(conversation.messages):
        if message.role == "tool" and not called:
            found = shorten(message.content, 40)
            problems.append(Problem("orphan_result", found, "a call before it", f"/messages/{i}", line))
        called = called or bool(message.calls)
    answers = [m for m in conversation.messages if m.role == "assistant"]
    if not any(m.content.strip() or m.calls or m.thinking for m in answers):
        found = "no assistant message" if not answers else "every assistant message is empty"
        problems.append(Problem("no_target", found, "an answer or a call", "/messages", line))
    return problems


def _with_calls(conversation: Conversation, repaired: Mapping[int, ToolCall]) -> Conversation:
    if not repaired:
        return conversation

    def mend(message: Message) -> Message:
        return replace(message, calls=tuple(repaired.get(id(call), call) for call in message.calls))

    return replace(conversation, messages=tuple(map(mend, conversation.messages)))


def repair_call(call: ToolCall, tools: tuple[Tool, ...]) -> ToolCall:
    """The call with every text that its schema wants as a number or boolean made into one, where that is
    lossless: `"63"` for an integer, `"12.50"` for a number, `"true"` for a boolean."""
    tool = find_tool(tools, call.name)
    if tool is None:
        return call
    return replace(call, arguments=_repaired(call.arguments, tool.parameters))


def _repaired(value: Any, schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, Mapping):
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        return {key: _repaired(item, properties.get(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_repaired(item, schema.get("items")) for item in value]
    return _from_text(value, schema.get("type")) if isinstance(value, str) else value


def _from_text(text: str, kind: Any) -> Any:
    """A text as the integer, number or boolean that it spells; the text itself otherwise."""
    word = text.strip()
    if kind in ("integer", "number") and INTEGER.fullmatch(word):
        return int(word)
    if kind == "number" and NUMBER.fullmatch(word):
        return float(word)
    if kind == "boolean" and word.lower() in ("true", "false"):
        return word.lower() == "true"
    return text
