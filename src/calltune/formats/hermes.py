"""The Hermes form, which Qwen uses too: `<think>` plan, content, `<tool_call>` with a JSON object.

    <think>
    The user wants the weather: get_weather with the city.
    </think>
    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    </tool_call>

Source: https://github.com/NousResearch/Hermes-Function-Calling and the chat template of Qwen2.5/Qwen3.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from calltune.formats.calls import calls_of
from calltune.formats.literals import balanced_end, read_value
from calltune.formats.pieces import Format, Kinded, Piece, before_calls, merge, raw_call
from calltune.formats.scan import Scan
from calltune.schema import Message, Reply, ToolCall, shorten

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MARKER = re.compile(r"</?(?:think|tool_call)>")


@dataclass(frozen=True)
class HermesStyle:
    """The white space around the parts, which templates write differently; `parse` takes any."""

    think_open: str = "<think>\n"
    think_close: str = "\n</think>\n"
    before_calls: str = "\n"  # between content and the first call
    call_open: str = "<tool_call>\n"
    call_close: str = "\n</tool_call>"
    between_calls: str = "\n"


def write(
    reply: Reply | Message,
    style: HermesStyle | None = None,
    call_pieces: Callable[[ToolCall], list[Kinded]] | None = None,
) -> tuple[Piece, ...]:
    """The pieces of a reply: plan (none where `thinking` is None), content, calls.

    A call that could not be read is written as it was (`raw`), so that a history stays true. The form has
    no escapes outside JSON: a plan or content that holds a marker itself is read back as that marker.
    """
    style = style or HermesStyle()
    pieces = before_calls(reply, (style.think_open, style.think_close), style.before_calls)
    for i, call in enumerate(reply.calls):
        opening: Kinded = ((style.between_calls if i else "") + style.call_open, "syntax")
        body = raw_call(call) if call.error is not None else (call_pieces or json_call)(call)
        pieces += [opening, *body, (style.call_close, "syntax")]
    return merge(pieces)


def json_call(call: ToolCall) -> list[Kinded]:
    return call_object(call, lambda value: json.dumps(value, ensure_ascii=False), '"')


def call_object(call: ToolCall, dump: Callable[[Any], str], quote: str, arguments: str = "arguments") -> list[Kinded]:
    """`{"name": NAME, "arguments": {...}}` as pieces, in the quotes of JSON or of Python."""
    name = dump(call.name)
    return [
        (f"{{{quote}name{quote}: {name[0]}", "syntax"),
        (name[1:-1], "name"),
        (f"{name[-1]}, {quote}{arguments}{quote}: ", "syntax"),
        (dump(dict(call.arguments)), "arguments"),
        ("}", "syntax"),
    ]


def parse(text: str, *, thinking_open: bool = False, tools: Any = ()) -> Reply:
    """Reads what a model wrote. Never raises; what cannot be read is in `errors` and in the call's `raw`.

    `thinking_open`: the prompt ended with `<think>`, so the text begins inside the plan. White space at
    the ends of plan and content is not kept. Values are JSON or Python literals.
    """
    return Scan(text, re.escape(OPEN), _span, (CLOSE,)).run(thinking_open)


def _span(scan: Scan, match: re.Match[str]) -> int:
    """Reads the calls of one `<tool_call>`; returns the index after it."""
    start = match.end()
    position, found = start, 0
    while True:
        position = scan.skip(position, " \t\r\n,;" if found else " \t\r\n")
        if scan.text.startswith(CLOSE, position) or position >= len(scan.text):
            break
        if found and scan.text[position] not in "{[":
            return _after_calls(scan, position)
        position = (None if found else _whole(scan, position)) or _value(scan, position)
        found += 1
        if scan.text.startswith(OPEN, scan.skip(position)):
            return position  # the next call begins without an end of this one
    if not found:
        scan.broken(scan.text[start:position], "empty call")
    return position + len(CLOSE)


def _after_calls(scan: Scan, position: int) -> int:
    """Text between a call and the end of its span: kept with the call; without an end it is content."""
    close = scan.next(position, CLOSE)
    if close > scan.next_opening(position) or close == len(scan.text):
        scan.errors.append(f"{OPEN} without its end")
        return position
    rest = scan.text[position:close].strip()
    call = scan.calls.pop()
    raw = f"{call.raw or json.dumps(call.to_dict(), ensure_ascii=False)} {rest}"
    scan.calls.append(ToolCall(call.name, call.arguments, call.id, raw, call.error))
    scan.errors.append(f"text after the call: {shorten(rest)}")
    return close + len(CLOSE)


def _whole(scan: Scan, start: int) -> int | None:
    """Reads what nearly every span holds: one value up to the span's end. None where it is not that."""
    if scan.text[start] not in "{[":
        return None
    raw = scan.text[start : scan.limit(start, CLOSE)].rstrip(" \t\r\n")
    try:
        value = read_value(raw)
    except ValueError:
        return None
    scan.add(list(calls_of(value, raw)))
    return start + len(raw)


def _value(scan: Scan, start: int) -> int:
    """Reads one value as calls; returns the index after it."""
    close = scan.limit(start, CLOSE)
    end, error = None, "brackets or quotes that do not close"
    if scan.text[start] in "{[" and scan.budget > 0:
        try:
            end = balanced_end(scan.text, start)
        except ValueError as problem:
            error = str(problem)
    if end is None:  # a scalar, cut off, or a quote that never closes
        scan.budget -= len(scan.text) - start
        return _unbalanced(scan, start, close, error)
    raw = scan.text[start:end]
    try:
        scan.add(list(calls_of(read_value(raw), raw)))
    except ValueError as problem:
        if end > close and not MARKER.match(scan.text, scan.skip(end)):
            scan.budget -= end - start
            end = close  # a wrong quote paired with one of a later call: stop at this span's end
        scan.broken(scan.text[start:end], str(problem))
    return end


def _unbalanced(scan: Scan, start: int, close: int, error: str) -> int:
    raw = scan.text[start:close].rstrip()
    try:
        scan.add(list(calls_of(read_value(raw), raw)))
    except ValueError as problem:
        scan.broken(raw, error if raw[:1] in ("{", "[") else str(problem))
    return close


HERMES = Format(
    "hermes", write, parse, re.compile(re.escape(OPEN)), OPEN, "Hermes 2 and 3, Qwen 2.5 and 3",
    "https://github.com/NousResearch/Hermes-Function-Calling",
)  # fmt: skip
