"""Wire formats: how a reply (plan, calls, content) is written as text and read back. One file a format."""

from __future__ import annotations

from calltune.errors import InputError, Problem
from calltune.formats.hermes import HERMES
from calltune.formats.pieces import Format, Kind, Piece, join

FORMATS: dict[str, Format] = {HERMES.name: HERMES}

__all__ = ["FORMATS", "Format", "Kind", "Piece", "detect_format", "get_format", "join"]


def get_format(name: str) -> Format:
    """The format of that name. Raises InputError."""
    if name not in FORMATS:
        problem = Problem("unknown_format", name, f"one of: {', '.join(FORMATS)}")
        raise InputError(f"there is no format named {name}", problems=[problem])
    return FORMATS[name]


def detect_format(text: str) -> Format:
    """The format whose marker stands in the text; Hermes where none does (then it is content)."""
    return next((f for f in FORMATS.values() if any(marker in text for marker in f.markers)), HERMES)
