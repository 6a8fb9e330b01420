"""Rows in the ShareGPT/Hermes form: everything is text, with tags.

    {"conversations": [
        {"role": "system", "content": "... <tools> [{'type': 'function', ...}] </tools> ..."},
        {"role": "human", "content": "Weather in Paris?"},
        {"role": "model", "content": "<think>plan</think><tool_call>\\n{'name': ...}\\n</tool_call>"},
        {"role": "tool", "content": "<tool_response>\\n{'temperature': 21}\\n</tool_response>"}]}

Tools, calls and results are Python literals or JSON. Of a system text with a `<tools>` block, the block and
the sentences of the public Hermes and Qwen prompts that explain it are taken away, since rendering writes
its own; every other sentence stays as the system message. A system text without a block stays whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from calltune.data.messages import ROLE_NAMES, Reading, role_and_text
from calltune.data.tool_rows import read_tool_list, tool_items
from calltune.errors import InputError
from calltune.formats import hermes
from calltune.formats.literals import balanced_end, is_whole_text, read_value
from calltune.schema import Message, Role, Tool

TOOLS_BLOCK = re.compile(r"<tools>\s*(?=[\[{])")
RESPONSE = re.compile(r"\s*<tool_response>\s*(.*?)\s*</tool_response>\s*", re.DOTALL)
MARKS = ("<tool_call>", "<think>", "<tool_response>", "<tools>")
LONGEST_KEPT = 50_000  # characters
TAGS = r"<(\w+)>\s*</\1>"
# The sentences of the public prompts around a tools block; what is not in this list is the author's own.
EXPLANATIONS = [
    re.compile(pattern, re.DOTALL | re.IGNORECASE)
    for pattern in (
        r"# Tools(?=\s)",
        r"You are a function calling AI model\.",
        rf"You are provided with function signatures within {TAGS} XML tags[.:]?",
        r"You may call one or more functions to assist with the user query\.",
        r"Don't make assumptions about what values to plug into functions\.",
        r"If available tools are not relevant in assisting with user query, "
        r"just respond in natural conversational language\.",
        r"Here are the available tools:",
        rf"After calling & executing the functions, you will be provided with function results within {TAGS} "
        r"XML tags\.",
        r"Use the following pydantic model json schema for each tool call you will make:\s*\{.*?\]\s*\}",
        r"For each function call,? return a json object,? with the following pydantic model json schema"
        r"(?: for each)?:?\s*\{.*?\]\s*\}",
        rf"For each function call,? return a json object with function name and arguments within {TAGS} "
        r"XML tags(?: as follows)?:\s*<tool_call>.*?</tool_call>",
        rf"Each function call should be enclosed within {TAGS} XML tags\.\s*<tool_call>.*?</tool_call>",
        r"Also, before making a call to a function take the time to plan the function to take\.\s*"
        r"Make that thinking process between <think>\{your thoughts\}</think>",
    )
]


def has_markup(messages: list[Any]) -> bool:
    """Whether tools, calls, results or plans stand in the text; in a user's own words only results count."""
    for item in messages:
        if not isinstance(item, Mapping):
            continue
        text = item.get("content", item.get("value"))
        if isinstance(text, str) and "<" in text:
            role = ROLE_NAMES.get(str(item.get("role", item.get("from"))).lower())
            marks = ("<tool_response>",) if role == "user" else MARKS
            if any(mark in text for mark in marks):
                return True
    return False


def read_hermes(messages: list[Any], path: str, reading: Reading) -> None:
    """Reads the messages (and the tools of the system text) into `reading`. `path`: pointer of the list."""
    for i, item in enumerate(messages):
        reading.at += [i - 1] * (len(reading.messages) - len(reading.at))
        found = role_and_text(item, f"{path}/{i}", reading)
        if found is None:
            continue
        role, _, text = found
        place = f"{path}/{i}/{'content' if 'content' in item else 'value'}"
        if role == "system":
            text = _system(text, place, reading)
            if text:
                reading.messages.append(Message("system", text))
        elif role == "assistant":
            reading.messages.append(_assistant(text, place, reading))
        else:
            reading.messages += _results(role, text, item.get("name"))
    reading.at += [len(messages) - 1] * (len(reading.messages) - len(reading.at))


