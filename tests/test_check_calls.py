"""What is wrong with calls and schemas, what of it is repaired, and the quick way to judge a call."""

import pytest
from check_rows import TOOL, checked, errors_of
from hypothesis import given, settings
from hypothesis import strategies as st

from calltune.schema import surely_fits


def args_of(schema, arguments, name="f"):
    """The finding on one row that calls `f` with arguments against a parameter schema."""
    tool = {"name": "f", "parameters": schema}
    call = {"function": {"name": name, "arguments": arguments}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    (found,) = checked({"messages": messages, "tools": [tool]})
    return found


NESTED = {"type": "object", "properties": {"x": {"type": "array", "items": {
    "type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}}}  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "arguments", "kind", "end"),
    [
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, {}, "missing_argument", ""),
        ({"type": "object", "properties": {}}, {"b": 1}, "unknown_argument", "/b"),
        ({"type": "object", "properties": {"a/b": {"type": "string"}}}, {"a/b": 1}, "wrong_type", "/a~1b"),
        ({"type": "object", "properties": {"a": {"enum": ["x", "y"]}}}, {"a": "z"}, "not_in_enum", "/a"),
        ({"type": "object", "properties": {"a": {"type": "string", "format": "date"}}}, {"a": "May"}, "bad_format",
         "/a"),
        ({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string", "format": "email"}}}},
         {"a": ["a@b.c", "x"]}, "bad_format", "/a/1"),
        (NESTED, {"x": [{"n": 1}, {"n": [2]}]}, "wrong_type", "/x/1/n"),
        (NESTED, {"x": [{}]}, "missing_argument", "/x/0"),
        (NESTED, {"x": {"n": 1}}, "wrong_type", "/x"),
        ({"type": "object", "properties": {"a": {"maximum": 3}}}, {"a": 4}, "schema_maximum", "/a"),
    ],
)  # fmt: skip
def test_every_way_in_which_a_call_does_not_fit(schema, arguments, kind, end):
    found = args_of(schema, arguments)
    (problem,) = [p for p in found.problems if p.severity == "error"]
    assert (found.status, problem.kind) == ("rejected", kind)
    assert problem.path == f"/messages/1/tool_calls/0/function/arguments{end}"
    assert problem.row == 1 and problem.found and problem.expected


@pytest.mark.parametrize("text", ["2026-05-01T10:00:00", "2026-05-01T10:00:00Z", "2026-05-01T10:00:00+02:00"])
def test_times_with_and_without_a_zone_are_times(text):
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": "date-time"}}}
    assert args_of(schema, {"a": text}).status == "ok"


def test_a_tool_that_is_not_offered_is_unknown():
    found = args_of({"type": "object", "properties": {}}, {}, name="g")
    assert errors_of(found) == ["unknown_function"]


@pytest.mark.parametrize(
    ("schema", "arguments", "repaired"),
    [
        ({"type": "object", "properties": {"a": {"type": "integer", "enum": None}}}, {"a": 1}, {"a": 1}),
        ({"type": "object", "properties": {"a": {"type": "integer"}, "b": None}}, {"a": 1}, {"a": 1}),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, {"a": "x", "b": None}, {"a": "x"}),
        ({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
         {"a": "x", "b": None}, {"a": "x"}),
        ({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}},
         {"a": "['1', 2]"}, {"a": [1, 2]}),
        ({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "integer"}}}}},
         {"a": "{'b': '1',}"}, {"a": {"b": 1}}),
    ],
)  # fmt: skip
def test_nulls_and_texts_that_arrow_and_python_leave_are_repaired(schema, arguments, repaired):
    found = args_of(schema, arguments)
    assert found.status == "repaired"
    assert found.conversation.messages[1].calls[0].arguments == repaired
    again = checked(found.conversation.to_openai())[0]
    assert (again.status, errors_of(again)) == ("ok", [])


def test_a_parameter_may_be_named_like_a_word_of_json_schema():
    schema = {"type": "object", "properties": {"default": {"type": "string", "enum": None}, "enum": None,
                                               "properties": {"type": "integer", "default": None}}}  # fmt: skip
    found = args_of(schema, {"default": "x", "properties": 1})
    assert [p.path for p in found.problems if p.kind == "null_in_schema"] == [
        "/tools/0/parameters/properties/default/enum", "/tools/0/parameters/properties/enum"]  # fmt: skip
    assert found.conversation.tools[0].properties["properties"] == {"type": "integer", "default": None}


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"$ref": "https://example.com/schema.json"}, "/a/$ref"),
        ({"$ref": "file:///etc/passwd"}, "/a/$ref"),
        ({"$ref": "#/properties/b"}, "/a/$ref"),
        ({"$ref": "#/properties/a"}, "/a/$ref"),
        ({"type": "string", "pattern": "("}, "/a/pattern"),
        ({"type": 7}, "/a/type"),
    ],
)
def test_schemas_that_cannot_be_applied_are_refused_and_nothing_is_fetched(schema, place, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("the network was asked"))
    found = args_of({"type": "object", "properties": {"a": schema}}, {"a": "x"})
    assert errors_of(found) == ["bad_schema"]
    assert found.problems[0].path == f"/tools/0/parameters/properties{place}"


def test_a_ref_inside_the_schema_is_followed():
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}
    assert args_of(schema, {"a": 1}).status == "ok"
    assert errors_of(args_of(schema, {"a": [1]})) == ["wrong_type"]


SCHEMAS = st.recursive(
    st.sampled_from([*({"type": kind} for kind in ("string", "integer", "number", "boolean", "null")),
                     {"type": "string", "enum": ["a", "1"]}, {"enum": [1, "a"]}, {"type": "integer", "enum": [1]},
                     {"type": "integer", "minimum": 2}, {"type": ["string", "null"]}, {}]),
    lambda inner: st.fixed_dictionaries({"type": st.just("array"), "items": inner})
    | st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("ab"), inner),
                             "required": st.lists(st.sampled_from("ab"), max_size=1)}),
    max_leaves=4,
)  # fmt: skip


VALUES = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 1.0, 2.5, "a", "1", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=500, deadline=None)
@given(SCHEMAS, VALUES)
def test_what_surely_fits_fits_by_jsonschema_too(schema, value):
    from jsonschema import Draft202012Validator

    if surely_fits(value, schema):
        assert Draft202012Validator(schema).is_valid(value)


def test_most_calls_need_no_jsonschema():
    assert surely_fits({"n": 1, "x": 2.5, "b": True, "s": "t", "l": [{"n": 3}]}, TOOL.parameters)
    assert not surely_fits({"n": True}, TOOL.parameters)
