"""`calltune check` and `calltune parse` as commands, and the repairs behind the first."""

import gzip
import json
import os
from pathlib import Path

import pytest
from chat_templates import QWEN3
from check_rows import CALLED, TOOL, checked, command, errors_of, report_of, row, say
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import long_row, tiny_tokenizer

from calltune.cli import check
from calltune.data.calls import repair_call
from calltune.errors import InputError
from calltune.schema import ToolCall

DATA = Path(__file__).parent / "data"


SHARED = Path(os.environ.get("CALLTUNE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


needs_shared = pytest.mark.skipif(not (SHARED / "seal_invalid.jsonl").is_file(), reason="no data")


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
    for number, kinds in expected:
        found = [p["kind"] for p in errors if p["row"] == number]
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
