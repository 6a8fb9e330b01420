"""Files, folders, Parquet, the hub; streams, and all problems of a file at once."""

import datetime
import gzip
import json
import sys
from types import SimpleNamespace

import pytest
from reader_rows import WEATHER, answered, calls, one, problems_of, row

from calltune.data.files import file_rows
from calltune.data.readers import load_conversations, load_splits, read_conversations
from calltune.errors import InputError
from calltune.schema import Message, Tool


def test_parquet_is_read_in_batches_and_the_nulls_that_arrow_adds_are_taken_away(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    first = row(text=None, day=datetime.date(2026, 1, 1))
    values = [first, answered(content="Hello!"), {"text": "Good morning."}] * 200
    other = Tool("get_time", "", {"type": "object", "properties": {"zone": {"type": "string"}}})
    call = {"id": "c", "type": "function", "function": {"name": "get_time", "arguments": {"zone": "CET"}}}
    values.append(answered(tool_calls=[call]) | {"tools": [other.to_openai()]})
    parquet.write_table(arrow.Table.from_pylist(values), tmp_path / "train.parquet")
    rows = load_splits(tmp_path)["train"]
    assert len(rows) == 601 and rows[-1].id == "train.parquet:601"
    assert rows[0].messages == one(row()).messages and rows[0].tools == (WEATHER,)
    assert rows[0].meta == {"day": "2026-01-01"}
    assert rows[1].messages[-1] == Message("assistant", "Hello!")
    assert rows[2].meta["text"] == "Good morning." and not rows[2].messages
    assert calls(rows[-1]) == [[("get_time", [("zone", "CET")])]] and rows[-1].tools == (other,)
    assert len(load_conversations(tmp_path / "train.parquet", limit=300)) == 300
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no table PAR1")
    assert problems_of(tmp_path)[0].kind == "unreadable_file"


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    for source in (tmp_path, tmp_path / "train.parquet"):
        with pytest.raises(InputError, match=r"pip install 'calltune\[hub\]'"):
            load_conversations(source)
    (tmp_path / "train.parquet.gz").write_bytes(b"")
    assert problems_of(tmp_path / "train.parquet.gz")[0].kind == "unknown_file"


def test_data_sets_of_the_real_library_in_memory_and_from_a_local_file(tmp_path):
    datasets = pytest.importorskip("datasets")
    values = [row(), answered(content="Hello!")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, values)))
    plain = load_conversations(values)
    loaded = datasets.load_dataset(
        "json", data_files={"train": str(tmp_path / "rows.jsonl")}, cache_dir=str(tmp_path / "cache")
    )
    train = loaded["train"]
    for source in (datasets.Dataset.from_list(values), loaded, train, train.to_iterable_dataset()):
        found = load_conversations(source)
        assert [c.messages for c in found] == [c.messages for c in plain]
        assert [c.tools for c in found] == [c.tools for c in plain]
    hard = [answered(tool_calls=[{"function": {"name": "get_weather", "arguments": {"city": given}}}])
            for given in (None, "Paris", 7)]  # fmt: skip
    (tmp_path / "hard.json").write_text(json.dumps(hard))
    mixed = datasets.load_dataset("json", data_files=str(tmp_path / "hard.json"), cache_dir=str(tmp_path / "cache"))
    mixed["train"].to_parquet(tmp_path / "hard.parquet")  # with values of several types, as the type arrow.json
    for source in (mixed, tmp_path / "hard.parquet"):
        assert [calls(c)[0][0][1] for c in load_conversations(source)] == [[("city", v)] for v in (None, "Paris", 7)]
    parts = load_splits(datasets.DatasetDict(train=loaded["train"], validation=loaded["train"]))
    assert [c.id for c in parts["valid"]] == ["memory/valid:1", "memory/valid:2"]


def test_all_problems_of_a_file_come_at_once_with_line_path_and_words(tmp_path):
    unknown = {"function": {"name": "get_wether", "arguments": {}}}
    broken = {"function": {"name": "get_weather", "arguments": "{'city': "}}
    rows = [
        "{not json",
        json.dumps(row(messages=[{"role": "narrator", "content": "x"}])),
        json.dumps(row(messages=[])),
        json.dumps({"title": "x"}),
        json.dumps(answered(tool_calls=[unknown, broken])),
        json.dumps([1]),
        json.dumps(answered(content=7)),
        '{"messages": [{"role": "user", "content": "\\ud800"}]}',
        json.dumps(row()),
    ]
    path = tmp_path / "data.jsonl"
    path.write_bytes("\n".join(rows).encode() + b"\n\xff\n")
    found = [(p.row, p.kind, p.path) for p in problems_of(path)]
    assert found == [
        (1, "bad_json", ""),
        (2, "unknown_role", "/messages/0/role"),
        (3, "no_messages", "/messages"),
        (4, "no_messages", ""),
        (5, "unreadable_call", "/messages/1/tool_calls/1/function/arguments"),
        (5, found[5][1], "/messages/1/tool_calls/0/function/name"),
        (6, "bad_row", ""),
        (7, "bad_content", "/messages/1/content"),
        (8, "bad_text", ""),
        (10, "bad_encoding", ""),
    ]
    assert found[5][1].startswith("unknown_")
    collected = []
    assert len(load_conversations(path, on_problem=collected.append)) == 1
    assert [(p.row, p.kind, p.path) for p in collected] == found


