"""Python functions as tools: schema, docstring styles, sources, safe execution."""

import json
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from typing import Annotated, Any, Literal, NewType, Optional, TypedDict, Union

import pytest

from calltune.errors import InputError
from calltune.functions import Function, execute, functions_from, tool, tool_from, tools_from
from calltune.functions.docstrings import read_docstring
from calltune.schema import Tool, ToolCall


class Unit(Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


class Opaque(Enum):
    A = (1,)
    B = (2,)


@dataclass
class Point:
    x: float
    y: float = 0.0


class Options(TypedDict, total=False):
    deep: bool


@dataclass
class Node:
    next: "Node | None" = None


UserId = NewType("UserId", int)


def schema_of(hint: Any) -> dict[str, Any]:
    def function(value):
        return value

    function.__annotations__ = {"value": hint}
    return tool_from(function).parameters["properties"]["value"]


POINT = {
    "type": "object",
    "properties": {"x": {"type": "number"}, "y": {"type": "number", "default": 0.0}},
    "required": ["x"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (Any, {}),
        (UserId, {"type": "integer"}),
        (list, {"type": "array"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (set[str], {"type": "array", "items": {"type": "string"}, "uniqueItems": True}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (
            tuple[int, str],
            {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "string"}],
                "minItems": 2,
                "maxItems": 2,
            },
        ),
        (dict, {"type": "object"}),
        (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal["a", 1], {"enum": ["a", 1]}),
        (Unit, {"type": "string", "enum": ["celsius", "fahrenheit"]}),
        (Opaque, {"type": "string", "enum": ["A", "B"]}),
        (date, {"type": "string", "format": "date"}),
        (datetime, {"type": "string", "format": "date-time"}),
        (Optional[int], {"anyOf": [{"type": "integer"}, {"type": "null"}]}),  # noqa: UP045
        (Union[int, str], {"anyOf": [{"type": "integer"}, {"type": "string"}]}),  # noqa: UP007
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Point, POINT),
        (list[Point], {"type": "array", "items": POINT}),
        (
            Options,
            {
                "type": "object",
                "properties": {"deep": {"type": "boolean"}},
                "required": [],
                "additionalProperties": False,
            },
        ),
        (Annotated[int, "how many"], {"type": "integer", "description": "how many"}),
    ],
)
def test_schema_of_a_type_hint(hint, schema):
    assert schema_of(hint) == schema


def test_a_pydantic_model_is_a_schema_without_references():
    pydantic = pytest.importorskip("pydantic")

    class Inner(pydantic.BaseModel):
        name: str

    class Outer(pydantic.BaseModel):
        inner: Inner
        count: int = pydantic.Field(default=1, description="How many.")

    schema = schema_of(Outer)
    assert schema["properties"]["inner"]["properties"] == {"name": {"type": "string"}}
    assert schema["properties"]["count"] == {"type": "integer", "default": 1, "description": "How many."}
    assert "$" not in json.dumps(schema)

    def use(value: Outer) -> str:
        return value.inner.name

    assert execute(ToolCall("use", {"value": {"inner": {"name": "x"}}}), functions_from(use)) == '"x"'


def test_defaults_are_recorded_and_not_required():
    def f(a: str, unit: Unit = Unit.CELSIUS, day: date | None = None, at: Point = Point(1.0)): ...  # noqa: B008

    parameters = tool_from(f).parameters
    assert parameters["required"] == ["a"]
    defaults = {name: schema.get("default", "none") for name, schema in parameters["properties"].items()}
    assert defaults == {"a": "none", "unit": "celsius", "day": None, "at": {"x": 1.0, "y": 0.0}}


GOOGLE = """Gets the weather
    of a city.

    More words.

    Args:
        city (str, optional): The city: in English,
            with its country.
        day: The day.

    Returns:
        The weather.
    """
NUMPY = """Gets the weather
    of a city.

    More words.

    Parameters
    ----------
    city : str
        The city: in English,
        with its country.
    day : str, optional
        The day.

    Returns
    -------
    str
        The weather.
    """
REST = """Gets the weather
    of a city.

    More words.

    :param str city: The city: in English,
        with its country.
    :param day: The day.
    :type day: str
    :returns: The weather.
    """


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, REST], ids=["google", "numpy", "rest"])
def test_three_docstring_styles_say_the_same(text):
    doc = read_docstring(text)
    assert doc.description == "Gets the weather of a city.\nMore words."
    assert doc.parameters == {"city": "The city: in English, with its country.", "day": "The day."}


