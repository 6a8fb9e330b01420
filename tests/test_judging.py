"""Values held against schemas, also those of strangers: the same errors as jsonschema's, in bounded time."""

from __future__ import annotations

import time
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from calltune.judging import MOST_ERRORS, Judged, errors_of, make_validator
from calltune.schema import Tool, ToolCall, validate_call

SLOW, TEXT = "^(a+)+$", "a" * 40 + "!"
# Look-behind, and more than the other engine has room for: by Python's `re` alone.
LOOKS_BEHIND = {"properties": {"a": {"pattern": "(?<=a)b"}}}


def judge(schema: Any, value: Any, bounded: bool = True) -> Judged:
    return errors_of(make_validator(schema, bounded=bounded), value)


KINDS = [
    ({"pattern": "^a+$"}, "b"), ({"pattern": "^a+$"}, "aa"), ({"pattern": "a"}, 5), ({"pattern": "(?<=a)b"}, "b"),
    ({"patternProperties": {"^a": {"type": "integer"}, "b$": {"minimum": 3}}}, {"ab": 2, "ac": "x", "d": None}),
    ({"patternProperties": {"^a": {}}, "additionalProperties": False}, {"a": 1, "b": 2}),
    ({"patternProperties": {"^a": {}}, "additionalProperties": False, "properties": {"b": {}}}, {"a": 1, "b": 2}),
    ({"patternProperties": {"^z": {}, "^a": {}}, "additionalProperties": False}, {"a": 1, "c": 2, "b": 3}),
    ({"patternProperties": {"^a": {}}, "additionalProperties": {"type": "string"}}, {"a": 1, "b": 2, "c": "x"}),
    ({"properties": {"b": {}}, "additionalProperties": False}, {"a": 1, "b": 2}),
    ({"additionalProperties": False, "patternProperties": {}}, []),
    ({"not": {"pattern": "a"}}, "xax"), ({"uniqueItems": True}, [{"a": 1}, {"a": 1}]),
    ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "integer"}}}, "x"),
    ({"propertyNames": {"pattern": "^[a-z]$"}}, {"a": 1, "A": 2}),
]  # fmt: skip


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize(("schema", "value"), KINDS)
def test_errors_are_those_of_jsonschema(schema, value, bounded):
    if bounded and "(?<" in str(schema):
        pytest.skip("not judged in bounded time")
    judged = judge(schema, value, bounded)
    plain = list(Draft202012Validator(schema).iter_errors(value))
    assert [(e.message, e.absolute_path, e.validator, e.absolute_schema_path) for e in judged.errors] == [
        (e.message, e.absolute_path, e.validator, e.absolute_schema_path) for e in plain
    ]
    assert not judged.why


def doubled(depth: int) -> dict[str, Any]:
    """A schema that asks for two to the power of `depth` checks."""
    defs: dict[str, Any] = {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(depth)}
    return {"$ref": "#/$defs/a0", "$defs": defs | {f"a{depth}": {}}}


