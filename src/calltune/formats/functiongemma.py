"""FunctionGemma's form: as Gemma 4's, with other marks.

    <start_function_call>call:get_weather{city:<escape>Paris<escape>}<end_function_call>

Source: https://ai.google.dev/gemma/docs/functiongemma/formatting-and-best-practices
"""

from __future__ import annotations

import re
from typing import Any

from calltune.formats.gemma4 import Marks, parse_marked, write_marked
from calltune.formats.pieces import END_THINK, THINK, Format, Piece
from calltune.schema import Message, Reply

MARKS = Marks(
    "<start_function_call>", "<end_function_call>", "<escape>", (THINK, END_THINK), (f"{THINK}\n", f"\n{END_THINK}\n")
)


def write(reply: Reply | Message) -> tuple[Piece, ...]:
    """The pieces of a reply. Raises InputError for names that the form cannot say."""
    return write_marked(reply, MARKS, "functiongemma")


def parse(text: str, *, thinking_open: bool = False, tools: Any = ()) -> Reply:
    """Reads what a model wrote. Never raises; see hermes.parse."""
    return parse_marked(text, MARKS, thinking_open)


FUNCTIONGEMMA = Format(
    "functiongemma", write, parse, re.compile(re.escape(MARKS.open)), MARKS.open, "FunctionGemma",
    "https://ai.google.dev/gemma/docs/functiongemma/formatting-and-best-practices",
)  # fmt: skip
