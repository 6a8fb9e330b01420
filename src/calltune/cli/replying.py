"""What `call`, `chat` and `agent` share: flags of generation, running calls, replies as text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from calltune.errors import InputError
from calltune.functions import Function, execute
from calltune.report_text import call_text, printable
from calltune.schema import Message, Reply, Tool, ToolCall, validate_call

if TYPE_CHECKING:
    from calltune.caller import Caller
    from calltune.engine.decode import Sampling
    from calltune.grammar import Rules
    from calltune.runs import Run

ROUNDS = 5  # of calls and results for one request


def add_generation_flags(parser: argparse.ArgumentParser, *, constrained: bool = False) -> None:
    """`constrained`: whether replies are bound to the tools where nobody says otherwise."""
    parser.add_argument("--tools", metavar="F", help="a Python file or OpenAI tools JSON (default: the run's own)")
    parser.add_argument("--max-tokens", type=int, default=512, metavar="N", help="longest reply (default: 512)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0: the likeliest (default)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="sample from this share (default: 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampling (default: 0)")
    if constrained:
        parser.add_argument("--no-constrained", dest="constrained", action="store_false",
                            help="do not bind the reply to calls that fit the offered tools")  # fmt: skip
    else:
        parser.add_argument("--constrained", action="store_true",
                            help="only calls that fit the offered tools and their schemas can come")  # fmt: skip
    add_copying_flag(parser)
    means = "" if constrained else " (means --constrained)"
    parser.add_argument("--tool-choice", metavar="C", help=f"auto, none, required, or a tool's name{means}")
    parser.add_argument("--one-call", action="store_true", help=f"at most one call{means}")
    parser.add_argument("--keep-prefix", action="store_true",
                        help="keep the work on the tools on disk, for the next command")  # fmt: skip


def add_copying_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-copying", dest="copying", action="store_false",
                        help="do not keep replies to what was said as all training rows do: else copied values "
                             "are words of the conversation, and what nobody said is asked for")  # fmt: skip


def load_caller(args: argparse.Namespace, found: Run | None) -> Caller:
    """The run that the command names, or its model, as the flags of generation say."""
    from calltune.caller import load

    return load(found or args.model, keep_prefixes=args.keep_prefix, copying=args.copying)


def rules_of(args: argparse.Namespace, functions: Sequence[Function]) -> Rules | None:
    """What the reply is bound to; None for free decoding. Raises InputError, before a model is loaded."""
    if not (args.constrained or args.tool_choice or args.one_call):
        return None
    from calltune.grammar import Rules, offered_tools

    rules = Rules.of(args.tool_choice or "auto", not args.one_call)
    offered_tools([function.tool for function in functions], rules)
    return rules


def sampling_of(args: argparse.Namespace) -> Sampling:
    """Raises InputError with every flag that is out of range."""
    wrong = []
    if args.max_tokens < 1:
        wrong.append(f"--max-tokens is {args.max_tokens} (at least 1)")
    if not 0 <= args.temperature < float("inf"):
        wrong.append(f"--temperature is {args.temperature} (0 or more)")
    if not 0 < args.top_p <= 1:
        wrong.append(f"--top-p is {args.top_p} (above 0, at most 1)")
    if args.seed < 0:
        wrong.append(f"--seed is {args.seed} (0 or more)")
    if wrong:
        raise InputError("; ".join(wrong), next_step=f"`calltune {args.command} --help`")
    from calltune.engine.decode import Sampling

    return Sampling(args.temperature, args.top_p, seed=args.seed)


def requests_in(functions: Sequence[Function], *, interactive: bool) -> Iterator[str | None]:
    """The requests that come in line by line, about these functions; None where the conversation is to begin anew."""
    if interactive:
        names = ", ".join(function.name for function in functions)
        print(f"tools: {names}\n/new starts anew, /quit ends", file=sys.stderr)
    while True:
        if interactive:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        text = line.strip()
        if not line or text in ("/quit", "/exit"):
            return
        if text == "/new":
            yield None
        elif text.startswith("/"):
            print(f"there is no {text}; /new starts anew, /quit ends", file=sys.stderr)
        elif text:
            yield text


def results_of(calls: Sequence[ToolCall], functions: Sequence[Function]) -> list[Message]:
    """The calls, run, as tool messages; an error of a function is its result, for the model to read."""
    return [execute(call, functions).message(call, i) for i, call in enumerate(calls)]


def show_calls(reply: Reply, errors: Sequence[str], out: TextIO) -> None:
    """A streamed reply's calls on `out`; what is wrong with it, and its notes, on standard error."""
    for call in readable(reply):
        print(f"call: {printable(call_text(call))}", file=out, flush=True)
    for kind, texts in (("error", errors), ("note", reply.notes)):
        for text in texts:
            print(f"{kind}: {printable(text)}", file=sys.stderr)


def readable(reply: Reply) -> list[ToolCall]:
    return [call for call in reply.calls if not call.error]


def reply_errors(reply: Reply, tools: Sequence[Tool]) -> list[str]:
    """Everything that is wrong with a reply: what could not be read, and calls that do not fit their tools."""
    errors = list(reply.errors)
    for i, call in enumerate(reply.calls):
        if not call.error:
            errors += [str(problem) for problem in validate_call(call, tools, f"/calls/{i}")]
    if reply.truncated:
        errors.append("the reply was cut at the limit of tokens (--max-tokens), or at the end of the model's context")
    return errors


def reply_lines(reply: Reply, *, dim: bool = False) -> list[str]:
    """A reply for people: the plan, the calls, the text."""
    lines = []
    if reply.thinking:
        plan = f"plan: {printable(reply.thinking.strip())}"
        lines.append(f"\x1b[2m{plan}\x1b[0m" if dim else plan)
    lines += [f"call: {printable(call_text(call))}" for call in readable(reply)]
    lines += [f"unreadable call: {printable((call.raw or '').strip())}" for call in reply.calls if call.error]
    if reply.content.strip():
        lines.append(printable(reply.content.strip()))
    return lines


def in_colour(stream: Any) -> bool:
    import os

    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def message_of(reply: Reply) -> dict[str, Any]:
    """The OpenAI assistant message, the ids of its calls filled in. Where nothing of a reply could be read it holds
    the text as it came, since an empty message would pass for an answer."""
    message = reply.to_message().to_openai()
    if reply.errors and not message.get("content") and not message.get("tool_calls"):
        message["content"] = reply.raw
    return message
