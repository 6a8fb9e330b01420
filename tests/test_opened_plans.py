"""Templates that write the mark that begins a plan themselves (Qwen3's thinking models, DeepSeek-R1): the reply goes
on in the plan, for the grammar, for reading, in a stream and in the server."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import openai
import pytest
from chat_templates import OPENS_PLAN
from serving import serving, worker_of
from tiny import TOOLS, tiny_model, weather_rows

from calltune.caller import load
from calltune.grammar import Rules
from calltune.schema import Message
from calltune.settings import TrainSettings
from calltune.train import train

HELLO = (Message("user", "What is the weather in Paris?"),)
OFFERED = [tool.to_openai() for tool in TOOLS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("m") / "model", layers=2, template=OPENS_PLAN)


@pytest.fixture(scope="module")
def caller(folder):
    return load(folder)


@pytest.fixture(scope="module")
def client(caller):
    with (
        serving(worker_of(caller)) as found,
        openai.OpenAI(base_url=found.api, api_key="none", max_retries=0) as client,
    ):
        yield client


def test_the_template_is_taken_as_it_is(caller):
    assert caller.template.origin == "model" and caller.template.knows_tools
    assert caller.template.text(HELLO, TOOLS, prompt=True).endswith("<think>\n")


@pytest.mark.parametrize("rules", [Rules("required"), Rules(), None])
def test_replies_go_on_in_the_plan(caller, rules):
    reply = caller(HELLO, TOOLS, rules=rules, max_tokens=60)
    assert reply.thinking and not reply.raw.startswith("<think>")
    made, opened = [], []
    text = "".join(
        caller.stream(HELLO, TOOLS, rules=rules, max_tokens=60, on_done=made.append, on_prompt=opened.append)
    )
    assert (text, made, opened) == (reply.raw, [reply], [True])
    assert caller.batch([(HELLO, TOOLS)] * 2, rules=rules, max_tokens=60) == [reply] * 2
    assert caller.read_again((HELLO, TOOLS), reply.raw, reply.truncated) == reply  # answers kept of an evaluation


def ask(client: Any, **more: Any) -> Any:
    request = {"model": "tiny", "messages": [{"role": "user", "content": "The weather in Paris?"}], "max_tokens": 40}
    return client.chat.completions.create(**request | more)


@pytest.mark.parametrize("choice", ["required", "auto", None])
def test_the_server_tells_the_plan_as_reasoning(client, choice):
    more = {"tools": OFFERED, "tool_choice": choice} if choice else {}
    message = ask(client, **more).choices[0].message
    assert message.reasoning_content and not message.content
    deltas = [chunk.choices[0].delta for chunk in ask(client, stream=True, **more)]
    assert "".join(getattr(delta, "reasoning_content", "") or "" for delta in deltas) == message.reasoning_content
    assert not any(delta.content for delta in deltas)


def planned(caller: Any, plan: str) -> Any:
    """The caller with a model that ends its plans with `plan`: a random one does not find the mark."""
    from calltune.engine.writing import Writing

    ids = caller.loaded.tokenizer.encode(plan)
    begin = Writing.begin

    def begun(self: Any, prompt: Any) -> None:
        begin(self, prompt)
        for token in ids:
            assert self.takes(token)
            self._append(token)
        self._guided(self._force)

    return begun


@pytest.mark.parametrize("stream", [True, False])
def test_a_required_call_comes_after_the_plan(caller, client, monkeypatch, stream):
    from calltune.engine.writing import Writing

    monkeypatch.setattr(Writing, "begin", planned(caller, "The weather.\n</think>"))
    asked = {"tools": OFFERED, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 300}
    if stream:
        deltas = [chunk.choices[0].delta for chunk in ask(client, stream=True, **asked)]
        plan = "".join(getattr(delta, "reasoning_content", "") or "" for delta in deltas)
        parts = [part.function for delta in deltas for part in delta.tool_calls or ()]
        name, arguments = parts[0].name, "".join(part.arguments for part in parts)
        content = "".join(delta.content or "" for delta in deltas)
    else:
        message = ask(client, **asked).choices[0].message
        [call] = message.tool_calls
        plan, name, arguments, content = message.reasoning_content, call.function.name, call.function.arguments, ""
    assert (plan, content) == ("The weather.", "")
    assert name in ("get_weather", "get_time") and "city" in json.loads(arguments)


def test_a_run_writes_the_mark_itself(folder, caller, tmp_path):
    settings = TrainSettings(
        model=str(folder), out=str(tmp_path / "run"), num_layers=2, rank=2, iters=2, keys=("all",)
    )
    tuned = load(train(settings, weather_rows(24)).folder)
    ids = tuned.loaded.tokenizer.encode("<|im_start|>assistant\n<think>\n")
    assert caller.opened(ids) and not tuned.opened(ids)
    assert not caller.opened([*ids, *caller.loaded.tokenizer.encode("</think>")])
    assert replace(caller, trained=True).opened(ids) is False
