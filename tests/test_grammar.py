"""Decoding bound to tools: whatever a model would like to write, only calls that fit their schemas come out."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import TOOLS, WEATHER, tiny_model, tiny_tokenizer

from calltune.caller import Caller, load
from calltune.cli import main
from calltune.data.bfcl import LIVE, NON_LIVE, read_cases
from calltune.engine.writing import Writing
from calltune.errors import InputError
from calltune.formats import FORMATS, get_format, join
from calltune.grammar import Grammar, Rules, check_loose, enforceable, grammar_of
from calltune.guide import Guide, unreadable
from calltune.schema import Message, Reply, Tool, ToolCall, validate_call
from calltune.tasks.questions import bfcl_questions
from calltune.template import Template, choose_template
from calltune.tokenizer import Tokenizer, load_tokenizer

DATA = Path(__file__).parent / "data" / "bfcl"
HELLO = (Message("user", "Hello"),)


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Caller:
    return load(tiny_model(tmp_path_factory.mktemp("model")), think=False)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def template(tokenizer: Tokenizer) -> Template:
    return choose_template(tokenizer)


def allowed(text: str, grammar: Grammar, tokenizer: Tokenizer) -> tuple[bool, bool]:
    """Whether a reply may begin with this text, and whether it may end there."""
    guide = Guide(grammar, tokenizer, tokenizer.stop_ids)
    for token in tokenizer.encode(text):
        if not guide.mask()[token]:
            return False, False
        guide.takes(token)
    return True, bool(guide.finished or any(guide.mask()[stop] for stop in tokenizer.stop_ids))


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


FORMS = [name for name in FORMATS if name not in ("hermes", "python-hermes")]


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


# Ends of texts that are several tokens here: a walk would hardly ever find them.
ENDS = {"gemma4": '<|"|>', "functiongemma": "<escape>", "qwen3-coder": "\n</parameter>\n"}


def walk(
    grammar: Grammar, tokenizer: Tokenizer, rng: random.Random, tools: Sequence[Tool], form: str = "hermes"
) -> Reply:
    """A reply of tokens drawn from those that are allowed, those that end something more often."""
    stop = frozenset(tokenizer.stop_ids)
    writing = Writing(stop, 400, Guide(grammar, tokenizer, stop))
    writing.begin([])
    ends = [
        i for i in range(tokenizer.inner.vocab_size) if tokenizer.decode([i])[:1] in ('"', "}", "]", ",", "<", ")")
    ]
    while not writing.ended:
        assert writing.guide
        mask = writing.guide.mask()
        some = [i for i in ends if mask[i]] if rng.random() < 0.4 else []
        several = tokenizer.encode(ENDS[form]) if form in ENDS and rng.random() < 0.2 else []
        for token in several or [rng.choice(some or np.flatnonzero(mask).tolist())]:
            if writing.ended or not (writing.guide.mask()[token] if several else True):
                break
            if token in stop or writing.guide.takes(token):
                writing.add(token)
    made = writing.finish()
    return replace(get_format(form).parse(tokenizer.decode(made.ids), tools=tools), truncated=made.truncated)


@pytest.mark.parametrize("form", ["hermes", *FORMS])
def test_random_walks_over_schemas_of_bfcl_are_valid(form, template, tokenizer):
    rng, whole = random.Random(3), 0
    questions = [q for q in bfcl_questions(read_cases(NON_LIVE + LIVE, DATA)) if q.tools]
    written = replace(choose_template(tokenizer, think=False), format=form)
    for question in questions:
        grammar = grammar_of(question.tools, Rules("required"), written, tokenizer)
        reply = walk(grammar, tokenizer, rng, question.tools, form)
        if not reply.truncated:
            whole += 1
            found = [p for call in reply.calls for p in validate_call(call, question.tools)]
            assert reply.calls and not reply.errors and (not found or grammar.loose), (reply, found)
    assert whole > len(questions) / 3


ODD = {
    "type": "object",
    "$defs": {"node": {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}},
                       "required": ["v"]}},
    "properties": {
        "a": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 9}, "minItems": 1, "maxItems": 3},
        "b": {"type": ["string", "null"]}, "c": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "d": {"type": "object", "additionalProperties": {"type": "boolean"}}, "e": {}, "f": {"$ref": "#/$defs/node"},
        "g": {"enum": ["1", 1, "true", True, None, "a<b", "say \"x\"", "</parameter>", '<|"|>']},
        "h": {"type": "string", "minLength": 2, "maxLength": 4}, "i": {"type": "string"}, "j": {"const": "x"},
        "k": {"type": "object", "properties": {"odd key!": {"type": "boolean"}, "p": {"type": "string"}},
              "required": ["p"]},
        "l": {"type": "array", "items": {"type": "array"}}, "m": {"type": "boolean"},
    },
    "required": ["b", "c", "g", "h", "k", "m"],
}  # fmt: skip


@pytest.mark.parametrize("form", ["hermes", *FORMS])
@pytest.mark.parametrize("rules", [Rules("required"), Rules()])
def test_random_walks_over_odd_schemas_are_valid(form, rules, template, tokenizer):
    """With plans, words before calls, several calls."""
    tools = [Tool("odd", "", ODD), WEATHER, Tool("free", "", {"type": "object"}),
             Tool("open", "", {"type": "object", "additionalProperties": True}),
             Tool("keys", "", {"properties": {"a b": {"type": "string"}, "c": {"type": "null"}}})]  # fmt: skip
    grammar = grammar_of(tools, rules, replace(template, format=form), tokenizer)
    called = 0
    for seed in range(40):
        reply = walk(grammar, tokenizer, random.Random(seed), tools, form)
        if not reply.truncated:
            found = [p for call in reply.calls for p in validate_call(call, tools)]
            assert not reply.errors and not found, (reply, found)
            called += len(reply.calls)
            assert rules.choice == "auto" or reply.calls
    assert called > 3 or rules.choice == "auto"


MARKS = {
    "gemma4": ["<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>"],
    "functiongemma": ["<start_function_call>", "<end_function_call>", "<escape>"],
    "lfm2": ["<|tool_call_start|>", "<|tool_call_end|>"],
    "mistral": ["[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]"],
    "hermes": ["<tool_call>", "</tool_call>", "<think>", "</think>"],
}  # fmt: skip


@pytest.mark.parametrize("form", MARKS)
def test_marks_that_are_tokens_of_their_own_are_written_as_these(form, template, tmp_path):
    """As the models' own vocabularies have them."""
    tiny_tokenizer(tmp_path)
    own = load_tokenizer(tmp_path)
    own.inner.add_special_tokens({"additional_special_tokens": MARKS[form]})
    tools = [Tool("odd", "", ODD), WEATHER]
    grammar = grammar_of(tools, Rules(), replace(template, format=form), own)
    text = join(get_format(form).write(Reply("a plan", (ToolCall("get_weather", {"city": 'a "b" {c}'}),))))
    assert len(own.encode(MARKS[form][0])) == 1
    assert allowed(text, grammar, own) == (True, True)
    called = 0
    grammar = grammar_of(tools, Rules("required"), replace(template, format=form), own)
    for seed in range(20):
        reply = walk(grammar, own, random.Random(seed), tools, form)
        if not reply.truncated:
            found = [p for call in reply.calls for p in validate_call(call, tools)]
            assert reply.calls and not reply.errors and not found, (reply, found)
            called += 1
    assert called > 3


