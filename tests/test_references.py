"""References of schemas that lead nowhere, or back to where they stand."""

from __future__ import annotations

import pytest

from calltune.references import reference_problems

NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
FINE = [
    {"$ref": "#/$defs/node", "$defs": {"node": NODE}}, {"properties": {"a": {"$ref": "#"}}},
    {"items": {"$ref": "#/$defs/a~1b%20c"}, "$defs": {"a/b c": True}}, {"$ref": "#/allOf/0/x", "allOf": [{"x": {}}]},
    {"$ref": "#q", "$defs": {"a": {"$anchor": "q"}}}, {"const": {"$ref": "#/nope"}}, {"default": {"$ref": 5}},
    {"properties": {"$ref": {"type": "string"}}}, {"x-more": {"$ref": "#/nope"}},
    {"$id": "http://h/s", "$ref": "http://h/s#/$defs/a", "$defs": {"a": {}}},
    {"$defs": {"a": {"$id": "http://h/s"}}, "$ref": "http://h/s"},  # counted from other places: not judged here
    {"$ref": "#/$defs/a0", "$defs": {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(3_000)} | {"a3000": {}}},
]  # fmt: skip


@pytest.mark.parametrize("schema", FINE)
def test_references_that_can_be_followed(schema):
    assert list(reference_problems(schema)) == []


@pytest.mark.parametrize(
    ("schema", "place", "words"),
    [
        ({"not": {"$ref": "#/$defs/none"}}, "/not/$ref", "#/$defs/none leads nowhere"),
        ({"if": {"$ref": "#/$defs/q"}, "then": False}, "/if/$ref", "leads nowhere"),
        ({"dependentSchemas": {"a": {"$ref": "#/no"}}}, "/dependentSchemas/a/$ref", "leads nowhere"),
        ({"unevaluatedProperties": {"$ref": "#/no"}}, "/unevaluatedProperties/$ref", "leads nowhere"),
        ({"not": {"$dynamicRef": "#q"}}, "/not/$dynamicRef", "#q leads nowhere"),
        ({"items": {"$ref": "http://127.0.0.1:9/x"}}, "/items/$ref", "nothing is fetched"),
        ({"$ref": "#/minimum", "minimum": 3}, "/$ref", "leads nowhere"),
        ({"anyOf": [{}], "$ref": "#/anyOf/1"}, "/$ref", "leads nowhere"),
        ({"not": {"$ref": "#"}}, "/not/$ref", "back to where it stands"),
        ({"$ref": "#"}, "/$ref", "back to where it stands"),
        (
            {"properties": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}}, "$defs": {"b": {"$ref": "#/properties/a"}}},
            "",
            "back to where it stands",
        ),
    ],
)
def test_references_that_cannot_are_told_with_their_place(schema, place, words):
    ((found, said),) = reference_problems(schema)
    assert words in said and found == (place or found)
