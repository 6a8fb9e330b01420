"""`calltune check` and `calltune parse` as commands, and the repairs behind the first."""

import argparse
import gzip
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from chat_templates import QWEN3
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import long_row, tiny_tokenizer

from calltune.cli import check, parse
from calltune.data.calls import repair_call
from calltune.data.check import Checker, check_rows
from calltune.data.sources import Source
from calltune.errors import InputError
from calltune.schema import Tool, ToolCall, surely_fits

DATA = Path(__file__).parent / "data"
SHARED = Path(os.environ.get("CALLTUNE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_shared = pytest.mark.skipif(not (SHARED / "seal_invalid.jsonl").is_file(), reason="no data")


def command(capsys, module, *words: str) -> tuple[int, str]:
    parser = argparse.ArgumentParser()
    module.add_parser(parser.add_subparsers())
    args = parser.parse_args([module.__name__.rsplit(".", 1)[-1], *words])
    code = args.run(args)
    return code, capsys.readouterr().out


def report_of(capsys, *words: str) -> tuple[int, dict]:
    code, out = command(capsys, check, *words, "--json")
    return code, json.loads(out)


def wanted(path: Path) -> list[tuple[int, list[str]]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(i, [kind.split(":")[0] for kind, _ in row["problems"]]) for i, row in enumerate(rows, start=1)]


@pytest.mark.parametrize(
    ("path", "repaired"),
    [
        (DATA / "seal_invalid_rows.jsonl", 2),
        pytest.param(SHARED / "seal_invalid.jsonl", 95, marks=needs_shared),
    ],
    ids=["a few rows", "all rows"],
)
def test_every_invalid_row_is_found_and_what_is_lossless_repaired(capsys, tmp_path, path, repaired):
    code, report = report_of(capsys, str(path))
    expected = wanted(path)
    assert code == 1
    assert (report["rows"], report["ok"], report["repaired"]) == (len(expected), 0, repaired)
    assert report["rejected"] == len(expected) - repaired
    errors = [p for p in report["problems"] if p["severity"] == "error"]
    for row, kinds in expected:
        found = [p["kind"] for p in errors if p["row"] == row]
        assert sorted(found) == sorted(kinds)

    out = tmp_path / "clean.jsonl"
    code, _ = command(capsys, check, str(path), "--repair", str(out))
    assert code == 1  # some rows were rejected
    assert len((tmp_path / "clean.rejected.jsonl").read_text().splitlines()) == report["rejected"]
    code, again = report_of(capsys, str(out))
    assert (code, again["ok"], again["rows"]) == (0, repaired, repaired)


@pytest.mark.parametrize("name", ["seal_train", "seal_hermes"])
@pytest.mark.parametrize("folder", [DATA, pytest.param(SHARED, marks=needs_shared)], ids=["a few rows", "all"])
def test_no_valid_row_is_refused(capsys, name, folder):
    path = folder / (f"{name}_rows.jsonl" if folder is DATA else f"{name}.jsonl")
    code, report = report_of(capsys, str(path))
    assert code == 0
    assert report["ok"] == report["rows"] > 0
    assert all(p["severity"] == "warning" for p in report["problems"])
    kinds = {p["kind"] for p in report["problems"] if p["row"] is None} - {"value_not_in_dialogue"}
    assert kinds == (set() if folder is DATA else {"right_tool_first", "no_row_without_call"})


TOOL = Tool(
    "f",
    parameters={
        "type": "object",
        "properties": {
            "n": {"type": "integer"},
            "x": {"type": "number"},
            "b": {"type": "boolean"},
            "s": {"type": "string"},
            "l": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}},
        },
    },
)


