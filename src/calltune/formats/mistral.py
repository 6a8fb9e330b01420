"""Mistral's forms: a name and JSON arguments after `[TOOL_CALLS]`, before that a list of JSON objects.

    [TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}
    [TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}}]

Source: https://docs.mistral.ai/cookbooks/concept-deep-dive-tokenization-tool_calling (tokenizers v3 to v13).
"""

from __future__ import annotations

import json
import re
from typing import Any

from calltune.formats.calls import arguments_of, calls_of
from calltune.formats.hermes import json_call
from calltune.formats.literals import value_at
from calltune.formats.pieces import Format, Kinded, Piece, before_calls, check_names, merge, raw_call
from calltune.formats.scan import Scan
from calltune.schema import Message, Reply, ToolCall

OPEN = "[TOOL_CALLS]"
THINK = ("[THINK]", "[/THINK]")
NAME = re.compile(r"[^\s\[\]{}\"]+")
HEADER = re.compile(r"\s*(?P<name>[^\s\[\]{}\"]+)\s*(?:\[CALL_ID\](?P<id>[^\s\[\]{}]*))?\s*(?:\[ARGS\]\s*)?(?=\{)")


def write(reply: Reply | Message) -> tuple[Piece, ...]:
    """The pieces of a reply. Raises InputError for names that the form cannot say."""
    check_names(reply.calls, "mistral", NAME)
    pieces = before_calls(reply, THINK, "")
    for call in reply.calls:
        pieces.append((OPEN, "syntax"))
        if call.error is not None:
            pieces += raw_call(call)
            continue
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        pieces += [(call.name, "name"), ("[ARGS]", "syntax"), (arguments, "arguments")]
    return merge(pieces)


def write_list(reply: Reply | Message) -> tuple[Piece, ...]:
    """The pieces of a reply in the older form, one list of all calls."""
    pieces = before_calls(reply, THINK, "")
    for i, call in enumerate(reply.calls):
        body: list[Kinded] = raw_call(call) if call.error is not None else json_call(call)
        pieces += [(", " if i else f"{OPEN}[", "syntax"), *body]
    pieces.append(("]" if reply.calls else "", "syntax"))
    return merge(pieces)


def parse(text: str, *, thinking_open: bool = False, tools: Any = ()) -> Reply:
    """Reads what a model wrote, in either form. Never raises; see hermes.parse."""
    return Scan(text, re.escape(OPEN), _span, (), (THINK, ("<think>", "</think>"))).run(thinking_open)


def _span(scan: Scan, match: re.Match[str]) -> int:
    """Reads the calls after one mark; it has no end, so what follows them is content."""
    start = scan.skip(match.end())
    stop = scan.next_opening(match.end())
    if scan.text[start : start + 1] in ("[", "{"):
        try:
            value, end = value_at(scan.text, start)
        except ValueError as problem:
            scan.broken(scan.text[start:stop].rstrip(), str(problem.args[0]))
            return stop
        scan.add(list(calls_of(value, scan.text[start:end])))
        return end
    end, header = start, HEADER.match(scan.text, start)
    while header:
        try:
            value, after = value_at(scan.text, header.end())
        except ValueError as problem:
            scan.broken(scan.text[end:stop].strip(), str(problem.args[0]), header["name"])
            return stop
        arguments, error = arguments_of(value)
        raw = scan.text[header.start() : after].strip()
        call = ToolCall(header["name"], arguments, header["id"] or None, raw if error else None, error)
        scan.add([(call, "")])
        end = after
        header = HEADER.match(scan.text, end)
        header = header if header and "[ARGS]" in header[0] else None
    if end == start:
        raw = scan.text[start:stop].strip()
        scan.broken(raw, "no arguments after the name" if raw else "empty call")
        return stop
    return end


MISTRAL = Format(
    "mistral", write, parse, re.compile(re.escape(OPEN)), OPEN, "Mistral Small 3.2 and later, Ministral 3, Devstral",
    "https://docs.mistral.ai/cookbooks/concept-deep-dive-tokenization-tool_calling",
)  # fmt: skip
MISTRAL_LIST = Format(
    "mistral-list", write_list, parse, re.compile(re.escape(OPEN) + r"\s*\["), OPEN,
    "Mistral 7B v0.3, Nemo, Small 3.1", MISTRAL.source,
)  # fmt: skip
