"""The body of a chat request, as OpenAI's API reference describes it: its fields and their types.

Fields that are not supported are refused where they would change the answer; fields that nobody knows are ignored,
as clients send many. Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from calltune.grammar import CHOICES
from calltune.serve.errors import Wrong, said
from calltune.serve.messages import ROLES

MOST_TOOLS = 128  # as OpenAI's
MOST_MESSAGES = 4096  # more than any model's context holds in practice
SEEDS = 2**63


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class FunctionDefinition(Strict):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="a JSON Schema of type object")
    strict: bool | None = Field(None, description="ignored: calls are always bound to the schema")


class ToolDefinition(Strict):
    type: Literal["function"]
    function: FunctionDefinition


class JsonSchema(Strict):
    name: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Strict):
    include_usage: bool | None = None


TEXTS = {"type": "array", "items": {"type": "object", "required": ["type", "text"], "properties": {
    "type": {"const": "text"}, "text": {"type": "string"}}}}  # fmt: skip
CALLS = {"type": "array", "items": {"type": "object", "required": ["id", "type", "function"], "properties": {
    "id": {"type": "string"}, "type": {"const": "function"}, "function": {
        "type": "object", "required": ["name", "arguments"], "properties": {
            "name": {"type": "string"}, "arguments": {"type": "string", "description": "the text of a JSON object"}}},
}}}  # fmt: skip
MESSAGE = {"type": "object", "required": ["role", "content"], "properties": {
    "role": {"enum": list(ROLES)}, "content": {"anyOf": [{"type": "string"}, TEXTS]},
    "reasoning_content": {"type": "string", "description": "an assistant's plan"},
    "tool_calls": CALLS, "tool_call_id": {"type": "string"}, "name": {"type": "string"},
}}  # fmt: skip
CHOICE = {"anyOf": [{"enum": [*CHOICES, None]}, {"type": "object", "required": ["type", "function"], "properties": {
    "type": {"const": "function"}, "function": {"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string"}}}}}]}  # fmt: skip


class ChatRequest(Strict):
    """A chat request. `constrained` is ours: whether the reply is bound to calls that fit the tools."""

    model: str
    # What is wrong with messages is told in words of their own (messages.py), so that only the description is exact.
    messages: Annotated[list[dict[str, Any]], WithJsonSchema({"type": "array", "minItems": 1, "items": MESSAGE})] = (
        Field(min_length=1, max_length=MOST_MESSAGES)
    )
    tools: list[ToolDefinition] | None = Field(None, max_length=MOST_TOOLS)
    tool_choice: Annotated[str | dict[str, Any] | None, WithJsonSchema(CHOICE)] = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, description="0, the default, takes the likeliest token")
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0)
    seed: int | None = Field(None, ge=-SEEDS, lt=2 * SEEDS)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    constrained: bool | None = None


# What would change the answer and is not supported, with the values that ask for nothing.
REFUSED: Mapping[str, Sequence[Any]] = {
    "n": (None, 1), "logprobs": (None, False), "top_logprobs": (None, 0), "logit_bias": (None, {}),
    "frequency_penalty": (None, 0), "presence_penalty": (None, 0), "audio": (None,), "modalities": (None, ["text"]),
    "prediction": (None,), "web_search_options": (None,), "functions": (None, []),
    "function_call": (None, "auto", "none"),
}  # fmt: skip
LEFT_OUT = "leave it out, and the request works"
INSTEAD = {
    "functions": 'use tools: [{"type": "function", "function": {"name": ...}}]',
    "function_call": "use tool_choice",
}


def unsupported(body: Mapping[str, Any]) -> list[Wrong]:
    """The fields that are not supported and would change the answer."""
    return [
        Wrong(name, f"{said(body[name])} is not supported here; {INSTEAD.get(name, LEFT_OUT)}")
        for name, nothing in REFUSED.items()
        if name in body
        and not any(body[name] == value and _is_bool(body[name]) == _is_bool(value) for value in nothing)
    ]


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)  # true equals 1


def problems_of(error: ValidationError) -> list[Wrong]:
    """pydantic's findings, a place once: a union tells what each of its kinds would have wanted."""
    wanted: dict[str, list[str]] = {}
    found: dict[str, Any] = {}
    for item in error.errors(include_url=False, include_context=False):
        path = ""
        for part in item["loc"]:
            if isinstance(part, int):
                path += f"[{part}]"
            elif part.isidentifier() and part not in ("str", "dict"):
                path += f".{part}" if path else part
        missing = item["type"] == "missing"
        wanted.setdefault(path, []).append("it is missing; add it" if missing else _json_words(item["msg"]))
        if not missing:
            found[path] = item["input"]
    return [
        Wrong(path, ", or ".join(dict.fromkeys(words)) + (f", not {said(found[path])}" if path in found else ""))
        for path, words in wanted.items()
    ]


def _json_words(text: str) -> str:
    """What pydantic wants, in the words of JSON."""
    text = text.partition(", not ")[0].replace("Input should be", "it should be").replace(" after validation", "")
    text = text.replace("a valid dictionary", "an object").replace("a valid boolean", "true or false")
    return text[:1].lower() + text[1:]