def test_free_objects_and_numbers_stay_readable(tokenizer):
    assert unreadable('{"name": "f", "arguments": {"a": 1, "a"')
    assert unreadable('{"name": "f", "arguments": {"a": 1e999')
    assert unreadable('{"name": "f", "arguments": ' + "[" * 120)
    assert not unreadable('{"name": "f", "arguments": {"a": {"a": "a"}, "b": ["a", "a", 6.02e23], "c": {"a"')
    tool = Tool("f", "", {"type": "object", "properties": {"x": {"type": "object"}, "n": {"type": "number"}},
                          "required": ["x", "n"]})  # fmt: skip
    grammar = grammar_of([tool], Rules("required"), choose_template(tokenizer, think=False), tokenizer)
    assert grammar.watched
    for seed in range(30):
        reply = walk(grammar, tokenizer, random.Random(seed), [tool])
        assert reply.truncated or (not reply.errors and not validate_call(reply.calls[0], [tool])), reply


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
    Guide(grammar, tokenizer, tokenizer.stop_ids).mask()
    assert time.perf_counter() - start < 10
    text = '<tool_call>\n{"name": "tool_127", "arguments": {"a127": "x"}}\n</tool_call>'
    assert allowed(text, grammar, tokenizer) == (True, True)
    assert allowed(text.replace("a127", "a126"), grammar, tokenizer)[0] is False


