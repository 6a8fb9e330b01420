"""The command line: `calltune COMMAND ...`. Each command is a module here with `add_parser` and `run`.

Only the module of the command that was asked for is imported, so that `calltune --help` stays fast. What a
command raises becomes plain words and an exit code (CONTRACT): 0 done, 1 the check that was asked for failed,
2 wrong use or bad input, 3 could not finish, 130 interrupted, 143 terminated, 141 nobody reads the output.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from calltune._version import __version__
from calltune.errors import CalltuneError, InputError, Problem

COMMANDS = {
    "demo": "see a real small model learn the built-in tools, with figures before and after",
    "train": "teach a model to call your functions",
    "watch": "the curves of a run while it trains",
    "eval": "let a model or run answer test rows and score the answers",
    "score": "verdicts on calls that were made already, by the rules of a benchmark",
    "compare": "two evaluations case by case: is the second worse beyond noise?",
    "call": "one reply to one request",
    "chat": "talk with a model or run in the terminal",
    "agent": "work on a request: calls of your functions or an MCP server's, until there is an answer",
    "serve": "an API for OpenAI's clients and a page, over a model or run",
    "preview": "show what is trained in a row of data",
    "check": "find what is wrong with data, and repair what can be repaired without loss",
    "prepare": "make data that trains of several sources: check, repair, split, change, record",
    "parse": "read calls, plan and content from raw model text",
    "bench": "side by side with another tool, in one command",
    "doctor": "this machine, its BLAS, GPU and memory; what to install; what fits",
    "fetch": "bring a built-in model into the cache",
    "cache": "list or empty the cache of models",
}
EXAMPLE = """example:
  calltune demo
  calltune train --model smollm2-135m --tools my_tools.py --out runs/mine
  calltune call runs/mine "a request in your words"

`calltune COMMAND --help` shows the flags of a command and an example."""
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
OUT_OF_MEMORY = ("unable to allocate", "out of memory", "failed to allocate", "insufficient memory")


class Terminated(BaseException):
    """SIGTERM, raised where the program stands, so that files are closed and nothing half-written stays."""


class Parser(argparse.ArgumentParser):  # argparse offers its wording only by inheritance
    """Wrong use becomes an InputError like every other; flags are never guessed from their first letters."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **({"allow_abbrev": False} | kwargs))

    def error(self, message: str) -> NoReturn:
        raise InputError(message, next_step=f"`{self.prog} --help` shows how")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code; never raises for what a user can cause."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    previous = _on_terminate()
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BaseException as error:
        return _told(error)
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _run(arguments: list[str]) -> int:
    command = arguments[0] if arguments else None
    if command and not command.startswith("-") and command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, 1)
        raise InputError(f"there is no command {command!r}" + (f"; did you mean {near[0]}?" if near else ""),
                         next_step="`calltune --help` lists the commands")  # fmt: skip
    parser, subparsers = make_parser(command)
    try:
        args, extra = parser.parse_known_args(arguments)
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    if extra:
        raise _unknown(extra, subparsers.choices[args.command])
    _check_machine(args.command)
    code: int = args.run(args)
    return code


def make_parser(name: str | None) -> tuple[Parser, Any]:
    """The parser with the flags of the command `name`; of the other commands only the names."""
    parser = Parser(
        prog="calltune",
        description="Teach a small local language model to call your functions, and prove that it learned.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"calltune {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for command, text in COMMANDS.items():
        if command == name:
            importlib.import_module(f"calltune.cli.{command}").add_parser(subparsers)
        else:
            subparsers.add_parser(command, help=text)
    return parser, subparsers


def _unknown(extra: Sequence[str], parser: argparse.ArgumentParser) -> InputError:
    """Flags that a command does not have, each with the nearest that it has."""
    known = [flag for action in parser._actions for flag in action.option_strings]
    flags = [word.partition("=")[0] for word in extra if word.startswith("-")]
    problems = []
    for flag in flags:
        near = difflib.get_close_matches(flag, known, 1)
        problems.append(Problem("unknown_setting", flag, f"{near[0]}?" if near else "a known flag"))
    if not flags:
        problems = [Problem("unexpected_argument", " ".join(extra), "quotes around a text with spaces")]
    return InputError(f"`{parser.prog}` was given what it does not know", problems=problems,
                      next_step=f"`{parser.prog} --help` lists every flag")  # fmt: skip


def _check_machine(command: str) -> None:
    """Stops in one line where nothing can run. `doctor` goes on, as its duty is to tell about it."""
    if command == "doctor":
        return
    from calltune.platform.machine import check_supported
    from calltune.platform.mlx_build import check_mlx_installed

    check_supported()
    check_mlx_installed()


def _on_terminate() -> Callable[..., Any] | int | None:
    if threading.current_thread() is not threading.main_thread():
        return None  # signals can be set in the main thread alone

    def stop(*_: object) -> NoReturn:
        raise Terminated

    return signal.signal(signal.SIGTERM, stop)


def _told(error: BaseException) -> int:
    """Says what stopped the command, and returns the exit code."""
    if isinstance(error, BrokenPipeError):
        # What is still buffered would fail again when Python closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if isinstance(error, KeyboardInterrupt):
        return _say("interrupted; what was finished is kept", 130)
    if isinstance(error, Terminated):
        return _say("terminated; what was finished is kept", 143)
    if isinstance(error, OSError) and error.errno in DISK:
        from calltune.platform.paths import disk_problem

        return _say(str(disk_problem(error)), 2)
    if os.environ.get("CALLTUNE_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    if isinstance(error, CalltuneError):
        return _say(f"calltune: {error}", error.exit_code)
    text = str(error) or type(error).__name__
    if isinstance(error, MemoryError) or any(words in text.lower() for words in OUT_OF_MEMORY):
        return _say(f"calltune: not enough memory ({text.splitlines()[0]})\n"
                    "  next: a smaller --batch-size or --max-seq-length, or a smaller model", 3)  # fmt: skip
    return _say(f"calltune: a bug of ours: {type(error).__name__}: {' '.join(text.split())}\n"
                "  next: please open an issue with the command and what CALLTUNE_DEBUG=1 shows", 3)  # fmt: skip


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr, flush=True)
    return code
