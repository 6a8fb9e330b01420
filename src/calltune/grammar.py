"""From the tools of a request to the grammar that decoding is bound to: free plan, then only calls that fit.

The grammar is llguidance's (Lark with `%json`): https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
What it cannot say of a schema is left out and told (`Grammar.loose`), and judged after decoding by `check_loose`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from calltune.errors import InputError, Problem
from calltune.formats import get_format
from calltune.formats.pieces import END_THINK, THINK
from calltune.frames import Frame, arguments_of, frame_of, spelled
from calltune.grammar_held import Mending, hold, told
from calltune.grammar_values import SPACING, literal, without
from calltune.references import mapped
from calltune.schema import Reply, Tool, ToolCall, shorten, validate_call
from calltune.template import Template
from calltune.tokenizer import Tokenizer

CHOICES = ("auto", "none", "required")


# Six decimals at most: Python's times end at microseconds, and drop what is beyond.
_CLOCK = r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,6})?)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)?"
_DAY = (
    r"((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|[12]\d))"  # 02-29 in any year
)
TIMES = {"time": f"^{_CLOCK}$", "date-time": rf"^\d{{4}}-{_DAY}T{_CLOCK}$"}


@dataclass(frozen=True)
class Rules:
    """What a reply may hold. `choice`: auto, none, required, or the name of the tool that must be called; `named`
    says that it is a name, where a tool is named like a choice. `parallel`: more than one call."""

    choice: str = "auto"
    parallel: bool = True
    named: bool = False

    @staticmethod
    def of(tool_choice: Any = "auto", parallel: bool = True) -> Rules:
        """From OpenAI's `tool_choice`: a word, a name, or `{"type": "function", "function": {"name": ...}}`.
        Raises InputError."""
        if isinstance(tool_choice, Mapping):
            function = tool_choice.get("function")
            name = function.get("name") if isinstance(function, Mapping) else tool_choice.get("name")
            if isinstance(name, str):
                return Rules(name, parallel, named=True)
        elif isinstance(tool_choice, str):
            return Rules(tool_choice, parallel, named=tool_choice not in CHOICES)
        problem = Problem("bad_tool_choice", shorten(tool_choice), f"{', '.join(CHOICES)} or a tool's name")
        raise InputError("tool_choice is not right", problems=[problem])


@dataclass(frozen=True)
class Grammar:
    """A grammar's text; for each tool, what of its schema it does not enforce; whether a call has to be watched for
    keys given twice and numbers too large, which no grammar of this kind can exclude."""

    text: str
    loose: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    watched: bool = False
    begins: str = ""  # pattern: how the part of a call begins that is watched
    strings: str = ""  # what stands around strings, where that is no quote
    must: bool = False  # a call has to come


def grammar_of(
    tools: Sequence[Tool], rules: Rules, template: Template, tokenizer: Tokenizer, *, open_thinking: bool = False
) -> Grammar:
    """The grammar of a reply to a request with these tools. Raises InputError: a call is asked for and there is no
    tool, the named tool is not there, two tools of one name, a format that cannot be bound."""
    offered = offered_tools(tools, rules)
    frame = frame_of(template)
    _check_names(offered, template)
    marks = [re.escape(mark.strip()) for mark in (*frame.think, THINK, END_THINK, frame.mark) if mark]
    lines = ["%llguidance {}", f"CONTENT: {without([*marks, *frame.refused])}",
             f"PLAN: {without([re.escape(frame.think[1])])}"]  # fmt: skip
    plan, thinks = "", template.think_instruction is not None
    if thinks or open_thinking:
        begin = "" if open_thinking else f"{spelled(frame.think[0], tokenizer)} "
        closed = _up_to("plan_text", "PLAN", spelled(frame.think[1], tokenizer))
        lines += [closed, f"plan: {begin}plan_text {literal(frame.after_think)}"]
        plan = "plan " if open_thinking else "plan? "
    loose, watched = dict[str, tuple[str, ...]](), False
    for i, tool in enumerate(offered):
        schema, missing = enforceable(tool)
        if frame.form:
            expression, values = arguments_of(tool, schema, frame, f"call_{i}", tokenizer)
            lines += values.lines
            missing, watched = (*missing, *values.missing), watched or values.free
        else:
            expression, watched = f"%json {json.dumps(schema)}", watched or needs_watching(schema)
        if missing:
            loose[tool.name], watched = missing, True
        name = json.dumps(tool.name, ensure_ascii=False) if frame.quoted else tool.name
        around = spelled(frame.before, tokenizer), spelled(frame.after, tokenizer)
        head = f"{around[0]} {literal(name)} {around[1]}" if frame.mark else ""
        lines.append(f"call_{i}: {head} {expression} {spelled(frame.end, tokenizer)}")
    lines += _start(frame, offered, rules, plan, tokenizer)
    must = bool(rules.named) or rules.choice == "required"
    return Grammar("\n".join(lines) + "\n", loose, watched, frame.begins, frame.strings, must)


def _start(frame: Frame, offered: Sequence[Tool], rules: Rules, plan: str, tokenizer: Tokenizer) -> list[str]:
    """The rules of the whole reply, after those of each tool's call."""
    if not offered:
        return [f"start: {plan}CONTENT?"]
    must = rules.named or rules.choice == "required"
    named = [f"call_{i}" for i in range(len(offered))]
    heads = [literal(f"{tool.name}{frame.after}") for tool in offered]
    if not frame.mark:  # the words up to a call are one piece with its beginning, for the lexer
        more = " | ".join(f"{head} {call}" for head, call in zip(heads, named, strict=True))
        again = f" ({literal(frame.between)} ({more}))*" if rules.parallel else ""
        lines, first = [], []
        for i, (head, call) in enumerate(zip(heads, named, strict=True)):
            lines.append(f"HEAD_{i}: {'' if must else 'CONTENT? '}{literal('[' + json.loads(head))}")
            first.append(f"HEAD_{i} {call}")
        calls = f"({' | '.join(first)}){again} {literal(frame.closes)}"
        return [*lines, f"start: {plan}{calls}" if must else f"start: {plan}({calls} | CONTENT?)"]
    opening = spelled(frame.mark, tokenizer)
    between = f"{literal(frame.between)} {opening if frame.again else ''} call"
    calls = f"call ({between})*" if rules.parallel else "call"
    if frame.listed:
        calls = f'(call | "[" call ({between})+ "]")' if rules.parallel else "call"
    closes = spelled(frame.closes, tokenizer)
    lines = [f"call: {' | '.join(named)}", f"calls: {literal(frame.opens)} {calls} {closes}"]
    if must:
        return [*lines, f"start: {plan}{opening} calls"]
    return [*lines, _up_to("head", "CONTENT", opening), f"start: {plan}(head calls | CONTENT?)"]


