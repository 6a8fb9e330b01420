"""The values that everything passes around: tools, calls, messages, conversations, replies.

All are frozen. Arguments are plain dictionaries here; only OpenAI messages carry them as JSON text
(CONTRACT). Nothing in this file knows a tokenizer, a template or MLX.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from jsonschema import ValidationError

from calltune.errors import InputError, Problem, pointer
from calltune.judging import errors_of, make_validator

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
# Stands inside text that is not to be read as a control token (guarding.py). Unicode keeps this character for the
# inside of programs; it reaches no model.
GUARD = "\ufdd0"
KINDS = {"required": "missing_argument", "type": "wrong_type", "enum": "not_in_enum"}  # of JSON Schema's words


@dataclass(frozen=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON Schema of type object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})

    @property
    def required(self) -> tuple[str, ...]:
        required = self.parameters.get("required")
        return tuple(name for name in required if isinstance(name, str)) if isinstance(required, list | tuple) else ()

    @property
    def properties(self) -> Mapping[str, Mapping[str, Any]]:
        properties = self.parameters.get("properties")
        return properties if isinstance(properties, Mapping) else {}

    @cached_property
    def validator(self) -> Any:
        """Checks arguments (judging.py)."""
        return make_validator(self.parameters)

    @cached_property
    def bounded_validator(self) -> Any:
        """The same in bounded time."""
        return make_validator(self.parameters, bounded=True)

    def to_openai(self) -> dict[str, Any]:
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}

    @staticmethod
    def from_openai(value: Any, path: str = "/tools") -> Tool:
        """`{"type": "function", "function": {...}}` or the bare function. Raises InputError."""
        function = value.get("function", value) if isinstance(value, Mapping) else value
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InputError(
                "a tool could not be read",
                problems=[Problem("bad_tool", shorten(value), "an object with a `name`", path)],
            )
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        if not isinstance(parameters, Mapping):
            problem = Problem("bad_tool", shorten(parameters), "a JSON Schema object", f"{path}/parameters")
            raise InputError("a tool could not be read", problems=[problem])
        return Tool(function["name"], str(function.get("description") or ""), parameters)


@dataclass(frozen=True)
class ToolCall:
    """A call as it was read or made. A call that could not be read keeps its `raw` text and the `error`."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    raw: str | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": dict(self.arguments)}

    def to_openai(self, index: int = 0) -> dict[str, Any]:
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        return {
            "id": self.id or f"call_{index}",
            "type": "function",
            "function": {"name": self.name, "arguments": arguments},
        }


