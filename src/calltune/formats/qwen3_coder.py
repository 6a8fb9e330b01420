"""Qwen3-Coder's form: a function and its parameters as tags, values as bare text.

    <tool_call>
    <function=get_weather>
    <parameter=city>
    Paris
    </parameter>
    </function>
    </tool_call>

Bare text has no types: `tools` says which a value has; without them numbers, true, null, lists and objects are read
as such, everything else is text. A text that holds one of the tags is written as a JSON string without `<`.
Source: the chat template and qwen3coder_tool_parser.py of Qwen/Qwen3-Coder-30B-A3B-Instruct.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from calltune.formats.literals import NAMES, read_value
from calltune.formats.pieces import Format, Piece, before_calls, check_names, merge, raw_call
from calltune.formats.scan import Scan
from calltune.schema import GUARD, Message, Reply, Tool, ToolCall, find_tool

OPEN, CLOSE = "<tool_call>", "</tool_call>"
FUNCTION, END_FUNCTION = "<function=", "</function>"
END_VALUE = "</parameter>"
PARAMETER = re.compile(r"\s*<parameter=([^>\n]*)>\n?")
END_PARAMETER = re.compile(r"\n?</parameter>(?=\s*(?:<parameter=|</function>|</tool_call>|\Z))")
TAGS = re.compile(r"</?(?:parameter|function|tool_call)\b|\\u003c")
NAME = re.compile(r"[^\s<>]+")
KEY = re.compile(r"[^<>\n]+")


def write(reply: Reply | Message) -> tuple[Piece, ...]:
    """The pieces of a reply. Raises InputError for names that the form cannot say."""
    check_names(reply.calls, "qwen3-coder", NAME, KEY)
    pieces = before_calls(reply)
    for i, call in enumerate(reply.calls):
        pieces.append((("\n" if i else "") + f"{OPEN}\n", "syntax"))
        if call.error is not None:
            pieces += raw_call(call)
        else:
            pieces += [(FUNCTION, "syntax"), (call.name, "name"), (">\n", "syntax")]
            for key, value in call.arguments.items():
                shown = f"<parameter={key}>\n{value_text(value)}\n</parameter>\n"
                pieces.append((shown, "arguments"))
            pieces.append((END_FUNCTION, "syntax"))
        pieces.append((f"\n{CLOSE}", "syntax"))
    return merge(pieces)


def value_text(value: Any) -> str:
    """A value as bare text, as the model's own template writes it."""
    if isinstance(value, str):
        plain = value.replace(GUARD, "")
        return json.dumps(plain, ensure_ascii=False).replace("<", "\\u003c") if TAGS.search(plain) else value
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list, tuple)) else str(value)


def parse(text: str, *, thinking_open: bool = False, tools: Sequence[Tool] = ()) -> Reply:
    """Reads what a model wrote. Never raises; see hermes.parse. `tools` gives the values their types."""

    def span(scan: Scan, match: re.Match[str]) -> int:
        return _span(scan, match, tools)

    opens = rf"(?:{OPEN}\s*)?{FUNCTION}"
    return Scan(text, opens, span, (END_FUNCTION, END_VALUE, CLOSE)).run(thinking_open)


def _span(scan: Scan, match: re.Match[str], tools: Sequence[Tool]) -> int:
    """Reads one call; returns the index after it."""
    text, start = scan.text, match.end()
    limit = scan.next_opening(start)
    name_end = text.find(">", start, limit)
    name = text[start:name_end].strip() if name_end >= 0 else ""
    if not NAME.fullmatch(name):
        return _broken(scan, match.start(), start, "a function without a name", "")
    position, values = name_end + 1, dict[str, str]()
    while parameter := PARAMETER.match(text, position):
        end = _end_of_value(scan, parameter.end(), limit)
        if not end:
            return _broken(scan, match.start(), start, "a parameter that does not end", name)
        if parameter[1] in values:
            return _broken(scan, match.start(), start, f"the parameter {parameter[1]!r} is given twice"[:80], name)
        values[parameter[1]] = text[parameter.end() : end.start()]
        position = end.end()
    if not text.startswith((END_FUNCTION, CLOSE), after := scan.skip(position)):
        return _broken(scan, match.start(), start, "a function that does not end", name)
    tool = find_tool(tools, name)
    arguments = {key: typed(value, tool.properties.get(key) if tool else None) for key, value in values.items()}
    scan.add([(ToolCall(name, arguments), "")])
    after = scan.past(after, END_FUNCTION)
    close = scan.skip(after)
    return close + len(CLOSE) if text.startswith(CLOSE, close) else after


def _end_of_value(scan: Scan, start: int, limit: int) -> re.Match[str] | None:
    """The tag that ends a value: one that is followed by another of the call's tags, as a text may hold it too."""
    if scan.next(start, END_VALUE) == len(scan.text):
        return None
    end = END_PARAMETER.search(scan.text, start, len(scan.text) if scan.budget > 0 else limit)
    scan.budget -= (end.end() if end else len(scan.text)) - start
    return end


def _broken(scan: Scan, first: int, start: int, error: str, name: str) -> int:
    """The text up to the call's end, or up to the next call, is a call that could not be read."""
    stop = scan.limit(start, CLOSE)
    raw = scan.text[first:stop].removeprefix(OPEN).strip()
    scan.broken(raw, error, name)
    return scan.past(stop, CLOSE)


def typed(text: str, schema: Any) -> Any:
    """Bare text as a value of the schema's type, or as what it looks like; what does not fit stays text."""
    if text[:1] == '"' and text[-1:] == '"' and "\\u003c" in text:
        try:
            return read_value(text)
        except ValueError:
            return text
    kinds = schema.get("type") if isinstance(schema, Mapping) else None
    kinds = [kinds] if isinstance(kinds, str) else list(kinds or ())
    bare = text.strip()
    if kinds == ["string"]:
        return text
    if bare in NAMES:
        kind = "null" if NAMES[bare] is None else "boolean"
        return NAMES[bare] if not kinds or kind in kinds else text
    if "string" in kinds and bare[:1] not in ("{", "["):
        return text
    value = _guess(bare, text)
    if isinstance(value, float) and kinds == ["integer"] and value.is_integer():
        return int(value)
    return value


def _guess(bare: str, text: str) -> Any:
    """What a value looks like that may be of any type."""
    if bare[:1] in ("{", "[") or re.fullmatch(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", bare):
        try:
            return read_value(bare)
        except ValueError:
            return text
    return text


QWEN3_CODER = Format(
    "qwen3-coder", write, parse, re.compile(rf"(?:{OPEN}\s*)?{FUNCTION}"), FUNCTION, "Qwen3-Coder, Qwen3.5",
    "https://huggingface.co/Qwen/Qwen3-Coder-30B-A3B-Instruct/blob/main/qwen3coder_tool_parser.py",
)  # fmt: skip
