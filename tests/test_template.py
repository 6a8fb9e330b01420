"""Choosing and probing chat templates: what each habit of a template leads to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from chat_templates import GEMMA, PLAIN, QWEN3, QWEN3_KEEPS, QWEN25, TEXT_ONLY, TOJSON_ALWAYS, WALKTHROUGH
from tiny import TOOLS, long_row, tiny_tokenizer, weather_call, weather_rows

from calltune.errors import InputError
from calltune.formats import join
from calltune.render import render
from calltune.schema import Message
from calltune.template import THINK_INSTRUCTION, Template, choose_template, probe, probe_style, probe_thinking
from calltune.tokenizer import Tokenizer, load_tokenizer


def tokenizer(folder: Path, style: str = "chatml", template: str | None = None) -> Tokenizer:
    tiny_tokenizer(folder, style, template)
    return load_tokenizer(folder)


@pytest.mark.parametrize(
    ("style", "own", "origin", "knows_tools", "stop"),
    [
        ("chatml", QWEN3, "model", True, "<|im_end|>"),
        ("chatml", QWEN25, "model", True, "<|im_end|>"),
        ("chatml", PLAIN, "calltune:chatml", True, "<|im_end|>"),
        ("chatml", None, "calltune:chatml", True, "<|im_end|>"),
        ("gemma", GEMMA, "calltune:gemma", True, "<end_of_turn>"),
        ("gemma", None, "calltune:gemma", True, "<end_of_turn>"),
    ],
)
def test_the_models_own_template_if_it_knows_tools_else_ours(tmp_path, style, own, origin, knows_tools, stop):
    template = choose_template(tokenizer(tmp_path, style, own))
    assert (template.origin, template.knows_tools, template.stop) == (origin, knows_tools, stop)
    assert probe(template) == []


def test_trap_t14_a_template_that_ignores_tools_is_never_used_as_if_it_knew_them(tmp_path):
    """SmolLM2's, Gemma's: tools do not appear, calls are an empty turn."""
    for style, own in (("chatml", PLAIN), ("gemma", GEMMA)):
        loaded = tokenizer(tmp_path / style, style, own)
        as_it_is = Template(own, "model", variables=loaded.special_variables(), merge_system=style == "gemma")
        assert probe(as_it_is)
        template = choose_template(loaded, custom=own, origin="mine.jinja")  # the user insists on it
        assert not template.knows_tools
        text = template.text(long_row().messages[:4], TOOLS)
        for sentinel in ("get_time", "The weather in a city.", '"city": "Paris"', '{"result": 21}', "get_weather"):
            assert sentinel in text


def test_trap_t14_what_carries_no_tools_at_all_is_refused(tmp_path):
    """A template that prints questions only: nothing that calltune could do makes it right."""
    only = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    with pytest.raises(InputError) as caught:
        choose_template(tokenizer(tmp_path), custom=only, origin="mine.jinja")
    assert (
        "mine.jinja" in str(caught.value) and "lost" in str(caught.value) and "--template" in caught.value.next_step
    )


def test_a_template_that_is_no_jinja_is_told_with_its_line(tmp_path):
    with pytest.raises(InputError) as caught:
        choose_template(tokenizer(tmp_path), custom="{% for m in messages %}\n{{ m.content }", origin="mine.jinja")
    assert "Jinja" in str(caught.value)


@pytest.mark.parametrize("source", [QWEN25, TOJSON_ALWAYS, TEXT_ONLY])
def test_trap_t12_arguments_are_given_to_each_template_as_it_wants_them(tmp_path, source):
    template = choose_template(tokenizer(tmp_path, "chatml", source))
    assert template.origin == "model" and template.knows_tools
    assert template.arguments_as_text == (source is TEXT_ONLY)
    text = template.text(long_row().messages[:3], TOOLS)
    assert '{"name": "get_weather", "arguments": {"city": "Paris"}}' in text


def test_a_template_without_a_system_role_gets_it_in_the_first_question(tmp_path):
    template = choose_template(
        tokenizer(tmp_path, "gemma"),
        custom=GEMMA.replace("(message.role == 'user') != ", "false and "),
        origin="mine.jinja",
    )
    assert template.merge_system
    text = template.text(long_row().messages[:2], TOOLS)
    assert text.startswith("<bos><start_of_turn>user\nBe brief.\n\nYou can call")
    assert text.count("<start_of_turn>") == 1


def test_merge_system_can_be_forced_and_forbidden(tmp_path):
    loaded = tokenizer(tmp_path, "chatml", QWEN25)
    assert "<|im_start|>system\nBe brief." not in choose_template(loaded, merge_system=True).text(long_row().messages)
    with pytest.raises(InputError):
        choose_template(tokenizer(tmp_path / "g", "gemma"), custom=WALKTHROUGH, origin="w", merge_system=False)


def test_walkthrough_row_2_the_turns_are_byte_equal(tmp_path):
    """Its template with its role names; the expected text is written out here by its description."""
    loaded = tokenizer(tmp_path, "gemma")
    template = choose_template(
        loaded, custom=WALKTHROUGH, origin="walkthrough", roles={"user": "human", "assistant": "model"}
    )
    assert not template.knows_tools and template.merge_system
    turns = [
        Message("user", "  Hi there \n"),
        Message("assistant", "Hello."),
        Message("tool", "21"),
        Message("user", "Bye"),
    ]
    expected = (
        "<bos><start_of_turn>human\nHi there<end_of_turn><eos>\n<start_of_turn>model\nHello.<end_of_turn><eos>\n"
        "<start_of_turn>tool\n<tool_response>\n21\n</tool_response><end_of_turn><eos>\n"
        "<start_of_turn>human\nBye<end_of_turn><eos>\n<start_of_turn>model\n"
    )
    assert template.text(turns, prompt=True) == expected
    ids = loaded.encode(expected)
    assert ids.count(loaded.encode("<bos>")[0]) == 1 and loaded.decode(ids) == expected
    assert template.stop == "<end_of_turn>"


def test_walkthrough_row_4_system_and_instruction_stand_in_the_first_question(tmp_path):
    template = choose_template(
        tokenizer(tmp_path, "gemma"),
        custom=WALKTHROUGH,
        origin="walkthrough",
        think_instruction="Plan between <think> and </think> before a call.",
    )
    text = template.text(long_row().messages[:2], TOOLS, prompt=True)
    head, _, rest = text.partition("Plan between <think> and </think> before a call.")
    assert head.startswith("<bos><start_of_turn>user\nBe brief.\n\n") and "<tools>" in head
    assert rest.endswith("What is the weather in Paris?<end_of_turn><eos>\n<start_of_turn>model\n")


# ---- white space ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [QWEN3, QWEN3_KEEPS])
def test_the_white_space_of_the_models_own_template_is_found(tmp_path, source):
    template = choose_template(tokenizer(tmp_path, "chatml", source))
    assert template.style["think_close"] == "\n</think>\n\n"
    turn = Message("assistant", "Look.", "plan", (weather_call("Rome"), weather_call("Oslo")))
    written = join(template.reply(turn)) + template.stop
    asked = (Message("user", "hi"),)
    assert template.text([*asked, turn], TOOLS) == template.text(asked, TOOLS, prompt=True) + written + "\n"


@pytest.mark.parametrize("source", [QWEN25, PLAIN, None])
def test_no_style_where_the_formats_own_white_space_does(tmp_path, source):
    assert choose_template(tokenizer(tmp_path, "chatml", source)).style == {}


def test_other_white_space_around_calls_is_found(tmp_path):
    source = QWEN25.replace("'<tool_call>\\n{", "'<tool_call>{").replace("'}\\n</tool_call>'", "'}</tool_call>'")
    template = choose_template(tokenizer(tmp_path, "chatml", source))
    assert join(template.reply(Message("assistant", calls=(weather_call("Rome"),)))) == (
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Rome"}}</tool_call>'
    )


def test_a_style_that_does_not_help_is_not_taken(tmp_path):
    """JSON written another way cannot be matched by white space alone."""
    source = QWEN25.replace('{"name": "', '{"name":"')
    template = choose_template(tokenizer(tmp_path, "chatml", source))
    assert probe_style(template) == {}


def test_the_style_is_saved_with_the_template_and_counts_in_its_hash(tmp_path):
    template = choose_template(tokenizer(tmp_path, "chatml", QWEN3_KEEPS))
    again = Template(**json.loads(json.dumps(template.to_dict())))
    assert again == template and again.hash == template.hash
    assert replace(template, style={}).hash != template.hash


# ---- thinking ---------------------------------------------------------------------------------------------------


def test_trap_t08_templates_that_drop_earlier_plans_are_known(tmp_path):
    dropped = {QWEN3: False, QWEN3_KEEPS: True, QWEN25: False, PLAIN: True, None: True}
    for i, (source, kept) in enumerate(dropped.items()):
        assert probe_thinking(choose_template(tokenizer(tmp_path / str(i), "chatml", source))) == kept


def test_without_thinking_no_plan_reaches_the_text(tmp_path):
    for i, source in enumerate((QWEN3_KEEPS, PLAIN, None)):
        loaded = tokenizer(tmp_path / str(i), "chatml", source)
        template = choose_template(loaded, think=False)
        row = weather_rows(1)[0]
        turns = (*row.messages, Message("user", "again"))
        assert "get_weather" in (row.messages[1].thinking or "")
        assert "\nget_weather\n" not in template.text(turns, row.tools, prompt=True)
        assert THINK_INSTRUCTION not in template.text(turns, row.tools, prompt=True)
        kinds = {span.kind for e in render(row, template, loaded) for span in e.spans}
        assert "think" not in kinds
