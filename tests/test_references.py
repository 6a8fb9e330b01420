"""References of schemas that lead nowhere, or back to where they stand."""

from __future__ import annotations

import pytest

from calltune.references import mapped, reference_problems

NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
FINE = [
    {"$ref": "#/$defs/node", "$defs": {"node": NODE}}, {"properties": {"a": {"$ref": "#"}}},
    {"items": {"$ref": "#/$defs/a~1b%20c"}, "$defs": {"a/b c": True}}, {"$ref": "#/allOf/0/x", "allOf": [{"x": {}}]},
    {"$ref": "#q", "$defs": {"a": {"$anchor": "q"}}}, {"const": {"$ref": "#/nope"}}, {"default": {"$ref": 5}},
    {"properties": {"$ref": {"type": "string"}}}, {"x-more": {"$ref": "#/nope"}},
    {"$id": "http://h/s", "$ref": "http://h/s#/$defs/a", "$defs": {"a": {}}},
    {"$defs": {"a": {"$id": "http://h/s"}}, "$ref": "http://h/s"},  # counted from other places: not judged here
    {"$ref": "#/x/a\tb", "x": {"a\tb": {}}},
    {"$id": "http://h/s#", "$ref": "http://h/s#/definitions/a", "definitions": {"a": {}}},
    {"$id": "http://h/s.json", "items": {"$ref": "s.json#/definitions/a"}, "definitions": {"a": {}}},
    {"$defs": {"a": {"$ref": "#/$defs/none"}, "b": {"$ref": "#/$defs/b"}}},  # nothing leads there
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
        ({"$id": "http://h/s", "$ref": "http://h/t#/a", "a": {}}, "/$ref", "leads nowhere"),
        ({"$ref": "http://[", "$id": "http://h/s"}, "/$ref", "leads nowhere"),
        ({"not": {"$ref": "#/$defs/a"}, "$defs": {"a": {"$ref": "#/no"}}}, "/$defs/a/$ref", "leads nowhere"),
        ({"$ref": "#"}, "/$ref", "back to where it stands"),
        (
            {"properties": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}}, "$defs": {"b": {"$ref": "#/properties/a"}}},
            "/$defs/b/$ref",
            "back to where it stands",
        ),
    ],
)
def test_references_that_cannot_are_told_with_their_place(schema, place, words):
    ((found, said),) = reference_problems(schema)
    assert words in said and found == place


def test_every_schema_is_changed_where_it_stands_and_no_value():
    names = ("default", "enum", "const", "examples")
    schema = {"properties": {name: {"type": "string"} for name in names}, "x": {"y": [{"enum": [{"type": 1}]}]},
              "const": {"type": 1}}  # fmt: skip
    marked = mapped(schema, lambda node: node | {"seen": True})
    assert [marked["properties"][name] for name in names] == [{"type": "string", "seen": True}] * 4
    assert marked["x"]["y"] == [{"enum": [{"type": 1}], "seen": True}] and marked["const"] == {"type": 1}
    assert "seen" not in str(schema) and "seen" not in marked["properties"]
