"""One pass over a reply's text, from mark to mark: what all formats that are read by their marks share."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from calltune.formats.pieces import END_THINK, THINK
from calltune.schema import Reply, ToolCall, shorten

SCAN_BUDGET = 5_000_000  # characters of unreadable calls looked at twice in one text, then once only
BLANK = " \t\r\n"


@dataclass
class Scan:
    """A text that is read: its parts so far, and where the marks are.

    `opens` marks the beginning of calls; `read(scan, start, mark)` reads them from the index after the mark, adds
    them, and returns the index where the text goes on, or None where they are no calls after all. `others` are marks
    that `read` asks for; `thinks` the marks of plans.
    """

    text: str
    opens: str
    read: Callable[[Scan, re.Match[str]], int | None]
    others: tuple[str, ...] = ()
    thinks: tuple[tuple[str, str], ...] = ((THINK, END_THINK),)
    thinking: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    budget: int = SCAN_BUDGET

    def __post_init__(self) -> None:
        begins, self.ends = (tuple(pair[i] for pair in self.thinks) for i in (0, 1))
        marks = [f"(?P<think>{_any_of(begins)})", f"(?P<end>{_any_of(self.ends)})", f"(?P<opens>{self.opens})"]
        marks += map(re.escape, self.others)
        self.marks = list(re.finditer("|".join(marks), self.text))
        self.places: dict[str, list[int]] = {}  # of the plan's marks and the others, ascending
        for match in self.marks:
            if match.lastgroup != "opens":
                self.places.setdefault(match[0], []).append(match.start())
        self.openings = [match.start() for match in self.marks if match.lastgroup == "opens"]
        self.starts = [match.start() for match in self.marks]

    def run(self, thinking_open: bool = False) -> Reply:
        position = self._think(0) if thinking_open else 0
        while position < len(self.text):
            i = bisect_left(self.starts, position)
            match = self.marks[i] if i < len(self.marks) else None
            start = match.start() if match else len(self.text)
            self.content.append(self.text[position:start])
            position = self._mark(match) if match else start
        plan = "\n".join(part.strip() for part in self.thinking if part.strip())
        thinking = plan if self.thinking else None
        content = "".join(self.content).strip()
        return Reply(thinking, tuple(self.calls), content, self.text, tuple(self.errors))

    def _mark(self, match: re.Match[str]) -> int:
        """Reads what a mark begins; returns the index after it."""
        if match.lastgroup == "opens":
            end = self.read(self, match)
            if end is None:
                self.content.append(match[0])
            return match.end() if end is None else end
        if match.lastgroup == "think":
            return self._think(match.end())
        if match.lastgroup == "end" and not self.thinking and not self.calls:
            # the template opened the plan and nobody told us
            self.thinking, self.content = self.content, []
        else:
            self.errors.append(f"{match[0]} without its beginning")
        return match.end()

    def _think(self, start: int) -> int:
        """Reads a plan that begins at `start`; without an end it goes up to a call or the text's end."""
        for begin, _ in self.thinks:  # written by the template and again by the model
            if self.text.startswith(begin, start):
                start += len(begin)
        end = self.next(start, *self.ends)
        after = self.past(end, *self.ends)
        if end == after:
            self.errors.append("unclosed think")
            end = after = self.next_opening(start)
        self.thinking.append(self.text[start:end])
        return after

    def next(self, position: int, *wanted: str) -> int:
        """The first of the wanted marks from `position` on, else the end of the text."""
        first = len(self.text)
        for mark in wanted:
            places = self.places.get(mark, ())
            i = bisect_left(places, position)
            if i < len(places):
                first = min(first, places[i])
        return first

    def next_opening(self, position: int) -> int:
        i = bisect_left(self.openings, position)
        return self.openings[i] if i < len(self.openings) else len(self.text)

    def limit(self, position: int, *marks: str) -> int:
        """Where a call before `position` ends at the latest: at a mark, the next call or the text's end."""
        return min(self.next(position, *marks), self.next_opening(position))

    def past(self, position: int, *marks: str) -> int:
        """The index after the mark that stands at `position`; `position` where none does."""
        return position + next((len(mark) for mark in marks if self.text.startswith(mark, position)), 0)

    def add(self, calls: Sequence[tuple[ToolCall, str]]) -> None:
        """Adds calls, each with a note or ''."""
        for call, note in calls:
            self.calls.append(call)
            if call.error is not None:
                self.errors.append(f"unreadable call: {call.error}")
            elif note:
                self.errors.append(note)

    def broken(self, raw: str, error: str, name: str = "") -> None:
        """Adds a call that could not be read."""
        self.add([(ToolCall(name, raw=raw, error=error), "")])

    def rest(self, text: str) -> None:
        """Keeps text after a call, up to the end of its span, with that call."""
        text = text.strip()
        if text and self.calls:
            call = self.calls.pop()
            raw = f"{call.raw or call.to_dict()} {text}"
            self.calls.append(ToolCall(call.name, call.arguments, call.id, raw, call.error))
            self.errors.append(f"text after the call: {shorten(text)}")

    def skip(self, position: int, characters: str = BLANK) -> int:
        return skip(self.text, position, characters)


def skip(text: str, position: int, characters: str = BLANK) -> int:
    """The first index from `position` on that holds none of the characters."""
    while position < len(text) and text[position] in characters:
        position += 1
    return position


def _any_of(marks: Sequence[str]) -> str:
    return "|".join(map(re.escape, marks))
