"""`calltune parse`: raw model text to calls, a JSON line in and a JSON line out, no model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from typing import IO, Any

from calltune.errors import InputError, Problem
from calltune.formats import FORMATS, get_format, parse_any
from calltune.formats.literals import read_json
from calltune.schema import Reply, read_tools, shorten, validate_call

EXAMPLE = """example:
  echo '{"id": 1, "raw_output": "<tool_call>{\\"name\\": \\"f\\"}</tool_call>"}' | calltune parse

in:  {"id": ..., "raw_output": "...", "tools": [...]}        tools may be left out
out: {"id": ..., "calls": [{"name": ..., "arguments": {...}}], "content": ..., "thinking": ...,
      "errors": [...]}

`calls` is [] where the model answered without a call, and null where it tried and no call could be read.
With tools, a call that does not fit them stays in `calls` and is named in `errors`.
A line that cannot be read gives no line out; the others are written first, then all bad lines are named
(exit code 2)."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "parse",
        description="Reads JSON lines with raw model text from standard input; writes what was in it.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    choices = ["auto", *FORMATS]
    parser.add_argument("--format", choices=choices, default="auto", help="the wire format (default: by markers)")
    parser.add_argument("--thinking-open", action="store_true", help="the prompts ended with <think>")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Reads standard input to its end. Raises InputError for the lines that could not be read."""
    problems = parse_lines(sys.stdin.buffer, sys.stdout, args.format, args.thinking_open)
    if problems:
        step = 'each line is {"id": ..., "raw_output": "text"}; see calltune parse --help'
        raise InputError(f"{len(problems)} lines could not be read", problems=problems, next_step=step)
    return 0


def parse_lines(
    lines: Iterable[bytes], out: IO[str], form: str = "auto", thinking_open: bool = False
) -> list[Problem]:
    """A line out for every readable line in, at once and in order; returns the problems of the others."""
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            text = _result(line, form, thinking_open)
        except InputError as error:
            problems += [Problem(p.kind, p.found, p.expected, p.path, number) for p in error.problems]
            continue
        out.write(text + "\n")
        out.flush()
    return problems


def _result(line: bytes, form: str, thinking_open: bool) -> str:
    try:
        value = read_json(line.decode("utf-8-sig"))
    except ValueError as error:  # also bytes that are not UTF-8
        raise InputError("bad line", problems=[Problem("bad_json", str(error), "a JSON object")]) from None
    raw = value.get("raw_output") if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping) or not isinstance(raw, str):
        problem = Problem("no_raw_output", shorten(raw), "an object with the text `raw_output`", "/raw_output")
        raise InputError("bad line", problems=[problem])
    parse = parse_any if form == "auto" else get_format(form).parse
    tools = read_tools(value["tools"]) if value.get("tools") is not None else ()
    reply = parse(raw, thinking_open=thinking_open, tools=tools)
    errors = list(reply.errors)
    if value.get("tools") is not None:
        for i, call in enumerate(reply.calls):
            if not call.error:
                errors += [str(problem) for problem in validate_call(call, tools, f"/calls/{i}")]
    result = {"id": value.get("id"), "calls": calls_or_null(reply), "content": reply.content}
    result |= {"thinking": reply.thinking, "errors": errors}
    text = json.dumps(result, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: JSON can say it, UTF-8 cannot
        text = json.dumps(result)
    return text


def calls_or_null(reply: Reply) -> list[dict[str, Any]] | None:
    """The readable calls; None where the model tried and none could be read (CONTRACT)."""
    readable = [call.to_dict() for call in reply.calls if not call.error]
    return None if reply.calls and not readable else readable
