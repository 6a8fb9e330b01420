"""Running a call that a model made: only what was registered, only with arguments that fit."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from calltune.functions.hints import coerce, to_json
from calltune.functions.read import Function, type_hints
from calltune.schema import ToolCall, validate_call


def execute(call: ToolCall, functions: Sequence[Function]) -> str:
    """The result of the call as JSON text, for a tool message. Never raises for what a model or tool did.

    The call is validated against the schemas first and its arguments are made into the declared types
    (Enum, date, dataclass). What goes wrong comes back as `{"error": "..."}`, so that the model reads it.
    """
    problems = validate_call(call, [function.tool for function in functions])
    if problems:
        return _error("; ".join(str(problem) for problem in problems))
    function = next(f for f in functions if f.name == call.name)
    if function.call is None:
        return _error(f"{call.name} has a schema but no code here")
    try:
        positional, named = _arguments(function.call, call)
    except Exception as error:
        return _error(f"invalid argument: {error}")
    try:
        result = function.call(*positional, **named)
        if inspect.isawaitable(result):
            with ThreadPoolExecutor(1) as pool:  # a loop may already run in this thread (notebooks)
                result = pool.submit(asyncio.run, _await(result)).result()
        return json.dumps(to_json(result), ensure_ascii=False)
    except Exception as error:
        return _error(f"{type(error).__name__}: {error}")


def _arguments(function: Callable[..., Any], call: ToolCall) -> tuple[list[Any], dict[str, Any]]:
    hints = type_hints(function)
    values = {name: coerce(value, hints[name]) for name, value in call.arguments.items()}
    positional: list[Any] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.POSITIONAL_ONLY:
            break
        # what was left out is given as its default, so that those after it keep their places
        positional.append(values.pop(parameter.name, parameter.default))
    return positional, values


async def _await(awaitable: Any) -> Any:
    return await awaitable


def _error(text: str) -> str:
    return json.dumps({"error": text}, ensure_ascii=False)