@pytest.mark.parametrize(
    ("given", "repaired"),
    [
        ({"n": "63"}, {"n": 63}),
        ({"n": " -7 "}, {"n": -7}),
        ({"x": "12.50", "s": "12"}, {"x": 12.5, "s": "12"}),
        ({"x": "3"}, {"x": 3}),
        ({"b": "True"}, {"b": True}),
        ({"l": [{"n": "1"}]}, {"l": [{"n": 1}]}),
        ({"n": "1.5"}, {"n": "1.5"}),
        ({"n": "63 kg"}, {"n": "63 kg"}),
        ({"x": "nan"}, {"x": "nan"}),
        ({"b": "yes"}, {"b": "yes"}),
        ({"other": "1"}, {"other": "1"}),
    ],
)
def test_only_what_loses_nothing_is_repaired(given, repaired):
    assert repair_call(ToolCall("f", given), (TOOL,)).arguments == repaired


def row(**changes):
    call = {"function": {"name": "f", "arguments": {"n": 1}}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    return {"messages": messages, "tools": [TOOL.to_openai()]} | changes


def checked(*rows):
    return list(check_rows(Source("memory", list(rows))))


def errors_of(found):
    return [p.kind for p in found.problems if p.severity == "error"]


def warnings_of(found):
    return [p.kind for p in found.problems if p.severity == "warning"]


def test_rows_that_reading_accepts_and_checking_does_not():
    user, answer = {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}
    rows = checked(
        row(id="a"),
        row(id="a"),
        row(messages=[user]),
        row(messages=[user, {"role": "assistant", "content": None}]),
        row(messages=[user, {"role": "tool", "content": "7"}, answer]),
        row(messages=[user, answer], tools=[{"name": "f", "parameters": {"type": "dict"}}]),
        row(tools=[{"name": "f", "parameters": {"type": "object", "properties": {"n": {"$ref": "http://x.y/z"}}}}]),
    )
    kinds = [errors_of(c) for c in rows]
    assert kinds[:5] == [[], ["duplicate_id"], ["no_target"], ["no_target"], ["orphan_result"]]
    assert kinds[5:] == [["bad_schema"], ["bad_schema"]]
    assert [c.status for c in rows] == ["ok"] + ["rejected"] * 6


def test_arguments_in_python_quotes_are_a_repair():
    user, function = {"role": "user", "content": "x"}, {"name": "f", "arguments": "{'n': 1}"}
    (found,) = checked(row(messages=[user, {"role": "assistant", "tool_calls": [{"function": function}]}]))
    assert (found.status, errors_of(found)) == ("repaired", ["not_json"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutated_rows_are_counted_and_raise_nothing(data):
    """One value anywhere in a good row is replaced, or taken away."""
    value = json.loads(json.dumps(row(id="a", meta={})))
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    if data.draw(st.booleans()):
        place[key] = data.draw(JSON)
    else:
        del place[key]
    (found,) = checked(value)
    assert found.status in ("ok", "repaired", "rejected")
    assert (
        (found.conversation is None)
        == (found.status == "rejected")
        == bool(errors_of(found) and not found.conversation)
    )


def test_repair_refuses_to_overwrite_its_input(tmp_path, capsys):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(row()))
    with pytest.raises(InputError, match="another file than DATA"):
        command(capsys, check, str(path), "--repair", str(path))
    assert path.read_text() == json.dumps(row())


def test_the_text_form_names_the_place_and_the_next_step(capsys, tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(row()).replace('"n": 1', '"n": "1"') + "\n{\n")
    code, out = command(capsys, check, str(path))
    assert code == 1
    assert "line 1 at /messages/1/tool_calls/0/function/arguments/n: wrong_type" in out
    assert "line 2: bad_json" in out
    assert "2 rows: 0 ok, 1 repairable, 1 rejected" in out
    assert "format: openai (1 rows), none (1 rows)" in out
    assert "--repair" in out


# --- what is wrong with calls


def args_of(schema, arguments, name="f"):
    """The finding on one row that calls `f` with arguments against a parameter schema."""
    tool = {"name": "f", "parameters": schema}
    call = {"function": {"name": name, "arguments": arguments}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    (found,) = checked({"messages": messages, "tools": [tool]})
    return found


NESTED = {"type": "object", "properties": {"x": {"type": "array", "items": {
    "type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}}}  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "arguments", "kind", "end"),
    [
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, {}, "missing_argument", ""),
        ({"type": "object", "properties": {}}, {"b": 1}, "unknown_argument", "/b"),
        ({"type": "object", "properties": {"a/b": {"type": "string"}}}, {"a/b": 1}, "wrong_type", "/a~1b"),
        ({"type": "object", "properties": {"a": {"enum": ["x", "y"]}}}, {"a": "z"}, "not_in_enum", "/a"),
        ({"type": "object", "properties": {"a": {"type": "string", "format": "date"}}}, {"a": "May"}, "bad_format",
         "/a"),
        ({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string", "format": "email"}}}},
         {"a": ["a@b.c", "x"]}, "bad_format", "/a/1"),
        (NESTED, {"x": [{"n": 1}, {"n": [2]}]}, "wrong_type", "/x/1/n"),
        (NESTED, {"x": [{}]}, "missing_argument", "/x/0"),
        (NESTED, {"x": {"n": 1}}, "wrong_type", "/x"),
        ({"type": "object", "properties": {"a": {"maximum": 3}}}, {"a": 4}, "schema_maximum", "/a"),
    ],
)  # fmt: skip
def test_every_way_in_which_a_call_does_not_fit(schema, arguments, kind, end):
    found = args_of(schema, arguments)
    (problem,) = [p for p in found.problems if p.severity == "error"]
    assert (found.status, problem.kind) == ("rejected", kind)
    assert problem.path == f"/messages/1/tool_calls/0/function/arguments{end}"
    assert problem.row == 1 and problem.found and problem.expected


@pytest.mark.parametrize("text", ["2026-05-01T10:00:00", "2026-05-01T10:00:00Z", "2026-05-01T10:00:00+02:00"])
def test_times_with_and_without_a_zone_are_times(text):
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": "date-time"}}}
    assert args_of(schema, {"a": text}).status == "ok"


def test_a_tool_that_is_not_offered_is_unknown():
    found = args_of({"type": "object", "properties": {}}, {}, name="g")
    assert errors_of(found) == ["unknown_function"]


@pytest.mark.parametrize(
    ("schema", "arguments", "repaired"),
    [
        ({"type": "object", "properties": {"a": {"type": "integer", "enum": None}}}, {"a": 1}, {"a": 1}),
        ({"type": "object", "properties": {"a": {"type": "integer"}, "b": None}}, {"a": 1}, {"a": 1}),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, {"a": "x", "b": None}, {"a": "x"}),
        ({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
         {"a": "x", "b": None}, {"a": "x"}),
        ({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}},
         {"a": "['1', 2]"}, {"a": [1, 2]}),
        ({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "integer"}}}}},
         {"a": "{'b': '1',}"}, {"a": {"b": 1}}),
    ],
)  # fmt: skip
def test_nulls_and_texts_that_arrow_and_python_leave_are_repaired(schema, arguments, repaired):
    found = args_of(schema, arguments)
    assert found.status == "repaired"
    assert found.conversation.messages[1].calls[0].arguments == repaired
    again = checked(found.conversation.to_openai())[0]
    assert (again.status, errors_of(again)) == ("ok", [])


def test_a_parameter_may_be_named_like_a_word_of_json_schema():
    schema = {"type": "object", "properties": {"default": {"type": "string", "enum": None}, "enum": None,
                                               "properties": {"type": "integer", "default": None}}}  # fmt: skip
    found = args_of(schema, {"default": "x", "properties": 1})
    assert [p.path for p in found.problems if p.kind == "null_in_schema"] == [
        "/tools/0/parameters/properties/default/enum", "/tools/0/parameters/properties/enum"]  # fmt: skip
    assert found.conversation.tools[0].properties["properties"] == {"type": "integer", "default": None}


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"$ref": "https://example.com/schema.json"}, "/a/$ref"),
        ({"$ref": "file:///etc/passwd"}, "/a/$ref"),
        ({"$ref": "#/properties/b"}, "/a/$ref"),
        ({"$ref": "#/properties/a"}, "/a/$ref"),
        ({"type": "string", "pattern": "("}, "/a/pattern"),
        ({"type": 7}, "/a/type"),
    ],
)
def test_schemas_that_cannot_be_applied_are_refused_and_nothing_is_fetched(schema, place, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("the network was asked"))
    found = args_of({"type": "object", "properties": {"a": schema}}, {"a": "x"})
    assert errors_of(found) == ["bad_schema"]
    assert found.problems[0].path == f"/tools/0/parameters/properties{place}"


