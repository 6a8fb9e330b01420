"""Calls as plain JSON, alone or in a fence, from models without marks of their own.

    ```json
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    ```

Several calls are a list. Without marks, only JSON that has the shape of a call is one: `name` with `arguments` or
`parameters`, or `name` alone where there is nothing else. All other JSON is content.
"""

from __future__ import annotations

import re
from typing import Any

from calltune.formats.calls import calls_of
from calltune.formats.hermes import json_call
from calltune.formats.literals import value_at
from calltune.formats.pieces import Format, Kinded, Piece, before_calls, merge, raw_call
from calltune.formats.scan import Scan
from calltune.schema import Message, Reply

FENCE = "```"
OPENS = r"```(?:json|tool_call|tool_use|python)?\s*(?=[\[{])|<\|python_tag\|>\s*(?=[\[{])|[\[{]"
LIKELY = re.compile(r"""[\[\s]{0,8}\{\s*["'](?:name|type|function)["']\s*:""")
SURE = re.compile(
    r"""[\[\s]{0,8}\{\s*["']name["']\s*:\s*["'][^"'\n]{1,128}["']\s*,\s*["'](?:arguments|parameters)["']\s*:"""
)


def write(reply: Reply | Message) -> tuple[Piece, ...]:
    """The pieces of a reply: one fence with the call, or with the list of calls."""
    pieces = before_calls(reply)
    if not reply.calls:
        return merge(pieces)
    several = len(reply.calls) > 1
    pieces.append((f"{FENCE}json\n" + ("[" if several else ""), "syntax"))
    for i, call in enumerate(reply.calls):
        body: list[Kinded] = raw_call(call) if call.error is not None else json_call(call)
        pieces += [(", " if i else "", "syntax"), *body]
    pieces.append((("]" if several else "") + f"\n{FENCE}", "syntax"))
    return merge(pieces)


def parse(text: str, *, thinking_open: bool = False, tools: Any = ()) -> Reply:
    """Reads what a model wrote. Never raises; see hermes.parse."""
    return Scan(text, OPENS, _values).run(thinking_open)


def _values(scan: Scan, match: re.Match[str]) -> int | None:
    """Reads calls from a bracket on, also further ones that follow with nothing or `;` between."""
    marked = len(match[0]) > 1
    position = match.end() if marked else match.start()
    end = _value(scan, position, match.start(), marked)
    if end is None:
        return None
    while (after := scan.skip(end, " \t\r\n,;")) < len(scan.text) and scan.text[after] in "{[":
        if not LIKELY.match(scan.text, after) or (further := _value(scan, after, after, marked)) is None:
            break
        end = further
    if match[0].startswith(FENCE) and scan.text.startswith(FENCE, after := scan.skip(end)):
        return after + len(FENCE)
    return end


def _value(scan: Scan, start: int, mark: int, marked: bool) -> int | None:
    """Reads the value at `start`; returns the index after it, None where it is content."""
    alone = not "".join(scan.content).strip() and not scan.text[:mark].strip() if mark < 200 else False
    likely = SURE.match(scan.text, start) or ((alone or marked) and LIKELY.match(scan.text, start))
    if scan.budget <= 0 and not likely:
        return None
    try:
        value, end = value_at(scan.text, start)
    except ValueError as problem:
        reached: int = problem.args[-1]
        scan.budget -= reached - start
        if not likely:
            return None
        scan.broken(scan.text[start:reached].rstrip(), str(problem.args[0]))
        return reached
    alone = marked or (alone and not scan.text[end:].strip())
    if not is_call(value, alone):
        scan.content.append(scan.text[mark:end])
        return end
    scan.add(list(calls_of(value, scan.text[start:end])))
    return end


def is_call(value: Any, alone: bool) -> bool:
    """Whether a value has the shape of a call, or a list of such; `alone`: also without arguments."""
    if isinstance(value, list):
        return any(is_call(item, alone) for item in value if isinstance(item, dict))
    if not isinstance(value, dict):
        return False
    inner = value["function"] if isinstance(value.get("function"), dict) else value
    named = isinstance(inner.get("name"), str) and bool(inner["name"])
    return named and (alone or "arguments" in inner or "parameters" in inner)


JSON = Format("json", write, parse, None, "", "models without marks of their own", "")
