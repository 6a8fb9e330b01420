"""`calltune agent` as a user types it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from cli_place import told
from test_cli_replies import PARIS, Terminal, answers, fills_up  # noqa: F401  (a fixture)

from calltune.cli import main

TOOLS = '''
from calltune import tool

@tool(pure=True)
def get_weather(city: str, unit: str = "celsius") -> dict:
    """The weather in a city."""
    print("a word of the function's own")
    return {"city": city, "degrees": 21}

@tool
def get_time(city: str) -> str:
    """The time in a city."""
    return "12:00"
'''
TIME = '<tool_call>\n{"name": "get_time", "arguments": {"city": "Oslo"}}\n</tool_call>'
REFUSED = "the user refused this call; it was not done"
MCP = f"{sys.executable} {Path(__file__).parent / 'mcp_server.py'}"


@pytest.fixture
def tools(tmp_path) -> str:
    (tmp_path / "tools.py").write_text(TOOLS)
    return str(tmp_path / "tools.py")


def test_a_request_is_worked_on_until_the_answer(place, tools, tmp_path, capsys, answers):  # noqa: F811
    left = answers(PARIS, "It is 21 degrees.")
    trace = tmp_path / "traces.jsonl"
    assert main(["agent", place.run, "Weather in Paris?", "--tools", tools, "--trace", str(trace)]) == 0
    out = capsys.readouterr()
    assert out.out == ('get_weather\ncall: get_weather(city="Paris")\nresult: {"city": "Paris", "degrees": 21}\n'
                       "It is 21 degrees.\n")  # fmt: skip
    assert "a word of the function's own" in out.err
    assert left == []
    assert main(["check", str(trace)]) == 0


def test_json_is_one_document(place, tools, capsys, answers):  # noqa: F811
    answers(PARIS, "It is 21 degrees.")
    assert main(["agent", place.run, "Weather in Paris?", "--tools", tools, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["answer"], found["ended"], found["reason"]) == ("It is 21 degrees.", "answer", "")
    assert [m["role"] for m in found["messages"]] == ["user", "assistant", "tool", "assistant"]


def test_a_function_that_is_not_pure_asks(place, tools, capsys, answers, monkeypatch):  # noqa: F811
    for typed, result in [("y\n", '"12:00"'), ("\n", REFUSED), ("", REFUSED)]:
        answers(TIME, "Done.")
        monkeypatch.setattr(sys, "stdin", Terminal(typed))
        assert main(["agent", place.run, "Time in Oslo?", "--tools", tools]) == 0
        out = capsys.readouterr()
        assert 'run get_time(city="Oslo")? [y/N]' in out.err
        assert result in out.out
        beside = 'not done: refused by you: get_time(city="Oslo")\n'
        assert (beside in out.err) == (result == REFUSED)


def test_what_was_refused_stands_in_the_document(place, tools, capsys, answers, monkeypatch):  # noqa: F811
    answers(TIME, "It is 12 o'clock.")
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    assert main(["agent", place.run, "Time in Oslo?", "--tools", tools, "--json"]) == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["refused"] == [{"name": "get_time", "arguments": {"city": "Oslo"}}]
    assert 'not done: refused by you: get_time(city="Oslo")' in out.err


def test_without_a_terminal_it_is_refused_unless_yes(place, tools, capsys, answers, monkeypatch):  # noqa: F811
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    answers(TIME, "I could not.")
    assert main(["agent", place.run, "Time in Oslo?", "--tools", tools]) == 2
    out = capsys.readouterr()
    assert "nobody to ask" in out.out
    assert "refused by you" not in out.err
    assert "note: not run, as there is no terminal to ask in: get_time (--yes" in out.err
    answers(TIME, "12 o'clock.")
    assert main(["agent", place.run, "Time in Oslo?", "--tools", tools, "--yes"]) == 0
    assert '"12:00"' in capsys.readouterr().out


def test_no_answer_is_exit_code_3(place, tools, capsys, answers):  # noqa: F811
    answers(PARIS, PARIS)
    assert main(["agent", place.run, "Weather?", "--tools", tools, "--max-steps", "2"]) == 3
    assert "no answer: no answer after 2 replies" in capsys.readouterr().err


def test_requests_from_a_pipe(place, tools, capsys, answers, monkeypatch):  # noqa: F811
    answers(PARIS, "21 degrees.", "You are welcome.", "Hello!")
    monkeypatch.setattr(sys, "stdin", io.StringIO("Weather?\nThanks\n/new\nhi\n/quit\n"))
    assert main(["agent", place.run, "--tools", tools, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(row["messages"]) for row in rows] == [4, 6, 2]


def test_a_conversation_in_a_terminal(place, tools, capsys, answers, monkeypatch):  # noqa: F811
    answers(TIME, "12 o'clock.", "Bye.")
    monkeypatch.setattr(sys, "stdin", Terminal("Time?\ny\nbye\n"))
    assert main(["agent", place.run, "--tools", tools]) == 0
    out = capsys.readouterr()
    assert "tools: get_weather, get_time" in out.err
    assert out.out.endswith("12 o'clock.\nBye.\n")


def test_tools_of_an_mcp_server(place, tools, capsys, answers):  # noqa: F811
    pytest.importorskip("mcp")
    answers('<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>', "5")
    assert main(["agent", place.run, "2 + 3?", "--mcp", MCP, "--tools", tools, "--yes"]) == 0
    assert "result: 5\n5\n" in capsys.readouterr().out


def test_mistakes(place, tools, tmp_path, capsys):
    cases = [
        (("agent", place.run, " "), "the request is empty"),
        (("agent", place.run, "x"), "not their code"),
        (("agent", place.run, "x", "--tools", place.json), "not their code"),
        (("agent", place.model, "x"), "add --tools FILE"),
        (("agent", place.run, "x", "--tools", tools, "--max-steps", "0"), "max_steps is 0"),
        (("agent", place.run, "x", "--tools", tools, "--trace", str(tmp_path)), "it is a folder"),
        (("agent", place.run, "x", "--tools", tools, "--trace", str(tmp_path / "a" / "b")), "does not exist"),
        (("agent", place.run, "x", "--tools", tools, "--tool-choice", "nothing"), "names a tool that is not offered"),
        (("agent", place.run, "x", "--mcp", "no-such-program"), "no-such-program cannot be used"),
    ]
    for arguments, words in cases:
        said = told(capsys, 2, *arguments)
        assert words in said, said


def test_a_conversation_that_fills_the_context_begins_anew(place, tools, capsys, answers, monkeypatch):  # noqa: F811
    answers("Hello!", PARIS, "Hello again!")
    fills_up(monkeypatch, True, False, True, False, True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\nonce more\nWeather?\nhi\n"))
    assert main(["agent", place.run, "--tools", tools, "--json"]) == 3
    out = capsys.readouterr()
    ended = [json.loads(line)["ended"] for line in out.out.splitlines()]
    assert ended == ["answer", "too_long", "too_long", "answer"]  # the third after a call and its result
    assert out.err.count("maximum context length is 64 tokens") == 2
    assert out.err.count("the conversation begins anew") == 1