def _check_names(tools: Sequence[Tool], template: Template) -> None:
    """Raises InputError for names that the format cannot write."""
    keys = [dict.fromkeys(tool.properties) for tool in tools]
    calls = tuple(ToolCall(tool.name, arguments) for tool, arguments in zip(tools, keys, strict=True))
    get_format(template.format).write(Reply(calls=calls))


def offered_tools(tools: Sequence[Tool], rules: Rules) -> list[Tool]:
    """The tools that may be called. Raises InputError."""
    twice = sorted(name for name, count in Counter(tool.name for tool in tools).items() if count > 1)
    if twice:
        raise InputError(f"two tools have the same name: {', '.join(twice)}", next_step="rename one of them")
    if rules.named:
        found = [tool for tool in tools if tool.name == rules.choice]
        if not found:
            problem = Problem("unknown_function", rules.choice, ", ".join(tool.name for tool in tools) or "no tool")
            raise InputError("tool_choice names a tool that is not offered", problems=[problem],
                             next_step="name one that is offered, or take auto, none or required")  # fmt: skip
        return found
    if rules.choice == "required" and not tools:
        raise InputError("tool_choice is required, but no tools were given",
                         next_step="offer a tool, or ask with tool_choice auto")  # fmt: skip
    return [] if rules.choice == "none" else list(tools)


