"""Orders of turns, values that nobody said, near-duplicates, questions of benchmarks."""

import json

import pytest
from check_rows import CALLED, TOOL, checked, command, errors_of, report_of, row, say

from calltune.cli import check
from calltune.data.check import Checker
from calltune.data.sources import Source
from calltune.errors import InputError


def warnings_of(found):
    return [p.kind for p in found.problems if p.severity == "warning"]


def turns(*messages, **more):
    (found,) = checked({"messages": list(messages), "tools": [TOOL.to_openai()]} | more)
    return found


@pytest.mark.parametrize(
    ("messages", "errors", "warnings"),
    [
        ([say("user", "f 1"), CALLED, say("tool", "2", tool_call_id="c1"), say("assistant", "2")], [], []),
        ([say("user", "f 1"), CALLED, say("tool", "2", tool_call_id="c2"), say("assistant", "2")],
         ["orphan_result"], []),
        ([say("user", "f 1"), CALLED, say("tool", "2"), say("tool", "3"), say("assistant", "2")],
         ["orphan_result"], []),
        ([say("user", "f 1"), CALLED, say("user", "and?"), say("tool", "3"), say("assistant", "2")],
         ["orphan_result"], ["missing_result"]),
        ([say("user", "f 1"), CALLED, say("assistant", "It is 2.")], [], ["missing_result", "turn_order"]),
        ([say("user", "f 1"), say("system", "Be brief."), CALLED], ["turn_order"], []),
        ([say("assistant", "Hello!"), say("user", "f 1"), CALLED], [], ["turn_order"]),
        ([say("assistant", "Hello!"), say("user", "f 1")], ["no_target"], ["turn_order"]),
        ([say("user", "f 1"), say("assistant", ""), say("user", "1"), CALLED], ["empty_target"], []),
        ([say("user", "f 1"), CALLED, say("user", "Thanks.")], [], ["missing_result", "unanswered"]),
    ],
)  # fmt: skip
def test_turn_orders_that_cannot_be_and_those_that_teach_bad_habits(messages, errors, warnings):
    found = turns(*messages)
    assert (errors_of(found), warnings_of(found)) == (errors, warnings)
    assert found.status == ("rejected" if errors else "ok")


def test_paths_of_hermes_turns_are_those_of_the_row():
    text = "<tools>[{'name': 'f', 'parameters': {'type': 'object', 'properties': {}}}]</tools>"
    call = say("gpt", "<tool_call>{'name': 'f', 'arguments': {}}</tool_call>")
    results = say("tool", "<tool_response>1</tool_response><tool_response>2</tool_response>")
    (found,) = checked({"conversations": [say("system", text), say("human", "x"), call, results, say("gpt", "2")]})
    assert [(p.kind, p.path) for p in found.problems] == [("orphan_result", "/conversations/3")]


def test_values_that_nobody_said_are_told_with_their_share():
    checker = Checker()
    schema = {"type": "object", "properties": {
        "city": {"type": "string"}, "n": {"type": "number"}, "unit": {"enum": ["km", "mi"]},
        "on": {"type": "boolean"}, "more": {"type": "integer", "default": 3}}}  # fmt: skip

    def asked(text, **arguments):
        call = {"function": {"name": "f", "arguments": arguments}}
        messages = [say("user", text), {"role": "assistant", "content": None, "tool_calls": [call]}]
        return {"messages": messages, "tools": [{"name": "f", "parameters": schema}]}

    rows = [
        asked("Weather in NEW-York, 1,000 times?", city="New York", n=1000, unit="km", on=True, more=3),
        asked("Two in Paris, please", city="paris", n=2),
        asked("Weather?", city="Rome", n=7.0),
    ]
    found = list(checker.check(Source("memory", rows)))
    assert [warnings_of(f) for f in found] == [[], [], ["value_not_in_dialogue"] * 2]
    assert [p.path.rpartition("/")[2] for p in found[2].problems] == ["city", "n"]
    (told,) = [p for p in checker.finish() if p.kind == "value_not_in_dialogue"]
    assert (told.row, told.found) == (None, "33.3% of 6 values of calls")


def test_near_duplicates_are_found_and_rows_that_differ_in_a_value_are_not():
    def asked(text, n=1):
        call = {"function": {"name": "f", "arguments": {"n": n}}}
        return row(messages=[say("user", text), {"role": "assistant", "tool_calls": [call]}])

    found = checked(
        asked("Please set the kitchen timer to 1 minute"),
        asked("set the KITCHEN timer to 1 minute!"),
        asked("set the kitchen timer to 2 minutes", 2),
        asked("Something quite different with number 1"),
        row(messages=[say("user", "How old is the moon?"), say("assistant", "Very.")]),
        row(messages=[say("user", "how old is the moon"), say("assistant", "very.")]),
        row(messages=[say("user", "How old is the sun?"), say("assistant", "Very.")]),
    )
    assert [i for i, f in enumerate(found, 1) if "near_duplicate" in warnings_of(f)] == [2, 6]
    assert "line 1" in next(p.found for p in found[1].problems if p.kind == "near_duplicate")


def test_rows_of_the_test_part_that_stand_in_train_are_told(tmp_path, capsys):
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row(id="a")))
    code, report = report_of(capsys, str(tmp_path))
    (told,) = [p for p in report["problems"] if p["kind"] == "near_duplicate"]
    assert (code, told["file"], report["rows"]) == (0, "test.jsonl", 2)
    assert "line 1 of train.jsonl" in told["found"]


def test_what_is_remembered_of_a_row_stays_small():
    checker = Checker()
    rows = ({**row(id=f"row {i}"), "messages": [say("user", f"set number {i} of {i * 7919}"), CALLED]}
            for i in range(20000))  # fmt: skip
    assert sum(1 for _ in checker.check(Source("memory", rows))) == 20000
    assert (checker.ids.nbytes + checker.alike.nbytes) / 20000 < 200


@pytest.mark.parametrize("place", ["named", "cached"])
def test_questions_of_a_benchmark_are_not_to_be_trained_on(tmp_path, capsys, monkeypatch, place):
    cache = tmp_path / "cache"
    monkeypatch.setenv("CALLTUNE_CACHE", str(cache))
    folder = tmp_path / "bench" if place == "named" else cache / "bfcl-v4"
    folder.mkdir(parents=True)
    question = {"id": "simple_0", "question": [[say("user", "Find the area of a triangle of base 10.")]]}
    (folder / "BFCL_v4_simple.json").write_text(json.dumps(question) + "\n")
    data = tmp_path / "d.jsonl"
    asked = [say("user", "please find the area of a triangle of base 10"), say("assistant", "50")]
    rows = [row(messages=asked), row()]
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    code, report = report_of(capsys, str(data), *(["--benchmark", str(folder)] if place == "named" else []))
    (told,) = [p for p in report["problems"] if p["severity"] == "error"]
    assert (code, report["rejected"], told["kind"], told["row"]) == (1, 1, "benchmark_question", 1)
    assert told["path"] == "/messages/0" and "BFCL_v4_simple.json" in told["found"]
    with pytest.raises(InputError, match="cannot be read"):
        command(capsys, check, str(data), "--benchmark", str(tmp_path / "nothing"))
