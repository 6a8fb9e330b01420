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
from calltune.formats import hermes, mistral
from calltune.formats.pieces import END_THINK, THINK
from calltune.schema import Reply, Tool, ToolCall, shorten, validate_call
from calltune.template import Template
from calltune.tokenizer import Tokenizer

CHOICES = ("auto", "none", "required")
# As json.dumps writes: what was trained, and most of it forced.
SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


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


@dataclass(frozen=True)
class Frame:
    """How a format writes a call around its JSON arguments: `mark`, `before` the quoted or bare name, `after` it,
    `end` after the arguments, `between` before the next mark."""

    mark: str
    before: str
    after: str
    end: str
    between: str
    quoted: bool = True


def frame_of(template: Template) -> Frame:
    """Raises InputError for a format whose calls cannot be bound."""
    if template.format in ("hermes", "python-hermes"):
        style = hermes.HermesStyle(**template.style)
        opening = style.call_open.partition(hermes.OPEN)[2]
        return Frame(
            hermes.OPEN, opening + '{"name": ', ', "arguments": ', "}" + style.call_close, style.between_calls
        )
    if template.format == "llama3":
        return Frame('{"name": ', "", ', "parameters": ', "}", "; ")
    if template.format == "mistral":
        return Frame(mistral.OPEN, "", "[ARGS]", "", "", quoted=False)
    raise InputError(f"calls in the {template.format} format cannot be bound to their schemas yet",
                     next_step="decode freely; calls are checked after decoding")  # fmt: skip


def grammar_of(
    tools: Sequence[Tool], rules: Rules, template: Template, tokenizer: Tokenizer, *, open_thinking: bool = False
) -> Grammar:
    """The grammar of a reply to a request with these tools. Raises InputError: a call is asked for and there is no
    tool, the named tool is not there, two tools of one name, a format that cannot be bound."""
    offered = offered_tools(tools, rules)
    frame = frame_of(template)
    marks = [THINK, END_THINK, frame.mark, *((hermes.CLOSE,) if frame.mark == hermes.OPEN else ())]
    lines = ["%llguidance {}", f"CONTENT: {_without(marks)}", f"PLAN: {_without([END_THINK])}"]
    plan, thinks = "", template.think_instruction is not None
    if thinks or open_thinking:
        after = hermes.HermesStyle(**template.style).think_close.partition(END_THINK)[2]
        begin = "" if open_thinking else f"{_mark(THINK, tokenizer)} "
        lines += [_up_to("plan_text", "PLAN", _mark(END_THINK, tokenizer)), f"plan: {begin}plan_text {_text(after)}"]
        plan = "plan " if open_thinking else "plan? "
    opening = _mark(frame.mark, tokenizer)
    calls, loose, watched = "", dict[str, tuple[str, ...]](), False
    for i, tool in enumerate(offered):
        schema, missing = enforceable(tool)
        if missing:
            loose[tool.name] = missing
        watched = watched or bool(missing) or needs_watching(schema)
        name = json.dumps(tool.name, ensure_ascii=False) if frame.quoted else tool.name
        head = _text(frame.before + name + frame.after)
        lines.append(f"call_{i}: {head} %json {json.dumps(schema)} {_text(frame.end)}")
    if offered:
        lines.append("call: " + " | ".join(f"call_{i}" for i in range(len(offered))))
        more = f" ({_text(frame.between)} {opening} call)*" if rules.parallel else ""
        calls = f"call{more}"
    if rules.named or rules.choice == "required":
        lines.append(f"start: {plan}{opening} {calls}")
    elif calls:
        lines += [_up_to("head", "CONTENT", opening), f"start: {plan}(head {calls} | CONTENT?)"]
    else:
        lines.append(f"start: {plan}CONTENT?")
    return Grammar("\n".join(lines) + "\n", loose, watched)


def offered_tools(tools: Sequence[Tool], rules: Rules) -> list[Tool]:
    """The tools that may be called. Raises InputError."""
    twice = sorted(name for name, count in Counter(tool.name for tool in tools).items() if count > 1)
    if twice:
        raise InputError(f"two tools have the same name: {', '.join(twice)}", next_step="rename one of them")
    if rules.named:
        found = [tool for tool in tools if tool.name == rules.choice]
        if not found:
            problem = Problem("unknown_function", rules.choice, ", ".join(tool.name for tool in tools) or "no tool")
            raise InputError("tool_choice names a tool that is not offered", problems=[problem])
        return found
    if rules.choice == "required" and not tools:
        raise InputError("tool_choice is required, but no tools were given",
                         next_step="offer a tool, or ask with tool_choice auto")  # fmt: skip
    return [] if rules.choice == "none" else list(tools)


