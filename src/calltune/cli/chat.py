"""`calltune chat`: requests and replies in turn, in a terminal or from a pipe (a line a request)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from calltune.cli.replying import (
    ROUNDS,
    add_generation_flags,
    in_colour,
    load_caller,
    readable,
    reply_errors,
    requests_in,
    results_of,
    rules_of,
    sampling_of,
    show_calls,
)
from calltune.cli.stream import stream_reply
from calltune.consent import ask
from calltune.errors import TooLong
from calltune.functions import Function
from calltune.offered import offered
from calltune.report_text import printable
from calltune.schema import Message, Reply, ToolCall, numbered

EXAMPLE = """examples:
  calltune chat demo/run
  calltune chat runs/mine --tools my_tools.py
  echo "Set a timer for 5 minutes" | calltune chat demo/run

Functions of a Python file are run after you said yes; those not marked @tool(pure=True) need a typed y. Where a
call is not run, the request is not kept in the conversation. /new forgets the conversation, /quit ends."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "chat",
        description="Talk with a run or model: its plan in grey, its calls, its text as it is written.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="RUN", help="a run's folder, or a model")
    add_generation_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    sampling = sampling_of(args)
    from calltune.caller import find_run

    found = find_run(args.model)
    functions = offered(args.tools, found)
    rules = rules_of(args, functions)
    caller = load_caller(args, found)
    session = Session(caller, functions, args.max_tokens, sampling, sys.stdin.isatty(), in_colour(sys.stdout), rules)
    code = 0
    for text in requests_in(functions, interactive=session.interactive):
        if text is None:
            session.messages = []
            continue
        try:
            session.answer(text)
        except TooLong as error:
            print(f"{error.message}{'; the conversation begins anew' if session.messages else ''}", file=sys.stderr)
            session.messages = []
            code = 0 if session.interactive else error.exit_code
    return code


@dataclass
class Session:
    """A conversation and how it is shown."""

    caller: Any
    functions: Sequence[Function]
    max_tokens: int
    sampling: Any
    interactive: bool
    colour: bool
    rules: Any = None
    messages: list[Message] = field(default_factory=list)

    def answer(self, text: str) -> None:
        """Streams the reply to one request, runs its calls if that is wished, and keeps what was finished."""
        exchange = [Message("user", text)]
        for _ in range(ROUNDS):
            reply = numbered(self.stream([*self.messages, *exchange]), [*self.messages, *exchange])
            exchange.append(reply.to_message())
            calls = readable(reply)
            if not calls:
                self.messages += exchange
                return
            if not all(self.allowed(call) for call in calls):
                return
            for message in results_of(calls, self.functions):
                print(f"result: {printable(message.content)}", flush=True)
                exchange.append(message)
        self.messages += exchange

    def stream(self, messages: Sequence[Message]) -> Reply:
        tools = tuple(function.tool for function in self.functions)
        reply = stream_reply(self.caller, messages, tools, sys.stdout, colour=self.colour,
                             max_tokens=self.max_tokens, sampling=self.sampling, rules=self.rules)  # fmt: skip
        show_calls(reply, reply_errors(reply, tools), sys.stdout)
        return reply

    def allowed(self, call: ToolCall) -> bool:
        function = next((f for f in self.functions if f.name == call.name), None)
        if function is None or function.call is None or not self.interactive:
            return False
        return ask(call, default=function.pure)
