"""What every wire format has in common: a reply as kinded pieces of text, and the format's two functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from calltune.schema import Message, Reply

Kind = Literal["think", "name", "arguments", "syntax", "answer"]


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
    """A wire format: `write` makes the pieces of a reply, `parse(text, thinking_open=False)` reads a reply.

    `markers` are the texts of which one stands in every reply that calls a tool in this format.
    """

    name: str
    write: Callable[[Reply | Message], tuple[Piece, ...]]
    parse: Callable[..., Reply]
    markers: tuple[str, ...]


def join(pieces: tuple[Piece, ...]) -> str:
    return "".join(piece.text for piece in pieces)
