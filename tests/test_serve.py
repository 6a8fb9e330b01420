"""The server as OpenAI's own client sees it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import openai
import pytest
from serving import serving, worker_of
from tiny import TOOLS, tiny_model

from calltune.caller import load
from calltune.schema import Tool
from calltune.serve.app import Options
from calltune.serve.guards import Guards

HELLO = [{"role": "user", "content": "What is the weather in Paris?"}]
SKY = Tool("set_sky", "Sets the sky.", {"type": "object", "properties": {"colour": {"enum": ["blue", "a dark grey"]}},
                                        "required": ["colour"]})  # fmt: skip
OFFERED = [tool.to_openai() for tool in (*TOOLS, SKY)]
# A reply that does not end by itself.
LONG = {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {
    "type": "object", "properties": {"x": {"type": "string", "minLength": 50_000}}, "required": ["x"]}}},
        "max_tokens": 3500}  # fmt: skip
NAMED = {"type": "function", "function": {"name": "set_sky"}}


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    return load(tiny_model(tmp_path_factory.mktemp("m") / "model", layers=2), think=False)


@pytest.fixture(scope="module")
def server(caller):
    with serving(worker_of(caller)) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.api, api_key="none", max_retries=0) as found:
        yield found


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "tiny", "messages": HELLO, "max_tokens": 12} | more)


def gathered(chunks: Any) -> dict[str, Any]:
    """What a client makes of a stream."""
    content, calls, finish = "", {}, None
    for chunk in chunks:
        for choice in chunk.choices:
            content += choice.delta.content or ""
            for part in choice.delta.tool_calls or []:
                if part.id:
                    calls[part.index] = [part.function.name, ""]
                calls[part.index][1] += part.function.arguments or ""
            finish = choice.finish_reason or finish
    return {"content": content, "calls": [tuple(calls[i]) for i in sorted(calls)], "finish": finish}


def whole(made: Any) -> dict[str, Any]:
    choice = made.choices[0]
    calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []]
    return {"content": choice.message.content or "", "calls": calls, "finish": choice.finish_reason}


def test_a_reply(client):
    made = ask(client, max_tokens=8)
    assert made.choices[0].message.role == "assistant"
    assert made.choices[0].finish_reason in ("stop", "length")
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    assert 0 < made.usage.completion_tokens <= 8
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def test_a_required_call_and_its_result(client):
    made = ask(client, tools=OFFERED, tool_choice=NAMED, parallel_tool_calls=False, max_tokens=200)
    choice = made.choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name == "set_sky"
    assert json.loads(call.function.arguments)["colour"]
    result = {"role": "tool", "tool_call_id": call.id, "content": "21"}
    again = ask(client, tools=OFFERED, messages=[*HELLO, choice.message.model_dump(exclude_none=True), result])
    assert again.choices[0].finish_reason
    assert again.usage.prompt_tokens > made.usage.prompt_tokens


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tools": OFFERED},
        {"tools": OFFERED, "tool_choice": "none"},
        {"tools": OFFERED, "tool_choice": "required", "max_tokens": 200},
        {"tools": OFFERED, "tool_choice": NAMED, "parallel_tool_calls": False, "max_tokens": 200},
        {"tools": OFFERED, "tool_choice": NAMED, "max_tokens": 30},  # cut in the call
        {"tools": OFFERED, "extra_body": {"constrained": False}},
        {"response_format": {"type": "json_object"}, "max_tokens": 60},
        {"temperature": 1, "seed": 5, "top_p": 0.9, "stop": ["e", "a"]},
    ],
)
def test_a_stream_is_the_reply_without_streaming(client, more):
    one = ask(client, **more)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, **more))
    assert gathered(chunks) == whole(one)
    assert chunks[-1].usage == one.usage and chunks[-1].choices == []
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks[:-1])
    if more.get("tool_choice") in ("none", None) and "constrained" not in str(more):
        assert not one.choices[0].message.tool_calls or "tools" in more
    if more.get("tool_choice") == NAMED:
        assert {name for name, _ in whole(one)["calls"]} == {"set_sky"}
        assert (one.choices[0].finish_reason == "tool_calls") == (more["max_tokens"] == 200)


def test_a_named_tool_is_called_once(client):
    for seed in range(5):
        reply = ask(client, tools=OFFERED, tool_choice=NAMED, max_tokens=200, temperature=1, seed=seed)
        assert [call.function.name for call in reply.choices[0].message.tool_calls] == ["set_sky"]


SLOW, SLOW_TEXT = "^(a+)+$", "a" * 40 + "!"  # Python's `re` takes more than a day for the two


def object_of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def doubled(depth: int) -> dict[str, Any]:
    """Definitions of which the first asks for two to the power of `depth` checks."""
    defs: dict[str, Any] = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(depth)}
    return {"$defs": defs | {f"d{depth}": {}}}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (object_of(a={"const": SLOW_TEXT}) | {"not": {"properties": {"a": {"pattern": SLOW}}}}, 'decoding: "not"; '
         "checked afterwards: it fits"),
        (object_of(a={"const": SLOW_TEXT}) | {"if": {"properties": {"a": {"pattern": f"(?<!b){SLOW}"}}}, "then": {}},
         "cannot be tried in bounded time"),
        (object_of(a={"const": 1}) | {"not": {"$ref": "#/$defs/d0"}} | doubled(40), "it takes too long"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_tool", [True, False])
def test_no_schema_of_a_client_stops_the_server_when_it_is_checked_afterwards(client, schema, words, as_tool):
    function = {"type": "function", "function": {"name": "f", "parameters": schema}}
    more = {"tools": [function], "tool_choice": "required", "parallel_tool_calls": False} if as_tool else \
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}  # fmt: skip
    begun = time.perf_counter()
    reply = ask(client, max_tokens=200, **more)
    assert time.perf_counter() - begun < 20
    assert reply.choices[0].finish_reason == ("tool_calls" if as_tool else "stop")
    (note,) = reply.notes
    assert words in note and "%llguidance" not in note


def test_what_decoding_cannot_enforce_is_told(client):
    odd = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}, "minItems": 2,
        "maxItems": 2, "uniqueItems": True}}, "required": ["a"]}  # fmt: skip
    tools = [{"type": "function", "function": {"name": "odd", "parameters": odd}}]
    asked = {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 300}
    reply = ask(client, **asked)
    [call] = reply.choices[0].message.tool_calls
    assert len(json.loads(call.function.arguments)["a"]) == 2  # what is supported beside it still holds
    assert 'not enforced while decoding: /a: "uniqueItems"; checked afterwards: ' in reply.notes[0]
    assert [chunk.notes for chunk in ask(client, stream=True, **asked) if hasattr(chunk, "notes")] == [reply.notes]
    assert not hasattr(ask(client, tools=OFFERED, tool_choice=NAMED, max_tokens=200), "notes")


def test_trap_t33_arguments_stream_in_several_pieces(client):
    named = {"type": "function", "function": {"name": TOOLS[0].name}}
    chunks = list(ask(client, stream=True, tools=OFFERED, tool_choice=named, max_tokens=200))
    parts = [part for chunk in chunks for choice in chunk.choices for part in choice.delta.tool_calls or []]
    assert len(parts) > 3
    assert sum(bool(part.id) for part in parts) == sum(bool(part.function.name) for part in parts) > 0


def test_the_stream_helper_of_the_client_reads_it(client):
    with client.chat.completions.stream(model="tiny", messages=HELLO, tools=OFFERED, tool_choice=NAMED,
                                        parallel_tool_calls=False, max_tokens=200) as stream:  # fmt: skip
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    assert final.choices[0].message.tool_calls[0].function.name == "set_sky"


def test_replies_can_have_a_schema(client):
    schema = {"type": "object", "properties": {"x": {"enum": ["a", "b"]}}, "required": ["x"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    made = ask(client, response_format=wanted, max_tokens=300)
    assert made.choices[0].finish_reason == "length" or json.loads(made.choices[0].message.content)["x"] in ("a", "b")


def test_seeds_and_limits(client):
    made = [whole(ask(client, temperature=1.5, seed=seed)) for seed in (1, 1, 2, -1)]
    assert made[0] == made[1] != made[2]
    assert ask(client, max_tokens=None, max_completion_tokens=3).usage.completion_tokens <= 3


def test_many_at_once_async(server):
    asyncio.run(many_at_once(server.api))


async def many_at_once(api: str) -> None:
    async with openai.AsyncOpenAI(base_url=api, api_key="none", max_retries=0) as client:

        async def one(i: int) -> str:
            chunks = await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": f"Number {i}"}], max_tokens=6, stream=i % 2 == 0
            )
            if i % 2:
                return chunks.choices[0].finish_reason
            return [chunk.choices[0].finish_reason async for chunk in chunks][-1]

        assert set(await asyncio.gather(*(one(i) for i in range(24)))) <= {"stop", "length"}


@pytest.mark.parametrize(
    ("more", "error", "param"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "model"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "tool", "tool_call_id": "x", "content": "1"}]}, openai.BadRequestError,
         "messages[0].tool_call_id"),
        ({"n": 2}, openai.BadRequestError, "n"),
        ({"logprobs": True}, openai.BadRequestError, "logprobs"),
        ({"tool_choice": "required"}, openai.BadRequestError, "tool_choice"),
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "strin"}}}]},
         openai.BadRequestError, "tools[0].function.parameters.type"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, openai.BadRequestError, "messages"),
        ({"tools": OFFERED, "response_format": {"type": "json_object"}}, openai.BadRequestError, None),
    ],
)  # fmt: skip
def test_errors_are_those_of_the_client(client, more, error, param):
    for stream in (False, True):
        with pytest.raises(error) as told:
            ask(client, stream=stream, **more)
        assert told.value.param == param
        assert "Traceback" not in told.value.message and len(told.value.message) > 20


def test_a_key_is_asked_for(caller):
    with serving(worker_of(caller), options=Options(Guards(api_key="s3cret"))) as found:
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=found.api, api_key="wrong", max_retries=0).models.list()
        assert ask(openai.OpenAI(base_url=found.api, api_key="s3cret"), max_tokens=2).usage.completion_tokens <= 2


def test_a_full_queue_is_429_and_the_client_tries_again(caller):
    with serving(worker_of(caller, queue=1, batch=1)) as found:
        slow = openai.OpenAI(base_url=found.api, api_key="none", max_retries=0)
        streams = [ask(slow, stream=True, **LONG)]
        next(streams[0])
        waiting = threading.Thread(target=lambda: ask(slow, max_tokens=2))
        waiting.start()
        wait_for(lambda: found.worker.counts().waiting == 1)
        with pytest.raises(openai.RateLimitError) as told:
            ask(slow)
        assert told.value.response.headers["retry-after"] == "1"
        threading.Timer(0.5, streams[0].close).start()
        assert ask(openai.OpenAI(base_url=found.api, api_key="none", max_retries=5), max_tokens=2)
        waiting.join()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_reply(caller, stream):
    with serving(worker_of(caller)) as found:
        client = openai.OpenAI(base_url=found.api, api_key="none", max_retries=0, timeout=1.0)
        if stream:
            chunks = ask(client, stream=True, **LONG)
            next(chunks)
            wait_for(lambda: found.worker.counts().running == 1)
            chunks.close()
        else:
            with pytest.raises(openai.APITimeoutError):
                ask(client, **LONG)
        wait_for(lambda: found.worker.counts().running == 0, 3)


def wait_for(condition: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
