"""Errors that a user reads: what was asked, what was found and where, what to do next.

Everything that a user can cause is raised as `InputError` (exit code 2, no traceback). A plain
exception that reaches the command line is a bug of ours (exit code 3).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in one place of the input.

    `row` is the 1-based line of the file (None: the whole set), `path` a JSON pointer into the row,
    `kind` a short stable name such as `unknown_tool`, `found` and `expected` plain words. Only an error
    rejects a row; a warning is told.
    """

    kind: str
    found: str
    expected: str = ""
    path: str = ""
    row: int | None = None
    severity: Severity = "error"

    def __str__(self) -> str:
        place = "" if self.row is None else f"line {self.row}"
        if self.path:
            place = f"{place} at {self.path}".strip()
        text = f"{self.kind}: {self.found}"
        if self.expected:
            text += f" (expected {self.expected})"
        return f"{place}: {text}" if place else text

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def pointer(*parts: object) -> str:
    """A JSON pointer (RFC 6901) of keys and indices: `/a~1b/0`."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


class CalltuneError(Exception):
    """Base of the errors that are told in plain words; `exit_code` is the command's (CONTRACT)."""

    exit_code = 3

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.next_step}" if self.next_step else self.message


class InputError(CalltuneError):
    """Wrong use or bad input: exit code 2. Carries every problem that was found, not the first one."""

    exit_code = 2

    def __init__(self, message: str, *, next_step: str = "", problems: Iterable[Problem] = ()) -> None:
        super().__init__(message, next_step=next_step)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        lines = [self.message]
        lines += [f"  {problem}" for problem in self.problems[:20]]
        if len(self.problems) > 20:
            lines.append(f"  ... and {len(self.problems) - 20} more")
        if self.next_step:
            lines.append(f"  next: {self.next_step}")
        return "\n".join(lines)


class TooLong(InputError):
    """A prompt leaves no room for a reply in the model's context."""

    def __init__(self, prompt: int, context: int, *, least: bool = False) -> None:
        """In tokens. `least`: it has at least that many."""
        # Clients know this error by words of it: LiteLLM by the first, LangChain by "prompt is too long".
        super().__init__(f"this model's maximum context length is {context:,} tokens with the reply, and the "
                         f"prompt is too long: its messages and tools have {'at least ' * least}{prompt:,}",
                         next_step="send fewer or shorter messages and tools")  # fmt: skip


def room_for(prompt: int, context: int | None) -> int:
    """How many tokens a reply to a prompt of so many may have (None: no limit is known). Raises TooLong."""
    if context is None:
        return 1 << 30
    if prompt >= context:
        raise TooLong(prompt, context)
    return context - prompt


class CheckFailed(CalltuneError):
    """A check, threshold or verification that was asked for did not hold: exit code 1."""

    exit_code = 1


class CannotFinish(CalltuneError):
    """Numbers, memory or a bug of ours stopped the work: exit code 3."""

    exit_code = 3
