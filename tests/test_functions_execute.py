"""Calls executed: declared types made of JSON, results and errors as text."""

import json
from datetime import date
from typing import Any

import pytest
from function_types import Point, Unit

from calltune.functions import execute, functions_from
from calltune.schema import ToolCall


def plan(day: date, unit: Unit, at: Point | None = None, points: list[Point] | None = None, size: float = 1) -> dict:
    """Everything that needs making from JSON."""
    return {"day": day, "weekday": day.weekday(), "unit": unit, "at": at, "points": points, "size": size}


def fail(a: int) -> int:
    raise RuntimeError(f"no {a}")


async def later(a: int, /, b: int = 2) -> int:
    return a + b


FUNCTIONS = functions_from([plan, fail, later])


def test_execution_makes_the_declared_types():
    call = ToolCall("plan", {"day": "2026-03-01", "unit": "celsius", "points": [{"x": 1}], "size": 2})
    assert json.loads(execute(call, FUNCTIONS)) == {
        "day": "2026-03-01",
        "weekday": 6,
        "unit": "celsius",
        "at": None,
        "points": [{"x": 1.0, "y": 0.0}],
        "size": 2.0,
    }


def test_execution_of_async_functions_and_positional_parameters():
    assert execute(ToolCall("later", {"a": 1}), FUNCTIONS) == "3"
    assert execute(ToolCall("later", {"a": 1, "b": 5}), FUNCTIONS) == "6"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (ToolCall("fail", {"a": 3}), "RuntimeError: no 3"),
        (ToolCall("fail", {"a": "3"}), "wrong_type"),
        (ToolCall("fail", {"a": 3, "b": 4}), "unknown_argument"),
        (ToolCall("plan", {"day": "2026-02-30", "unit": "celsius"}), "invalid argument"),
        (ToolCall("plan", {"unit": "kelvin", "day": "2026-02-03"}), "not_in_enum"),
        (ToolCall("eval", {"code": "1"}), "eval"),
        (ToolCall("", raw="{", error="not complete"), "not complete"),
    ],
)
def test_what_goes_wrong_comes_back_as_text(call, words):
    assert words in json.loads(execute(call, FUNCTIONS))["error"]


def test_results_that_json_has_no_form_for():
    def odd() -> Any:
        return {"set": {2, 1}, "nan": float("nan"), "object": Point, 3: (1, 2)}

    result = json.loads(execute(ToolCall("odd"), functions_from(odd)))
    assert result["set"] == [1, 2]
    assert result["nan"] == "nan"
    assert result["3"] == [1, 2]
