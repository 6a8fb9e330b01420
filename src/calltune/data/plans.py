"""Short plans for the thinking span, made from the call itself.

A plan names the tool first, then the parameters that the request gives; it spells a value only where
one was decided rather than copied (enum, boolean). So the decisions that a small model gets wrong
(which tool, which optional argument, on or off) are made before the call is written, and copied text is
not paid for twice. At most about 25 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from calltune.schema import Tool, ToolCall, find_tool

ANSWER_PLAN = "No tool fits; I answer."
MOST_ARGUMENTS = 5


def call_plan(calls: Sequence[ToolCall], tools: Sequence[Tool]) -> str:
    """`Use get_weather with city, unit fahrenheit.`; for several calls the names of the tools alone."""
    names = [call.name for call in calls]
    if len(calls) == 1:
        return f"Use {_with_arguments(calls[0], find_tool(tools, names[0]))}."
    if len(set(names)) == 1:
        return f"Use {names[0]} {'twice' if len(names) == 2 else f'{len(names)} times'}."
    return f"Use {', then '.join(names)}."


def ask_plan(tool: str, missing: str) -> str:
    return f"Use {tool}, but {missing} is missing; I ask."


def _with_arguments(call: ToolCall, tool: Tool | None) -> str:
    if not call.arguments or tool is None:
        return call.name
    if len(call.arguments) > MOST_ARGUMENTS:
        return f"{call.name} with {len(call.arguments)} values"
    words = []
    for name, value in call.arguments.items():
        decided = isinstance(value, bool) or "enum" in tool.properties.get(name, {})
        text = str(value).lower() if isinstance(value, bool) else str(value)
        words.append(f"{name} {text}" if decided else name)
    return f"{call.name} with {', '.join(words)}"
