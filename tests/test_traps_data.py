"""Traps of other tools in how rows become training text, each with a test that fails on the trapped behaviour."""

from collections import Counter
from itertools import takewhile

import pytest
from test_forms import ROWS
from tiny import TOOLS, long_row, tiny_tokenizer, weather_call, weather_rows

from calltune.batching import plan_training
from calltune.data.readers import load_conversations
from calltune.formats import get_format
from calltune.render import render, render_all
from calltune.schema import Conversation, Message
from calltune.template import choose_template
from calltune.tokenizer import load_tokenizer


@pytest.fixture(scope="module", params=["chatml", "gemma"])
def loaded(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    tiny_tokenizer(folder, request.param)
    tokenizer = load_tokenizer(folder)
    return tokenizer, choose_template(tokenizer)


@pytest.mark.parametrize("form", ROWS)
def test_trap_t24_the_tools_of_every_form_stand_in_the_training_text(form, loaded):
    tokenizer, template = loaded
    (conversation,) = load_conversations([ROWS[form]])
    (example,) = render(conversation, template, tokenizer)
    text = tokenizer.decode(list(example.ids))
    for word in ("get_weather", "The weather.", '"city"', '"days"', '"integer"'):
        assert word in text
    assert text.index('"integer"') < text.index("Weather in Paris?") < text.rindex("get_weather")


def test_trap_t24_a_tool_turn_stays_one_and_is_not_trained(loaded):
    tokenizer, template = loaded
    (example,) = render(long_row(), template, tokenizer)
    text = tokenizer.decode(list(example.ids))
    assert "<tool_response>" in text and '{"result": 21}' in text
    trained = "".join(tokenizer.decode(list(example.ids[s.start : s.end])) for s in example.spans)
    assert '{"result": 21}' not in trained and "21 degrees." in trained
    as_user = Conversation(
        tuple(Message("user", m.content) if m.role == "tool" else m for m in long_row().messages), TOOLS
    )
    assert render(as_user, template, tokenizer)[0].ids != example.ids


@pytest.mark.parametrize(("rows", "size"), [(50, 4), (7, 16), (33, 8)])
def test_trap_t25_every_row_is_trained_once_an_epoch(loaded, rows, size):
    tokenizer, template = loaded
    examples = render_all(weather_rows(rows), template, tokenizer)
    plan = takewhile(lambda step: step[0] < 3, plan_training([len(e) for e in examples], size, 0))
    seen = Counter((epoch, i) for epoch, batch in plan for i in batch)
    assert seen == Counter((epoch, i) for epoch in range(3) for i in range(rows))


def test_trap_t26_content_and_plan_beside_calls_are_kept_and_trained(loaded):
    tokenizer, template = loaded
    openai = {
        "messages": [
            {"role": "user", "content": "Weather in Paris?"},
            {"role": "assistant", "content": "Let me look.", "reasoning_content": "Use get_weather.", "tool_calls": [
                {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}]},
        ],
        "tools": [tool.to_openai() for tool in TOOLS],
    }  # fmt: skip
    call = "<tool_call>{'name': 'get_weather', 'arguments': {'city': 'Paris'}}</tool_call>"
    hermes = {"tools": openai["tools"], "conversations": [
        {"from": "human", "value": "Weather in Paris?"},
        {"from": "gpt", "value": f"<think>Use get_weather.</think>Let me look.{call}"}]}  # fmt: skip
    for value in (openai, hermes):
        (conversation,) = load_conversations([value])
        assert conversation.messages[1] == Message(
            "assistant", "Let me look.", "Use get_weather.", (weather_call("Paris"),)
        )
        (example,) = render(conversation, template, tokenizer)
        trained = tokenizer.decode([i for s in example.spans for i in example.ids[s.start : s.end]])
        reply = get_format(template.format).parse(trained.removesuffix(template.stop))
        assert (reply.content, reply.thinking) == ("Let me look.", "Use get_weather.")
        assert [c.to_dict() for c in reply.calls] == [weather_call("Paris").to_dict()]
        assert {span.kind for span in example.spans} == {"think", "answer", "name", "arguments", "syntax"}
