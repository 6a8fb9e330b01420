"""What an agent did: its answer, and the whole way to it as a conversation in the training format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from calltune.errors import InputError
from calltune.functions import Outcome
from calltune.schema import Conversation, Message, Reply, Tool, ToolCall

MAX_STEPS = 8  # replies for one request
Ended = Literal["answer", "cut", "max_steps", "repeated", "empty", "too_long"]


@dataclass(frozen=True)
class Step:
    """One reply and what came of its calls, in their order; none where the reply could not be read."""

    reply: Reply
    outcomes: tuple[Outcome, ...] = ()


@dataclass(frozen=True)
class Result:
    """`answer` is the model's text; "" where it did not come to one. `reason` says in plain words what went wrong.

    `ended`: "answer"; "cut" (an answer that the limit of tokens cut off); "max_steps"; "repeated" (the same call or
    reply failed again, or went round in a circle); "empty" (a reply with nothing in it); "too_long" (the
    conversation came to the end of the model's context). `conversation` holds every message, from the first on, and
    the tools.
    """

    answer: str
    ended: Ended
    reason: str
    conversation: Conversation
    steps: tuple[Step, ...] = ()

    @property
    def calls(self) -> list[tuple[ToolCall, Outcome]]:
        """Every call that could be read, with its outcome."""
        return [pair for s in self.steps if s.outcomes for pair in zip(s.reply.calls, s.outcomes, strict=True)]

    @property
    def refused(self) -> list[ToolCall]:
        """The calls that somebody did not let run, whatever the answer says of them."""
        return [call for call, outcome in self.calls if outcome.kind == "refused"]

    @property
    def messages(self) -> tuple[Message, ...]:
        return self.conversation.messages

    def save(self, path: str | Path) -> None:
        """Appends the conversation as a line of JSON that `calltune check` and `calltune prepare` read. What went
        wrong on the way stands in it too: `check` says which rows are not fit for training. Raises InputError."""
        line = json.dumps(self.conversation.to_openai(), ensure_ascii=False) + "\n"
        try:
            with Path(path).open("ab+") as file:
                if file.tell():
                    file.seek(-1, 2)
                    line = line if file.read(1) == b"\n" else f"\n{line}"
                file.write(line.encode("utf-8", "replace"))
        except OSError as error:
            raise InputError(f"the conversation cannot be written to {path}: {error.strerror or error}",
                             next_step="name a file in a folder that exists") from None  # fmt: skip


def result_of(
    ended: Ended, reason: str, messages: Sequence[Message], tools: Sequence[Tool], steps: Sequence[Step]
) -> Result:
    answer = messages[-1].content.strip() if ended in ("answer", "cut") else ""
    failed = sum(outcome.error for step in steps for outcome in step.outcomes)
    unread = sum(not step.outcomes for step in steps) - (ended in ("answer", "cut", "empty"))
    refused = sum(outcome.kind == "refused" for step in steps for outcome in step.outcomes)
    about: dict[str, Any] = {
        "ended": ended,
        "replies": len(steps),
        "failed_calls": failed,
        "unreadable_replies": unread,
    }
    if refused:  # an answer after it may claim that the call was done
        about["refused_calls"] = refused
    conversation = Conversation(tuple(messages), tuple(tools), meta={"agent": about})
    return Result(answer, ended, reason, conversation, tuple(steps))
