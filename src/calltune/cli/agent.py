"""`calltune agent`: a request worked on with functions until there is an answer; without one, a conversation."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from calltune.cli.replying import (
    add_generation_flags,
    in_colour,
    load_caller,
    requests_in,
    rules_of,
    sampling_of,
    show_calls,
)
from calltune.cli.stream import stream_reply
from calltune.consent import NO_TERMINAL, Answer, in_terminal
from calltune.errors import InputError
from calltune.functions import MAX_OUTPUT, TIMEOUT, Function, Outcome
from calltune.offered import check_executable, offered
from calltune.report_text import call_text, printable
from calltune.schema import Message, Reply, Tool, ToolCall
from calltune.trace import MAX_STEPS, Result

NO_ANSWER = 3
NOT_ASKED = 2
EXAMPLE = """examples:
  calltune agent demo/run "Set a timer for 5 minutes"
  calltune agent runs/mine "a request" --tools my_tools.py
  calltune agent runs/mine --mcp "python my_server.py" --mcp http://127.0.0.1:8000/mcp
  calltune agent runs/mine "a request" --tools my_tools.py --yes --json --trace traces.jsonl

Before a function runs that is not marked @tool(pure=True) you are asked, and every function of an MCP server asks;
--yes runs all without asking. Where there is no terminal to ask in and no --yes, such calls are not run: the model is
told so, and a note is shown. A Python file is imported, which runs it; an MCP command is started.

Without a request: a conversation in the terminal (/new starts anew, /quit ends), or a request a line from a pipe.
--json prints one document with the answer, how it ended and all messages; from a pipe one a line.
--trace adds each conversation as a row that `calltune check` and `calltune prepare` read.

exit codes: 0 an answer; 3 no whole answer (too many steps, the same failure again, cut, the
model's context full); 2 wrong use, also when a
call was not run because nobody could be asked. Of several requests the highest."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "agent",
        description="Work on a request with functions: generate, check, ask, run, feed back, until it is answered.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="RUN", help="a run's folder, or a model")
    parser.add_argument("text", nargs="?", help="the request (default: read from the terminal or a pipe)")
    add_generation_flags(parser, constrained=True)
    parser.add_argument("--mcp", action="append", default=[], metavar="S",
                        help="an MCP server: a command line, or an http(s) URL; may be given again")  # fmt: skip
    parser.add_argument("--mcp-header", action=_Header, metavar="'NAME: VALUE'",
                        help="sent to the --mcp URL before it, as 'Authorization: Bearer ...'")  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="run functions without asking")
    parser.add_argument("--system", metavar="TEXT", help="a system text to begin with")
    parser.add_argument("--max-steps", type=int, default=MAX_STEPS, metavar="N",
                        help=f"replies for one request (default: {MAX_STEPS})")  # fmt: skip
    parser.add_argument("--timeout", type=float, default=TIMEOUT, metavar="S",
                        help=f"seconds a call (default: {TIMEOUT:g})")  # fmt: skip
    parser.add_argument("--max-output", type=int, default=MAX_OUTPUT, metavar="N",
                        help=f"characters of a result (default: {MAX_OUTPUT})")  # fmt: skip
    parser.add_argument("--trace", metavar="FILE", help="add the conversation to a file of rows")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


