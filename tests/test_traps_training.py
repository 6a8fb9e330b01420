"""Traps of training and data that belong to no one module (the others stand beside the module's own tests)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from chat_templates import WALKTHROUGH
from tiny import TIME, WEATHER, long_row, tiny_tokenizer, weather_rows

from calltune.errors import InputError
from calltune.prepare import mixed_tools, prepare, read_parts
from calltune.schema import Conversation, Tool
from calltune.settings import TrainSettings, resolve
from calltune.tokenizer import load_tokenizer

OTHERS = tuple(replace(TIME, name=f"tool_{i}") for i in range(6))


@pytest.mark.parametrize(
    "given", [{"mask_prompt": True}, {"hf_dataset": {"path": "org/name"}}, {"lora_parameters": {"rank": 8}}]
)
def test_trap_t04_settings_that_nobody_reads_are_errors(given):
    with pytest.raises(InputError) as caught:
        resolve(TrainSettings, given, "the file")
    assert next(iter(given)) in str(caught.value)


@pytest.mark.parametrize("data", [{"path": "org/name"}, {"hf_dataset": "x", "train": None}, {}, 5, []])
def test_trap_t04_data_that_cannot_be_read_is_an_error(data):
    with pytest.raises(InputError):
        read_parts(TrainSettings(), data)


def first_rows(n: int = 40) -> list[Conversation]:
    """Each row offers the right tool first, and others that change from row to row."""
    return [
        replace(row, tools=(WEATHER, OTHERS[i % 6], OTHERS[(i + 1) % 6]))
        for i, row in enumerate(weather_rows(n, no_call=0))
    ]


def places(rows: list[Conversation] | tuple[Conversation, ...]) -> list[int]:
    return [[t.name for t in row.tools].index("get_weather") for row in rows]


def test_trap_t22_the_right_tool_first_is_mixed_and_said():
    rows, notes = mixed_tools(tuple(first_rows()), TrainSettings())
    assert sum(place == 0 for place in places(list(rows))) < 25
    assert any("mixed" in note for note in notes)
    assert [sorted(t.name for t in r.tools) for r in rows] == [sorted(t.name for t in r.tools) for r in first_rows()]
    again, _ = mixed_tools(tuple(first_rows()), TrainSettings())
    assert places(list(again)) == places(list(rows))  # by the seed


def test_trap_t22_never_leaves_the_order_and_one_set_of_tools_keeps_its_prefix():
    kept, notes = mixed_tools(tuple(first_rows()), TrainSettings(shuffle_tools="never"))
    assert set(places(list(kept))) == {0} and notes  # but it is told
    fixed, _ = mixed_tools(tuple(weather_rows(40, no_call=0)), TrainSettings())
    assert set(places(list(fixed))) == {0}  # all rows offer the same tools: their order says nothing
    forced, _ = mixed_tools(tuple(weather_rows(40, no_call=0)), TrainSettings(shuffle_tools="always"))
    assert set(places(list(forced))) == {0, 1}


def prepared(folder: Path, rows: list[Conversation], **changes: object):
    tiny_tokenizer(folder, "gemma")
    (folder / "w.jinja").write_text(WALKTHROUGH)
    settings = TrainSettings(template=str(folder / "w.jinja"), test=0.0, valid=0.0, **changes)
    return prepare(settings, load_tokenizer(folder), rows)


def test_a_system_text_before_a_template_without_system_role(tmp_path):
    """The walk-through's rows: system, question, call, result, answer."""
    made = prepared(tmp_path, [long_row()])
    assert made.template.merge_system and len(made.train) == 1
    golden = load_tokenizer(tmp_path).decode(made.golden_prompt)
    assert golden.startswith("<bos><start_of_turn>user\nBe brief.") and golden.endswith("<start_of_turn>model\n")
    assert tuple(made.golden_prompt) == made.train[0].ids[: len(made.golden_prompt)]


def test_trap_t03_nothing_to_train_is_an_error(tmp_path):
    row = long_row()
    with pytest.raises(InputError, match="no training example"):
        prepared(tmp_path, [replace(row, messages=row.messages[:2])])


def test_trap_t05_all_rows_too_long_is_an_error_with_the_lengths(tmp_path):
    with pytest.raises(InputError, match=r"longest example \d+ tokens"):
        prepared(tmp_path, [long_row()], max_seq_length=50)


def test_the_same_rows_have_the_same_hash_and_others_another(tmp_path):
    rows = weather_rows(4)
    first, second = prepared(tmp_path / "a", rows), prepared(tmp_path / "b", rows)
    other = prepared(tmp_path / "c", [*rows[:3], replace(rows[3], tools=(Tool("other"),))])
    assert first.hash == second.hash != other.hash