LONG: list[tuple[Any, Any, str]] = [
    ({"not": {"properties": {"a": {"pattern": SLOW}}}}, {"a": TEXT}, ""),
    ({"patternProperties": {SLOW: False}, "additionalProperties": {}}, {TEXT: 1}, ""),
    ({"properties": {"a": {"pattern": "(?<=a)(a+)+$"}}}, {"a": TEXT}, "cannot be tried"),
    ({"properties": {"a": {"pattern": "(a?){30000}a{30000}$"}}}, {"a": "a" * 30_000 + "!"}, "too long"),
    ({"properties": {"a": {"pattern": "|".join(f"a{{{i}}}b" for i in range(100, 300))}}}, {"a": "a" * 30_000}, "too"),
    (doubled(40), {}, "too long"),
    ({"uniqueItems": True}, [1, "a"] * 3_000, "too long"), ({"uniqueItems": True}, list(range(5_000)), ""),
    ({"items": {"enum": list(range(50_000))}}, list(range(4_000)), "too long"),
    ({"anyOf": [{"type": "null"}] * 16_000}, "a" * 30_000, "too long"),
    ({"patternProperties": {f"^a{i}": {} for i in range(20_000)}}, {"b": 1}, "too long"),
    ({"unevaluatedProperties": False, "patternProperties": {SLOW: {}}}, {TEXT: 1}, "unevaluatedProperties"),
    ({"properties": {"a": {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": SLOW}}}, {"a": TEXT},
     ""),
    ({"$ref": "#/x/const", "x": {"const": {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": SLOW}}},
     TEXT, "$schema"),
    ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, doubled(40), "elsewhere"),
    ({"$ref": "s#/x", "$id": "https://json-schema.org/draft/2020-12/t", "x": {"$ref": "schema"}}, {}, "elsewhere"),
    ({"$ref": "http://json-schema.org/draft-07/schema#", "$id": "http://json-schema.org/draft-07/"}, {}, "elsewhere"),
    ({"allOf": [{"$ref": "https://json-schema.org/draft/2020-12/schema"}], "unevaluatedProperties": False}, {"a": 1},
     "elsewhere"),
    ({"properties": {"a": {"$ref": "#/x/default/0/-1"}}, "x": {"default": [[{"$schema": "q", "pattern": SLOW}]]}},
     {"a": TEXT}, "$schema"),
    ({"$ref": "#/x/const/y", "x": {"const": {"$id": "http://json-schema.org/draft-07/", "y": {"$ref": "schema"}}}},
     {}, "$id"),
    ({"items": {"$ref": "#q"}, "$defs": {"a": {"$anchor": "q"}}}, [1], "$anchor"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "value", "why"), LONG)
def test_what_a_stranger_asks_for_takes_bounded_time(schema, value, why):
    begun = time.perf_counter()
    judged = judge(schema, value)
    assert time.perf_counter() - begun < 5  # each of them takes minutes at least without bounds
    assert why in judged.why and bool(judged.why) == bool(why) and not judged.bad


def test_the_draft_that_a_schema_names_does_not_change_who_judges():
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"a": {"$ref": "#/$defs/b"}},
              "$defs": {"b": {"not": {"pattern": SLOW}}}}  # fmt: skip
    assert judge(schema, {"a": TEXT}) == Judged()


@pytest.mark.parametrize("schema", [
    {"$ref": "#"}, {"not": {"$ref": "#"}}, {"$ref": "#/nope"}, {"type": 5},
    {"if": {"$ref": "#/$defs/q"}, "then": False}, {"unevaluatedProperties": {"$ref": "#/nope"}}, {"minimum": "x"},
])  # fmt: skip
@pytest.mark.parametrize("bounded", [True, False])
def test_a_schema_that_cannot_be_applied_is_told(schema, bounded):
    judged = judge(schema, 5 if "minimum" in schema else {"a": 1}, bounded)
    assert judged.bad and judged.why


@pytest.mark.parametrize("bounded", [True, False])
def test_a_schema_without_an_end_ends_no_thread_however_deep_it_is_asked_from(bounded):
    """Where the stack is really full, the library of maps below jsonschema may raise what is no Exception."""

    def asked(deeper: int) -> Judged:
        return asked(deeper - 1) if deeper else judge({"not": {"$ref": "#"}}, {}, bounded)

    assert all(asked(deeper).bad for deeper in range(30))


def test_errors_found_before_the_bound_are_told():
    schema = {"required": ["b"], **LOOKS_BEHIND}
    judged = judge(schema, {"a": "b"})
    assert [error.validator for error in judged.errors] == ["required"] and "(?<=a)b" in judged.why
    assert len(judge({"items": {"type": "string"}}, [1] * 500).errors) == MOST_ERRORS


def test_a_users_own_pattern_that_only_python_can_try_is_tried():
    tool = Tool("f", "", {"type": "object", **LOOKS_BEHIND})
    call = ToolCall("f", {"a": "b"})
    assert [problem.kind for problem in validate_call(call, [tool])] == ["schema_pattern"]
    (problem,) = validate_call(call, [tool], bounded=True)
    assert (problem.kind, problem.severity) == ("pattern_not_judged", "warning") and "f: the pattern" in problem.found


NUMBER = {"type": "integer"}
STILL_JUDGED: list[Any] = [
    {"properties": {"n": {"$id": "Num", **NUMBER}}}, {"properties": {"n": {"$anchor": "q", **NUMBER}}},
    {"properties": {"n": {"examples": [{"$id": "x", "$ref": "y"}], "default": {"$schema": "z"}, **NUMBER}}},
    {"$id": "http://h/s.json", "properties": {"n": {"$ref": "s.json#/$defs/n"}}, "$defs": {"n": NUMBER}},
    {"$id": "http://h/s#", "properties": {"n": {"$ref": "http://h/s#/$defs/n"}}, "$defs": {"n": NUMBER}},
    {"properties": {"n": NUMBER, "other": {"$ref": "http://h/s"}}},
    {"$defs": {"unused": {"$dynamicRef": "#q"}}, "properties": {"n": NUMBER}},
]  # fmt: skip


@pytest.mark.parametrize("schema", STILL_JUDGED)
def test_words_that_say_nothing_of_values_keep_nothing_from_being_judged(schema):
    assert [error.validator for error in judge(schema, {"n": "x"}).errors] == ["type"]
    assert judge(schema, {"n": 1}) == Judged()


def test_all_but_a_pattern_that_cannot_be_tried_is_judged():
    schema = {"properties": {"a": {"pattern": "(?<=a)b"}, "n": NUMBER}}
    judged = judge(schema, {"a": "b", "n": "x"})
    assert [error.validator for error in judged.errors] == ["type"] and judged.patterns and not judged.fits
    assert judge(schema, {"a": "b", "n": 1}).fits
    for turned in ({"not": schema}, {"oneOf": [schema, {}]}, {"if": schema, "else": False}):
        judged = judge(turned, {"a": "b", "n": 1})
        assert judged.why and not judged.patterns and not judged.fits


def test_a_reference_that_leads_out_is_never_fetched():
    schema = {"not": {"$ref": "http://127.0.0.1:9/x"}}
    assert judge(schema, {}, bounded=False).bad and "elsewhere" in judge(schema, {}).why
