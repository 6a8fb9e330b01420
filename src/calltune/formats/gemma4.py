"""Gemma 4's form: `call:` with a name and braces, keys without quotes, strings between `<|"|>`.

    <|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:3}<tool_call|>

A string that holds the mark itself, which the form cannot say, is written as a JSON string without `<`.
Source: the chat template of google/gemma-4 models; mlx_lm/tool_parsers/gemma4.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from calltune.formats.literals import MAX_DEPTH, NAMES, read_json, value_at
from calltune.formats.pieces import Format, Kinded, Piece, before_calls, check_names, merge, raw_call
from calltune.formats.scan import Scan, skip
from calltune.schema import GUARD, Message, Reply, ToolCall

NAME = re.compile(r"[^\s{}<>:]+")
PLAIN_KEY = re.compile(r"[^\W\d][\w.\-]*")
BARE = re.compile(r"[^,{}\[\]]*")
KEY = re.compile(r"\s*([^:,{}\[\]<\"]+?)\s*:")
CALL = re.compile(r"\s*,?\s*call:\s*([^\s{}<>:]+)\s*(?=\{)")
THINK = ("<|channel>thought", "<channel|>")


@dataclass(frozen=True)
class Marks:
    """What the two Gemma forms differ in."""

    open: str
    close: str
    string: str
    think: tuple[str, str]
    think_written: tuple[str, str]


GEMMA4_MARKS = Marks("<|tool_call>", "<tool_call|>", '<|"|>', THINK, (f"{THINK[0]}\n", f"\n{THINK[1]}"))


def write_marked(reply: Reply | Message, marks: Marks, form: str) -> tuple[Piece, ...]:
    """The pieces of a reply. Raises InputError for names that the form cannot say."""
    check_names(reply.calls, form, NAME)
    pieces = before_calls(reply, marks.think_written, "")
    for call in reply.calls:
        body: list[Kinded] = raw_call(call)
        if call.error is None:
            arguments = value_text(dict(call.arguments), marks)
            body = [("call:", "syntax"), (call.name, "name"), (arguments, "arguments")]
        pieces += [(marks.open, "syntax"), *body, (marks.close, "syntax")]
    return merge(pieces)


def value_text(value: Any, marks: Marks) -> str:
    if isinstance(value, str):
        if marks.string in (plain := value.replace(GUARD, "")):
            return json.dumps(plain, ensure_ascii=False).replace("<", "\\u003c")
        return f"{marks.string}{value}{marks.string}"
    if isinstance(value, dict):
        keys = [key if PLAIN_KEY.fullmatch(key) else value_text(key, marks) for key in value]
        items = [f"{key}:{value_text(item, marks)}" for key, item in zip(keys, value.values(), strict=True)]
        return "{" + ",".join(items) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(value_text(item, marks) for item in value) + "]"
    return json.dumps(value)


def parse_marked(text: str, marks: Marks, thinking_open: bool) -> Reply:
    def span(scan: Scan, match: re.Match[str]) -> int:
        return _span(scan, match.end(), marks)

    thinks = tuple(dict.fromkeys((marks.think, ("<think>", "</think>"))))
    return Scan(text, re.escape(marks.open), span, (marks.close,), thinks).run(thinking_open)


def _span(scan: Scan, start: int, marks: Marks) -> int:
    """Reads the calls between one pair of marks; returns the index after it."""
    position, found = start, 0
    while header := CALL.match(scan.text, position):
        try:
            value, end = _Values(scan.text, marks).read(header.end(), 0)
        except ValueError as problem:
            stop = scan.limit(start, marks.close)
            scan.broken(scan.text[position:stop].strip(), str(problem), header[1])
            return scan.past(stop, marks.close)
        scan.add([(ToolCall(header[1], value), "")])
        position, found = end, found + 1
    stop = scan.limit(position, marks.close)
    rest = scan.text[position:stop].strip()
    if not found:
        scan.broken(rest, "no call" if rest else "empty call")
    elif scan.text.startswith(marks.close, stop):
        scan.rest(rest)
    elif rest:  # the mark at the end is missing: what follows is content
        scan.errors.append(f"{marks.open} without its end")
        return position
    return scan.past(stop, marks.close)


@dataclass(frozen=True)
class _Values:
    """Reads values; each method returns the value and the index after it, and raises ValueError."""

    text: str
    marks: Marks

    def read(self, start: int, depth: int) -> tuple[Any, int]:
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        start = skip(self.text, start)
        if self.text.startswith(self.marks.string, start) or self.text.startswith('"', start):
            return self._string(start)
        first = self.text[start : start + 1]
        if first == "{":
            return self._object(start + 1, depth)
        if first == "[":
            return self._list(start + 1, depth)
        found = BARE.match(self.text, start)
        bare = found[0].strip() if found else ""
        if not bare or not found or found.end() == len(self.text):
            raise ValueError("a value is missing or cut off")
        if bare in NAMES:
            return NAMES[bare], found.end()
        try:
            return read_json(bare), found.end()
        except ValueError:
            return bare, found.end()  # text without its marks, which models write too

    def _string(self, start: int) -> tuple[str, int]:
        mark = self.marks.string
        if self.text.startswith('"', start):
            return value_at(self.text, start)
        end = self.text.find(mark, start + len(mark))
        if end < 0:
            raise ValueError("a text that does not end")
        return self.text[start + len(mark) : end], end + len(mark)

    def _object(self, position: int, depth: int) -> tuple[dict[str, Any], int]:
        value: dict[str, Any] = {}
        while True:
            position = skip(self.text, position)
            if self.text.startswith("}", position):
                return value, position + 1
            if self.text.startswith((self.marks.string, '"'), position):
                key, position = self._string(position)
                position = skip(self.text, position)
                if not self.text.startswith(":", position):
                    raise ValueError(f"no value after {key!r}"[:80])
                position += 1
            elif found := KEY.match(self.text, position):
                key, position = found[1], found.end()
            else:
                raise ValueError("brackets or texts that do not close")
            if key in value:
                raise ValueError(f"the key {key!r} is given twice"[:80])
            value[key], position = self.read(position, depth + 1)
            position = self._comma(position, "}")

    def _list(self, position: int, depth: int) -> tuple[list[Any], int]:
        value: list[Any] = []
        while True:
            position = skip(self.text, position)
            if self.text.startswith("]", position):
                return value, position + 1
            item, position = self.read(position, depth + 1)
            value.append(item)
            position = self._comma(position, "]")

    def _comma(self, position: int, close: str) -> int:
        position = skip(self.text, position)
        if self.text.startswith(",", position):
            return position + 1
        if not self.text.startswith(close, position):
            raise ValueError("brackets or texts that do not close")
        return position


def write(reply: Reply | Message) -> tuple[Piece, ...]:
    """The pieces of a reply. Raises InputError for names that the form cannot say."""
    return write_marked(reply, GEMMA4_MARKS, "gemma4")


def parse(text: str, *, thinking_open: bool = False, tools: Any = ()) -> Reply:
    """Reads what a model wrote. Never raises; see hermes.parse."""
    return parse_marked(text, GEMMA4_MARKS, thinking_open)


GEMMA4 = Format(
    "gemma4", write, parse, re.compile(re.escape(GEMMA4_MARKS.open)), GEMMA4_MARKS.open, "Gemma 4",
    "the chat template of google/gemma-4 models",
)  # fmt: skip
