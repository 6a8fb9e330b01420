"""Type hints and docstrings as JSON Schema."""

import json
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
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
