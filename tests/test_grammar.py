"""What a grammar allows and what it does not, and what is told of schemas that it cannot enforce."""

from __future__ import annotations

import datetime
import random
import time
from dataclasses import replace

import pytest
from bound_text import FORMS, allowed, walk
from tiny import TOOLS

from calltune.errors import InputError
from calltune.formats import get_format, join
from calltune.functions import tools_from
from calltune.grammar import Rules, check_loose, enforceable, grammar_of
from calltune.guide import GrammarGuide
from calltune.schema import Reply, Tool, ToolCall, validate_call
from calltune.template import Template, choose_template

PLAN = "<think>\nA plan with <tool_call> in it: x.\n</think>\n"
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TIME = '<tool_call>\n{"name": "get_time", "arguments": {"city": "Oslo"}}\n</tool_call>'
WRONG = [
    CALL.replace("get_weather", "get_wether"), CALL.replace("city", "town"), CALL.replace('"Paris"', "7"),
    CALL.replace('"Paris"', '"Paris", "unit": "kelvin"'), CALL.replace('"city": "Paris"', ""),
    CALL.replace("}}", "}"),
    CALL + "\nmore words", "</think>", PLAN + "<think>", "words </tool_call>",
]  # fmt: skip


@pytest.mark.parametrize(
    ("rules", "right", "wrong"),
    [
        (Rules(), ["Hello.", CALL, PLAN + CALL, f"Words.\n{CALL}", f"{CALL}\n{TIME}", PLAN + "Hello.", ""], WRONG),
        (Rules(parallel=False), [CALL, PLAN + TIME, "Hello."], [f"{CALL}\n{TIME}"]),
        (Rules("none"), ["Hello.", PLAN + "Hello.", ""], [CALL, PLAN + CALL, f"Words.\n{CALL}"]),
        (Rules("required"), [CALL, PLAN + TIME, f"{CALL}\n{TIME}"], ["Hello.", PLAN + "Hello."]),
        (Rules("get_time", named=True), [TIME, PLAN + TIME], [CALL, "Hello."]),
    ],
)
def test_what_each_choice_allows(rules, right, wrong, template, tokenizer):
    grammar = grammar_of(TOOLS, rules, template, tokenizer)
    assert [text for text in right if allowed(text, grammar, tokenizer) != (True, True)] == []
    assert [text for text in wrong if allowed(text, grammar, tokenizer) == (True, True)] == []


def test_a_required_reply_may_not_end_without_its_call(template, tokenizer):
    grammar = grammar_of(TOOLS, Rules("required"), template, tokenizer)
    assert allowed("", grammar, tokenizer) == (True, False)
    assert allowed(PLAN, grammar, tokenizer) == (True, False)


def test_an_open_plan_and_none(template, tokenizer):
    opened = grammar_of(TOOLS, Rules(), template, tokenizer, open_thinking=True)
    assert allowed("a plan\n</think>\n" + CALL, opened, tokenizer) == (True, True)
    without = grammar_of(TOOLS, Rules(), choose_template(tokenizer, think=False), tokenizer)
    assert allowed("<think>", without, tokenizer) == (False, False)
    assert allowed(CALL, without, tokenizer) == (True, True)


@pytest.mark.parametrize("form", FORMS)
def test_other_formats(form, template, tokenizer):
    other = Template(template.source, "t", form, stop=template.stop)
    calls = (ToolCall("get_weather", {"city": 'Pa"ris,\n{x}', "unit": "celsius"}), ToolCall("get_time", {"city": ""}))

    def text(*calls: ToolCall, **more: str) -> str:
        return join(get_format(form).write(Reply(calls=calls, **more)))

    for rules, right, wrong in [
        (Rules("required"), [text(*calls), text(*calls[::-1]), text(calls[0], thinking="a plan")], ["Hello.", ""]),
        (Rules(), [text(*calls), "Hello.", "", text(calls[0], content="Words (and [more]):")], []),
        (Rules(parallel=False), [text(calls[0])], [text(*calls)]),
        (Rules("none"), ["Hello.", text(thinking="a plan", content="Hello.")], [text(calls[0])]),
        (Rules("get_time", named=True), [text(calls[1])], [text(calls[0]), "Hello."]),
    ]:
        grammar = grammar_of(TOOLS, rules, other, tokenizer)
        assert [t for t in right if allowed(t, grammar, tokenizer) != (True, True)] == []
        assert [t for t in wrong if allowed(t, grammar, tokenizer) == (True, True)] == []
    grammar = grammar_of(TOOLS, Rules(), other, tokenizer)
    for bad in [ToolCall("get_wether", {"city": "x"}), ToolCall("get_weather", {"town": "x"}),
                ToolCall("get_weather", {}), ToolCall("get_weather", {"city": "x", "unit": "kelvin"})]:  # fmt: skip
        assert allowed(text(bad), grammar, tokenizer) != (True, True)


