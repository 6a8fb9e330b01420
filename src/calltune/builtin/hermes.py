"""The built-in tools' rows in the raw form of the walk-through's data set (WALKTHROUGH rows 3, 4, 6).

One column `conversations`, a list of `{role, content}` with roles system, human, model, tool. `<tools>`,
`<tool_call>` and `<tool_response>` hold Python literals (single quotes), as in that data set. Part of the
rows goes on after the call: our own functions are executed and a closing answer is made from the result.
"""

from __future__ import annotations

import json
import random
from typing import Any

from calltune.builtin import builtin_data, tell_results
from calltune.builtin.assistant import FUNCTIONS
from calltune.functions import execute, functions_from
from calltune.schema import Conversation, Tool, ToolCall

SYSTEM = (
    "You are a function calling AI model. You are provided with function signatures within <tools></tools> "
    "XML tags. You may call one or more functions to assist with the user query. Don't make assumptions "
    "about what values to plug into functions. Here are the available tools:<tools> {tools} </tools>Use the "
    "following pydantic model json schema for each tool call you will make: {schema} For each function call "
    "return a json object with function name and arguments within <tool_call></tool_call> XML tags as "
    "follows:\n<tool_call>\n{tool_call}\n</tool_call>"
)
CALL_SCHEMA = {
    "title": "FunctionCall",
    "type": "object",
    "properties": {
        "arguments": {"title": "Arguments", "type": "object"},
        "name": {"title": "Name", "type": "string"},
    },
    "required": ["arguments", "name"],
}
MOST_TOOLS = 4
GO_ON_SHARE = 0.5


def hermes_rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """`n` rows, seeded. Each offers up to four tools in mixed order, the needed ones among them (T22)."""
    rng = random.Random(f"hermes/{seed}")
    made = builtin_data(seed=seed, sizes=(n, 0, 0), results=0).train
    return [{"conversations": _turns(row, rng)} for row in made]


def _turns(row: Conversation, rng: random.Random) -> list[dict[str, str]]:
    request, reply = row.messages
    offered = [tool.to_openai() for tool in _offer(row, rng)]
    system = SYSTEM.replace("{schema}", repr(CALL_SCHEMA), 1).replace("{tools}", repr(offered), 1)
    turns = [
        {"role": "system", "content": system},
        {"role": "human", "content": request.content},
    ]
    thought = f"<think>{reply.thinking}</think>"
    if not reply.calls:
        return [*turns, {"role": "model", "content": f"{thought}\n{reply.content}"}]
    calls = "\n".join(f"<tool_call>\n{call.to_dict()!r}\n</tool_call>" for call in reply.calls)
    turns.append({"role": "model", "content": f"{thought}\n{calls}"})
    if rng.random() < GO_ON_SHARE:
        results = [_result(call) for call in reply.calls]
        if all("error" not in result for result in results):
            turns += _closing(list(reply.calls), results)
    return turns


def _offer(row: Conversation, rng: random.Random) -> list[Tool]:
    needed = set((row.meta.get("tool") or "").split("+"))
    others = [tool for tool in row.tools if tool.name not in needed]
    offered = [tool for tool in row.tools if tool.name in needed]
    offered += rng.sample(others, rng.randint(1, MOST_TOOLS - len(offered)))
    rng.shuffle(offered)
    return offered


def _result(call: ToolCall) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(execute(call, functions_from(list(FUNCTIONS))).content)
    return result


def _closing(calls: list[ToolCall], results: list[dict[str, Any]]) -> list[dict[str, str]]:
    pairs = [{"name": call.name, "content": result} for call, result in zip(calls, results, strict=True)]
    responses = "\n".join(f"<tool_response>\n{pair!r}\n</tool_response>" for pair in pairs)
    return [{"role": "tool", "content": responses}, {"role": "model", "content": tell_results(calls, results)}]
