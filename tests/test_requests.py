"""Example requests in a YAML file, for tools without docstrings."""

from __future__ import annotations

import json

import pytest
from tiny import tiny_model

from calltune.data.pipeline import pipeline_settings, run_pipeline
from calltune.data.synthesise import synthesise
from calltune.errors import InputError
from calltune.prepare import read_parts
from calltune.settings import TrainSettings

TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Get the weather.", "parameters": {
    "type": "object", "required": ["city"], "properties": {
        "city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}}}}}]  # fmt: skip
REQUESTS = """\
get_weather:
  - Do I need a coat in {city}?
  - "{city}: rain or sun?"
  - Is it cold in {city} in fahrenheit? => unit=fahrenheit
  - How warm will {city} be?
  - Weather {city}
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    (tmp_path / "requests.yaml").write_text(REQUESTS)
    return tmp_path


def requests_of(rows):
    return "\n".join(row.messages[0].content for row in rows).lower()


def test_a_json_tool_list_gets_its_requests_from_the_file(files):
    made = synthesise(files / "tools.json", rows_train=80, requests=files / "requests.yaml")
    assert "do i need a coat in" in requests_of(made.train) and "rain or sun" in requests_of(made.train)
    assert "how warm will" in requests_of(made.test) and "how warm will" not in requests_of(made.train)
    cold = [row for row in made.train if "is it cold in" in row.messages[0].content.lower()]
    assert cold and all(
        any(call.arguments.get("unit") == "fahrenheit" for call in row.messages[1].calls) for row in cold
    )
    assert not any("Examples:" in note for note in made.notes)
    assert any("Examples:" in note for note in synthesise(files / "tools.json", rows_train=20).notes)


def test_training_and_preparing_take_the_file(files):
    given = {"tools": str(files / "tools.json"), "requests": str(files / "requests.yaml"), "rows": 40}
    assert "rain or sun" in requests_of(read_parts(TrainSettings(model="m", **given)).train)
    mix = files / "mix.yaml"
    mix.write_text("sources:\n  - {tools: tools.json, requests: requests.yaml, rows: 40}\n")
    assert "rain or sun" in requests_of(run_pipeline(*pipeline_settings(str(mix))).split.train)


def test_all_mistakes_of_the_file_come_at_once(files):
    (files / "requests.yaml").write_text("get_wether:\n  - x\nget_weather:\n  - {city} today\n  - 3\n  - ''\n")
    with pytest.raises(InputError, match="not valid YAML"):  # a brace begins a mapping
        synthesise(files / "tools.json", requests=files / "requests.yaml")
    (files / "requests.yaml").write_text("get_wether:\n  - x\nget_weather:\n  - 3\n  - ''\n  - {city: today}\n")
    with pytest.raises(InputError) as caught:
        synthesise(files / "tools.json", requests=files / "requests.yaml")
    assert [(p.kind, p.path) for p in caught.value.problems] == [
        ("unknown_tool", "/get_wether"), ("bad_requests", "/get_weather/0"), ("bad_requests", "/get_weather/1"),
        ("bad_requests", "/get_weather/2")]  # fmt: skip
    (files / "requests.yaml").write_text("get_weather: weather in {city}\n")
    with pytest.raises(InputError, match="cannot be used"):
        synthesise(files / "tools.json", requests=files / "requests.yaml")
    with pytest.raises(InputError, match="cannot be read") as caught:
        synthesise(files / "tools.json", requests=files / "none.yaml")
    assert "--requests" in caught.value.next_step


def test_requests_without_tools_are_told(files):
    with pytest.raises(InputError, match="examples for --tools"):
        read_parts(TrainSettings(model="m", data="builtin:assistant", requests=str(files / "requests.yaml")))
    mix = files / "mix.yaml"
    mix.write_text("sources:\n  - {data: rows.jsonl, requests: requests.yaml}\n")
    with pytest.raises(InputError) as caught:
        pipeline_settings(str(mix))
    assert caught.value.problems[0].path == "/sources/0/requests"


def test_the_command_trains_with_them(files, capsys):
    from calltune.cli import main

    words = ["train", "--model", str(tiny_model(files / "model")), "--tools", str(files / "tools.json")]
    words += ["--requests", str(files / "requests.yaml"), "--out", str(files / "run"), "--rows", "8", "--iters", "1"]
    assert main([*words, "--num-layers", "1"]) == 0
    rows = (files / "run" / "test.jsonl").read_text()
    assert "ow warm will" in rows
