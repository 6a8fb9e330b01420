"""What every wire format has in common: a reply as kinded pieces of text, and the format's two functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from calltune.errors import InputError, Problem
from calltune.schema import Message, Reply, ToolCall, shorten

Kind = Literal["think", "name", "arguments", "syntax", "answer"]
Kinded = tuple[str, Kind]
THINK, END_THINK = "<think>", "</think>"


@dataclass(frozen=True)
class Piece:
    """A stretch of a reply's text and what it is; the pieces of a reply joined are its text.

    `think` the plan, `name` a tool's name without quotes, `arguments` the arguments object, `answer` the
    content, `syntax` everything that the format adds around them.
    """

    text: str
    kind: Kind


@dataclass(frozen=True)
class Format:
    """A wire format: `write` makes the pieces of a reply, `parse(text, thinking_open=False, tools=())` reads one.

    `opens` matches where a call of this format begins, which is how a format is found out from a text; None: it has
    no mark of its own. `tools` matter only to a format whose values have no types. `source` says who writes it so.
    """

    name: str
    write: Callable[[Reply | Message], tuple[Piece, ...]]
    parse: Callable[..., Reply]
    opens: re.Pattern[str] | None
    mark: str  # stands in every match of `opens`: a quick look before the pattern
    models: str = ""
    source: str = ""


def join(pieces: tuple[Piece, ...]) -> str:
    return "".join(piece.text for piece in pieces)


def merge(pieces: Iterable[Kinded]) -> tuple[Piece, ...]:
    """Neighbours of one kind as one piece, empty ones left out."""
    merged: list[Piece] = []
    for text, kind in pieces:
        if text and merged and merged[-1].kind == kind:
            merged[-1] = Piece(merged[-1].text + text, kind)
        elif text:
            merged.append(Piece(text, kind))
    return tuple(merged)


def before_calls(
    reply: Reply | Message, think: tuple[str, str] = (f"{THINK}\n", f"\n{END_THINK}\n"), between: str = "\n"
) -> list[Kinded]:
    """The plan between its marks, and the content; `between` stands before calls that follow content."""
    pieces: list[Kinded] = []
    if reply.thinking is not None:
        pieces += [(think[0], "syntax"), (reply.thinking, "think"), (think[1], "syntax")]
    pieces.append((reply.content, "answer"))
    if reply.content and reply.calls:
        pieces.append((between, "syntax"))
    return pieces


def raw_call(call: ToolCall) -> list[Kinded]:
    """A call that could not be read, written as it was, so that a history stays true."""
    return [(call.raw or "", "arguments")]


def check_names(
    calls: Sequence[ToolCall], form: str, name: re.Pattern[str], key: re.Pattern[str] | None = None
) -> None:
    """Raises InputError with every name of a tool (and, with `key`, of an argument) that a form without quotes around
    names cannot say."""
    problems = []
    for i, call in enumerate(calls):
        if call.error is not None:
            continue
        if not name.fullmatch(call.name):
            problems.append(Problem("bad_name", shorten(repr(call.name)), "a name without marks", f"/calls/{i}/name"))
        for argument in call.arguments if key else ():
            if key and not key.fullmatch(argument):
                place = f"/calls/{i}/arguments"
                problems.append(Problem("bad_name", shorten(repr(argument)), "a name without marks", place))
    if problems:
        raise InputError(f"the {form} format has no way to write these names", problems=problems,
                         next_step="rename the tool or its argument, or use a model with another format")  # fmt: skip
