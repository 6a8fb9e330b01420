"""The Hermes form, which Qwen uses too: `<think>` plan, content, `<tool_call>` with a JSON object.

    <think>
    The user wants the weather: get_weather with the city.
    </think>
    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    </tool_call>

Source: https://github.com/NousResearch/Hermes-Function-Calling and the chat template of Qwen2.5/Qwen3.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from calltune.formats.literals import balanced_end, read_value
from calltune.formats.pieces import Format, Kind, Piece
from calltune.schema import Message, Reply, ToolCall, shorten

OPEN, CLOSE = "<tool_call>", "</tool_call>"
THINK, END_THINK = "<think>", "</think>"
MARKER = re.compile(r"</?(?:think|tool_call)>")
SCAN_BUDGET = 5_000_000  # characters of unreadable calls looked at twice in one text, then once only


@dataclass(frozen=True)
class HermesStyle:
    """The white space around the parts, which templates write differently; `parse` takes any."""

    think_open: str = "<think>\n"
    think_close: str = "\n</think>\n"
    before_calls: str = "\n"  # between content and the first call
    call_open: str = "<tool_call>\n"
    call_close: str = "\n</tool_call>"
    between_calls: str = "\n"


def write(reply: Reply | Message, style: HermesStyle | None = None) -> tuple[Piece, ...]:
    """The pieces of a reply: plan (none where `thinking` is None), content, calls.

    A call that could not be read is written as it was (`raw`), so that a history stays true. The form has
    no escapes outside JSON: a plan or content that holds a marker itself is read back as that marker.
    """
    style = style or HermesStyle()
    pieces: list[tuple[str, Kind]] = []
    if reply.thinking is not None:
        pieces += [(style.think_open, "syntax"), (reply.thinking, "think"), (style.think_close, "syntax")]
    pieces.append((reply.content, "answer"))
    for i, call in enumerate(reply.calls):
        before = style.between_calls if i else style.before_calls if reply.content else ""
        pieces += [(before + style.call_open, "syntax"), *_call_pieces(call), (style.call_close, "syntax")]
    return _merge(pieces)


def _call_pieces(call: ToolCall) -> list[tuple[str, Kind]]:
    if call.error is not None:
        return [(call.raw or "", "arguments")]
    name = json.dumps(call.name, ensure_ascii=False)[1:-1]
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    middle = '", "arguments": '
    return [
        ('{"name": "', "syntax"),
        (name, "name"),
        (middle, "syntax"),
        (arguments, "arguments"),
        ("}", "syntax"),
    ]


def _merge(pieces: list[tuple[str, Kind]]) -> tuple[Piece, ...]:
    """Neighbours of one kind as one piece, empty ones left out."""
    merged: list[Piece] = []
    for text, kind in pieces:
        if text and merged and merged[-1].kind == kind:
            merged[-1] = Piece(merged[-1].text + text, kind)
        elif text:
            merged.append(Piece(text, kind))
    return tuple(merged)


def parse(text: str, *, thinking_open: bool = False) -> Reply:
    """Reads what a model wrote. Never raises; what cannot be read is in `errors` and in the call's `raw`.

    `thinking_open`: the prompt ended with `<think>`, so the text begins inside the plan. White space at
    the ends of plan and content is not kept. Values are JSON or Python literals.
    """
    return _Scan(text).run(thinking_open)


@dataclass
class _Scan:
    """One pass over a text from marker to marker."""

    text: str
    thinking: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # of all markers, ascending
    markers: list[str] = field(default_factory=list)  # in the same order
    places: dict[str, list[int]] = field(default_factory=dict)  # of each marker, ascending
    budget: int = SCAN_BUDGET

    def run(self, thinking_open: bool) -> Reply:
        for match in MARKER.finditer(self.text):
            self.starts.append(match.start())
            self.markers.append(match[0])
            self.places.setdefault(match[0], []).append(match.start())
        position = self._think(0) if thinking_open else 0
        while position < len(self.text):
            start, marker = self._next(position)
            self.content.append(self.text[position:start])
            position = start + len(marker)
            if marker == OPEN:
                position = self._span(position)
            elif marker == THINK:
                position = self._think(position)
            elif marker == END_THINK and not self.thinking and not self.calls:
                # the template opened the plan and nobody told us
                self.thinking, self.content = self.content, []
            elif marker:
                self.errors.append(f"{marker} without its beginning")
        plan = "\n".join(part.strip() for part in self.thinking if part.strip())
        thinking = plan if self.thinking else None
        content = "".join(self.content).strip()
        return Reply(thinking, tuple(self.calls), content, self.text, tuple(self.errors))

    def _next(self, position: int, *wanted: str) -> tuple[int, str]:
        """The first marker from `position` on (of those wanted), else the end of the text and ''."""
        if not wanted:
            i = bisect_left(self.starts, position)
            return (self.starts[i], self.markers[i]) if i < len(self.starts) else (len(self.text), "")
        first = (len(self.text), "")
        for marker in wanted:
            places = self.places.get(marker, [])
            i = bisect_left(places, position)
            if i < len(places):
                first = min(first, (places[i], marker))
        return first

    def _think(self, start: int) -> int:
        """Reads a plan that begins at `start`; without an end it goes up to a call or the text's end."""
        if self.text.startswith(THINK, start):  # written by the template and again by the model
            start += len(THINK)
        end, marker = self._next(start, END_THINK)
        if not marker:
            self.errors.append("unclosed think")
            end = self._next(start, OPEN)[0]
        self.thinking.append(self.text[start:end])
        return end + len(marker)

    def _span(self, start: int) -> int:
        """Reads the calls of one `<tool_call>`; returns the index after it."""
        position, found = start, 0
        while True:
            position = _skip(self.text, position, " \t\r\n,;" if found else " \t\r\n")
            if self.text.startswith(CLOSE, position) or position >= len(self.text):
                break
            if found and self.text[position] not in "{[":
                return self._after_calls(position)
            position = (None if found else self._whole(position)) or self._value(position)
            found += 1
            if self.text.startswith(OPEN, _skip(self.text, position, " \t\r\n")):
                return position  # the next call begins without an end of this one
        if not found:
            self._broken(self.text[start:position], "empty call")
        return position + len(CLOSE)

    def _after_calls(self, position: int) -> int:
        """Text between a call and the end of its span: kept with the call; without an end it is content."""
        end, marker = self._next(position, CLOSE, OPEN)
        rest = self.text[position:end].strip()
        if marker != CLOSE:
            self.errors.append(f"{OPEN} without its end")
            return position
        call = self.calls.pop()
        raw = f"{call.raw or json.dumps(call.to_dict(), ensure_ascii=False)} {rest}"
        self.calls.append(ToolCall(call.name, call.arguments, call.id, raw, call.error))
        self.errors.append(f"text after the call: {shorten(rest)}")
        return end + len(CLOSE)

    def _whole(self, start: int) -> int | None:
        """Reads what nearly every span holds: one value up to the span's end. None where it is not that."""
        if self.text[start] not in "{[":
            return None
        raw = self.text[start : self._next(start, CLOSE, OPEN)[0]].rstrip(" \t\r\n")
        try:
            value = read_value(raw)
        except ValueError:
            return None
        self._add(value, raw)
        return start + len(raw)

    def _value(self, start: int) -> int:
        """Reads one value as calls; returns the index after it."""
        close = self._next(start, CLOSE, OPEN)[0]
        end, error = None, "brackets or quotes that do not close"
        if self.text[start] in "{[" and self.budget > 0:
            try:
                end = balanced_end(self.text, start)
            except ValueError as problem:
                error = str(problem)
        if end is None:  # a scalar, cut off, or a quote that never closes
            self.budget -= len(self.text) - start
            return self._unbalanced(start, close, error)
        raw = self.text[start:end]
        try:
            self._add(read_value(raw), raw)
        except ValueError as problem:
            if end > close and not MARKER.match(self.text, _skip(self.text, end, " \t\r\n")):
                self.budget -= end - start
                end = close  # a wrong quote paired with one of a later call: stop at this span's end
            self._broken(self.text[start:end], str(problem))
        return end

    def _unbalanced(self, start: int, close: int, error: str) -> int:
        raw = self.text[start:close].rstrip()
        try:
            self._add(read_value(raw), raw)
        except ValueError as problem:
            self._broken(raw, error if raw[:1] in ("{", "[") else str(problem))
        return close

    def _broken(self, raw: str, error: str) -> None:
        self.calls.append(ToolCall("", raw=raw, error=error))
        self.errors.append(f"unreadable call: {error}")

    def _add(self, value: Any, raw: str) -> None:
        for call, note in calls_of(value, raw):
            self.calls.append(call)
            if call.error is not None:
                self.errors.append(f"unreadable call: {call.error}")
            elif note:
                self.errors.append(note)