def _assistant(text: str, place: str, reading: Reading) -> Message:
    reply = hermes.parse(text)
    for call in reply.calls:
        reading.calls.append((place, call))
        if "\\u" in text and not is_whole_text(call.arguments):
            reading.problem("bad_text", call.raw, "no lone surrogate (half a character)", place)
        if call.error:
            reading.problem("unreadable_call", call.raw, call.error, place)
    for error in reply.errors:
        if not error.startswith("unreadable call"):
            reading.problem("bad_markup", error, "<think>, content and <tool_call> with an end each", place)
    return Message("assistant", reply.content, reply.thinking, reply.calls)


def _system(text: str, place: str, reading: Reading) -> str:
    """Takes the tools out of a system text; returns what the author wrote besides."""
    block = TOOLS_BLOCK.search(text)
    if block is None:
        return text
    tools, end = _tools_block(text, block.end(), place, reading)
    if reading.tools and [t.name for t in tools] != [t.name for t in reading.tools]:
        names = ", ".join(tool.name for tool in tools)
        reading.problem("two_tool_lists", names, "the same tools in the system text and in `tools`", place)
    reading.tools = reading.tools or tools
    rests = [text[: block.start()], text[end:].removeprefix("</tools>")]
    return "\n".join(rest for rest in map(_without_explanations, rests) if rest)


@lru_cache(maxsize=32)  # in many sets all rows offer the same tools
def _kept_value(text: str) -> Any:
    return read_value(text)


def _value_of(text: str) -> Any:
    """The value of a tools text, which nobody changes; long texts are not kept."""
    return _kept_value(text) if len(text) < LONGEST_KEPT else read_value(text)


def _tools_block(text: str, start: int, place: str, reading: Reading) -> tuple[tuple[Tool, ...], int]:
    """The tools from `start` on (one list, or objects one after the other) and the index of the end."""
    tools: list[Tool] = []
    close = text.find("</tools>", start)
    if text[start] == "[" and close > 0:  # nearly always all of it; a mark inside a string is seen below
        try:
            items = tool_items(_value_of(text[start:close]), place)
            return read_tool_list(items, place, reading.add_tool), close
        except (ValueError, InputError):
            pass
    while text[start : start + 1] in ("[", "{"):
        try:
            end = balanced_end(text, start)
            if end is None:
                raise ValueError("brackets or quotes that do not close")
            items = tool_items(read_value(text[start:end]), place)
            tools += read_tool_list(items, place, reading.add_tool)
        except InputError as error:
            reading.problems += error.problems
        except ValueError as error:
            reading.problem("bad_tools", text[start:], f"JSON or a Python literal; it is {error}", place)
            end = None
        if end is None:
            close = text.find("</tools>", start)
            return tuple(tools), len(text) if close < 0 else close
        start = end + len(text[end:]) - len(text[end:].lstrip(" \t\r\n,"))
    return tuple(tools), start


@lru_cache(maxsize=64)  # most rows of a set have the same words around their tools
def _without_explanations(text: str) -> str:
    for pattern in EXPLANATIONS:
        text = pattern.sub("", text)
    return text.strip()


def _results(role: Role, text: str, name: Any) -> list[Message]:
    """A tool's or user's turn; one made of `<tool_response>` spans is that many tool messages."""
    spans, position = [], 0
    while match := RESPONSE.match(text, position):
        spans.append(match[1])
        position = match.end()
    named = name if isinstance(name, str) else None
    if not spans or position < len(text):
        return [Message(role, text, name=named if role == "tool" else None)]
    return [_result(span, named) for span in spans]


def _result(text: str, name: str | None) -> Message:
    """A result; a Python literal becomes JSON, and `{"name": ..., "content": ...}` is taken apart."""
    try:
        value = read_value(text)
    except ValueError:
        return Message("tool", text, name=name)
    wrapped = isinstance(value, dict) and {"name", "content"} <= set(value) <= {
        "name",
        "content",
        "tool_call_id",
    }
    if wrapped and isinstance(value["name"], str):
        name, value = value["name"], value["content"]
    content = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return Message("tool", content, name=name)