def test_a_ref_inside_the_schema_is_followed():
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}
    assert args_of(schema, {"a": 1}).status == "ok"
    assert errors_of(args_of(schema, {"a": [1]})) == ["wrong_type"]


# --- turns and what rows teach


def say(role, content, **more):
    return {"role": role, "content": content} | more


def turns(*messages, **more):
    (found,) = checked({"messages": list(messages), "tools": [TOOL.to_openai()]} | more)
    return found


CALLED = {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": {"n": 1}}}]}


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


def test_strict_makes_errors_of_warnings(capsys, tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(row()))  # its value 1 stands nowhere in the request
    code, report = report_of(capsys, str(path))
    assert (code, report["ok"], report["warnings"]) == (0, 1, 2)
    code, report = report_of(capsys, str(path), "--strict")
    assert (code, report["ok"], report["rejected"]) == (1, 0, 1)


@pytest.mark.parametrize("end", [",\n", ",  \r\n", "\n"])
def test_lines_with_a_comma_too_many_or_python_words_are_repaired(tmp_path, capsys, end):
    path, out = tmp_path / "d.jsonl", tmp_path / "clean.jsonl"
    path.write_text(json.dumps(row())[:-1] + ",}" + end + repr(row()))
    code, report = report_of(capsys, str(path), "--repair", str(out))
    assert (code, report["repaired"], report["rejected"]) == (0, 2, 0)
    code, report = report_of(capsys, str(out))
    assert (code, report["ok"]) == (0, 2)


def test_rejected_rows_are_written_with_reasons_and_their_text(tmp_path, capsys):
    path, out = tmp_path / "d.jsonl", tmp_path / "clean.jsonl"
    bad = row(messages=[say("user", "x"), CALLED | {"tool_calls": [{"function": {"name": "g"}}]}])
    path.write_text("{broken\n" + json.dumps(bad) + "\n" + json.dumps(row()) + "\n")
    assert command(capsys, check, str(path), "--repair", str(out))[0] == 1
    side = [json.loads(line) for line in (tmp_path / "clean.rejected.jsonl").read_text().splitlines()]
    assert [(r["row"], [p["kind"] for p in r["problems"]]) for r in side] == [
        (1, ["bad_json"]), (2, ["unknown_function"])]  # fmt: skip
    assert [r["data"] for r in side] == ["{broken", bad]
    assert len(out.read_text().splitlines()) == 1


def test_a_file_that_breaks_in_the_middle_leaves_no_half_output(tmp_path, capsys):
    path, out = tmp_path / "d.jsonl.gz", tmp_path / "clean.jsonl"
    path.write_bytes(gzip.compress((json.dumps(row()) + "\n").encode() * 5000)[:-200])
    with pytest.raises(InputError, match="cannot be read"):
        command(capsys, check, str(path), "--repair", str(out))
    assert [p.name for p in tmp_path.iterdir()] == ["d.jsonl.gz"]


def test_with_a_model_lengths_and_dropped_plans_are_told(tmp_path, capsys):
    model = tmp_path / "m"
    model.mkdir()
    tiny_tokenizer(model, "chatml", QWEN3)
    (model / "config.json").write_text("{}")
    rows = [row(), row(messages=[say("user", "word " * 500), CALLED]), long_row().to_openai()]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    code, report = report_of(capsys, str(path), "--model", str(model), "--max-seq-length", "900")
    errors = [(p["row"], p["kind"]) for p in report["problems"] if p["severity"] == "error"]
    assert (code, errors) == (1, [(2, "too_long")])
    assert [p["row"] for p in report["problems"] if p["kind"] == "thinking_dropped"] == [None]
    lengths = report["lengths"]
    assert lengths["p50"] <= lengths["p95"] <= lengths["max"] and lengths["max"] > 900
    assert sum(count for _, _, count in lengths["histogram"]) == lengths["examples"] >= 4
    assert 0 < lengths["loss_share"] < 1


# --- calltune parse


def parsed(monkeypatch, capsys, *lines: str, flags: tuple[str, ...] = ()) -> list[dict]:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO("\n".join(lines).encode())))
    try:
        _, out = command(capsys, parse, *flags)
    except InputError:
        out = capsys.readouterr().out
        raise
    finally:
        parsed.out = out if "out" in locals() else ""
    return [json.loads(line) for line in out.splitlines()]