def test_rows_are_streamed_and_limited():
    def endless():
        while True:
            yield row()

    assert len(load_conversations(endless(), limit=3)) == 3
    assert next(read_conversations(endless())).id == "memory:1"


@pytest.mark.parametrize("content", ["", "\n \n", "[]"])
def test_an_empty_file(tmp_path, content):
    path = tmp_path / "data.json"
    path.write_text(content)
    assert [p.kind for p in problems_of(path)] == ["empty_file"]


def test_missing_and_unknown_places(tmp_path):
    (tmp_path / "data.csv").write_text("a,b")
    (tmp_path / "near.jsonl").write_text("{}")
    assert problems_of(tmp_path / "data.jsonl")[0].kind == "missing_file"
    with pytest.raises(InputError, match=r"files there: near\.jsonl"):
        load_conversations(str(tmp_path / "data.jsonl"))
    assert problems_of(tmp_path / "data.csv")[0].kind == "unknown_file"
    assert problems_of(tmp_path)[0].kind == "missing_file"
    assert problems_of(7)[0].kind == "bad_source"
    with pytest.raises(InputError, match="no part test"):
        load_conversations([row()], part="test")


def test_json_gz_lines_in_a_json_file_and_mappings(tmp_path):
    lines = f"{json.dumps(row())}\n{json.dumps(row())}\n"
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "b.json").write_text(json.dumps([row(), row()], indent=2))
    (tmp_path / "c.json").write_text(lines)
    (tmp_path / "d.json").write_text(json.dumps(row(), indent=2))
    (tmp_path / "e.json").write_text(lines, encoding="utf-8-sig")
    counts = [len(load_conversations(path)) for path in sorted(tmp_path.iterdir())]
    assert counts == [2, 2, 2, 1, 2]
    parts = load_splits({"train": [row()], "validation": [row()], "test": [row()]})
    assert sorted(parts) == ["test", "train", "valid"]
    (tmp_path / "a.jsonl.gz").write_bytes(b"no gzip")
    assert problems_of(tmp_path / "a.jsonl.gz")[0].kind == "unreadable_file"


@pytest.mark.parametrize("rest", ['\n[{"b": 2}]\n', ' {"b": 2}', "]"])
def test_text_after_the_end_of_a_list_is_told(tmp_path, rest):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([row()]) + rest)
    (problem,) = problems_of(path)
    assert (problem.kind, problem.row) == ("bad_json", 2) and "text after the end of the list" in problem.found
    path.write_text(json.dumps([row()]) + " \n\n")
    assert len(load_conversations(path)) == 1


def test_a_list_is_read_up_to_the_byte_that_is_not_utf8(tmp_path):
    good = json.dumps([row(), row()])
    (tmp_path / "data.json").write_bytes(good.encode()[:-1] + b', {"a": "\xff"}, {}]')
    rows = list(file_rows(tmp_path / "data.json"))
    assert [r.problem and r.problem.kind for r in rows] == [None, None, "bad_encoding"] and rows[2].line == 3
    (tmp_path / "data.json").write_bytes(good.encode()[:-1] + b"\xe2")
    assert [r.problem and r.problem.kind for r in file_rows(tmp_path / "data.json")] == [None, "bad_encoding"]


def test_a_folder_with_two_files_for_one_part(tmp_path):
    for name in ("train.jsonl", "valid.jsonl", "validation.jsonl"):
        (tmp_path / name).write_text(json.dumps(row()))
    assert [p.kind for p in problems_of(tmp_path)] == ["two_files_for_one_part"]


def test_a_hub_data_set_needs_the_package_and_the_network(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'calltune\[hub\]'"):
        load_conversations("org/name")

    def refuse(name):
        raise ConnectionError("no route to the hub")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=refuse))
    with pytest.raises(InputError, match=r"org/name could not be fetched \(ConnectionError: no route"):
        load_conversations("org/name")
    rows = {"train": [row()], "validation": [row(), row()]}
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda name: rows))
    splits = load_splits("org/name")
    assert [c.id for c in splits["valid"]] == ["org/name:1", "org/name:2"]
