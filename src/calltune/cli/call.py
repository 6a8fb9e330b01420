"""`calltune call`: one reply to one request, and with --execute what came of the call."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from calltune.cli.replying import (
    ROUNDS,
    add_generation_flags,
    in_colour,
    load_caller,
    message_of,
    readable,
    reply_errors,
    reply_lines,
    results_of,
    rules_of,
    sampling_of,
)
from calltune.consent import ask
from calltune.errors import InputError
from calltune.functions import Function
from calltune.offered import check_executable, offered
from calltune.report_text import printable
from calltune.schema import Message, numbered

EXAMPLE = """examples:
  calltune call demo/run "Set a timer for 5 minutes"
  calltune call runs/mine "a request" --tools my_tools.py --execute
  calltune call runs/mine "a request" --json
  calltune call runs/mine "a request" --constrained
  calltune call runs/mine "a request" --tool-choice order_status

--json prints the OpenAI assistant message; with --execute {"messages": [...]}, all new messages of the exchange.
--execute runs functions of a Python file only, and asks first (--yes: it does not)."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "call",
        description="One reply of a run or model to a request: its plan, its calls, its text.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="RUN", help="a run's folder, or a model")
    parser.add_argument("text", help="the request")
    add_generation_flags(parser)
    parser.add_argument("--open-thinking", action="store_true", help="write the opening <think> for the model")
    parser.add_argument("--execute", action="store_true", help="run the call and let the model answer")
    parser.add_argument("--yes", action="store_true", help="run without asking")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.execute and not args.yes and not sys.stdin.isatty():
        raise InputError("--execute asks before it runs a function, and there is no terminal to ask in",
                         next_step="add --yes to run without asking")  # fmt: skip
    if not args.text.strip():
        raise InputError("the request is empty", next_step='write it in quotes: calltune call RUN "..."')
    sampling = sampling_of(args)
    from calltune.caller import find_run

    found = find_run(args.model)
    functions = offered(args.tools, found)
    if args.execute:
        check_executable(functions, found)
    tools = tuple(function.tool for function in functions)
    rules = rules_of(args, functions)
    caller = load_caller(args, found)
    messages: tuple[Message, ...] = (Message("user", args.text),)
    new: list[dict[str, Any]] = []
    for _ in range(ROUNDS):
        reply = caller(messages, tools, max_tokens=args.max_tokens, sampling=sampling,
                       open_thinking=args.open_thinking, rules=rules)  # fmt: skip
        reply = numbered(reply, messages)
        new.append(message_of(reply))
        _show(args, reply_lines(reply, dim=in_colour(sys.stdout)), reply_errors(reply, tools))
        for note in reply.notes:
            print(f"note: {printable(note)}", file=sys.stderr)
        results = _run_calls(args, readable(reply), functions)
        if not results:
            break
        new += [message.to_openai() for message in results]
        _show(args, [f"result: {message.content}" for message in results], [])
        if rules is not None and rules.choice != "auto":
            rules = replace(rules, choice="auto", named=False)  # the call that was asked for has been made
        messages = (*messages, reply.to_message(), *results)
    if args.json:
        print(json.dumps({"messages": new} if args.execute else new[0], ensure_ascii=False, indent=2))
    return 0


def _show(args: argparse.Namespace, lines: Sequence[str], errors: Sequence[str]) -> None:
    """Results on standard output (with --json on standard error where calls are run), errors on standard error."""
    if not args.json or args.execute:
        print("\n".join(lines), file=sys.stderr if args.json else sys.stdout, flush=True)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)


def _run_calls(args: argparse.Namespace, calls: Sequence[Any], functions: Sequence[Function]) -> list[Message]:
    if not args.execute or not calls:
        return []
    if not args.yes and not all(ask(call) for call in calls):
        print("not run", file=sys.stderr)
        return []
    return results_of(calls, functions)