class _Header(argparse.Action):
    """Adds a header to those of the server that was named last: no other server is to see it."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        headers = list(namespace.mcp_header or ())
        namespace.mcp_header = [*headers, (len(namespace.mcp) - 1, str(values))]


def _headers(args: argparse.Namespace, place: int) -> dict[str, str]:
    """The headers for the server that is number `place`. Raises InputError, which never shows a value."""
    found = {}
    for owner, text in args.mcp_header or ():
        name, sign, value = text.partition(":")
        if owner < 0 or not sign:
            wrong = "stands before every --mcp" if owner < 0 else "has no colon"
            raise InputError(f"an --mcp-header {wrong}",
                             next_step="--mcp URL --mcp-header 'Authorization: Bearer TOKEN'")  # fmt: skip
        if owner == place:
            found[name.strip()] = value.strip()
    return found


def run(args: argparse.Namespace) -> int:
    if args.text is not None and not args.text.strip():
        raise InputError("the request is empty", next_step='write it in quotes: calltune agent RUN "..."')
    sampling = sampling_of(args)
    _check_trace(args.trace)
    from calltune.caller import find_run

    found = find_run(args.model)
    with ExitStack() as stack:
        functions = _functions(args, found, stack)
        rules = rules_of(args, functions)
        session = Session(args, functions, rules, sampling)
        session.model = load_caller(args, found)
        if args.text is not None:
            return session.work(args.text)
        return _converse(session)


def _converse(session: Session) -> int:
    interactive = sys.stdin.isatty()
    code = 0
    for text in requests_in(session.agent.functions, interactive=interactive):
        if text is None:
            session.history = ()
        else:
            code = max(code, session.work(text))
    return 0 if interactive else code


def _functions(args: argparse.Namespace, found: Any, stack: ExitStack) -> list[Function]:
    """The functions of the file and of the MCP servers, which are started and end with `stack`."""
    sources: list[Any] = []
    if args.tools:
        sources += offered(args.tools, found)
        check_executable(sources, found)  # before a server is started
    if args.mcp_header and not args.mcp:
        _headers(args, 0)
    for place, target in enumerate(args.mcp):
        from calltune.functions.mcp_tools import McpServer

        headers = _headers(args, place)
        server = stack.enter_context(McpServer(target, headers=headers, timeout=args.timeout))
        for note in server.notes:
            print(f"note: {printable(note)}", file=sys.stderr)
        sources.append(server)
    functions = offered(sources or None, found)
    check_executable(functions, found)
    return functions


def _check_trace(path: str | None) -> None:
    """Raises InputError before the work whose record could not be kept."""
    if path and (Path(path).is_dir() or not Path(path).absolute().parent.is_dir()):
        raise InputError(f"--trace {path} cannot be written: " + ("it is a folder" if Path(path).is_dir() else
                         "its folder does not exist"), next_step="name a file in a folder that exists")  # fmt: skip


class Session:
    """An agent whose work is shown as it goes. What functions print goes to standard error."""

    def __init__(self, args: argparse.Namespace, functions: Sequence[Function], rules: Any, sampling: Any) -> None:
        from calltune.agent import Agent

        self.args = args
        self.model: Any = None
        self.stdout: TextIO = sys.stdout
        self.out: TextIO = sys.stderr if args.json else sys.stdout
        self.history: tuple[Message, ...] = ()
        self.unasked: list[str] = []
        self.agent = Agent(
            self.generate, list(functions), confirm=True if args.yes else self.confirm, rules=rules,
            system=args.system, max_steps=args.max_steps, max_tokens=args.max_tokens, timeout=args.timeout,
            max_output=args.max_output, sampling=sampling, on_reply=self.show_reply, on_outcome=self.show_outcome,
        )  # fmt: skip

    def work(self, text: str) -> int:
        """Works on one request; returns the exit code."""
        self.unasked.clear()
        with redirect_stdout(sys.stderr):
            result = self.agent.run(text, history=self.history)
        anew = result.ended == "too_long" and bool(self.history)
        self.history = result.messages if result.ended == "answer" else () if anew else self.history
        if self.args.trace:
            result.save(self.args.trace)
        if self.args.json:
            print(json.dumps(_document(result), ensure_ascii=False, indent=2 if self.args.text else None),
                  file=self.stdout, flush=True)  # fmt: skip
        if result.reason:
            more = "; the conversation begins anew" if anew else ""
            print(f"no answer: {printable(result.reason)}{more}", file=sys.stderr)
        if result.refused and not self.unasked:
            calls = ", ".join(printable(call_text(call)) for call in result.refused)
            print(f"not done: refused by you: {calls}", file=sys.stderr)
        if self.unasked:
            names = ", ".join(dict.fromkeys(self.unasked))
            print(f"note: not run, as there is no terminal to ask in: {names} (--yes runs them without asking)",
                  file=sys.stderr)  # fmt: skip
            return NOT_ASKED
        return 0 if result.ended == "answer" else NO_ANSWER

    def generate(self, messages: Sequence[Message], tools: tuple[Tool, ...], **settings: Any) -> Reply:
        colour = in_colour(self.out)
        return stream_reply(self.model, messages, tools, self.out, colour=colour, **settings)

    def confirm(self, call: ToolCall, function: Function) -> Answer:
        answer = in_terminal(call, function)
        if answer == NO_TERMINAL:
            self.unasked.append(call.name)
        return answer

    def show_reply(self, reply: Reply) -> None:
        show_calls(reply, reply.errors, self.out)

    def show_outcome(self, call: ToolCall, outcome: Outcome) -> None:
        print(f"result: {printable(outcome.content)}", file=self.out, flush=True)


def _document(result: Result) -> dict[str, Any]:
    messages = [message.to_openai() for message in result.messages]
    return {"answer": result.answer, "ended": result.ended, "reason": result.reason,
            "refused": [call.to_dict() for call in result.refused], "messages": messages}  # fmt: skip
