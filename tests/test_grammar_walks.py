"""Replies drawn at random from the tokens that a grammar allows: every whole one holds calls that fit."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from bound_text import FORMS, ODD, allowed, walk
from tiny import WEATHER, tiny_tokenizer

from calltune.data.bfcl import LIVE, NON_LIVE, read_cases
from calltune.formats import get_format, join
from calltune.grammar import Rules, grammar_of
from calltune.guide import unreadable
from calltune.schema import Reply, Tool, ToolCall, validate_call
from calltune.tasks.questions import bfcl_questions
from calltune.template import choose_template
from calltune.tokenizer import load_tokenizer

DATA = Path(__file__).parent / "data" / "bfcl"


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


@pytest.mark.parametrize("form", ["hermes", *FORMS])
@pytest.mark.parametrize("rules", [Rules("required"), Rules()])
@pytest.mark.parametrize("walks", [12, pytest.param(40, marks=pytest.mark.slow)])
def test_random_walks_over_odd_schemas_are_valid(form, rules, walks, template, tokenizer):
    """With plans, words before calls, several calls."""
    tools = [Tool("odd", "", ODD), WEATHER, Tool("free", "", {"type": "object"}),
             Tool("open", "", {"type": "object", "additionalProperties": True}),
             Tool("keys", "", {"properties": {"a b": {"type": "string"}, "c": {"type": "null"}}})]  # fmt: skip
    grammar = grammar_of(tools, rules, replace(template, format=form), tokenizer)
    called = 0
    for seed in range(walks):
        reply = walk(grammar, tokenizer, random.Random(seed), tools, form)
        if not reply.truncated:
            found = [p for call in reply.calls for p in validate_call(call, tools)]
            assert not reply.errors and not found, (reply, found)
            called += len(reply.calls)
            assert rules.choice == "auto" or reply.calls
    assert called > walks // 12 or rules.choice == "auto"


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
