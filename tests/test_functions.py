"""Type hints and docstrings as JSON Schema."""

import json
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NewType, Optional, TypedDict, Union

import pytest
from function_types import Point, Unit

from calltune.errors import InputError
from calltune.functions import execute, functions_from, tool_from
from calltune.functions.docstrings import read_docstring
from calltune.schema import ToolCall


class Opaque(Enum):
    A = (1,)
    B = (2,)


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

    assert execute(ToolCall("use", {"value": {"inner": {"name": "x"}}}), functions_from(use)).content == '"x"'


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


# ---- pydantic -----------------------------------------------------------------------------------------------------


def test_pydantic_in_all_its_forms():
    pydantic = pytest.importorskip("pydantic")

    class Strict(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(strict=True)
        day: date

    @pydantic.dataclasses.dataclass
    class Sized:
        x: int = pydantic.Field(ge=3)

    def use(
        strict: Strict, sized: Sized, url: pydantic.HttpUrl, n: Annotated[int, pydantic.Field(ge=1, le=5)] = 1
    ) -> list:
        return [strict.day.year, type(sized).__name__, sized.x, url.host, n]

    functions = functions_from(use)
    properties = functions[0].tool.properties
    assert properties["sized"]["required"] == ["x"]
    assert properties["url"]["format"] == "uri"
    assert properties["n"] == {"type": "integer", "minimum": 1, "maximum": 5, "default": 1}
    good = {"strict": {"day": "2026-01-02"}, "sized": {"x": 3}, "url": "https://a.example/b"}
    assert json.loads(execute(ToolCall("use", good), functions).content) == [2026, "Sized", 3, "a.example", 1]
    for wrong in ({"n": 6}, {"sized": {"x": 2}}, {"sized": {}}, {"url": "no"}, {"strict": {"day": "2026-02-30"}}):
        assert execute(ToolCall("use", good | wrong), functions).kind == "bad_arguments", wrong


def test_a_field_as_a_default_is_refused():
    pydantic = pytest.importorskip("pydantic")

    def use(n: int = pydantic.Field(default=3)) -> int:
        return n

    with pytest.raises(InputError, match="write Annotated"):
        functions_from(use)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Annotated[int, SimpleNamespace(gt=0)], {"exclusiveMinimum": 0}),
        (Annotated[str, SimpleNamespace(min_length=1, max_length=3)], {"minLength": 1, "maxLength": 3}),
        (Annotated[list[int], SimpleNamespace(min_length=1)], {"minItems": 1}),
        (Annotated[str, SimpleNamespace(pattern="^a")], {"pattern": "^a"}),
        (Annotated[int | None, SimpleNamespace(le=9)], {"maximum": 9}),
        (Annotated[str, "ge"], {"description": "ge"}),
    ],
)
def test_bounds_of_annotated(hint, words):
    assert {key: value for key, value in schema_of(hint).items() if key not in ("type", "items", "anyOf")} == words


# ---- transformers -------------------------------------------------------------------------------------------------


def described(hint: Any):
    def function(value): ...

    function.__annotations__ = {"value": hint}
    function.__doc__ = "Do it.\n\nArgs:\n    value: The value."
    return function


def theirs(function) -> dict[str, Any]:
    utils = pytest.importorskip("transformers.utils")
    return utils.get_json_schema(function)["function"]


SAME = [int, str, float, bool, list, dict, tuple, Any, list[str], list[list[int]], dict[str, int],
        dict[str, list[int]], Literal["a", "b"], Literal[1, 2], Unit, Annotated[int, "note"]]  # fmt: skip


@pytest.mark.parametrize("hint", SAME, ids=str)
def test_the_same_schema_as_transformers(hint):
    function = described(hint)
    assert tool_from(function).to_openai()["function"] == theirs(function)


# Where ours says more or is JSON Schema where theirs is not (`nullable` is OpenAPI's word: a validator ignores it and
# refuses the null): hint, theirs, ours.
STRICTER = [
    (Optional[int], {"type": "integer", "nullable": True}, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),  # noqa: UP045
    (int | str, {"type": ["integer", "string"]}, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
    (
        tuple[int, str],
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]},
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2},
    ),
    (Literal["a", 1], {"type": ["string", "integer"], "enum": ["a", 1]}, {"enum": ["a", 1]}),
]


@pytest.mark.parametrize(("hint", "their_schema", "our_schema"), STRICTER, ids=lambda v: str(v)[:30])
def test_where_ours_differs_from_transformers_by_design(hint, their_schema, our_schema):
    function, note = described(hint), {"description": "The value."}
    assert theirs(function)["parameters"]["properties"]["value"] == their_schema | note
    assert tool_from(function).properties["value"] == our_schema | note


@pytest.mark.parametrize("hint", [Point, Options, date, set[str], tuple[int, ...]], ids=str)
def test_what_transformers_has_no_schema_for(hint):
    pytest.importorskip("transformers.utils")
    from transformers.utils.chat_template_utils import TypeHintParsingException

    with pytest.raises(TypeHintParsingException):
        theirs(described(hint))
    assert tool_from(described(hint)).properties["value"]


def test_choices_defaults_and_descriptions_against_transformers():
    def search(query: str, order: str, limit: int = 3):
        """Search the notes.

        Args:
            query: What to look for.
            order: The order (choices: ["new", "old"])
            limit: How many at most.
        """

    expected, ours = theirs(search), tool_from(search).to_openai()["function"]
    assert ours["parameters"]["properties"]["order"] == {
        "type": "string",
        "enum": ["new", "old"],
        "description": "The order",
    }
    del ours["parameters"]["properties"]["limit"]["default"]  # theirs leaves it out
    assert ours == expected

    def plain(a: int): ...

    with pytest.raises(Exception, match="docstring"):  # ours takes a function without words
        theirs(plain)
    assert tool_from(plain).description == ""
