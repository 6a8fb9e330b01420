"""Whether a call may run: a hook decides, or the person at the terminal; pure functions run without asking."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

from calltune.functions import Function
from calltune.report_text import call_text, printable
from calltune.schema import ToolCall

Answer = bool | str  # True: run it; False: no; a text: no, and why, in words for the model
Confirm = Callable[[ToolCall, Function], Answer | Awaitable[Answer]]

NOT_ALLOWED = "the user refused this call; it was not done"
NO_TERMINAL = "not done: this function needs the user's consent, and there is nobody to ask"


def confirm_of(given: Confirm | bool | None) -> Confirm:
    """A hook as it is; True allows every call, False none; None asks in the terminal."""
    if given is None:
        return in_terminal
    return (lambda call, function: given) if isinstance(given, bool) else given


def in_terminal(call: ToolCall, function: Function) -> Answer:
    """Asks the person at the terminal; where there is no terminal nothing is allowed."""
    return ask(call, default=False) if sys.stdin.isatty() else NO_TERMINAL


def reason_of(answer: Answer) -> str | None:
    """Why a call may not run, in words for the model; None where it may. Only True itself is a yes."""
    if answer is True:
        return None
    if not isinstance(answer, str) or not answer.strip():
        return NOT_ALLOWED
    return answer if answer.startswith("not done") else f"not done: {answer.strip()}"


def ask(call: ToolCall, *, default: bool = True) -> bool:
    """Whether the person at the terminal lets this call run."""
    choice = "[Y/n]" if default else "[y/N]"
    print(f"run {printable(call_text(call))}? {choice} ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:  # the input has ended: nobody said yes
        print(file=sys.stderr)
        return False
    return answer.strip().lower() in (("", "y", "yes") if default else ("y", "yes"))
