"""Where functions come from: Python files, marks, tool lists; and what cannot be one."""

import json

import pytest

from calltune.errors import InputError
from calltune.functions import Function, execute, functions_from, tool, tools_from
from calltune.schema import Tool, ToolCall

FILE = """
from dataclasses import dataclass
from helper import WORD
from calltune.functions import tool

@dataclass
class Place:
    name: str

def second(place: Place) -> str:
    "Second."
    return WORD + place.name

def first(n: int = 1) -> int:
    "First."
    return n

def _hidden(): ...
"""


@pytest.fixture
def tool_file(tmp_path):
    (tmp_path / "helper.py").write_text("WORD = 'hello '\ndef imported(): ...\n")

    def write(text: str):
        path = tmp_path / "my_tools.py"
        path.write_text(text)
        return path

    return write


def test_a_python_file_gives_the_public_functions_that_it_defines_in_order(tool_file):
    functions = functions_from(str(tool_file(FILE)))
    assert [function.name for function in functions] == ["second", "first"]
    assert execute(ToolCall("second", {"place": {"name": "you"}}), functions).content == '"hello you"'


def test_all_and_marks_choose(tool_file):
    marked = FILE.replace("def first", "@tool(pure=True)\ndef first")
    functions = functions_from(tool_file(marked))
    assert [(f.name, f.pure) for f in functions] == [("first", True)]
    assert [t.name for t in tools_from(tool_file(marked + "__all__ = ['first', 'second', 'Place']"))] == [
        "first",
        "second",
    ]


def test_the_mark_changes_nothing_else():
    @tool
    def f(a: int) -> int:
        return a

    assert f(3) == 3
    assert functions_from([f])[0].pure is False


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def f(:\n", "line 1: SyntaxError"),
        ("x = 1\n1 / 0\n", "line 2: ZeroDivisionError"),
        ("import nothing_of_that_name\n", "line 1: ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "SystemExit"),
        ("x = 1\n", "at least one public function"),
        ("__all__ = ['f']\n", "lacks: f"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_words(tool_file, text, words):
    with pytest.raises(InputError, match=words):
        functions_from(tool_file(text))


def test_problems_of_several_functions_come_at_once(tool_file):
    with pytest.raises(InputError) as caught:
        functions_from(tool_file("def f(a): ...\ndef g(*a: int): ...\ndef h(a: int): ...\n"))
    assert len(caught.value.problems) == 2


def test_tool_lists(tmp_path):
    one = Tool("f", "Does f.", {"type": "object", "properties": {"a": {"type": "integer"}}}).to_openai()
    mcp = {"name": "g", "description": "Does g.", "inputSchema": {"type": "object", "properties": {}}}
    path = tmp_path / "tools.json"
    path.write_text(json.dumps([one, mcp]))
    assert [f.name for f in functions_from(path)] == ["f", "g"]
    assert tools_from([one, mcp]) == tools_from(path) == tools_from({"tools": [one, mcp]})
    assert tools_from(functions_from(path)[0]) == tools_from(one)
    (function,) = functions_from(one)
    assert isinstance(function, Function)
    assert "no code" in execute(ToolCall("f", {}), [function]).content


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ([{"name": "f", "parameters": {"type": "dict"}}], "bad_schema"),
        ([{"title": "f"}, 7], "bad_tool"),
        ([{"name": "f"}, {"name": "f"}], "duplicate_tool"),
        ("nowhere.json", "unreadable_file"),
        ("nowhere.py", "unreadable_file"),
        ([], "no_tools"),
        (7, "bad_tool"),
    ],
)
def test_tool_lists_that_are_none(source, kind):
    with pytest.raises(InputError) as caught:
        functions_from(source)
    assert {problem.kind for problem in caught.value.problems} == {kind}
