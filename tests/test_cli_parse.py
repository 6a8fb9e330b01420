"""`calltune parse`: raw model text to calls, a line a line."""

import io
import json
from types import SimpleNamespace

import pytest
from check_rows import TOOL, command, line

from calltune.cli import parse
from calltune.errors import InputError


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
