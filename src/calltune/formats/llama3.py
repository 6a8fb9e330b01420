"""Llama 3's form: a JSON object with `parameters`, alone or after `<|python_tag|>`.

    {"name": "get_weather", "parameters": {"city": "Paris"}}

Several calls are written with `; ` between them. Read as json_text.py reads JSON without marks.
Source: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1/#json-based-tool-calling
"""

from __future__ import annotations

import json
import re

from calltune.formats import json_text
from calltune.formats.hermes import call_object
from calltune.formats.pieces import Format, Piece, before_calls, merge, raw_call
from calltune.schema import Message, Reply


def write(reply: Reply | Message) -> tuple[Piece, ...]:
    """The pieces of a reply: plan and content, if there are any, and the calls."""
    pieces = before_calls(reply)
    for i, call in enumerate(reply.calls):
        pieces.append(("; " if i else "", "syntax"))
        if call.error is not None:
            pieces += raw_call(call)
        else:
            pieces += call_object(call, lambda value: json.dumps(value, ensure_ascii=False), '"', "parameters")
    return merge(pieces)


LLAMA3 = Format(
    "llama3", write, json_text.parse, re.compile(r"<\|python_tag\|>\s*[\[{]"), "<|python_tag|>", "Llama 3.1 to 3.3",
    "https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1/",
)  # fmt: skip
