"""Made rows that go on after the call: only pure functions are executed, all else comes from the return type."""

import json
from dataclasses import dataclass
from typing import Literal

import pytest

from calltune.data.check import Checker
from calltune.data.results import made_value, with_results
from calltune.data.sources import Source
from calltune.data.synthesise import synthesise
from calltune.functions import functions_from, tool

RAN = []


@dataclass
class Weather:
    city: str
    degrees: int
    rain: bool
    sky: Literal["clear", "grey"]


@tool(pure=True)
def add_numbers(first: int, second: int) -> int:
    """Add two numbers.

    Args:
        first: The first number.
        second: The second number.
    """
    RAN.append("add_numbers")
    return first + second


@tool
def get_weather(city: str) -> Weather:
    """Get the weather in a city."""
    RAN.append("get_weather")
    raise AssertionError("never to be executed")


@tool(pure=True)
def find_file(path: str) -> str:
    """Find a file."""
    raise OSError("no such file")


@tool
def send_note(text: str) -> None:
    """Send a note."""
    raise AssertionError("never to be executed")


TOOLS = [add_numbers, get_weather, find_file, send_note]


@pytest.fixture(scope="module")
def found():
    RAN.clear()
    rows = synthesise(TOOLS, rows_train=200, rows_valid=4, rows_test=20).train
    return rows, with_results(rows, functions_from(TOOLS), 1.0, seed=1)


def test_only_pure_functions_are_executed(found):
    assert set(RAN) == {"add_numbers"}
    assert found[1].executed > 0 and found[1].made_up > 0
    assert set(found[1].without) == {"find_file", "send_note"}  # an error, and nothing to tell


def test_results_and_answers_stand_after_the_calls(found):
    rows, results = found
    longer = [row for row in results.rows if row.meta.get("results")]
    assert len(results.rows) == len(rows) and len(longer) > 40
    for row in longer:
        _, call, *turns, answer = row.messages
        assert [m.role for m in turns] == ["tool"] * len(call.calls) and answer.role == "assistant"
        assert [m.call_id for m in turns] == [c.id for c in call.calls]
        assert answer.thinking and answer.content
        for one, turn in zip(call.calls, turns, strict=True):
            value = json.loads(turn.content)
            if one.name == "add_numbers":
                assert value == one.arguments["first"] + one.arguments["second"]
                assert str(value) in answer.content
            else:
                assert set(value) == {"city", "degrees", "rain", "sky"} and value["sky"] in ("clear", "grey")
                assert str(value["degrees"]) in answer.content
    verdicts = list(Checker().check(Source("made", results.rows)))
    assert {c.status for c in verdicts} == {"ok"}
    assert {p.kind for c in verdicts for p in c.problems} <= {"near_duplicate", "value_not_in_dialogue"}


def test_a_share_is_seeded_and_does_not_depend_on_other_rows(found):
    rows, _ = found
    functions = functions_from(TOOLS)
    some = with_results(rows, functions, 0.4, seed=2).rows
    assert some == with_results(rows, functions, 0.4, seed=2).rows
    assert some[::2] == with_results(rows[::2], functions, 0.4, seed=2).rows
    assert 10 < sum("results" in row.meta for row in some) < 0.6 * len(rows)
    assert with_results(rows, functions, 0.0).rows == list(rows)


def test_what_has_no_values_is_refused():
    import random

    with pytest.raises(ValueError):
        made_value({"type": "object"}, "x", "train", random.Random(0))
    with pytest.raises(ValueError):
        made_value({"type": "string", "pattern": "a+"}, "x", "train", random.Random(0))
