"""The built-in functions really work, and their rows in the walk-through's raw form can be read back."""

from __future__ import annotations

import ast
import json
import re

import pytest

from calltune.builtin import assistant, assistant_hermes_rows, builtin_data, phrase_tables
from calltune.builtin.assistant import FUNCTIONS
from calltune.functions import execute, functions_from, tool_from
from calltune.schema import ToolCall, validate_call

ROLES = {"system", "human", "model", "tool"}


def test_the_tools_cover_the_types() -> None:
    tools = [tool_from(function) for function in FUNCTIONS]
    assert len(tools) >= 10
    text = json.dumps([dict(tool.parameters) for tool in tools])
    for word in ("string", "integer", "number", "boolean", "array", '"enum"', '"default"', '"date"'):
        assert word in text, word
    schemas = [{"name": t.name, "description": t.description, "parameters": dict(t.parameters)} for t in tools]
    # about 3.7 characters a token: some 630 SmolLM2 tokens, which every request's prompt carries
    assert len(json.dumps(schemas, separators=(",", ":"))) < 2500


def test_every_made_call_runs() -> None:
    functions = functions_from(list(FUNCTIONS))
    for row in builtin_data(seed=1, sizes=(150, 0, 60)).train:
        for call in row.messages[1].calls:
            assert "error" not in json.loads(execute(call, functions).content), call


def test_results_are_right_and_the_same_every_time() -> None:
    assert assistant.convert_currency(100, "dollars", "euros")["amount"] == 92.0
    assert assistant.get_weather("Oslo") == assistant.get_weather("oslo") | {"city": "Oslo"}
    celsius = assistant.get_weather("Lyon")["degrees"]
    assert assistant.get_weather("Lyon", "fahrenheit")["degrees"] == round(celsius * 9 / 5 + 32)
    assert assistant.set_temperature(21.5) == {"degrees": 21.5}


def test_wrong_values_are_told_as_errors() -> None:
    functions = functions_from(list(FUNCTIONS))
    for name, arguments, words in (
        ("convert_currency", {"amount": 1, "source": "XXX", "target": "euros"}, "source"),
        ("create_event", {"title": "a", "date": "2026-02-30", "time": "10:00"}, "out of range"),
        ("create_event", {"title": "a", "date": "2026-02-20", "time": "25:00"}, "not a time"),
        ("set_timer", {"minutes": 0}, "at least one"),
        ("add_to_list", {"items": [], "list_name": "todo"}, "nothing to add"),
    ):
        assert words in json.loads(execute(ToolCall(name, arguments), functions).content)["error"]


def test_all_currencies_of_the_requests_have_a_rate() -> None:
    words = phrase_tables()["convert_currency"].words
    assert set(words["source"]) == set(words["target"]) == set(assistant.FIXED_RATES)


@pytest.fixture(scope="module")
def hermes() -> list[dict[str, list[dict[str, str]]]]:
    return assistant_hermes_rows(200, seed=0)


def test_hermes_rows_have_the_walkthroughs_form(hermes: list[dict[str, list[dict[str, str]]]]) -> None:
    assert len(hermes) == 200
    closed = 0
    first = 0
    calls = 0
    for row in hermes:
        turns = row["conversations"]
        assert {turn["role"] for turn in turns} <= ROLES
        assert [turn["role"] for turn in turns[:3]] == ["system", "human", "model"]
        found = re.search(r"<tools> (.*?) </tools>", turns[0]["content"])
        assert found
        tools = ast.literal_eval(found[1])
        names = [tool["function"]["name"] for tool in tools]
        by_name = [tool for tool in map(tool_from, FUNCTIONS) if tool.name in names]
        assert turns[2]["content"].startswith("<think>")
        for text in re.findall(r"<tool_call>\n(.*?)\n</tool_call>", turns[2]["content"]):
            call = ast.literal_eval(text)
            assert validate_call(ToolCall(call["name"], call["arguments"]), by_name) == []
            calls += 1
            first += names[0] == call["name"]
        if len(turns) > 3:
            closed += 1
            assert [turn["role"] for turn in turns[3:]] == ["tool", "model"]
            for text in re.findall(r"<tool_response>\n(.*?)\n</tool_response>", turns[3]["content"]):
                assert set(ast.literal_eval(text)) == {"name", "content"}
            assert "{" not in turns[4]["content"]
    assert 40 < closed < 160
    assert 0.15 < first / calls < 0.6  # trap T22: the right tool does not stand first


def test_hermes_rows_are_seeded(hermes: list[dict[str, list[dict[str, str]]]]) -> None:
    assert assistant_hermes_rows(200, seed=0) == hermes
    assert assistant_hermes_rows(20, seed=1) != hermes[:20]


def test_some_training_rows_go_on_with_the_functions_own_result():
    data = builtin_data(sizes=(200, 20, 20))
    longer = [row for row in data.train if row.meta.get("results")]
    called = [row for row in data.train if row.messages[1].calls]
    assert 0.08 < len(longer) / len(called) < 0.25
    assert not any(row.meta.get("results") for row in (*data.valid, *data.test))
    assert not any(row.meta.get("results") for row in builtin_data(sizes=(200, 20, 20), results=0).train)
    for row in longer:
        call, told = row.messages[1].calls[0], row.messages[2]
        assert (told.role, told.call_id) == ("tool", call.id)
        assert json.loads(told.content) == json.loads(execute(call, functions_from(list(FUNCTIONS))).content)
        assert row.messages[-1].content and not row.messages[-1].calls
