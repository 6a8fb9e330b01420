"""`calltune chat`: requests and replies in turn, in a terminal or from a pipe (a line a request)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from calltune.cli.replying import (
    ROUNDS,
    add_generation_flags,
    ask,
    in_colour,
    offered,
    printable,
    readable,
    reply_errors,
    results_of,
    rules_of,
    sampling_of,
)
from calltune.cli.stream import Shown, Splitter
from calltune.functions import Function
from calltune.report_text import call_text
from calltune.schema import Message, Reply, ToolCall

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
    from calltune.caller import find_run, load

    found = find_run(args.model)
    functions = offered(args.tools, found)
    rules = rules_of(args, functions)
    caller = load(found or args.model, keep_prefixes=args.keep_prefix)
    session = Session(caller, functions, args.max_tokens, sampling, sys.stdin.isatty(), in_colour(sys.stdout), rules)
    if session.interactive:
        names = ", ".join(function.name for function in functions)
        print(f"tools: {names}\n/new starts anew, /quit ends", file=sys.stderr)
    for line in _lines(session.interactive):
        text = line.strip()
        if text in ("/quit", "/exit"):
            break
        if text == "/new":
            session.messages = []
        elif text.startswith("/"):
            print(f"there is no {text}; /new starts anew, /quit ends", file=sys.stderr)
        elif text:
            session.answer(text)
    return 0


def _lines(interactive: bool) -> Iterator[str]:
    while True:
        if interactive:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line


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
            reply = self.stream([*self.messages, *exchange])
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
        splitter, made = Splitter(), list[Any]()
        for piece in self.caller.stream(messages, tools, max_tokens=self.max_tokens, sampling=self.sampling,
                                        rules=self.rules, on_done=made.append):  # fmt: skip
            self.show(splitter.feed(piece))
        self.show(splitter.close())
        if splitter.column:
            print()
        reply: Reply = self.caller.parse(made[0], False, tools, self.caller.grammar(tools, self.rules))
        for call in readable(reply):
            print(f"call: {printable(call_text(call))}", flush=True)
        for error in reply_errors(reply, tools):
            print(f"error: {error}", file=sys.stderr)
        for note in reply.notes:
            print(f"note: {printable(note)}", file=sys.stderr)
        return reply

    def show(self, parts: Sequence[Shown]) -> None:
        for part in parts:
            dim = self.colour and part.kind == "plan"
            print(f"\x1b[2m{printable(part.text)}\x1b[0m" if dim else printable(part.text), end="", flush=True)

    def allowed(self, call: ToolCall) -> bool:
        function = next((f for f in self.functions if f.name == call.name), None)
        if function is None or function.call is None or not self.interactive:
            return False
        return ask(call, default=function.pure)
