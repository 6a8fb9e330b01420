"""From the body of a chat request to the work that it asks the model for, with everything that is wrong in it."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from calltune.errors import InputError
from calltune.functions import check_schema
from calltune.grammar import CHOICES, Rules, offered_tools
from calltune.references import reference_problems
from calltune.schema import Tool, shorten
from calltune.serve.errors import ApiError, Wrong, refused, said, words_of
from calltune.serve.messages import NAME, NAME_WORDS, read_messages
from calltune.serve.protocol import MOST_MESSAGES, SEEDS, ChatRequest, ToolDefinition, problems_of, unsupported
from calltune.serve.work import Work

MOST_TOKENS = 1_000_000  # above it a limit is none; the worker keeps to the model's context
MOST_TEXT = 256_000  # characters of all tools, or of the schema of a reply: checking 6 MB took 28 s
KEPT_TOOLS, KEPT_TEXT = 512, 4_000_000  # tools that are kept, and their characters
MOST_STOP = 1_000  # characters of a stop text: each is looked for in every piece


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
    lock: threading.Lock = field(default_factory=threading.Lock)  # of `kept`: bodies are read in several threads

    def read(self, body: Any) -> Asked:
        """Raises ApiError with everything that is wrong."""
        if not isinstance(body, dict):
            words = f'the body should be a JSON object, not {said(body)}; send {{"model": ..., "messages": [...]}}'
            raise ApiError(400, words)
        problems = unsupported(body)
        for name in ("tools", "response_format"):
            size = len(json.dumps(body[name])) if name in body else 0
            if size > MOST_TEXT:
                words = f"it is {size:,} characters of JSON, larger than {MOST_TEXT:,} characters; shorten it"
                raise refused([*problems, Wrong(name, words)])
        values = body.get("messages")
        # pydantic would look at each before it counts them
        if isinstance(values, list) and len(values) > MOST_MESSAGES:
            words = f"at most {MOST_MESSAGES:,} messages are taken, not {len(values):,}; leave out the oldest"
            raise refused([*problems, Wrong("messages", words)])
        try:
            request = ChatRequest.model_validate(body)
        except ValidationError as error:
            problems += problems_of(error)
            if isinstance(values, list) and not any(problem.path.startswith("messages") for problem in problems):
                read_messages(values, problems)
            raise refused(problems) from None
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
            words = f"there is no model {shorten(request.model)}; ask for one of: {', '.join(self.models)}"
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
            tool = self.kept.get(key)
            if tool is None:
                tool = Tool(function.name, function.description or "",
                            function.parameters or {"type": "object", "properties": {}})  # fmt: skip
                wrong = _tool_problems(tool, f"tools[{i}].function")
                problems += wrong
                tool = tool if wrong else self._keep(key, tool)
            tools.append(tool)
        return tuple(tools)

    def _keep(self, key: str, tool: Tool) -> Tool:
        """The tool, or the same of another body that was read meanwhile."""
        with self.lock:
            tool = self.kept.setdefault(key, tool)
            while len(self.kept) > KEPT_TOOLS or sum(map(len, self.kept)) > KEPT_TEXT:
                del self.kept[next(iter(self.kept))]
        return tool


def _tool_problems(tool: Tool, path: str) -> list[Wrong]:
    """What is wrong with a tool."""
    found = [] if NAME.fullmatch(tool.name) else [Wrong(f"{path}.name", f"{NAME_WORDS}, not {said(tool.name)}")]
    wrong = schema_problem(tool.parameters, f"{path}.parameters")
    if wrong is None and tool.parameters.get("type", "object") != "object":
        kind = said(tool.parameters["type"])
        wrong = Wrong(f"{path}.parameters.type", f'it should be "object", not {kind}: arguments are an object')
    return [*found, wrong] if wrong else found


def schema_problem(schema: Mapping[str, Any], path: str) -> Wrong | None:
    """Why something is no JSON Schema."""
    try:
        check_schema(Tool("parameters", "", schema))
    except InputError as error:
        found = error.problems[0]
        place, words = found.path.removeprefix("/parameters"), found.found.removeprefix("parameters: ")
        return Wrong(path + _dotted(place), f"this is no JSON Schema: {words}; correct it there")
    except (RecursionError, ValueError, TypeError) as error:  # a pattern that does not compile, and the like
        return Wrong(path, f"this is no JSON Schema: {shorten(str(error))}; correct it")
    return None


def _dotted(place: str) -> str:
    """A JSON pointer as in JavaScript: `.anyOf[0]`."""
    return "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in place.split("/")[1:])


def _rules(request: ChatRequest, tools: Sequence[Tool], free: bool, problems: list[Wrong]) -> Rules | None:
    """What the reply is bound to; None for free decoding."""
    choice, parallel = request.tool_choice, request.parallel_tool_calls
    if isinstance(choice, str) and choice not in CHOICES:
        problems.append(Wrong("tool_choice", f"it should be {', '.join(CHOICES)} or "
                              '{"type": "function", "function": {"name": ...}}, not ' + said(choice)))  # fmt: skip
        return None
    if isinstance(choice, Mapping) and choice.get("type", "function") != "function":
        problems.append(Wrong("tool_choice.type", f'it should be "function", not {said(choice["type"])}'))
        return None
    try:
        rules = Rules.of("auto" if choice is None else choice, parallel is not False)
        rules = replace(rules, parallel=rules.parallel and not rules.named)  # a named tool is called once
        offered_tools(tools, rules)
    except InputError as error:
        path = "tools" if "same name" in error.message else "tool_choice"
        problems.append(Wrong(path, words_of(error).removeprefix("tool_choice ")))
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
        problems.append(Wrong("response_format.json_schema", 'it is missing; send {"name": ..., "schema": {...}}'))
        return None
    schema = wanted.json_schema.schema_
    path = "response_format.json_schema.schema"
    if (wrong := schema_problem(schema, path)) is not None:
        problems.append(wrong)
    else:
        problems += [Wrong(path + _dotted(place), f"{words}; correct it there")
                     for place, words in reference_problems(schema)]  # fmt: skip
    return schema


def _stops(value: str | list[str] | None, problems: list[Wrong]) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if len(stops) > 4:
        problems.append(Wrong("stop", f"at most 4 texts are taken, not {len(stops)}; leave some out"))
    if not all(stops):
        problems.append(Wrong("stop", "an empty text would end every reply at once; leave it out"))
    if any(len(stop) > MOST_STOP for stop in stops):
        problems.append(Wrong("stop", f"a text of it is longer than {MOST_STOP:,} characters; shorten it"))
    return tuple(stops)


def _sampling(request: ChatRequest) -> Any:
    from calltune.engine.decode import Sampling

    seed = None if request.seed is None else request.seed % (2 * SEEDS)
    top_p = 1.0 if request.top_p is None else max(request.top_p, 1e-6)  # 0: the likeliest alone
    return Sampling(request.temperature or 0.0, top_p, min(request.top_k or 0, SEEDS), seed)
