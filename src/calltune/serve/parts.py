"""What the message of a stream is made of: its plan and its content as they grow, and the arguments of a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Delta = dict[str, Any]


@dataclass
class Part:
    """Plan or content that grows: no white space at its ends, as formats read it.

    `stops`: texts that end it where they stand in it, and are left out. One that ends in white space counts when
    something follows it: before a call, and at the end, that white space is no part of the content. `eager`: no call
    can come, so that it counts at once.
    """

    key: Literal["reasoning_content", "content"]
    stops: tuple[str, ...] = ()
    eager: bool = False
    sent: str = ""
    waits: str = ""  # what is sent only when it is known what follows: white space, the beginning of a stop text
    begins: bool = True
    stopped: bool = False

    def begin(self) -> None:
        """A further plan: on a line of its own."""
        self.begins, self.waits = True, "\n" if self.sent else ""

    def add(self, text: str) -> list[Delta]:
        if self.begins:
            text = text.lstrip()
        if not text or self.stopped:
            return []
        self.begins = False
        text = self.waits + text
        start, end = _first_stop(text, self.stops)
        self.stopped = end <= len(text if self.eager else text.rstrip())
        kept = text[: min(start, len(text) if self.stopped else settled(text, self.stops))].rstrip()
        self.waits = "" if self.stopped else text[len(kept) :]
        return self._send(kept)

    def end(self) -> list[Delta]:
        """What waits, without the white space after it: no more of the text comes, or a call before it."""
        kept = self.waits.rstrip()
        self.waits = self.waits[len(kept) :]
        return self._send(kept)

    def _send(self, text: str) -> list[Delta]:
        self.sent += text
        return [{self.key: text}] if text else []


def _first_stop(text: str, stops: Sequence[str]) -> tuple[int, int]:
    """Where the stop text stands that is whole first; beyond the text where there is none."""
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    end, start = min(found, default=(len(text) + 1, len(text)))
    return start, end


def settled(text: str, stops: Sequence[str]) -> int:
    """How much of a text that goes on is no beginning of a stop text."""
    end = len(text)
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:length]):
                end = min(end, len(text) - length)
                break
    return end


@dataclass
class Arguments:
    """Reads a JSON object in pieces up to its end. `depth`: open brackets; 0 outside of an object."""

    depth: int = 0
    quoted: bool = False
    escaped: bool = False

    def read(self, text: str, start: int) -> int:
        """The index after the object, or the text's end. Strings are passed over, so marks in them do not count."""
        for i in range(start, len(text)):
            character = text[i]
            if self.escaped:
                self.escaped = False
            elif self.quoted:
                self.escaped, self.quoted = character == "\\", character != '"'
            elif character == '"':
                self.quoted = True
            elif character in "{[":
                self.depth += 1
            elif character in "}]":
                self.depth -= 1
                if not self.depth:
                    return i + 1
        return len(text)