def test_an_unknown_format_and_names_that_a_format_cannot_say_are_told(template, tokenizer):
    with pytest.raises(InputError, match="cannot be bound"):
        grammar_of(TOOLS, Rules(), Template("", "t", "morse"), tokenizer)
    spaced = Tool("get weather", "", {"type": "object", "properties": {}})
    for form in ("mistral", "pythonic", "gemma4", "functiongemma", "qwen3-coder"):
        with pytest.raises(InputError, match="get weather"):
            grammar_of([spaced], Rules(), Template(template.source, "t", form), tokenizer)


NASTY = ['say "hi"', "two\nlines", "東京 😀", "it's", "</tool_call>", "a\\b", "%json {}", "/x/"]


def test_names_and_values_with_quotes_newlines_and_unicode(template, tokenizer):
    tools = [Tool(name, "", {"type": "object", "properties": {name: {"enum": NASTY}}}) for name in NASTY]
    grammar = grammar_of(tools, Rules("required"), template, tokenizer)
    for name in NASTY:
        call = ToolCall(name, {name: name})
        text = join(get_format("hermes").write(Reply(calls=(call,))))
        assert allowed(text, grammar, tokenizer) == (True, True), text
        assert get_format("hermes").parse(text).calls == (call,)


LOOSE = [
    ({"type": "string", "pattern": "^(?=a)b"}, "look-around"),
    ({"type": "string", "format": "no-such-format"}, "format"),
    ({"$ref": "http://example.com/x.json"}, ""),
    ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "uniqueItems"),
    ({"not": {"type": "string"}}, "not"),
]


@pytest.mark.parametrize(("schema", "word"), LOOSE)
def test_what_cannot_be_enforced_is_left_out_told_and_checked_afterwards(schema, word, template, tokenizer):
    tool = Tool("f", "", {"type": "object", "properties": {"x": schema, "n": {"type": "integer"}}, "required": ["n"]})
    kept, missing = enforceable(tool)
    assert kept["properties"]["n"] == {"type": "integer"} and missing and word in missing[0]
    grammar = grammar_of([tool], Rules(), template, tokenizer)
    bad = '<tool_call>\n{"name": "f", "arguments": {"n": "a"}}\n</tool_call>'
    assert allowed(bad, grammar, tokenizer)[0] is False
    (note,) = check_loose(Reply(calls=(ToolCall("f", {"n": 1}),)), grammar, [tool])
    assert "not enforced while decoding" in note and "it fits" in note
    assert "missing_argument" in check_loose(Reply(calls=(ToolCall("f", {}),)), grammar, [tool])[0]


def test_times_are_those_that_functions_take(template, tokenizer):
    """Training rows say 19:15, as `check` lets it pass; JSON Schema's own format would have 19:15:00Z alone."""

    def meet(start: datetime.time, at: datetime.datetime, days: list[datetime.date]) -> None: ...

    (tool,) = tools_from([meet])
    grammar = grammar_of([tool], Rules("required"), template, tokenizer)
    fine = {"start": "19:15", "at": "2026-01-05T19:15", "days": ["2026-01-05"]}
    right = [
        fine,
        fine | {"at": "2028-02-29T19:15"},
        fine | {"at": "2026-12-31T19:15"},
        fine | {"start": "19:15:00"},
        fine | {"start": "09:00:00Z", "at": "2026-01-05T19:15:30+02:00"},
    ]
    wrong = [fine | {"start": "24:15"}, fine | {"start": "9:15"}, fine | {"at": "2026-13-05T19:15"},
             fine | {"at": "2026-02-31T19:15"}, fine | {"at": "2026-04-31T19:15"}, fine | {"at": "2026-02-30T19:15"},
             fine | {"at": "2026-01-05"}, fine | {"days": ["05.01.2026"]}]  # fmt: skip
    for arguments in (*right, *wrong):
        text = join(get_format("hermes").write(Reply(calls=(ToolCall("meet", arguments),))))
        assert (allowed(text, grammar, tokenizer) == (True, True)) is (arguments in right), text
    assert not grammar.loose


