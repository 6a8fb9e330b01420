"""The Hermes form with Python literals, as the rows of several data sets have it.

    <tool_call>
    {'name': 'get_weather', 'arguments': {'city': 'Paris', 'days': None}}
    </tool_call>

Source: https://huggingface.co/datasets/Jofthomas/hermes-function-calling-thinking-V1
"""

from __future__ import annotations

import re

from calltune.formats import hermes
from calltune.formats.pieces import Format, Piece
from calltune.schema import Message, Reply


def write(reply: Reply | Message) -> tuple[Piece, ...]:
    """The pieces of a reply; as in hermes.py, with `repr` for values."""
    return hermes.write(reply, call_pieces=lambda call: hermes.call_object(call, repr, "'"))


PYTHON_HERMES = Format(
    "python-hermes", write, hermes.parse, re.compile(re.escape(hermes.OPEN) + r"\s*\{\s*'"), hermes.OPEN,
    "models tuned on such rows", "https://huggingface.co/datasets/Jofthomas/hermes-function-calling-thinking-V1",
)  # fmt: skip
