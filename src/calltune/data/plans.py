"""Short plans for the thinking span, made from the call itself.

A plan first says what kind of reply follows (one call, two calls, a question, none), then names the tools. The
kind is the decision that a small model gets wrong, and it gets it right where it is the first word: decided
after a tool's name, it went to the likeliest continuation (docs/log.md). What is copied into the call is not
repeated here, since each token of a plan is paid for twice. At most about 25 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from calltune.schema import ToolCall

ANSWER_PLAN = "No call: no tool fits."
NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
MOST_NAMES = 4


def call_plan(calls: Sequence[ToolCall]) -> str:
    """`One call: get_weather.` or `Two calls: set_light, set_timer.`"""
    names = [call.name for call in calls]
    count = NUMBERS[len(names)] if len(names) < len(NUMBERS) else str(len(names))
    shown = names if len(names) <= MOST_NAMES else list(dict.fromkeys(names))[:MOST_NAMES]
    return f"{count} call{'s' if len(names) > 1 else ''}: {', '.join(shown)}."


def ask_plan(tool: str, missing: str) -> str:
    return f"Ask first: {tool} needs {missing}."


def first_plan(first: str, second: str, name: str) -> str:
    """`First find_order: refund needs its order_id.`"""
    return f"First {first}: {second} needs its {name}."
