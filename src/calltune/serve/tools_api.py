"""The registered functions for the page: which there are, and running one that a model called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError

from calltune.functions import Function, execute_async
from calltune.schema import ToolCall, shorten
from calltune.serve.errors import ApiError, refused
from calltune.serve.protocol import Strict, problems_of


class ExecuteRequest(Strict):
    """A call to run. `confirmed`: somebody was asked, which a function needs that is not pure."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    confirmed: bool = False


def _words(content: str) -> str:
    """The error of a tool message, which is JSON for the model, in words."""
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content


def listed(functions: Sequence[Function]) -> dict[str, Any]:
    return {"tools": [function.tool.to_openai() | {"pure": function.pure} for function in functions]}


async def run_call(body: Any, functions: Sequence[Function], *, ask: bool = True) -> Mapping[str, Any]:
    """`{"content", "error"}` of a call. Raises ApiError: 400 for arguments that do not fit, 403 where it was not
    confirmed, 404 for a function that is not registered."""
    try:
        request = ExecuteRequest.model_validate(body)
    except ValidationError as error:
        raise refused(problems_of(error)) from None
    function = next((f for f in functions if f.name == request.name), None)
    if function is None:
        known = ", ".join(f.name for f in functions) or "none"
        words = f"no function {shorten(request.name)} is registered; there are: {known}"
        raise ApiError(404, words, param="name", code="unknown_function")
    if ask and not function.pure and not request.confirmed:
        words = f'{function.name} is not marked as pure: ask the user, then send "confirmed": true'
        raise ApiError(403, words, param="confirmed", code="not_confirmed")
    outcome = await execute_async(ToolCall(request.name, request.arguments), functions)
    if outcome.kind == "bad_arguments":
        raise ApiError(400, _words(outcome.content), param="arguments", code="bad_arguments")
    return {"content": outcome.content, "error": outcome.error}
