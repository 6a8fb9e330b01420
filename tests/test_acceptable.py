"""Several right values, and predictions on rows of one's own."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tiny import weather_rows

from calltune.acceptable import match
from calltune.cli import main
from calltune.errors import InputError
from calltune.schema import Conversation, Message, Reply, Tool, ToolCall
from calltune.tasks.own import reply_of
from calltune.tasks.questions import questions_of

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "number"},
              "unit": {"type": "string", "default": "celsius"}}, "required": ["city"]}  # fmt: skip
TOOLS = (Tool("weather", "", PARAMETERS), Tool("time", "", PARAMETERS))


def kind(found, expected, acceptable=None) -> str:
    meta = {} if acceptable is None else {"acceptable": acceptable}
    row = Conversation((Message("user", "hi"), Message("assistant", calls=tuple(expected))), TOOLS, "r", meta)
    return questions_of([row])[0].verdict(Reply(calls=tuple(found))).kind


def call(city, name="weather", **more) -> ToolCall:
    return ToolCall(name, {"city": city, **more})


def test_values_that_are_right_as_well():
    also = [{"city": ["NYC", "New York City"], "days": [2, None]}]
    want = [call("New York", days=1)]
    for right in (call("New York", days=1), call("NYC", days=1.0), call("NYC", days=2), call("New York City")):
        assert kind([right], want, also) == "exact"
    assert kind([call("NYC", days=1)], want) == "wrong_value"
    assert kind([call("Boston", days=1)], want, also) == "wrong_value"
    assert kind([call("NYC", days=3)], want, also) == "wrong_value"
    assert kind([call("NYC", days=True)], want, also) == "wrong_type"
    assert kind([call("NYC", days=1, unit="celsius")], want, also) == "exact"  # a default
    assert kind([call("NYC")], want, [{"city": ["NYC"]}]) == "missing_argument"
    assert kind([], want, also) == "no_call"


def test_parallel_calls_get_the_best_assignment():
    """The first expected call takes either city; taken greedily, it would rob the second one of the only one."""
    want, also = [call("A"), call("B")], [{"city": ["B"]}, {}]
    for found in ([call("A"), call("B")], [call("B"), call("A")], [call("B"), call("B")]):
        assert kind(found, want, also) == "exact"
    assert kind([call("A"), call("A")], want, also) == "wrong_value"
    assert kind([call("B"), call("A", "time")], want, also) == "wrong_tool"
    three = [call("A"), call("B"), call("C")]
    chain = [{"city": ["B"]}, {"city": ["C"]}, {}]
    assert kind([call("C"), call("B"), call("A")], three, chain) == "exact"
    assert kind([call("C"), call("C"), call("B")], three, chain) == "exact"


def test_matching():
    assert match([[True, True], [True, False]], 2) == {0: 1, 1: 0}
    assert match([[False, False]], 2) == {}
    assert len(match([[True, False], [True, False]], 2)) == 1


@pytest.mark.parametrize("bad", [7, [], [{}, {}], [7], [{"city": "NYC"}]])
def test_acceptable_values_that_cannot_be_read(bad):
    with pytest.raises(InputError, match="acceptable values of rows") as caught:
        kind([], [call("A")], bad)
    assert caught.value.problems[0].path.startswith("/meta/acceptable")


def test_all_rows_with_acceptable_values_that_cannot_be_read_are_told_and_found_by_check(tmp_path, capsys):
    given = (7, [{}], [7])
    rows = [
        replace(row, id=f"r{i}", meta={"acceptable": given[i]}) for i, row in enumerate(weather_rows(3, no_call=0))
    ]
    with pytest.raises(InputError) as caught:
        questions_of(rows)
    assert [problem.found.partition(":")[0] for problem in caught.value.problems] == ["r0", "r2"]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row.to_openai()) + "\n" for row in rows))
    assert main(["check", str(data), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [p["row"] for p in found["problems"] if p["kind"] == "bad_acceptable"] == [1, 3]


def test_predictions_become_replies():
    assert reply_of({"calls": [{"name": "f", "arguments": '{"a": 1}'}]}).calls == (ToolCall("f", {"a": 1}),)
    assert reply_of({"calls": []}) == Reply()
    for bad in (None, 7, "text", {"name": "f"}, [7], [{"name": 7}], [{"name": "f", "arguments": "{"}],
                [{"name": "f", "arguments": [1]}], [{"name": "f", "arguments": "[" * 100_000}]):  # fmt: skip
        assert reply_of({"calls": bad}).errors
    assert reply_of({"calls": [], "errors": ["cut"]}).errors == ("cut",)


def test_score_own_through_the_command(tmp_path, capsys):
    rows = [replace(row, id=f"r{i}") for i, row in enumerate(weather_rows(6))]
    data, given, out = (tmp_path / name for name in ("test.jsonl", "p.jsonl", "v.jsonl"))
    data.write_text("".join(json.dumps(row.to_openai()) + "\n" for row in rows))
    lines = [{"id": row.id, "calls": [c.to_dict() for c in row.messages[-1].calls]} for row in rows[:4]]
    lines.append({"id": "r4", "calls": [{"name": "get_weather", "arguments": {"city": float("nan")}}]})
    given.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["score", "--suite", "own", "--data", str(data), str(given), "--verdicts", str(out), "--json"]
    assert main(arguments) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert (found["valid"], found["n"], found["missing"]) == (4, 6, 1)
    assert found["errors"] == {"wrong_type": 1, "missing_prediction": 1} and "1 of 6 cases" in told.err
    assert [json.loads(line)["valid"] for line in out.read_text().splitlines()] == [True] * 4 + [False] * 2
    assert main([*arguments, "--allow-missing"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 5
    assert main(["score", "--suite", "own", str(given)]) == 2
    assert "--data" in capsys.readouterr().err
