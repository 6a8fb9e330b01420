"""The server as OpenAI's own client sees it."""

from __future__ import annotations

import json

import openai
import pytest
from serving import serving, worker_of
from tiny import TOOLS, tiny_model

from calltune.caller import load

HELLO = [{"role": "user", "content": "What is the weather in Paris?"}]
OFFERED = [tool.to_openai() for tool in TOOLS]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    caller = load(tiny_model(tmp_path_factory.mktemp("m") / "model", layers=2))
    with serving(worker_of(caller)) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.api, api_key="none", max_retries=0) as found:
        yield found


def test_a_reply(client):
    made = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=8)
    assert made.choices[0].message.role == "assistant"
    assert made.choices[0].finish_reason in ("stop", "length")
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    assert made.usage.completion_tokens <= 8
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_a_required_call_and_its_result(client):
    made = client.chat.completions.create(model="tiny", messages=HELLO, tools=OFFERED, tool_choice="required",
                                          parallel_tool_calls=False, max_tokens=200)  # fmt: skip
    choice = made.choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name in ("get_weather", "get_time")
    assert "city" in json.loads(call.function.arguments)
    more = [*HELLO, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "21"}]
    again = client.chat.completions.create(model="tiny", messages=more, tools=OFFERED, max_tokens=8)
    assert again.choices[0].finish_reason
