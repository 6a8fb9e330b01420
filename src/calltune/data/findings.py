"""What a row shows by itself: whether it can be read, what is wrong with it, and the keys under which it is compared
with others. It depends on the row alone, so that rows may be looked at in any process and in any order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from calltune.acceptable import read_acceptable
from calltune.data.balance import Traits, traits
from calltune.data.calls import judge, repair_call
from calltune.data.grounding import unsaid
from calltune.data.leaks import Benchmark
from calltune.data.likeness import like_keys, request_words
from calltune.data.readers import RowReading, reading_of
from calltune.data.sources import Source
from calltune.data.tool_rows import schema_problems
from calltune.data.turns import turn_problems
from calltune.errors import Problem
from calltune.schema import Conversation, Message, ToolCall

PIECE_ROWS, PIECE_BYTES = 256, 1 << 20  # of what goes to another process at once


class Findings(NamedTuple):
    """Of one row (a tuple, which goes quickly from process to process). Later fields are filled as far as the row is
    good enough: `calls` where it has no error by itself, the rest where all of its calls can be put right."""

    line: int
    form: str
    problems: tuple[Problem, ...]  # that kept it from being read
    repairs: tuple[Problem, ...] = ()
    id: str | None = None  # None: it could not be read
    row: tuple[Problem, ...] = ()  # of the row apart from its calls
    leaks: tuple[Problem, ...] = ()
    calls: tuple[Problem, ...] = ()
    hopeless: bool = False  # a call cannot be put right
    called: bool = False
    likes: tuple[int, ...] = ()
    values: int = 0  # in its calls
    unsaid: tuple[Problem, ...] = ()
    traits: Traits = (False, False, False, False)
    text: bytes = b""  # the repaired row in OpenAI's form, where that was asked for
    conversation: Conversation | None = None  # the repaired one; not from another process
    value: Any = None  # as it stood in the source; not from another process


@dataclass(frozen=True)
class Look:
    """How rows are looked at. `write`: their text is wanted too."""

    benchmark: Benchmark
    write: bool = False

    def __call__(self, reading: RowReading) -> Findings:
        start = Findings(reading.line, reading.form, reading.problems, reading.repairs, value=reading.value)
        conversation = reading.conversation
        if conversation is None:
            return start
        row = tuple(_row(conversation, reading))
        leaks = tuple(self.benchmark.find(conversation, reading.path)) if self.benchmark.questions else ()
        start = start._replace(id=conversation.id, row=row, leaks=leaks, conversation=conversation)
        if any(problem.severity == "error" for problem in (*reading.problems, *row, *leaks)):
            return start  # calls are not judged by schemas that are none
        calls, repaired, hopeless = _judged(reading, conversation)
        if hopeless:
            return start._replace(calls=tuple(calls), hopeless=True)
        conversation = _with_calls(conversation, repaired)
        at = {id(repaired.get(id(call), call)): path for path, call in reading.calls}
        values, made_up = unsaid(conversation, at) if at else (0, [])
        return start._replace(
            calls=tuple(calls), called=bool(at), likes=tuple(like_keys(conversation, request_words(conversation))),
            values=values, unsaid=tuple(made_up), traits=traits(conversation),
            text=json_line(conversation.to_openai()) if self.write else b"", conversation=conversation,
        )  # fmt: skip


class Piece(NamedTuple):
    """Some rows of a source that are not read yet, with which another process can begin."""

    source: Source  # without rows in memory
    rows: list[tuple[int, Any]]

    def __str__(self) -> str:
        return f"lines {self.rows[0][0]} to {self.rows[-1][0]} of {self.source.name}"


@dataclass(frozen=True)
class LookAtPiece:
    look: Look

    def __call__(self, piece: Piece) -> list[Findings]:
        found = (self.look(reading_of(piece.source, *row)) for row in piece.rows)
        return [findings._replace(conversation=None, value=None) for findings in found]


def pieces(source: Source) -> Iterator[Piece]:
    """The rows of a source in pieces of at most PIECE_ROWS, and of one row or about PIECE_BYTES of text."""
    alone = source if source.is_text else replace(source, items=None)
    rows: list[tuple[int, Any]] = []
    size = 0
    for row in source.unread():
        rows.append(row)
        size += len(row[1]) if isinstance(row[1], bytes | str) else 0
        if len(rows) == PIECE_ROWS or size >= PIECE_BYTES:
            yield Piece(alone, rows)
            rows, size = [], 0
    if rows:
        yield Piece(alone, rows)


def json_line(value: Any) -> bytes:
    """A value as a line of a JSON Lines file."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError:  # half a surrogate pair in a rejected row
        return f"{json.dumps(value, default=str)}\n".encode()


def _row(conversation: Conversation, reading: RowReading) -> Iterator[Problem]:
    """What is wrong with the row apart from its calls."""
    yield from reading.schema
    if not reading.form:  # a conversation from memory
        yield from (p for tool in conversation.tools for p in schema_problems(tool))
    yield from _same_names(conversation)
    yield from turn_problems(conversation, reading.path)
    yield from read_acceptable(conversation)[1]


def _judged(reading: RowReading, conversation: Conversation) -> tuple[list[Problem], dict[int, ToolCall], bool]:
    """Problems of the calls, the calls that were repaired by `id`, and whether one cannot be."""
    problems: list[Problem] = []
    repaired: dict[int, ToolCall] = {}
    hopeless = False
    for path, call in reading.calls:
        if found := judge(call, conversation.tools, path):
            problems += found
            repaired[id(call)] = repair_call(call, conversation.tools)
            hopeless = hopeless or bool(judge(repaired[id(call)], conversation.tools, path))
    return problems, repaired, hopeless


def _same_names(conversation: Conversation) -> Iterator[Problem]:
    """Tools of one name: a call of that name could mean either."""
    names = [tool.name for tool in conversation.tools]
    if len(set(names)) == len(names):
        return
    for i, tool in enumerate(conversation.tools):
        first = names.index(tool.name)
        if first < i:
            same = conversation.tools[first] == tool
            yield Problem("duplicate_tool", f"{tool.name}, as tool {first}", "a tool once", f"/tools/{i}",
                          severity="warning" if same else "error")  # fmt: skip


def _with_calls(conversation: Conversation, repaired: Mapping[int, ToolCall]) -> Conversation:
    if not repaired:
        return conversation

    def mend(message: Message) -> Message:
        return replace(message, calls=tuple(repaired.get(id(call), call) for call in message.calls))

    return replace(conversation, messages=tuple(map(mend, conversation.messages)))
