"""`calltune check` and `calltune parse` as commands, and the repairs behind the first."""

import argparse
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calltune.cli import check, parse
from calltune.data.check import check_rows, repair_call
from calltune.data.sources import Source
from calltune.errors import InputError
from calltune.schema import Tool, ToolCall

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
        assert len(found) == len(kinds)
        assert ("wrong_type" in found) == ("wrong_type" in kinds)
    assert {p["kind"] for p in errors if not p["path"].endswith("/name")} == {"wrong_type"}

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
    kinds = {p["kind"] for p in report["problems"]}
    assert kinds == (set() if folder is DATA else {"right_tool_first", "no_row_without_call"})
    assert all(p["row"] is None and p["severity"] == "warning" for p in report["problems"])


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
    kinds = [[p.kind for p in c.problems] for c in rows]
    assert kinds[:5] == [[], ["duplicate_id"], ["no_target"], ["no_target"], ["orphan_result"]]
    assert kinds[5:] == [["bad_schema"], ["bad_schema"]]
    assert [c.status for c in rows] == ["ok"] + ["rejected"] * 6


def test_arguments_in_python_quotes_are_a_repair():
    (found,) = checked(
        row(messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{'n': 1}"}}]}])
    )
    assert (found.status, [p.kind for p in found.problems]) == ("repaired", ["not_json"])


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
        == bool(found.problems and not found.conversation)
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
    assert "--repair" in out


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