def line(text: str, **more) -> str:
    return json.dumps({"id": 1, "raw_output": text} | more)


def test_parse_writes_a_line_a_line_in_order(monkeypatch, capsys):
    out = parsed(
        monkeypatch,
        capsys,
        line("<think>p</think><tool_call>{'name': 'f', 'arguments': {'n': 1}}</tool_call>", id="a"),
        line("Hello", id=None),
        "",
        line("<tool_call>{broken</tool_call>", id=3),
        line('<tool_call>{"name": "f", "arguments": {"n": "x"}}</tool_call>', tools=[TOOL.to_openai()]),
    )
    calls = [{"name": "f", "arguments": {"n": 1}}]
    assert out[0] == {"id": "a", "calls": calls, "content": "", "thinking": "p", "errors": []}
    assert out[1] == {"id": None, "calls": [], "content": "Hello", "thinking": None, "errors": []}
    assert (out[2]["id"], out[2]["calls"], len(out[2]["errors"])) == (3, None, 1)
    assert out[3]["calls"] == [{"name": "f", "arguments": {"n": "x"}}]
    assert "wrong_type" in out[3]["errors"][0]


def test_parse_writes_the_good_lines_and_names_all_bad_ones(monkeypatch, capsys):
    with pytest.raises(InputError) as caught:
        parsed(monkeypatch, capsys, "{", line("a"), '{"id": 1}', "7", line("b", tools="[{]"), line("\ud800"))
    assert [(p.row, p.kind) for p in caught.value.problems] == [
        (1, "bad_json"),
        (3, "no_raw_output"),
        (4, "no_raw_output"),
        (5, "bad_tools"),
    ]
    assert [json.loads(text)["content"] for text in parsed.out.splitlines()] == ["a", "\ud800"]