def test_all_problems_of_a_function_come_at_once():
    def f(a, b: object(), *args: int, node: Node, **kwargs: str): ...

    with pytest.raises(InputError) as caught:
        tool_from(f)
    found = [problem.found for problem in caught.value.problems]
    assert len(found) == 5
    assert "f(a): no type hint" in found
    assert "f(node): Node contains itself" in found


def test_a_hint_that_cannot_be_resolved_is_told():
    def f(a: "Missing"): ...  # type: ignore[name-defined] # noqa: F821

    with pytest.raises(InputError, match="Missing"):
        tool_from(f)


def test_against_the_schema_of_transformers():
    """The same functions give the same schema there, except by design: nullable unions, `default`, `enum`
    with a type, and an empty description where transformers refuses."""
    utils = pytest.importorskip("transformers.utils")

    def search(query: str, limit: int, tags: list[str], exact: bool, score: float, extra: dict):
        """Search the notes.

        Args:
            query: What to look for.
            limit: How many at most.
            tags: Only these tags.
            exact: Whole words only.
            score: The least score.
            extra: Other settings.
        """

    theirs = utils.get_json_schema(search)["function"]
    assert tool_from(search).to_openai()["function"] == theirs

    def later(when: str | None = None):
        """Wait.

        Args:
            when: The time.
        """

    theirs = utils.get_json_schema(later)["function"]["parameters"]["properties"]["when"]
    ours = tool_from(later).parameters["properties"]["when"]
    assert theirs == {"type": "string", "nullable": True, "description": "The time."}
    assert ours == {
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "description": "The time.",
        "default": None,
    }


# --- sources

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
    assert execute(ToolCall("second", {"place": {"name": "you"}}), functions) == '"hello you"'


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
    assert "no code" in execute(ToolCall("f", {}), [function])


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


# --- execution


def plan(day: date, unit: Unit, at: Point | None = None, points: list[Point] | None = None, size: float = 1) -> dict:
    """Everything that needs making from JSON."""
    return {"day": day, "weekday": day.weekday(), "unit": unit, "at": at, "points": points, "size": size}


def fail(a: int) -> int:
    raise RuntimeError(f"no {a}")


async def later(a: int, /, b: int = 2) -> int:
    return a + b


FUNCTIONS = functions_from([plan, fail, later])


def test_execution_makes_the_declared_types():
    call = ToolCall("plan", {"day": "2026-03-01", "unit": "celsius", "points": [{"x": 1}], "size": 2})
    assert json.loads(execute(call, FUNCTIONS)) == {
        "day": "2026-03-01",
        "weekday": 6,
        "unit": "celsius",
        "at": None,
        "points": [{"x": 1.0, "y": 0.0}],
        "size": 2.0,
    }


def test_execution_of_async_functions_and_positional_parameters():
    assert execute(ToolCall("later", {"a": 1}), FUNCTIONS) == "3"
    assert execute(ToolCall("later", {"a": 1, "b": 5}), FUNCTIONS) == "6"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (ToolCall("fail", {"a": 3}), "RuntimeError: no 3"),
        (ToolCall("fail", {"a": "3"}), "wrong_type"),
        (ToolCall("fail", {"a": 3, "b": 4}), "unknown_argument"),
        (ToolCall("plan", {"day": "2026-02-30", "unit": "celsius"}), "invalid argument"),
        (ToolCall("plan", {"unit": "kelvin", "day": "2026-02-03"}), "not_in_enum"),
        (ToolCall("eval", {"code": "1"}), "eval"),
        (ToolCall("", raw="{", error="not complete"), "not complete"),
    ],
)
def test_what_goes_wrong_comes_back_as_text(call, words):
    assert words in json.loads(execute(call, FUNCTIONS))["error"]


def test_results_that_json_has_no_form_for():
    def odd() -> Any:
        return {"set": {2, 1}, "nan": float("nan"), "object": Point, 3: (1, 2)}

    result = json.loads(execute(ToolCall("odd"), functions_from(odd)))
    assert result["set"] == [1, 2]
    assert result["nan"] == "nan"
    assert result["3"] == [1, 2]
