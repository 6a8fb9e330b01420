"""A reply's raw text, piece by piece, as what is to be shown of it: plan and words, without the markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TextIO

from calltune.report_text import printable
from calltune.schema import Message, Reply, Tool

PLAN = ("<think>", "</think>")
CALL = ("<tool_call>", "</tool_call>")


@dataclass(frozen=True)
class Shown:
    kind: Literal["plan", "answer"]
    text: str


class Splitter:
    """Feed it pieces. Calls are left out (they are shown when they are whole); a marker may be split over
    pieces, so text that could become one is held back until that is known."""

    def __init__(self) -> None:
        self.state: Literal["plan", "answer", "call"] = "answer"
        self.held = ""
        self.column = 0  # characters since the last line break: whether one is due

    def feed(self, piece: str) -> list[Shown]:
        self.held += piece
        parts: list[Shown] = []
        while marker := self._next_marker():
            before, _, self.held = self.held.partition(marker)
            self._add(parts, before)
            if self.state == "plan" and self.column:
                self._add(parts, "\n")
            self.state = {PLAN[0]: "plan", CALL[0]: "call"}.get(marker, "answer")  # type: ignore[assignment]
        keep = max((n for n in range(1, 13) if any(m.startswith(self.held[-n:]) for m in self._markers())), default=0)
        keep = min(keep, len(self.held))
        ready, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        self._add(parts, ready)
        return parts

    def close(self) -> list[Shown]:
        """What was held back at the end."""
        parts: list[Shown] = []
        self._add(parts, self.held)
        self.held = ""
        return parts

    def _markers(self) -> tuple[str, ...]:
        return {"plan": PLAN[1:], "call": CALL[1:], "answer": (*PLAN, CALL[0])}[self.state]

    def _next_marker(self) -> str | None:
        found = [(self.held.find(m), m) for m in self._markers() if m in self.held]
        return min(found)[1] if found else None

    def _add(self, parts: list[Shown], text: str) -> None:
        if self.state == "call":
            return
        if not self.column:
            text = text.lstrip()  # no empty lines where markup stood
        if text:
            parts.append(Shown(self.state, text))
            self.column = len(text) - text.rfind("\n") - 1


def stream_reply(
    caller: Any, messages: Sequence[Message], tools: tuple[Tool, ...], out: TextIO, *, colour: bool = False,
    max_tokens: int, sampling: Any, rules: Any,
) -> Reply:  # fmt: skip
    """Generates a reply and shows its plan and words on `out` as they come."""
    splitter, made = Splitter(), list[Any]()

    def show(parts: Sequence[Shown]) -> None:
        for part in parts:
            text = printable(part.text)
            print(f"\x1b[2m{text}\x1b[0m" if colour and part.kind == "plan" else text, end="", file=out, flush=True)

    for piece in caller.stream(messages, tools, max_tokens=max_tokens, sampling=sampling, rules=rules,
                               on_done=made.append):  # fmt: skip
        show(splitter.feed(piece))
    show(splitter.close())
    if splitter.column:
        print(file=out)
    reply: Reply = caller.parse(made[0], False, tools, caller.grammar(tools, rules))
    return reply