def test_parse_with_an_open_plan(monkeypatch, capsys):
    (out,) = parsed(monkeypatch, capsys, line("p</think>x"), flags=("--thinking-open", "--format", "hermes"))
    assert (out["thinking"], out["content"]) == ("p", "x")


# --- the quick way to judge a call


SCHEMAS = st.recursive(
    st.sampled_from([*({"type": kind} for kind in ("string", "integer", "number", "boolean", "null")),
                     {"type": "string", "enum": ["a", "1"]}, {"enum": [1, "a"]}, {"type": "integer", "enum": [1]},
                     {"type": "integer", "minimum": 2}, {"type": ["string", "null"]}, {}]),
    lambda inner: st.fixed_dictionaries({"type": st.just("array"), "items": inner})
    | st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("ab"), inner),
                             "required": st.lists(st.sampled_from("ab"), max_size=1)}),
    max_leaves=4,
)  # fmt: skip
VALUES = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 1.0, 2.5, "a", "1", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=500, deadline=None)
@given(SCHEMAS, VALUES)
def test_what_surely_fits_fits_by_jsonschema_too(schema, value):
    from jsonschema import Draft202012Validator

    if surely_fits(value, schema):
        assert Draft202012Validator(schema).is_valid(value)


def test_most_calls_need_no_jsonschema():
    assert surely_fits({"n": 1, "x": 2.5, "b": True, "s": "t", "l": [{"n": 3}]}, TOOL.parameters)
    assert not surely_fits({"n": True}, TOOL.parameters)