def _up_to(name: str, text: str, mark: str) -> str:
    """A rule: text (or none) and the mark after it. Where the mark is text too, both are one terminal: the lexer does
    not go back to find where one ends and the other begins."""
    if mark.startswith("<"):
        return f"{name}: {text}? {mark}"
    return f"{name}: {name.upper()}\n{name.upper()}: {text}? {mark}"


# ---- schemas ----------------------------------------------------------------------------------------------------


def enforceable(tool: Tool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The schema as the grammar enforces it, and in words what of it had to be left out.

    Objects that list their properties take no others, as `validate_call` wants it of arguments.
    """
    schema = _with_times(closed(dict(tool.parameters)))
    schema.setdefault("type", "object")
    if not schema.get("properties") and "additionalProperties" not in tool.parameters:
        schema["additionalProperties"] = False
    held = hold(schema)
    schema, left = dict(held.schema), held.left
    properties = schema.get("properties")
    if held.error and isinstance(properties, dict):
        mending = Mending(schema)
        schema["properties"] = mending.mended(properties)
        held = hold(schema)
        schema, left = dict(held.schema), (*left, *mending.left, *held.left)
    if held.error:
        names = list(properties) if isinstance(properties, dict) else []
        schema = {"type": "object", "properties": dict.fromkeys(names, True), "additionalProperties": not names}
        return schema | {"x-guidance": SPACING}, told((*left, held.error))
    return schema | {"x-guidance": SPACING | ({"lenient": True} if held.lenient else {})}, told(left)


def _with_times(schema: Any) -> Any:
    """The schema with times as functions take them and `check` lets them pass: `19:15` too, where JSON Schema's own
    format wants seconds and an offset, which training rows do not have."""

    def change(node: dict[str, Any]) -> dict[str, Any]:
        form = node.get("format")
        if isinstance(form, str) and form in TIMES and "pattern" not in node:
            del node["format"]
            node["pattern"] = TIMES[form]
        return node

    return mapped(schema, change)


def closed(schema: Any) -> Any:
    """The schema with objects that list properties closed against others."""

    def change(node: dict[str, Any]) -> dict[str, Any]:
        listed = isinstance(node.get("properties"), Mapping) and node["properties"]
        if listed and "additionalProperties" not in node and "patternProperties" not in node:
            node["additionalProperties"] = False
        return node

    return mapped(schema, change)


def needs_watching(schema: Any) -> bool:
    """Whether values of a schema may hold keys given twice (objects of free keys) or numbers too large to read."""
    for node in _schemas(schema):
        kinds = node.get("type")
        kinds = [kinds] if isinstance(kinds, str) else list(kinds or ()) if isinstance(kinds, list) else []
        if "number" in kinds or (not kinds and not {"enum", "const", "$ref", "properties"} & node.keys()):
            return True
        if "object" in kinds and (node.get("additionalProperties") is not False or "patternProperties" in node):
            return True
    return False


def _schemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    if schema is True:
        yield {}
    if not isinstance(schema, Mapping):
        return
    yield schema
    for key in ("properties", "patternProperties", "$defs", "definitions"):
        for value in schema[key].values() if isinstance(schema.get(key), Mapping) else ():
            yield from _schemas(value)
    for key in ("items", "additionalProperties", "anyOf", "oneOf", "allOf", "prefixItems"):
        value = schema.get(key)
        for item in value if isinstance(value, list) else [value] if isinstance(value, Mapping) else []:
            yield from _schemas(item)


def check_loose(reply: Reply, grammar: Grammar, tools: Sequence[Tool]) -> tuple[str, ...]:
    """A note for each call whose schema could not be enforced whole, with what checking it afterwards found."""
    notes = []
    for call in reply.calls:
        if not call.error and call.name in grammar.loose:
            problems = validate_call(ToolCall(call.name, call.arguments), tools, bounded=True)
            notes.append(f"{call.name}: {loose_note(grammar.loose[call.name], [str(each) for each in problems])}")
    return tuple(notes)


def loose_note(loose: Sequence[str], found: Sequence[str]) -> str:
    """In words: what was not enforced, and what was found of it afterwards."""
    verdict = "; ".join(found) if found else "it fits"
    return f"not enforced while decoding: {'; '.join(loose)}; checked afterwards: {verdict}"
