"""Worked examples before the question: what a base model does that was shown the form instead of trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from calltune.schema import Message, Tool, ToolCall
from calltune.tasks.questions import Question

FEW_SHOT = "few-shot"


def _tool(name: str, description: str, **properties: str) -> Tool:
    schema = {key: {"type": kind} for key, kind in properties.items()}
    return Tool(name, description, {"type": "object", "properties": schema, "required": list(properties)})


# Invented here, in no benchmark and in no training data of ours. They are offered as well, so that the examples call
# what is there; to call them for the question itself is a wrong call.
TOOLS = (
    _tool("define_word", "Looks up what a word means.", word="string", language="string"),
    _tool("water_plant", "Waters a plant on the balcony.", plant="string", litres="number"),
)
EXAMPLES = (
    Message("user", "What does the Danish word hygge mean?"),
    Message("assistant", "", "The user asks for a meaning: define_word.",
            (ToolCall("define_word", {"word": "hygge", "language": "Danish"}),)),
    Message("user", "Give the basil half a litre and the fern two litres of water."),
    Message("assistant", "", "Two plants: water_plant twice.",
            (ToolCall("water_plant", {"plant": "basil", "litres": 0.5}),
             ToolCall("water_plant", {"plant": "fern", "litres": 2}))),
    Message("user", "Thanks, that is all."),
    Message("assistant", "You are welcome.", "No function fits."),
)  # fmt: skip


def with_examples(questions: Sequence[Question]) -> list[Question]:
    """The same questions after the examples, under the same ids."""
    return [_with_examples(question) for question in questions]


def _with_examples(question: Question) -> Question:
    names = {tool.name for tool in question.tools}
    system = [m for m in question.messages[:1] if m.role == "system"]
    messages = (*system, *EXAMPLES, *question.messages[len(system) :])
    tools = (*(tool for tool in TOOLS if tool.name not in names), *question.tools)
    return replace(question, messages=messages, tools=tools)
