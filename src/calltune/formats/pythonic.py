"""Calls as a list of Python calls, bare (Llama 3.2 and 4) or between marks (LFM2).

    [get_weather(city="Paris", days=3), get_time(city="Paris")]
    <|tool_call_start|>[get_weather(city="Paris")]<|tool_call_end|>

Arguments whose names are no Python names are written as `**{"a name": 1}`. Without marks, only what reads as calls
with named arguments is a call; where a reply begins so and does not read, that is an error.
Source: https://www.llama.com/docs/model-cards-and-prompt-formats/llama4/ and the chat template of LiquidAI/LFM2.
"""

from __future__ import annotations

import json
import re
from typing import Any

from calltune.formats.literals import MAX_DEPTH, read_value
from calltune.formats.pieces import Format, Piece, before_calls, check_names, merge, raw_call
from calltune.formats.scan import Scan, skip
from calltune.schema import Message, Reply, ToolCall

OPEN, CLOSE = "<|tool_call_start|>", "<|tool_call_end|>"
ENDS = (CLOSE, "<|python_end|>")
NAME = re.compile(r"[^\W\d][\w.\-]*")
PLAIN = re.compile(r"[^\W\d]\w*")
KEY = re.compile(r"\s*([^\W\d]\w*)\s*=(?!=)")
HEAD = re.compile(r"\s*([^\W\d][\w.\-]*)\s*\(")
LIST = r"\[\s*(?=[^\W\d][\w.\-]*\s*\()"
OPENS = rf"{re.escape(OPEN)}|<\|python_start\|>\s*(?=\[)|{LIST}"
PART = re.compile(  # a string, a bracket, a comma, or a quote that never closes
    r""" "[^"\\]*+(?:\\.[^"\\]*+)*" | '[^'\\]*+(?:\\.[^'\\]*+)*' | [{}\[\](),"'] """, re.DOTALL | re.VERBOSE
)


def write(reply: Reply | Message, marks: tuple[str, str] = ("", "")) -> tuple[Piece, ...]:
    """The pieces of a reply. Raises InputError for names that the form cannot say."""
    check_names(reply.calls, "pythonic", NAME)
    pieces = before_calls(reply)
    for i, call in enumerate(reply.calls):
        pieces.append((", " if i else f"{marks[0]}[", "syntax"))
        if call.error is not None:
            pieces += raw_call(call)
            continue
        pieces += [(call.name, "name"), ("(", "syntax"), (_arguments_text(call), "arguments"), (")", "syntax")]
    pieces.append((f"]{marks[1]}" if reply.calls else "", "syntax"))
    return merge(pieces)


def _arguments_text(call: ToolCall) -> str:
    plain = {key: value for key, value in call.arguments.items() if PLAIN.fullmatch(key)}
    if list(plain) != list(call.arguments)[: len(plain)]:
        plain = {}  # one mapping, so that the order stays
    other = {key: value for key, value in call.arguments.items() if key not in plain}
    parts = [f"{key}={literal(value)}" for key, value in plain.items()]
    return ", ".join([*parts, *([f"**{literal(other)}"] if other else [])])


def literal(value: Any) -> str:
    """A value as a Python literal with the string escapes of JSON, which are Python's too."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)


def parse(text: str, *, thinking_open: bool = False, tools: Any = ()) -> Reply:
    """Reads what a model wrote, with or without marks. Never raises; see hermes.parse."""
    return Scan(text, OPENS, _span, ENDS).run(thinking_open)


def _span(scan: Scan, match: re.Match[str]) -> int | None:
    """Reads one list of calls; returns the index after it, None where it is content."""
    marked = match[0][0] == "<"
    start = match.end() if marked else match.start()
    stop = scan.next(start, *ENDS)
    calls: list[ToolCall] = []
    try:
        if scan.budget <= 0:
            raise ValueError("too many lists that do not read")
        end = _list(scan.text, scan.skip(start), calls)
    except ValueError as problem:
        scan.budget -= len(scan.text) - start
        begins = not scan.calls and not "".join(scan.content).strip()
        if not marked and not begins:
            return None
        scan.broken(scan.text[start:stop].strip(), str(problem))
        return scan.past(stop, *ENDS)
    scan.add([(call, "") for call in calls])
    if not marked:
        return end
    stop = scan.next(end, *ENDS)
    if stop < len(scan.text) and stop <= scan.next_opening(end):
        scan.rest(scan.text[end:stop])
        return scan.past(stop, *ENDS)
    return end


def _list(text: str, start: int, calls: list[ToolCall]) -> int:
    """Reads `[f(a=1), g()]`, also without the brackets, into `calls`; returns the index after it."""
    bracket = text.startswith("[", start)
    position = start + bracket
    while head := HEAD.match(text, position):
        arguments, position = _arguments(text, head.end())
        calls.append(ToolCall(head[1], arguments))
        position = skip(text, position)
        if not text.startswith(",", position):
            break
        position = skip(text, position + 1)
    if not calls:
        raise ValueError("no call")
    if bracket and not text.startswith("]", position):
        raise ValueError("a list of calls that does not end")
    return position + bracket


def _arguments(text: str, position: int) -> tuple[dict[str, Any], int]:
    """The arguments up to the closing parenthesis, and the index after it."""
    arguments: dict[str, Any] = {}
    while True:
        position = skip(text, position)
        if text.startswith(")", position):
            return arguments, position + 1
        key = KEY.match(text, position)
        start = key.end() if key else position + 2
        if not key and not text.startswith("**", position):
            raise ValueError("an argument without its name, or a call that does not end")
        end = _value_end(text, start)
        value = read_value(text[start:end])
        if not key and not isinstance(value, dict):
            raise ValueError("** without names")
        for name, item in [(key[1], value)] if key else value.items():
            if name in arguments:
                raise ValueError(f"the argument {name!r} is given twice"[:80])
            arguments[name] = item
        position = end + text.startswith(",", end)


def _value_end(text: str, start: int) -> int:
    """The index of the comma or parenthesis that ends the value."""
    depth = 0
    for part in PART.finditer(text, start):
        first = part[0][0]
        if first in "([{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        elif depth == 0 and first in ",)":
            return part.start()
        elif first in ")]}":
            depth -= 1
            if depth < 0:
                break
        elif len(part[0]) == 1 and first in "\"'":
            break
    raise ValueError("brackets or quotes that do not close")


PYTHONIC = Format(
    "pythonic", write, parse, re.compile(r"<\|python_start\|>"), "<|python_start|>", "Llama 3.2 and 4",
    "https://www.llama.com/docs/model-cards-and-prompt-formats/llama4/",
)  # fmt: skip
LFM2 = Format(
    "lfm2", lambda reply: write(reply, (OPEN, CLOSE)), parse, re.compile(re.escape(OPEN)), OPEN, "LFM2",
    "https://huggingface.co/LiquidAI/LFM2-1.2B",
)  # fmt: skip