KNOWN_KEYS = frozenset(["name", "arguments", "parameters", "id", "type", "function"])


def calls_of(value: Any, raw: str) -> Iterator[tuple[ToolCall, str]]:
    """The calls that a value (an object, or a list of them) stands for, each with a note or ''.

    An object has `name` and `arguments` (or `parameters`; an object, or its JSON text; none: no
    arguments), or is OpenAI's `{"type": "function", "function": {...}}`. Other keys are noted.
    """
    if type(value) is not dict and isinstance(value, list):
        if not value:
            yield ToolCall("", raw=raw, error="a list without a call"), ""
        for item in value:
            if isinstance(item, list):
                yield ToolCall("", raw=raw, error="a list within a list of calls"), ""
            else:
                yield from calls_of(item, json.dumps(item, ensure_ascii=False))
        return
    if type(value) is not dict and not isinstance(value, Mapping):
        yield ToolCall("", raw=raw, error=f"a call is an object, not {shorten(value, 40)}"), ""
        return
    outer = value
    if (inner := value.get("function")) is not None and isinstance(inner, Mapping):
        value = inner
    name, identity = value.get("name"), outer.get("id")
    keys = [key for key in ("arguments", "parameters") if key in value]
    other = [key for key in (outer if outer is value else dict.fromkeys([*outer, *value])) if key not in KNOWN_KEYS]
    error = _shape_error(name, keys, other)
    arguments: Any = {}
    if not error and keys:
        arguments, error = _arguments(value[keys[0]])
    if error:
        name = name if isinstance(name, str) else ""
        yield ToolCall(name, raw=raw, error=error), ""
        return
    note = f"unknown key beside name and arguments: {', '.join(map(repr, other))}" if other else ""
    identity = identity if isinstance(identity, str) else None
    yield ToolCall(name, arguments, identity, raw if other else None), note


def _shape_error(name: Any, keys: list[str], other: list[str]) -> str | None:
    if not isinstance(name, str) or not name:
        return "a call without a name"
    if len(keys) == 2:
        return "both `arguments` and `parameters`"
    if not keys and other:
        return f"no `arguments`, but {', '.join(map(repr, other))}"
    return None


def _arguments(value: Any) -> tuple[dict[str, Any], str | None]:
    """The arguments object (or its JSON text) and None, or {} and what is wrong."""
    if isinstance(value, str) and value.strip():
        try:
            value = read_value(value)
        except ValueError as error:
            return {}, f"the arguments are text that is {error}"
    if value is None or value == "":
        return {}, None
    if not isinstance(value, dict):
        return {}, f"the arguments are no object: {shorten(value, 40)}"
    return value, None


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position


HERMES = Format("hermes", write, parse, (OPEN,))
