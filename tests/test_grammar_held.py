"""What of schemas is left out of grammars, told with its place in plain words, and found in bounded time."""

from __future__ import annotations

import time
from typing import Any

import pytest

from calltune import grammar_held
from calltune.errors import InputError
from calltune.grammar import enforceable
from calltune.grammar_json import json_grammar
from calltune.grammar_values import SPACING, compile_error
from calltune.schema import Tool


def objects(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def test_the_words_that_are_not_known():
    assert {"not", "if", "then", "uniqueItems", "unevaluatedProperties"} <= grammar_held.unknown_words()
    assert not {"type", "pattern", "anyOf", "minimum"} & grammar_held.unknown_words()


TOLD = [
    (objects(a={"type": "string", "not": {"const": "x"}}), ['/a: "not"']),
    (objects(a={"type": "array", "items": objects(b={"uniqueItems": True})}), ['/a/items/b: "uniqueItems"']),
    (objects(a={}) | {"if": {}, "then": False}, ['"if"', '"then"']),
    (objects(a={"type": "string", "format": "xx"}), ["/a: format xx"]),
    (objects(a={"additionalProperties": {"not": {}}}), ['/a/*: "not"']),
    (objects(a={"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}), ["/a: only one of oneOf"]),
    (objects(a={"anyOf": [{"type": "string", "pattern": "a(?=b)"}, {"$ref": "#/$defs/x"}]}) | {
        "$defs": {"x": {"contains": {}, "const": {"not": 1}}}},
     ["/a/anyOf/0: the pattern a(?=b): look-around, including look-ahead and look-behind, is not supported",
      '/$defs/x: "contains"']),
    (objects(not_={"type": "string"}, **{"not": {"type": "integer"}, "format": {"type": "string"}}), []),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "words"), TOLD)
def test_what_is_left_out_is_told_with_its_place(schema, words):
    assert list(json_grammar(schema).loose.get("", ())) == words
    kept, left = enforceable(Tool("f", "", schema))
    assert list(left) == words
    assert not compile_error(kept, lenient=kept["x-guidance"] != SPACING)


def test_what_no_grammar_can_be_made_of_is_told_without_the_grammars_text():
    for schema in (objects(a={"$ref": "http://127.0.0.1:9/x"}), objects(a={"enum": []}) | {"required": ["a"]}):
        with pytest.raises(InputError, match="cannot be bound") as raised:
            json_grammar(schema)
        assert "%llguidance" not in str(raised.value) and "failed to compile" not in str(raised.value)


def many(**each: Any) -> dict[str, Any]:
    return objects(**{f"p{i}": {"type": "string", "description": "x" * 20} | each for i in range(1500)})


@pytest.mark.parametrize(
    "each", [{"not": {"const": "b"}}, {"format": "xx"}, {"$ref": "#/nope"}, {"pattern": "(?=a)"}]
)
def test_a_thousand_properties_that_cannot_be_held_take_a_few_compilations(each, monkeypatch):
    count = []
    plain = grammar_held.compile_error
    monkeypatch.setattr(grammar_held, "compile_error", lambda *a, **more: count.append(a) or plain(*a, **more))
    begun = time.perf_counter()
    kept, left = enforceable(Tool("f", "", many(**each)))
    assert time.perf_counter() - begun < 5 and len(count) < 70
    assert len(left) == grammar_held.MOST_TOLD + 1 and left[-1] == "and 1490 more"
    assert kept["properties"]["p1499"]["type"] == "string"


def test_one_property_among_many_is_found_and_the_others_stay_whole():
    schema = many()
    schema["properties"]["p700"] = {"type": "string", "maxLength": 5, "$ref": "#/nope"}
    kept, left = enforceable(Tool("f", "", schema))
    assert list(left) == ["/p700: no such place in the schema: '/nope' does not exist"]
    assert kept["properties"]["p700"] == {"type": "string", "maxLength": 5}
    assert {name: value for name, value in kept["properties"].items() if name != "p700"} == {
        name: value for name, value in schema["properties"].items() if name != "p700"
    }
    assert list(kept["properties"]) == list(schema["properties"])
