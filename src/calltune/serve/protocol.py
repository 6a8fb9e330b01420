"""The body of a chat request, as OpenAI's API reference describes it, and what it asks the model for.

Fields that are not supported are refused where they would change the answer; fields that nobody knows are ignored,
as clients send many. Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from calltune.errors import InputError
from calltune.functions import check_schema
from calltune.grammar import CHOICES, Rules, offered_tools
from calltune.schema import Tool, shorten
from calltune.serve.errors import ApiError, Wrong, refused
from calltune.serve.messages import ROLES, read_messages
from calltune.serve.work import Work

MOST_TOOLS = 128  # as OpenAI's
MOST_TOKENS = 1_000_000  # above it a limit is none; the worker keeps to the model's context
MOST_TEXT = 256_000  # characters of all tools, or of the schema of a reply: checking 6 MB took 28 s
KEPT_TOOLS, KEPT_TEXT = 512, 4_000_000  # tools that are kept, and their characters
MOST_STOP = 1_000  # characters of a stop text: each is looked for in every piece
SEEDS = 2**63


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class FunctionDefinition(Strict):
    name: str = Field(min_length=1, max_length=256)
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
        Field(min_length=1)
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
    "prediction": (None,), "web_search_options": (None,), "functions": (None, []), "function_call": (None, "auto"),
}  # fmt: skip
INSTEAD = {"functions": "use tools", "function_call": "use tool_choice"}


@dataclass(frozen=True)
class Asked:
    """What a body asks for."""

    work: Work
    stream: bool
    usage: bool


@dataclass
class Reader:
    """Reads bodies. `free`: replies are not bound where the body says nothing about it."""

    models: Sequence[str]
    max_tokens: int = 512
    free: bool = False
    kept: dict[str, Tool] = field(default_factory=dict)

    def read(self, body: Any) -> Asked:
        """Raises ApiError with everything that is wrong."""
        if not isinstance(body, dict):
            raise ApiError(400, f"the body is a JSON object, not {shorten(body)}")
        problems = [
            Wrong(name, f"it is not supported: {INSTEAD.get(name, 'leave it out, and the request works')}")
            for name, nothing in REFUSED.items()
            if name in body and not any(body[name] == value for value in nothing)
        ]
        problems += [
            Wrong(name, f"it is larger than {MOST_TEXT:,} characters") for name in ("tools", "response_format")
            if name in body and len(json.dumps(body[name])) > MOST_TEXT
        ]  # fmt: skip
        if any(problem.path in ("tools", "response_format") for problem in problems):
            raise refused(problems)
        try:
            request = ChatRequest.model_validate(body)
        except ValidationError as error:
            raise refused([*problems, *problems_of(error)]) from None
        messages = read_messages(request.messages, problems)
        tools = self._tools(request.tools or (), problems)
        rules = _rules(request, tools, self.free, problems)
        work = Work(
            request.model, messages, tools, _sampling(request), rules if tools else None, _schema(request, problems),
            _stops(request.stop, problems), self._limit(request), bool(tools) and request.tool_choice != "none",
        )  # fmt: skip
        if problems:
            raise refused(problems)
        if request.model not in self.models:
            words = f"there is no model {shorten(request.model)}; there are: {', '.join(self.models)}"
            raise ApiError(404, words, param="model", code="model_not_found")
        usage = bool(request.stream_options and request.stream_options.include_usage)
        return Asked(work, bool(request.stream), usage)

    def _limit(self, request: ChatRequest) -> int:
        given = [limit for limit in (request.max_tokens, request.max_completion_tokens) if limit is not None]
        return min([*given, MOST_TOKENS] if given else [self.max_tokens])

    def _tools(self, definitions: Sequence[ToolDefinition], problems: list[Wrong]) -> tuple[Tool, ...]:
        """The tools. The same definition gives the same object again: grammars are kept by it."""
        tools = []
        for i, definition in enumerate(definitions):
            function = definition.function
            key = json.dumps([function.name, function.description, function.parameters])
            if key not in self.kept:
                tool = Tool(function.name, function.description or "",
                            function.parameters or {"type": "object", "properties": {}})  # fmt: skip
                path = f"tools[{i}].function.parameters"
                wrong = schema_problem(tool.parameters, path)
                if wrong is None and tool.parameters.get("type", "object") != "object":
                    wrong = Wrong(f"{path}.type", f'it is "object", not {shorten(tool.parameters["type"])}')
                if wrong is not None:
                    problems.append(wrong)
                    continue
                self.kept[key] = tool
                while len(self.kept) > KEPT_TOOLS or sum(map(len, self.kept)) > KEPT_TEXT:
                    del self.kept[next(iter(self.kept))]
            tools.append(self.kept[key])
        return tuple(tools)


def schema_problem(schema: Mapping[str, Any], path: str) -> Wrong | None:
    """Why something is no JSON Schema."""
    try:
        check_schema(Tool("parameters", "", schema))
    except InputError as error:
        found = error.problems[0]
        place = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in found.path.split("/")[2:])
        return Wrong(path + place, f"no JSON Schema: {found.found.removeprefix('parameters: ')}")
    except (RecursionError, ValueError, TypeError) as error:  # a pattern that does not compile, and the like
        return Wrong(path, f"no JSON Schema: {shorten(str(error))}")
    return None


def _rules(request: ChatRequest, tools: Sequence[Tool], free: bool, problems: list[Wrong]) -> Rules | None:
    """What the reply is bound to; None for free decoding."""
    choice, parallel = request.tool_choice, request.parallel_tool_calls
    if isinstance(choice, str) and choice not in CHOICES:
        problems.append(Wrong("tool_choice", f"it is {', '.join(CHOICES)} or "
                              '{"type": "function", "function": {"name": ...}}, not ' + shorten(choice)))  # fmt: skip
        return None
    if isinstance(choice, Mapping) and choice.get("type", "function") != "function":
        problems.append(Wrong("tool_choice.type", f'only "function" is supported, not {shorten(choice["type"])}'))
        return None
    try:
        rules = Rules.of("auto" if choice is None else choice, parallel is not False)
        rules = replace(rules, parallel=rules.parallel and not rules.named)  # a named tool is called once
        offered_tools(tools, rules)
    except InputError as error:
        path = "tools" if "same name" in error.message else "tool_choice"
        problems.append(Wrong(path, " ".join(str(error).split())))
        return None
    asks = rules.named or rules.choice == "required" or parallel is False
    if request.constrained is False and asks and tools:
        path = "parallel_tool_calls" if parallel is False else "tool_choice"
        problems.append(Wrong(path, "it cannot be kept with constrained false; leave one of the two out"))
    if request.constrained is False or (request.constrained is None and free and not asks):
        return None
    return rules


def _schema(request: ChatRequest, problems: list[Wrong]) -> Mapping[str, Any] | None:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return None
    if request.constrained is False:
        problems.append(
            Wrong("response_format", "it cannot be kept with constrained false; leave one of the two out")
        )
    if wanted.type == "json_object":
        return {}
    if wanted.json_schema is None:
        problems.append(Wrong("response_format.json_schema", "it is missing"))
        return None
    schema = wanted.json_schema.schema_
    path = "response_format.json_schema.schema"
    if (wrong := schema_problem(schema, path)) is not None:
        problems.append(wrong)
    return schema


def _stops(value: str | list[str] | None, problems: list[Wrong]) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if len(stops) > 4:
        problems.append(Wrong("stop", f"at most 4 texts, not {len(stops)}"))
    if not all(stops):
        problems.append(Wrong("stop", "an empty text would end every reply at once"))
    if any(len(stop) > MOST_STOP for stop in stops):
        problems.append(Wrong("stop", f"a text of it is longer than {MOST_STOP:,} characters"))
    return tuple(stops)


def _sampling(request: ChatRequest) -> Any:
    from calltune.engine.decode import Sampling

    seed = None if request.seed is None else request.seed % (2 * SEEDS)
    top_p = 1.0 if request.top_p is None else max(request.top_p, 1e-6)  # 0: the likeliest alone
    return Sampling(request.temperature or 0.0, top_p, min(request.top_k or 0, SEEDS), seed)


def problems_of(error: ValidationError) -> list[Wrong]:
    """pydantic's findings, a place once: a union tells what each of its kinds would have wanted."""
    found: dict[str, list[str]] = {}
    for item in error.errors(include_url=False, include_context=False):
        path = ""
        for part in item["loc"]:
            if isinstance(part, int):
                path += f"[{part}]"
            elif part.isidentifier() and part not in ("str", "dict"):
                path += f".{part}" if path else part
        words = "it is missing" if item["type"] == "missing" else item["msg"]
        found.setdefault(path, []).append(words[:1].lower() + words[1:])
    return [Wrong(path, ", or ".join(dict.fromkeys(words))) for path, words in found.items()]