def test_bad_rules_are_told(caller):
    for tools, rules, words in [
        ([], Rules("required"), "no tools were given"),
        (TOOLS, Rules("fly", named=True), "not offered"),
        ((WEATHER, WEATHER), Rules(), "same name"),
    ]:
        with pytest.raises(InputError, match=words):
            caller("Hello", tools, rules=rules)
    with pytest.raises(InputError, match="tool_choice"):
        Rules.of({"type": "function"})
    assert Rules.of({"type": "function", "function": {"name": "auto"}}) == Rules("auto", named=True)
    assert Rules.of("required", False) == Rules("required", False)


def test_single_streamed_and_batched_replies_are_one_and_valid(caller):
    """The random model, left alone, writes no call at all."""
    requests = [
        ((Message("user", text),), TOOLS) for text in ("Hello", "What is the weather in Paris?", "Who are you?")
    ]
    for rules in (Rules("required", False), Rules("get_time", named=True), Rules("none"), Rules()):
        batch = caller.batch(requests, max_tokens=60, rules=rules)
        for (messages, tools), reply in zip(requests, batch, strict=True):
            assert caller(messages, tools, max_tokens=60, rules=rules) == reply
            assert "".join(caller.stream(messages, tools, max_tokens=60, rules=rules)) == reply.raw
            assert rules.choice != "none" or not reply.calls
            if rules.choice == "required" and not reply.truncated:
                assert not validate_call(reply.calls[0], TOOLS) and not reply.errors


def test_rows_that_are_cut_in_the_middle_of_forced_tokens_say_so(caller):
    tool = Tool("only_one", "", {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]})
    whole = caller(HELLO, [tool], rules=Rules("required", False), max_tokens=80)
    length = len(caller.loaded.tokenizer.encode(whole.raw))
    assert whole.calls and not whole.truncated and length < 80
    for limit in range(1, length + 2):  # at the end, all that is missing was forced
        reply = caller(HELLO, [tool], rules=Rules("required", False), max_tokens=limit)
        assert reply.truncated == (limit < length)
        assert len(caller.loaded.tokenizer.encode(reply.raw)) <= limit
        assert reply.truncated or not reply.errors


def test_models_with_other_caches_are_bound_too(caller):
    plain = replace(caller, decoder=replace(caller.decoder, sharing=False))
    rules = Rules("required", False)
    assert plain(HELLO, TOOLS, rules=rules, max_tokens=60).raw == caller(HELLO, TOOLS, rules=rules, max_tokens=60).raw
    assert plain.batch([(HELLO, TOOLS)], rules=rules, max_tokens=60)[0].raw


def test_forced_tokens_take_no_run_of_the_model(caller, monkeypatch):
    from calltune.engine.decoder import Decoder

    steps = []
    run = Decoder.run
    monkeypatch.setattr(Decoder, "run", lambda *a: steps.append(a[1].shape) or run(*a))
    tool = Tool("only_one", "", {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]})
    reply = caller(HELLO, [tool], rules=Rules("required", False), max_tokens=80)
    assert not reply.errors and reply.calls[0].name == "only_one"
    assert len(steps) < len(caller.loaded.tokenizer.encode(reply.raw)) / 3


def test_the_commands_flags(tmp_path, capsys):
    model, tools = str(tiny_model(tmp_path / "m")), tmp_path / "tools.json"
    tools.write_text(json.dumps([tool.to_openai() for tool in TOOLS]))
    call = ["call", model, "Hello", "--tools", str(tools), "--max-tokens", "40"]
    assert main([*call, "--tool-choice", "get_time"]) == 0
    assert "get_time" in "".join(capsys.readouterr())
    assert main([*call, "--tool-choice", "fly"]) == 2
    assert "not offered" in capsys.readouterr().err
