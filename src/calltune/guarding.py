"""Text in messages that looks like a model's control tokens stays text.

A tool's result, a request or a tool's description may hold `<|im_end|>`, by chance or to make the model read a turn
that nobody wrote. `guarded` puts GUARD into each such text before the template sees it, and `Tokenizer.encode` cuts
the text there: no half of a marker is a control token, and the ids decode to the text as it was. Training and
prompting share it (render.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from calltune.schema import GUARD, Message, Tool, ToolCall
from calltune.tokenizer import Tokenizer


def guarded(
    messages: Sequence[Message], tools: Sequence[Tool], tokenizer: Tokenizer
) -> tuple[Sequence[Message], Sequence[Tool]]:
    """Messages and tools in whose texts no control token is read. In a tool's result that holds also for the
    vocabulary's markers of calls, results and plans (`</tool_response>`), which other texts may name."""
    control, markers = tokenizer.control_texts, tokenizer.marker_texts
    return (
        [_message(message, markers if message.role == "tool" else control) for message in messages],
        [_tool(tool, control) for tool in tools],
    )


def _message(message: Message, marks: re.Pattern[str] | None) -> Message:
    if marks is None:
        return message
    thinking = None if message.thinking is None else guard(message.thinking, marks)
    calls = tuple(_call(call, marks) for call in message.calls)
    return replace(message, content=guard(message.content, marks), thinking=thinking, calls=calls)


def _call(call: ToolCall, marks: re.Pattern[str]) -> ToolCall:
    return replace(call, name=guard(call.name, marks), arguments=guard(call.arguments, marks))


def _tool(tool: Tool, marks: re.Pattern[str] | None) -> Tool:
    if marks is None:
        return tool
    parts = (tool.name, tool.description, tool.parameters)
    changed = tuple(guard(part, marks) for part in parts)
    return tool if changed == parts else Tool(*changed)


def guard(value: Any, marks: re.Pattern[str]) -> Any:
    """JSON's values with GUARD behind the first character of each marker in their texts and keys."""
    if isinstance(value, str):
        return marks.sub(lambda found: found[0][0] + GUARD + found[0][1:], value) if marks.search(value) else value
    if isinstance(value, Mapping):
        return {guard(key, marks): guard(inner, marks) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [guard(inner, marks) for inner in value]
    return value
