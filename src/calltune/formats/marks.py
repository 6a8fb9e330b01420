"""The marks in the raw text of a reply, as a reader that gets it in pieces needs them: around plans, and where calls
may begin and end. What the formats read (`parse`) is a little more."""

from __future__ import annotations

import re
from collections.abc import Sequence

Marks = tuple[str, ...]
THINKS: dict[str, tuple[Marks, Marks]] = {
    "mistral": (("[THINK]", "<think>"), ("[/THINK]", "</think>")),
    "gemma4": (("<|channel>thought", "<think>"), ("<channel|>", "</think>")),
}  # fmt: skip
THINKS["mistral-list"] = THINKS["mistral"]
PLAIN: tuple[Marks, Marks] = (("<think>",), ("</think>",))
# Where a call may begin (or what belongs to one stands alone), and what ends a call.
TAGS = (("<tool_call>", "</tool_call>"), ("</tool_call>",))
LISTS = (
    ("[", "<|tool_call_start|>", "<|tool_call_end|>", "<|python_start|>", "<|python_end|>"),
    ("]", "<|tool_call_end|>"),
)
JSONS = (("[", "{", "```", "<|python_tag|>"), ("}", "]", "```"))
CALLS: dict[str, tuple[Marks, Marks]] = {
    "hermes": TAGS, "python-hermes": TAGS,
    "qwen3-coder": (("<tool_call>", "</tool_call>", "<function=", "</function>", "</parameter>"), ("</tool_call>",)),
    "mistral": (("[TOOL_CALLS]",), ("}", "]")), "mistral-list": (("[TOOL_CALLS]",), ("}", "]")),
    "gemma4": (("<|tool_call>", "<tool_call|>"), ("<tool_call|>",)),
    "functiongemma": (("<start_function_call>", "<end_function_call>"), ("<end_function_call>",)),
    "lfm2": LISTS, "pythonic": LISTS, "json": JSONS, "llama3": JSONS,
}  # fmt: skip
HEAD = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
NAMED = re.compile(r'(?:\[TOOL_CALLS\])?\s*([^\s\[\]{}"]+)\[ARGS\]\s*(?=\{)')
HEADS = {"hermes": HEAD, "json": HEAD, "llama3": HEAD, "mistral-list": HEAD, "mistral": NAMED}


def plan_marks(format: str) -> tuple[Marks, Marks]:
    """What begins a plan, and what ends it."""
    return THINKS.get(format, PLAIN)


def begins_plan(format: str, prompt: str) -> bool:
    """Whether a prompt ends with the mark that begins a plan."""
    return prompt.rstrip().endswith(plan_marks(format)[0])


def first_mark(text: str, start: int, marks: Sequence[str]) -> tuple[str, int]:
    """The mark that stands first from `start` on, and where; '' and the end of the text where none does."""
    found = [(i, mark) for mark in marks if (i := text.find(mark, start)) >= 0]
    place, mark = min(found, default=(len(text), ""))
    return mark, place


def safe_end(text: str, start: int, marks: Sequence[str]) -> int:
    """Up to where no mark can begin that is not whole yet."""
    longest = max(map(len, marks), default=1) - 1
    for i in range(max(start, len(text) - longest), len(text)):
        if any(mark.startswith(text[i:]) for mark in marks):
            return i
    return len(text)
