"""Wire formats: what is written is read back, and nothing that a model writes raises or gets lost."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calltune.formats import join
from calltune.formats.hermes import HermesStyle, parse, write
from calltune.formats.literals import MAX_DEPTH, read_value
from calltune.schema import Message, Reply, ToolCall

CALL = ToolCall("get_weather", {"city": "Paris"})
TEXT = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def wrap(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


def only_call(text: str) -> ToolCall:
    reply = parse(text)
    assert len(reply.calls) == 1, reply
    return reply.calls[0]


# --- writing


def test_hermes_text_and_kinds_are_exact():
    pieces = write(Reply(thinking="PLAN", calls=(CALL,)))
    assert join(pieces) == f"<think>\nPLAN\n</think>\n{TEXT}"
    assert [(p.kind, p.text) for p in pieces] == [
        ("syntax", "<think>\n"),
        ("think", "PLAN"),
        ("syntax", '\n</think>\n<tool_call>\n{"name": "'),
        ("name", "get_weather"),
        ("syntax", '", "arguments": '),
        ("arguments", '{"city": "Paris"}'),
        ("syntax", "}\n</tool_call>"),
    ]


def test_content_stands_between_the_plan_and_the_calls_and_a_message_writes_like_a_reply():
    message = Message("assistant", "Let me look.", "PLAN", (CALL, CALL))
    assert join(write(message)) == f"<think>\nPLAN\n</think>\nLet me look.\n{TEXT}\n{TEXT}"
    assert join(write(Message("assistant", "Hello"))) == "Hello"


def test_style_is_the_templates_own():
    style = HermesStyle(think_close="\n</think>\n\n")
    assert join(write(Reply(thinking="P", calls=(CALL,)), style)) == f"<think>\nP\n</think>\n\n{TEXT}"


# --- reading


def test_trap_t30_two_calls_in_one_span_and_python_quotes():
    reply = parse(wrap("""{"name": "a", "arguments": {}}\n{'name': 'b', 'arguments': {'x': None}}"""))
    assert reply.calls == (ToolCall("a"), ToolCall("b", {"x": None}))
    assert reply.errors == ()


def test_trap_t30_a_malformed_call_keeps_its_text_and_the_reason():
    reply = parse("Sure.\n" + wrap('{"name": "a", "arguments": {"x": }}'))
    (call,) = reply.calls
    assert call.raw == '{"name": "a", "arguments": {"x": }}'
    assert call.error
    assert call.error in reply.errors[0]
    assert reply.content == "Sure."


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"name": "f"}', {}),
        ('{"name": "f", "parameters": {"a": 1}}', {"a": 1}),
        ('{"name": "f", "arguments": null}', {}),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', {"a": 1}),
        ("{'name': 'f', 'arguments': \"{'a': True}\"}", {"a": True}),
        ('{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}', {"a": 1}),
        ('{"name": "f", "arguments": {"a": 1,},}', {"a": 1}),
        ("{'name': 'f', 'arguments': {'a': true, 'b': null}}", {"a": True, "b": None}),
        ('{"name": "f", "arguments": {"a": "two\nlines"}}', {"a": "two\nlines"}),
        ("{'name': 'f', 'arguments': {'a': (1, -2.5)}}", {"a": [1, -2.5]}),
    ],
)
def test_trap_t31_other_shapes_of_a_call(body, arguments):
    assert only_call(wrap(body)) == ToolCall("f", arguments)


NO_CALLS = """
7
"text"
null
[]
[[]]
f(x=1)
{"arguments": {}}
{"name": 3}
{"name": "f", "arguments": 7}
{"name": "f", "arguments": "Paris"}
{"name": "f", "city": "Paris"}
{"name": "f", "arguments": {"a": 1, "a": 2}}
{"name": "f", "arguments": {"a": NaN}}
{"name": "f", "arguments": {"a": 1e999}}
{"name": "f", "arguments": {}, "parameters": {}}
"""


@pytest.mark.parametrize("body", ["", *NO_CALLS.strip().split("\n")])
def test_trap_t31_a_scalar_or_what_is_no_call_is_an_error_with_its_text(body):
    reply = parse(wrap(body))
    assert [call.error is not None for call in reply.calls] == [True]
    assert reply.calls[0].raw.strip() == body
    assert len(reply.errors) == 1


@pytest.mark.parametrize("text", ["</tool_call>", "<tool_call>", "</think>", "}}", '{"', "it's", '\\"', "'"])
@pytest.mark.parametrize("dump", [json.dumps, repr])
def test_trap_t35_markers_braces_and_quotes_inside_strings(text, dump):
    call = {"name": "f", "arguments": {"a": text, text: ["x" + text]}}
    reply = parse(f"before\n{wrap(dump(call))}\nafter")
    assert reply.calls == (ToolCall("f", call["arguments"]),)
    assert (reply.content, reply.thinking, reply.errors) == ("before\n\nafter", None, ())


@pytest.mark.parametrize(
    "arguments",
    [
        {"text": "it's O'Brien's"},
        {"text": 'say "hi"'},
        {"text": "both ' and \""},
        {"flag": True, "none": None, "off": False},
        {"words": "None True False null"},
        {"path": "C:\\new\\table"},
        {"deep": {"list": [{"a": 1.5}, "é"]}},
    ],
)
def test_trap_t36_python_literals(arguments):
    assert only_call(wrap(repr({"name": "f", "arguments": arguments}))) == ToolCall("f", arguments)


def test_several_spans_and_text_around_them():
    reply = parse(f"<think>\nplan\n</think>one {TEXT} two {TEXT} three")
    assert reply == Reply("plan", (CALL, CALL), "one  two  three", reply.raw)


@pytest.mark.parametrize("cut", ["\n</tool_call>", "</tool_call>", "_call>"])
def test_a_complete_call_without_its_closing_tag_is_read(cut):
    assert parse(TEXT.removesuffix(cut)).calls[0].arguments == CALL.arguments


def test_a_truncated_call_is_an_error_with_its_text():
    reply = parse(TEXT[:40])
    assert reply.calls == (ToolCall("", raw=TEXT[12:40].rstrip(), error=reply.calls[0].error),)
    assert reply.errors


def test_a_call_without_its_end_before_another_or_before_text():
    body = '<tool_call>{"name": "f"}'
    assert [c.name for c in parse(body + body + "</tool_call>").calls] == ["f", "f"]
    reply = parse(body + "\nI called f.")
    assert (reply.calls, reply.content, len(reply.errors)) == ((ToolCall("f"),), "I called f.", 1)


def test_text_after_a_call_stays_with_it():
    reply = parse(wrap('{"name": "f", "arguments": {}}}'))
    assert reply.calls[0].name == "f"
    assert reply.calls[0].error is None
    assert reply.calls[0].raw.endswith("}} }")
    assert reply.errors == ("text after the call: }",)


def test_a_broken_quote_does_not_swallow_the_next_call():
    reply = parse(wrap("{'name': 'f', 'arguments': {'a': 'it's'}}") + "\n" + TEXT)
    assert [call.error is None for call in reply.calls] == [False, True]
    assert reply.calls[0].raw == "{'name': 'f', 'arguments': {'a': 'it's'}}"
    assert reply.calls[1] == CALL


def test_thinking():
    assert parse("plan\n</think>\n" + TEXT, thinking_open=True) == parse("plan\n</think>\n" + TEXT)
    assert parse("<think>\nplan\n</think>\nyes", thinking_open=True).thinking == "plan"
    assert parse("<think>\n\n</think>\n\nyes").thinking == ""
    assert parse("yes").thinking is None
    two = parse("<think>a</think>x<think>b</think>y")
    assert (two.thinking, two.content) == ("a\nb", "xy")


def test_an_unclosed_plan_is_an_error_and_its_call_is_read():
    reply = parse("<think>\nplan\n" + TEXT)
    assert (reply.thinking, reply.calls, reply.errors) == ("plan", (CALL,), ("unclosed think",))
    assert parse("still planning", thinking_open=True).thinking == "still planning"
    assert parse("still planning", thinking_open=True).errors == ("unclosed think",)


@pytest.mark.parametrize(
    "text",
    [
        wrap('{"name": "f", "arguments": ' + '{"a": ' * 100_000),
        wrap('{"name": "f", "arguments": ' + '{"a": ' * 5_000 + "1" + "}" * 5_001),
        wrap('{"name": "f", "arguments": {"a": ' + "[" * 50_000 + "]" * 50_000 + "}}"),
        wrap("{'name': 'f', 'arguments': {'a': " + "-" * 200_000 + "1}}"),
        wrap("{'name': 'f', 'arguments': {'a': " + "9" * 20_000 + "}}"),
        "<think><tool_call>{'" * 30_000,
        "<tool_call>{" * 50_000,
        '<tool_call>{"' * 50_000,
        "<tool_call>" * 50_000 + "</tool_call>" * 50_000,
        "<think>" * 100_000,
        wrap('{"name": "f", "arguments": {"a": "' + "x" * 3_000_000),
    ],
    ids=range(11),
)
def test_huge_and_deep_texts_are_errors_and_quick(text):
    start = time.perf_counter()
    reply = parse(text)
    assert reply.errors
    assert reply.raw == text
    assert all(call.error for call in reply.calls)
    assert time.perf_counter() - start < 10


def test_nesting_up_to_the_limit_is_read():
    depth = MAX_DEPTH - 2
    value = read_value("[" * depth + "]" * depth)
    assert only_call(wrap(json.dumps({"name": "f", "arguments": {"a": value}}))).error is None


FRAGMENTS = [
    *["<think>", "</think>", "<tool_call>", "</tool_call>", "{", "}", "[", "]", '"', "'", ",", ":", "\n", " "],
    *['"name"', "name", '"arguments": ', "'parameters': ", "None", "true", "word", "it's", "7", "é"],
    '{"name": "f"}',
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=20).map("".join), st.booleans())
def test_any_text_gives_a_reply(text, opened):
    reply = parse(text, thinking_open=opened)
    assert reply.raw == text
    assert bool(reply.errors) >= any(call.error for call in reply.calls)


PYTHON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
    | st.sampled_from(["O'Hare", 'say "x"', "a\\b", "\\u0041", "\n\t", "None", "True", "{'a': 1}", "\\/", "\x00"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(PYTHON_VALUES)
def test_python_literals_and_json_read_to_the_same_value(value):
    for text in (repr([value]), json.dumps([value]), json.dumps([value], ensure_ascii=False), repr([value, ("x",)])):
        assert read_value(text)[0] == value


@pytest.mark.parametrize(
    "text", ["{'a': 1, 'a': 2}", "['a' 'b' c]", "[b'x']", "[f'x']", "['a\nb']", "[1_0, x]", "['\\x']"]
)
def test_what_is_no_literal_stays_none(text):
    with pytest.raises(ValueError):
        read_value(text)


def test_joined_strings_tuples_and_commas_at_the_end_are_read_by_python():
    assert read_value("['a' 'b', ('c',), {'d': None,},]") == ["ab", ["c"], {"d": None}]
