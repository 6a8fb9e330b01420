"""Rows for the tests of the readers, and what was read of them."""

import pytest

from calltune.data.readers import load_conversations
from calltune.errors import InputError
from calltune.schema import Conversation, Tool

WEATHER = Tool("get_weather", "The weather.", {"type": "object", "properties": {"city": {"type": "string"}}})


CALL = {
    "id": "call_0",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Paris"}},
}


def row(**changes):
    messages = [{"role": "user", "content": "Weather?"}, {"role": "assistant", "tool_calls": [CALL]}]
    return {"messages": messages, "tools": [WEATHER.to_openai()]} | changes


def answered(**message):
    return row(messages=[{"role": "user", "content": "Hi"}, {"role": "assistant"} | message])


def one(value, **options) -> Conversation:
    (conversation,) = load_conversations([value], **options)
    return conversation


def problems_of(source):
    with pytest.raises(InputError) as caught:
        load_conversations(source)
    return caught.value.problems


def user_texts(conversation):
    return [message.content for message in conversation.messages if message.role == "user"]


def calls(conversation):
    return [[(c.name, list(c.arguments.items())) for c in m.calls] for m in conversation.messages if m.calls]


CALL_TEXT = "{'name': 'get_weather', 'arguments': {'city': \"O'Hare\"}}"
