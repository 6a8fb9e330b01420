"""The deltas of a stream: whatever the cuts of the text, they make the same message, and it is the reply."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_formats_table import NAMES, REPLIES, WRITTEN, said, tools_for

from calltune.formats import FORMATS, get_format, join
from calltune.formats.marks import CALLS, HEADS, begins_plan
from calltune.schema import Reply, Tool, without_repeats
from calltune.serve.stream import Deltas, message_of

CUTS = st.lists(st.integers(0, 400), max_size=30)
WEATHER = Tool(
    "get_weather", "", {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
)
# Texts of pieces that models write, in every order.
PIECES = [
    "<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[", "]", "{", "}", "\n",
    " ", "```", "```json\n", "<|python_tag|>", "<|tool_call>", "<tool_call|>", "<|channel>thought",
    "<channel|>", "[THINK]", "[/THINK]", "<function=f>", "</function>", "<parameter=a>", "</parameter>",
    "call:f", '"', "'", "x", "Hello.", '{"name": "f", "arguments": {}}',
    '{"name": "f", "arguments": {"a": "</tool_call>"}}', "f(a=1)", "[f(a=1)]", ",", "; ",
    '{"name": "unknown", "arguments": {"a": 1}}', '{"name": "f"', '"arguments": {"a": [1, {"b": ',
]  # fmt: skip
PIECES += list(WRITTEN.values())
SOUPS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
F = Tool("f", "", {"type": "object", "properties": {"a": {}}})


def message(text: str, cuts: list[int], name: str, tools: list[Tool], **more: bool) -> dict:
    count = itertools.count()
    deltas = Deltas(name, tools, new_id=lambda: f"id_{next(count)}", **more)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    found = [d for a, b in itertools.pairwise(places) for d in deltas.feed(text[a:b])] + deltas.close()
    assert all(d and all(value for value in d.values()) for d in found)  # no delta says nothing
    made = message_of(found)
    assert deltas.called <= bool(made.get("tool_calls"))  # never a call without calls
    return made


def shown(reply: Reply) -> dict:
    calls = [(call.name, dict(call.arguments)) for call in reply.calls]
    return {"thinking": reply.thinking or "", "content": reply.content, "calls": calls}


def read(made: dict) -> dict:
    calls = [
        (call["function"]["name"], json.loads(call["function"]["arguments"])) for call in made.get("tool_calls", [])
    ]
    return {"thinking": made.get("reasoning_content", ""), "content": made["content"] or "", "calls": calls}


def test_every_format_has_its_marks():
    assert set(CALLS) == set(FORMATS) >= set(HEADS)


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(reply=REPLIES, cuts=CUTS, distinct=st.booleans())
def test_the_deltas_of_a_reply_make_it(name, bound, reply, cuts, distinct):
    reply = said(name, reply)
    reply = replace(reply, calls=(*reply.calls, *reply.calls[:1])) if distinct else reply
    text, tools = join(FORMATS[name].write(reply)), tools_for(reply)
    assume(get_format(name).parse(text, tools=tools).calls == reply.calls)  # content like `[` may open JSON
    made = message(text, cuts, name, tools, bound=bound, distinct=distinct)
    assert read(made) == shown(without_repeats(reply) if distinct else reply), text
    assert made == message(text, [], name, tools, bound=bound, distinct=distinct)


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(text=SOUPS, cuts=CUTS, opened=st.booleans(), distinct=st.booleans())
def test_any_text_gives_one_message_whatever_the_cuts(name, bound, text, cuts, opened, distinct):
    more = {"bound": bound, "opened": opened, "distinct": distinct}
    made = message(text, cuts, name, [F, WEATHER], **more)
    assert made == message(text, [], name, [F, WEATHER], **more)
    assert made == message(text, list(range(len(text))), name, [F, WEATHER], **more)
    if bound:
        return
    reply = get_format(name).parse(text, thinking_open=opened, tools=[F, WEATHER])
    reply = without_repeats(reply) if distinct else reply
    good = [(c.name, dict(c.arguments)) for c in reply.calls if not c.error and c.name in ("f", "get_weather")]
    assert read(made)["calls"] == good
    if not good and reply.calls:
        assert made["content"]  # what could not be read is told


# ---- what is sent when ------------------------------------------------------------------------------------------


def sent(text: str, name: str = "hermes", **more: bool) -> list[dict]:
    """The deltas after each character."""
    deltas = Deltas(name, [F, WEATHER], new_id=lambda: "id", **more)
    return [delta for character in text for delta in deltas.feed(character)] + deltas.close()


@pytest.mark.parametrize("name", sorted(HEADS))
def test_trap_t33_arguments_are_sent_as_they_are_written(name):
    found = sent(WRITTEN[name], name)
    head, *rest = [delta["tool_calls"][0] for delta in found if "tool_calls" in delta]
    assert head == {"index": 0, "id": "id", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    assert len(rest) == len('{"city": "Paris", "days": 3}')
    assert "".join(part["function"]["arguments"] for part in rest) == '{"city": "Paris", "days": 3}'


@pytest.mark.parametrize("name", NAMES)
def test_a_call_is_sent_at_its_end_where_it_is_not_known_to_be_one_before(name):
    deltas = Deltas(name, [WEATHER], bound=False)
    assert deltas.feed(WRITTEN[name][:-1]) == [] or name in ("mistral", "json", "lfm2")
    assert deltas.feed(WRITTEN[name][-1:] + "\n") or deltas.begun
    assert deltas.begun == 1


def test_trap_t33_a_plan_is_no_content_and_comes_word_by_word():
    found = sent("<think>\nThe user asks.\n</think>\nHello you")
    assert "".join(d.get("reasoning_content", "") for d in found) == "The user asks."
    assert "".join(d.get("content", "") for d in found) == "Hello you"
    assert len(found) > 15


def test_a_plan_that_the_template_opened():
    found = sent("The user asks.\n</think>\nHello", opened=True)
    assert message_of(found) == {"role": "assistant", "content": "Hello", "reasoning_content": "The user asks."}
    assert begins_plan("hermes", "<|im_start|>assistant\n<think>\n")
    assert not begins_plan("hermes", "<|im_start|>assistant\n<think>\n\n</think>\n")


@pytest.mark.parametrize(
    "raw",
    ['{"name": "f", "arguments": {"a": }}', "5", "", '{"arguments": {}}', '{"name": "unknown", "arguments": {}}'],
)
@pytest.mark.parametrize("bound", [True, False])
def test_trap_t30_t31_what_is_no_call_comes_as_content(raw, bound):
    text = f"<tool_call>\n{raw}\n</tool_call>"
    deltas = Deltas("hermes", [WEATHER], bound=bound)
    made = message_of(deltas.feed(text) + deltas.close())
    assert "tool_calls" not in made and not deltas.called
    assert raw in made["content"] and made["content"].strip()


@pytest.mark.parametrize("name", sorted(set(HEADS) - {"mistral"}))
def test_words_that_look_like_a_call_whose_name_is_no_json(name):
    begin = {"hermes": "<tool_call>", "mistral-list": "[TOOL_CALLS]"}.get(name, "")
    text = f'As in {begin}{{"name": "C:\\q", "arguments": {{"a": 1}}}}.'
    made = message(text, [3, 30, 40], name, [F])
    assert "tool_calls" not in made and 'q", "arguments"' in made["content"]


def test_a_good_call_beside_one_that_cannot_be_read():
    text = WRITTEN["hermes"] + '\n<tool_call>\n{"name": "f", "arguments": {"a": }}\n</tool_call>'
    made = message(text, [3, 50], "hermes", [F, WEATHER], bound=False)
    assert [call["function"]["name"] for call in made["tool_calls"]] == ["get_weather"]
    assert made["content"] == '{"name": "f", "arguments": {"a": }}'


def test_a_call_that_was_cut_is_not_told_as_whole():
    deltas = Deltas("hermes", [WEATHER])
    made = message_of(deltas.feed(WRITTEN["hermes"][:60]) + deltas.close())
    assert made["tool_calls"][0]["function"]["arguments"].startswith('{"ci')
    assert deltas.begun == 1 and not deltas.called


def test_without_tools_marks_of_calls_are_content():
    made = message_of(sent(WRITTEN["hermes"], calls=False))
    assert made == {"role": "assistant", "content": WRITTEN["hermes"]}


def test_no_mark_counts_in_a_json_reply():
    value = json.dumps({"a": "<think>x</think> <tool_call>"})
    for text in (value, f"<think>\nP\n</think>\n{value}"):
        made = message_of(sent(text, json=True))
        assert made["content"] == value
        assert made.get("reasoning_content", "P") == "P"


def test_a_long_text_of_brackets_takes_no_time():
    deltas = Deltas("json", [F], bound=False)
    for _ in range(5_000):
        deltas.feed("{}")
    assert message_of(deltas.close())["content"] == "{}" * 5_000


@pytest.mark.slow
@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=300, deadline=None)
@given(reply=REPLIES, text=SOUPS, cuts=CUTS, opened=st.booleans(), distinct=st.booleans())
def test_300_replies_and_texts(name, bound, reply, text, cuts, opened, distinct):
    test_the_deltas_of_a_reply_make_it.hypothesis.inner_test(name, bound, reply, cuts, distinct)
    one_message = test_any_text_gives_one_message_whatever_the_cuts.hypothesis.inner_test
    one_message(name, bound, text, cuts, opened, distinct)


# ---- stop texts -------------------------------------------------------------------------------------------------


def stopped(text: str, *stops: str, name: str = "hermes", **more: bool) -> dict:
    """The message, the same however the text is cut."""
    made = message(text, [], name, [F, WEATHER], stops=stops, **more)
    for step in (1, 2, 3, 7):
        assert made == message(text, list(range(0, len(text), step)), name, [F, WEATHER], stops=stops, **more)
    return made


CALLED = (
    '<think>\nSTOP is no end.\n</think>\nLook.\n<tool_call>\n{"name": "f", "arguments": {"a": "STOP"}}\n</tool_call>'
)


@pytest.mark.parametrize("bound", [True, False])
def test_stop_texts_cut_neither_plans_nor_calls(bound):
    made = stopped(CALLED, "STOP", "</think>", "\n", '"arguments"', bound=bound)
    assert made == message(CALLED, [], "hermes", [F, WEATHER], bound=bound)
    assert json.loads(made["tool_calls"][0]["function"]["arguments"]) == {"a": "STOP"}
    assert made["content"] == "Look." and "STOP" in made["reasoning_content"]


def test_a_stop_text_ends_the_content_and_all_that_follows():
    made = stopped(CALLED.replace("Look.", "Look STOP here."), "STOP")
    assert made == {"role": "assistant", "content": "Look", "reasoning_content": "STOP is no end."}
    assert stopped("abcdef", "cde", "d")["content"] == "abc"  # the one that is whole first
    assert stopped("abcd", "bcx", "d")["content"] == "abc"
    assert stopped("STOP it", "STOP")["content"] == ""
    assert stopped("One\nTwo\n\nThree", "\n\n")["content"] == "One\nTwo"
    assert stopped("\n\nOne", "\n\n")["content"] == "One"  # what is before the content is none of it
    assert stopped('{"a": "b"}', '"b', json=True)["content"] == '{"a":'


def test_a_stop_text_after_a_call_cuts_what_follows_it():
    made = stopped(WRITTEN["hermes"] + "\nSo STOP now", "STOP", bound=False)
    assert made["content"] == "So" and len(made["tool_calls"]) == 1


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(text=SOUPS, cuts=CUTS, stop=st.sampled_from(["Hello", "x", "\n", "o.", " ", "x\n", "]"]), bound=st.booleans())
def test_any_text_stops_at_the_same_place_whatever_the_cuts(name, text, cuts, stop, bound):
    made = message(text, [], name, [F, WEATHER], stops=(stop,), bound=bound)
    assert made == message(text, cuts, name, [F, WEATHER], stops=(stop,), bound=bound)
    assert made == message(text, list(range(len(text))), name, [F, WEATHER], stops=(stop,), bound=bound)
    assert stop not in (made["content"] or "")
    plain = message(text, [], name, [F, WEATHER], bound=bound)
    assert (plain["content"] or "").startswith(made["content"] or "")


def test_no_text_is_held_longer_than_it_may_begin_a_stop_text():
    deltas = Deltas("hermes", [F], stops=("Hello!",))
    assert [deltas.feed(piece) for piece in ("So He", "llo", " you")] == [
        [{"content": "So"}], [], [{"content": " Hello you"}]]  # fmt: skip
    deltas = Deltas("hermes", [F], stops=("\nUser",))
    assert deltas.feed("Yes.\n") == [{"content": "Yes."}] and not deltas.stopped
    assert deltas.feed("User: and") == [] and deltas.stopped
    without_tools = Deltas("hermes", calls=False, stops=("\n",))
    assert without_tools.feed("Yes.\n") == [{"content": "Yes."}] and without_tools.stopped
