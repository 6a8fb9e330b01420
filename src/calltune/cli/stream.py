"""A reply as it comes: its plan and its words on the screen, without the markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from calltune.report_text import printable
from calltune.schema import Message, Reply, Tool
from calltune.serve.parts import Delta
from calltune.serve.stream import Deltas

SHOWN = ("reasoning_content", "content")  # calls are shown when they are whole


@dataclass
class Screen:
    """Writes the plan and the words of deltas on `out`, each on lines of its own; the plan dimmed with `colour`."""

    out: TextIO
    colour: bool = False
    last: str = ""

    def show(self, deltas: Iterable[Delta]) -> None:
        for key, text in ((key, delta[key]) for delta in deltas for key in SHOWN if key in delta):
            if self.last not in ("", key):
                print(file=self.out)
            self.last = key
            shown = printable(text)
            dim = self.colour and key == "reasoning_content"
            print(f"\x1b[2m{shown}\x1b[0m" if dim else shown, end="", file=self.out, flush=True)

    def end(self) -> None:
        if self.last:
            print(file=self.out)


def stream_reply(
    caller: Any, messages: Sequence[Message], tools: tuple[Tool, ...], out: TextIO, *, colour: bool = False,
    max_tokens: int, sampling: Any, rules: Any,
) -> Reply:  # fmt: skip
    """Generates a reply and shows its plan and words on `out` as they come."""
    screen, made, opened = Screen(out, colour), list[Reply](), list[bool]()
    deltas: Deltas | None = None
    for piece in caller.stream(messages, tools, max_tokens=max_tokens, sampling=sampling, rules=rules,
                               on_done=made.append, on_prompt=opened.append):  # fmt: skip
        deltas = deltas or Deltas(caller.template.format, tools, bound=rules is not None, opened=opened[0],
                                  tell_unread=False)  # fmt: skip
        screen.show(deltas.feed(piece))
    screen.show(deltas.close() if deltas else ())
    screen.end()
    return made[0]