@dataclass(frozen=True)
class Message:
    """One turn. An assistant's turn may hold a plan (`thinking`), calls and content at once."""

    role: Role
    content: str = ""
    thinking: str | None = None
    calls: tuple[ToolCall, ...] = ()
    name: str | None = None  # of the tool whose result this is (role "tool")
    call_id: str | None = None  # of the call that this result answers (role "tool")

    def to_openai(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.thinking is not None:
            message["reasoning_content"] = self.thinking
        if self.calls:
            message["tool_calls"] = [call.to_openai(i) for i, call in enumerate(self.calls)]
            message["content"] = self.content or None
        if self.role == "tool":
            message |= {k: v for k, v in (("name", self.name), ("tool_call_id", self.call_id)) if v}
        return message


@dataclass(frozen=True)
class Conversation:
    """Messages with the tools that they were offered: one row of data, or one prompt.

    `id` is the case's own id, else `FILE:LINE`. `meta` carries what a reader or generator knows about
    the row (category, phrasing template, source line) and never reaches the model.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    id: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def to_openai(self) -> dict[str, Any]:
        row: dict[str, Any] = {"messages": [m.to_openai() for m in self.messages]}
        if self.tools:
            row["tools"] = [tool.to_openai() for tool in self.tools]
        if self.id is not None:
            row["id"] = self.id
        if self.meta:
            row["meta"] = dict(self.meta)
        return row


@dataclass(frozen=True)
class Reply:
    """What a model answered: its plan, its calls and its text. `raw` is the text as generated.

    `errors` says what could not be read; nothing of `raw` is ever lost. `truncated`: the token limit
    ended it, not the model. `notes` say what decoding could not enforce of the tools' schemas.
    """

    thinking: str | None = None
    calls: tuple[ToolCall, ...] = ()
    content: str = ""
    raw: str = ""
    errors: tuple[str, ...] = ()
    truncated: bool = False
    notes: tuple[str, ...] = ()

    def to_message(self) -> Message:
        return Message("assistant", self.content, self.thinking, tuple(c for c in self.calls if not c.error))


def without_repeats(reply: Reply) -> Reply:
    """The reply with each of its calls once; a note tells of those that came again."""
    seen, calls, notes = set[str](), list[ToolCall](), list(reply.notes)
    for call in reply.calls:
        key = "" if call.error else json.dumps([call.name, dict(call.arguments)], sort_keys=True, default=str)
        if key in seen:
            notes.append(f"{call.name}: the same call came again and is made once")
            continue
        calls.append(call)
        if key:
            seen.add(key)
    return replace(reply, calls=tuple(calls), notes=tuple(notes)) if len(calls) < len(reply.calls) else reply


def numbered(reply: Reply, messages: Sequence[Message]) -> Reply:
    """The reply with an id for each call that no other call of the conversation has."""
    used = {call.id for message in messages for call in message.calls}
    count = sum(len(message.calls) for message in messages)
    calls = []
    for call in reply.calls:
        while call.id is None or call.id in used:
            call = replace(call, id=f"call_{count}")
            count += 1
        used.add(call.id)
        calls.append(call)
    return replace(reply, calls=tuple(calls))


def shorten(value: Any, limit: int = 80) -> str:
    """A value as one short line for an error message."""
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def read_tools(value: Any, path: str = "/tools") -> tuple[Tool, ...]:
    """Tools from a list of OpenAI dictionaries, or from that list as JSON text (T13). Raises InputError."""
    if value is None:
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else []
        except ValueError as error:
            problem = Problem("bad_tools", shorten(value), f"JSON ({error})", path)
            raise InputError("the tools could not be read", problems=[problem]) from None
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence):
        problem = Problem("bad_tools", shorten(value), "a list of tools", path)
        raise InputError("the tools could not be read", problems=[problem])
    return tuple(Tool.from_openai(item, f"{path}/{i}") for i, item in enumerate(value))


def find_tool(tools: Sequence[Tool], name: str) -> Tool | None:
    for tool in tools:  # a loop: it is called for every call of every row, and a generator takes three times as long
        if tool.name == name:
            return tool
    return None


def validate_call(call: ToolCall, tools: Sequence[Tool], path: str = "", *, bounded: bool = False) -> list[Problem]:
    """Every way in which a call does not fit the offered tools; an empty list means that it is valid.

    Beyond the schema's own words, an argument that the schema does not name is a problem unless the
    schema says `additionalProperties`. `bounded`: in bounded time, whoever made the schema; what then was not judged
    is a warning: `not_judged`, or `pattern_not_judged` where all but patterns was.
    """
    if call.error:
        return [Problem("unreadable_call", shorten(call.raw or ""), call.error, path)]
    tool = find_tool(tools, call.name)
    if tool is None:
        names = ", ".join(t.name for t in tools) or "no tool"
        return [Problem("unknown_function", call.name, f"one of: {names}", f"{path}/name")]
    problems = []
    if "additionalProperties" not in tool.parameters:
        properties = tool.properties
        for key in call.arguments:
            if key not in properties:
                expected = ", ".join(properties) or "no arguments"
                place = f"{path}/arguments{pointer(key)}"
                problems.append(Problem("unknown_argument", f"{call.name}.{key}", expected, place))
    if surely_fits(call.arguments, tool.parameters):
        return problems
    judged = errors_of(tool.bounded_validator if bounded else tool.validator, dict(call.arguments))
    if judged.bad:
        text = shorten(judged.why, 160)
        return [*problems, Problem("bad_schema", f"{tool.name}: {text}", "a JSON Schema that can be applied", path)]
    for found in judged.errors:
        place = f"{path}/arguments{pointer(*found.absolute_path)}"
        name = KINDS.get(str(found.validator), f"schema_{found.validator}")
        problems.append(Problem(name, shorten(found.message, 160), _expected(found), place))
    if judged.why:
        kind = "pattern_not_judged" if judged.patterns else "not_judged"
        problems.append(Problem(kind, f"{tool.name}: {judged.why}", path=path, severity="warning"))
    return problems


_SIMPLE_WORDS = frozenset(
    ["type", "description", "title", "default", "examples", "format", "properties", "required", "items", "enum"]
)
_SIMPLE_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "null": (type(None),),
}  # fmt: skip


def surely_fits(value: Any, schema: Any) -> bool:
    """Whether a value fits a schema of simple words; False means that jsonschema has to judge. Most calls of most
    sets fit such a schema, and this takes a tenth of jsonschema's time (docs/log.md)."""
    if not isinstance(schema, dict) or not _SIMPLE_WORDS.issuperset(schema):
        return False
    kind = schema.get("type")
    if kind == "object":
        properties, required = schema.get("properties", {}), schema.get("required", ())
        if not isinstance(value, dict) or not isinstance(properties, dict) or "enum" in schema:
            return False
        return all(name in value for name in required) and all(
            surely_fits(item, properties[key]) for key, item in value.items() if key in properties
        )
    if kind == "array":
        if type(value) is not list or "enum" in schema:
            return False
        return "items" not in schema or all(surely_fits(item, schema["items"]) for item in value)
    known = isinstance(kind, str) and type(value) in _SIMPLE_TYPES.get(kind, ())
    return known and ("enum" not in schema or (type(value) is str and value in schema["enum"]))


def _expected(error: ValidationError) -> str:
    """The part of the schema that was not met."""
    name, value = str(error.validator), error.validator_value
    if name == "required":
        return f"all of {', '.join(map(str, value))}" if isinstance(value, list) else ""
    if name == "enum":
        return f"one of {shorten(json.dumps(value, ensure_ascii=False))}"
    return shorten(f"{name} {json.dumps(value, ensure_ascii=False)}")