def _text(text: str) -> str:
    """A literal of the grammar; '' for no text."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def _mark(text: str, tokenizer: Tokenizer) -> str:
    """A mark as the model writes it: one token of its own where the vocabulary has it so, else text."""
    added = {str(token.content): i for i, token in tokenizer.inner.added_tokens_decoder.items()}
    return f"<[{added[text]}]>" if text in added else _text(text)


def _up_to(name: str, text: str, mark: str) -> str:
    """A rule: text (or none) and the mark after it. Where the mark is text too, both are one terminal: the lexer does
    not go back to find where one ends and the other begins."""
    if mark.startswith("<"):
        return f"{name}: {text}? {mark}"
    return f"{name}: {name.upper()}\n{name.upper()}: {text}? {mark}"


def _without(marks: Sequence[str]) -> str:
    """A terminal: any text that holds none of the marks."""
    inner = "|".join(re.escape(mark).replace("/", "\\/") for mark in dict.fromkeys(marks))
    return f"/(?s:.+)/ & ~/(?s:.*)({inner})(?s:.*)/"


# ---- schemas ----------------------------------------------------------------------------------------------------


def enforceable(tool: Tool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The schema as the grammar enforces it, and in words what of it had to be left out.

    Objects that list their properties take no others, as `validate_call` wants it of arguments.
    """
    schema = closed(dict(tool.parameters))
    schema.setdefault("type", "object")
    if not schema.get("properties") and "additionalProperties" not in tool.parameters:
        schema["additionalProperties"] = False
    if not (error := compile_error(schema)):
        return schema | {"x-guidance": SPACING}, ()
    properties = schema.get("properties")
    missing = []
    if isinstance(properties, dict):
        kept = {}
        for name, value in properties.items():
            kept[name], why = _simpler(value, schema)
            missing += [f"/{name}: {why}"] if why else []
        schema = schema | {"properties": kept}
    if (left := compile_error(schema)) and not compile_error(schema, lenient=True):
        return schema | {"x-guidance": SPACING | {"lenient": True}}, (*missing, left)
    if left:
        names = list(schema["properties"]) if isinstance(properties, dict) else []
        schema = {"type": "object", "properties": dict.fromkeys(names, True), "additionalProperties": not names}
        return schema | {"x-guidance": SPACING}, (error,)
    return schema | {"x-guidance": SPACING}, tuple(missing)


def _simpler(value: Any, root: Mapping[str, Any]) -> tuple[Any, str]:
    """A property's schema as far as it compiles, and why it is not whole."""
    around = {key: root[key] for key in ("$defs", "definitions") if key in root}
    error = compile_error(around | {"type": "object", "properties": {"x": value}})
    if not error:
        return value, ""
    if isinstance(value, Mapping):
        for keys in (("type", "enum", "items", "properties", "required"), ("type", "enum"), ("type",)):
            part = {key: value[key] for key in keys if key in value}
            if part and not compile_error(around | {"type": "object", "properties": {"x": part}}):
                return part, error
    return True, error


def closed(schema: Any) -> Any:
    """The schema with objects that list properties closed against others."""
    if isinstance(schema, Mapping):
        found = {key: value if key in ("enum", "const", "default", "examples") else closed(value)
                 for key, value in schema.items()}  # fmt: skip
        listed = isinstance(found.get("properties"), Mapping) and found["properties"]
        if listed and "additionalProperties" not in found and "patternProperties" not in found:
            found["additionalProperties"] = False
        return found
    return [closed(item) for item in schema] if isinstance(schema, list) else schema


def compile_error(schema: Mapping[str, Any], *, lenient: bool = False) -> str:
    """Why llguidance cannot make a grammar of a schema; empty where it can."""
    from llguidance import LLMatcher

    options = SPACING | ({"lenient": True} if lenient else {})
    try:
        grammar = "%llguidance {}\nstart: %json " + json.dumps(dict(schema) | {"x-guidance": options})
        said = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(grammar))
    except (ValueError, TypeError) as error:
        said = str(error)
    return shorten(said, 160)


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
            found = validate_call(ToolCall(call.name, call.arguments), tools)
            verdict = "; ".join(map(str, found)) if found else "it fits"
            notes.append(f"{call.name}: not enforced while decoding: {'; '.join(grammar.loose[call.name])}; "
                         f"checked afterwards: {verdict}")  # fmt: skip
    return tuple(notes)