def test_parameters_named_like_words_of_schemas_are_bound_too():
    inner = {"type": "object", "properties": {"at": {"type": "string", "format": "time"}}}
    names = ("default", "enum", "const", "examples")
    schema, _ = enforceable(Tool("f", "", {"type": "object", "properties": dict.fromkeys(names, inner)}))
    for name in names:
        bound = schema["properties"][name]
        assert bound["additionalProperties"] is False and "pattern" in bound["properties"]["at"]


NEVER = [
    {"type": "integer", "minimum": 5, "maximum": 1}, {"type": "number", "exclusiveMinimum": 2, "maximum": 2},
    {"type": "integer", "minimum": 1.2, "maximum": 1.8}, {"type": "string", "minLength": 4, "maxLength": 2},
    {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 1}, {"enum": []},
]  # fmt: skip


@pytest.mark.parametrize("form", ["hermes", *FORMS])
@pytest.mark.parametrize("schema", NEVER)
@pytest.mark.parametrize("needed", [["x"], ["y"], []])
def test_a_schema_that_nothing_fits_is_told(form, schema, needed, template, tokenizer):
    """Where the value must be there it cannot be right, and a note says why."""
    nested = {"type": "array", "items": schema, "minItems": 1}
    tool = Tool("f", "", {"type": "object", "properties": {"x": schema, "y": nested}, "required": needed})
    grammar = grammar_of([tool], Rules("required"), replace(choose_template(tokenizer, think=False), format=form),
                         tokenizer)  # fmt: skip
    for seed in range(4):
        reply = walk(grammar, tokenizer, random.Random(seed), [tool], form)
        if reply.truncated:
            continue
        wrong = [problem for call in reply.calls for problem in validate_call(call, [tool])]
        assert not wrong or check_loose(reply, grammar, [tool]), (wrong, grammar.loose)
    assert not needed or f"/{needed[0]}" in " ".join(grammar.loose["f"])


@pytest.mark.parametrize("form", ["pythonic", "gemma4", "qwen3-coder"])
def test_what_the_other_formats_cannot_enforce_is_told_too(form, template, tokenizer):
    schemas = {"a": {"type": "string", "pattern": "^(?=a)b"}, "b": {"type": "array", "uniqueItems": True},
               "c": {"not": {"type": "string"}}, "d": {"$ref": "http://example.com/x.json"}}  # fmt: skip
    for name, schema in schemas.items():
        tool = Tool("f", "", {"type": "object", "properties": {name: schema}})
        grammar = grammar_of([tool], Rules(), replace(template, format=form), tokenizer)
        assert any(f"/{name}: " in note for note in grammar.loose["f"]), (name, grammar.loose)
    fine = Tool("f", "", {"type": "object", "properties": {"a": {"type": "string", "description": "x"}}})
    assert not grammar_of([fine], Rules(), replace(template, format=form), tokenizer).loose


def test_128_tools(template, tokenizer):
    tools = [
        Tool(f"tool_{i}", "", {"type": "object", "properties": {f"a{i}": {"type": "string"}}}) for i in range(128)
    ]
    start = time.perf_counter()
    grammar = grammar_of(tools, Rules("required"), template, tokenizer)
    GrammarGuide(grammar, tokenizer, tokenizer.stop_ids).mask()
    assert time.perf_counter() - start < 10
    text = '<tool_call>\n{"name": "tool_127", "arguments": {"a127": "x"}}\n</tool_call>'
    assert allowed(text, grammar, tokenizer) == (True, True)
    assert allowed(text.replace("a127", "a126"), grammar, tokenizer)[0] is False
