"""What a set teaches by its order of tools and its rows without calls; splits."""

import json

import pytest
from tiny import tiny_model, weather_rows

from calltune.cli import main
from calltune.data.balance import no_call_share, right_tool_first_share, shuffle_tools
from calltune.data.split import split_rows
from calltune.errors import InputError
from calltune.schema import Conversation, Message, Tool, ToolCall
from calltune.tasks.suites import walkthrough_rows


def numbered(count: int, tools: int = 3) -> list[Conversation]:
    offered = tuple(Tool(f"f{i}") for i in range(tools))
    return [
        Conversation((Message("assistant", calls=(ToolCall(f"f{i % tools}"),)),), offered, str(i))
        for i in range(count)
    ]


def test_trap_t22_the_right_tool_first_is_measured_and_mended():
    first = [
        Conversation(c.messages, (Tool(c.messages[0].calls[0].name), Tool("x"), Tool("y"))) for c in numbered(300)
    ]
    assert right_tool_first_share(first) == 1.0
    mended = shuffle_tools(first, seed=3)
    assert 0.2 < right_tool_first_share(mended) < 0.46
    assert mended == shuffle_tools(first, seed=3) != shuffle_tools(first, seed=4)
    for a, b in zip(first, mended, strict=True):
        assert sorted(t.name for t in a.tools) == sorted(t.name for t in b.tools)
    assert right_tool_first_share([]) is None


def test_trap_t23_rows_without_a_call_are_counted():
    rows = [*numbered(3), Conversation((Message("assistant", "No tool can do that."),))]
    assert no_call_share(rows) == 0.25
    assert no_call_share(numbered(3)) == 0.0


def test_the_walk_throughs_split():
    rows = numbered(3570)
    split = split_rows(rows, test=0.1, valid=0)
    assert (len(split.train), len(split.valid), len(split.test)) == (3213, 0, 357)
    assert split == split_rows(rows, test=0.1, valid=0) != split_rows(rows, test=0.1, valid=0, seed=1)
    three = split_rows(rows)
    parts = [c.id for part in (three.train, three.valid, three.test) for c in part]
    assert sorted(parts) == sorted(c.id for c in rows)
    assert (len(three.valid), len(three.test)) == (179, 357)


def test_a_split_by_tool_never_shows_the_held_out_tools_in_training():
    rows = numbered(300, tools=30)
    split = split_rows(rows, test=0.1, valid=0.05, by="tool")
    held = set(split.held_out)
    assert (len(held), len(split.test), len(split.valid)) == (3, 30, 15)
    assert len(split.train) + len(split.valid) + len(split.test) == 300
    for conversation in (*split.train, *split.valid):
        assert held.isdisjoint(tool.name for tool in conversation.tools)
    assert {c.messages[0].calls[0].name for c in split.test} == held


@pytest.mark.parametrize(("test", "valid", "count"), [(1.0, 0, 9), (-0.1, 0, 9), (0.6, 0.5, 9), (0.5, 0.4, 1)])
def test_splits_that_cannot_be(test, valid, count):
    with pytest.raises(InputError):
        split_rows(numbered(count), test=test, valid=valid)


def test_the_walk_throughs_test_split_is_a_task_for_any_model(tmp_path):
    rows = weather_rows(30)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row.to_openai()) + "\n" for row in rows), encoding="utf-8")
    found = walkthrough_rows(path)
    wanted = split_rows(rows, test=0.1, valid=0.0, seed=0).test
    assert [row.id for row in found] == [row.id for row in wanted] and len(found) == 3
    model = tiny_model(tmp_path / "model")
    words = ["eval", str(model), "--suite", "walkthrough", "--data", str(path), "--out", str(tmp_path / "out")]
    assert main([*words, "--max-tokens", "2"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["id"] for row in report["verdicts"]] == [row.id for row in wanted]
    assert report["data"]["name"] == f"test split of {path}" and "holds out" in report["method"][0]
    assert report["suite"] is None
