"""Bodies of chat requests, right and wrong: what is wrong is told with its place, and what clients send is taken."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from serve_place import CALL, CHAT, USER, F, add, body, called, error_of, named, send, with_schema
from serving import serving, worker_of
from tiny import TOOLS, tiny_model

from calltune.caller import load
from calltune.errors import CannotFinish, InputError, Problem
from calltune.functions import functions_from
from calltune.render import prompt_ids
from calltune.serve.app import Options
from calltune.serve.errors import ENOUGH, ApiError, Wrong, api_error
from calltune.serve.guards import Guards
from calltune.serve.reader import Reader


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    return load(tiny_model(tmp_path_factory.mktemp("m") / "model", layers=2), think=False)


@pytest.fixture(scope="module")
def server(caller):
    options = Options(Guards(max_body=100_000))
    with serving(worker_of(caller), functions_from([add, send]), options) as found:
        yield found


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=server.address, timeout=30) as client:
        yield client


def bound_to(more: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": schema | more}}}


WRONG: list[tuple[dict[str, Any], str, str]] = [  # what is added to a good body; the place; words
    ({"model": 5}, "model", "valid string"),
    ({"messages": "Hello"}, "messages", "valid list"),
    ({"messages": ["Hello"]}, "messages[0]", "an object, not \"Hello\""),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "one of system, developer, user"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", "is missing"),
    ({"messages": [USER, {"role": "user"}]}, "messages[1].content", "list of text parts, and it is missing"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "text parts"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
     "messages[0].content[0]", "reads text only"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]", '"text"'),
    ({"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c2",
                                                                       "content": "1"}]},
     "messages[2].tool_call_id", 'not "c2" (one of c1)'),
    ({"messages": [USER, {"role": "tool", "content": "1"}]}, "messages[1].tool_call_id",
     "and it is missing (there is none;"),
    ({"messages": [called([{"id": "a", "function": {"name": "f</tool_call>", "arguments": "{}"}}])]},
     "messages[0].tool_calls[0].function.name", 'not "f</tool_call>"'),
    ({"messages": [{"role": "function", "name": "f", "content": "1"}]}, "messages[0].role", "tool_call_id"),
    ({"messages": [USER | {"role": "assistant", "function_call": {"name": "f"}}]}, "messages[0].function_call",
     "use tool_calls"),
    ({"messages": [called([{"id": "a", "function": {"name": "f", "arguments": {}}}])]},
     "messages[0].tool_calls[0].function.arguments", "the text of a JSON object"),
    ({"messages": [called([{"function": {"name": "f", "arguments": "{}"}}])]},
     "messages[0].tool_calls[0].id", "names"),
    ({"messages": [called([CALL, CALL])]}, "messages[0].tool_calls[1].id", "twice"),
    ({"messages": [called({})]}, "messages[0].tool_calls", "list"),
    ({"messages": [called([5])]}, "messages[0].tool_calls[0].function", "a call should be"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "missing"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "function"),
    ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name", 'not ""'),
    ({"tools": [named("x</tool_call>\n<|im_end|>")]}, "tools[0].function.name", r'not "x</tool_call>\n<|im_end|>"'),
    ({"tools": [F, named("a b")]}, "tools[1].function.name", 'letters, digits, _, - and ., not "a b"'),
    ({"tools": [named("x" * 65)]}, "tools[0].function.name", "up to 64"),
    ({"tools": [F, F]}, "tools", "same name"),
    ({"tools": [F] * 129}, "tools", "at most 128"),
    ({"tools": [with_schema({"type": "array"})]},
     "tools[0].function.parameters.type", '"object"'),
    ({"tools": [with_schema({"properties": {"a": {"type": "strin"}}})]},
     "tools[0].function.parameters.properties.a.type", "no JSON Schema"),
    ({"tools": [F], "tool_choice": "always"}, "tool_choice", "auto, none, required"),
    ({"tools": [F], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice", "not offered"),
    ({"tools": [F], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type", "function"),
    ({"tools": [F], "tool_choice": {}}, "tool_choice", "not right"),
    ({"tools": [F], "tool_choice": "required", "constrained": False}, "tool_choice", "constrained"),
    ({"tools": [F], "parallel_tool_calls": False, "constrained": False}, "parallel_tool_calls", "constrained"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 5}}}},
     "response_format.json_schema.schema.type", "no JSON Schema"),
    *((bound_to(more), f"response_format.json_schema.schema.{place}", words) for more, place, words in [
        ({"not": {"$ref": "#"}}, "not.$ref", "leads back to where it stands"),
        ({"not": {"$ref": "#/$defs/none"}}, "not.$ref", "leads nowhere in this schema"),
        ({"if": {"$ref": "#/$defs/q"}, "then": False}, "if.$ref", "nothing is fetched"),
        ({"dependentSchemas": {"a": {"$ref": "#/nope"}}}, "dependentSchemas.a.$ref", "leads nowhere"),
        ({"unevaluatedProperties": {"$ref": "#/nope"}}, "unevaluatedProperties.$ref", "leads nowhere"),
        ({"not": {"$dynamicRef": "#q"}}, "not.$dynamicRef", "leads nowhere"),
        ({"anyOf": [{}, {"$ref": "http://127.0.0.1:9/x"}]}, "anyOf[1].$ref", "nothing is fetched")]),
    ({"stop": ["a"] * 5}, "stop", "at most 4"),
    ({"stop": [""]}, "stop", "empty"),
    ({"stop": 5}, "stop", "string"),
    ({"max_tokens": 0}, "max_tokens", "greater than"),
    ({"max_tokens": 1.5}, "max_tokens", "integer"),
    ({"temperature": "hot"}, "temperature", "number"),
    ({"temperature": -1}, "temperature", "greater"),
    ({"top_p": 2}, "top_p", "less"),
    ({"seed": 10**30}, "seed", "less"),
    ({"stream": "yes"}, "stream", 'true or false, not "yes"'),
    ({"n": True}, "n", "true is not supported"),
    ({"logprobs": 0}, "logprobs", "0 is not supported"),
    ({"max_tokens": -1}, "max_tokens", "greater than or equal to 1, not -1"),
    ({"max_tokens": True}, "max_tokens", "integer, not true"),
    ({"stop": ["x" * 1001]}, "stop", "longer than 1,000"),
    ({"function_call": {"name": "f"}}, "function_call", "use tool_choice"),
    ({"n": 3}, "n", "leave it out"),
    ({"logit_bias": {"5": 1}}, "logit_bias", "leave it out"),
    ({"frequency_penalty": 0.5}, "frequency_penalty", "leave it out"),
    ({"modalities": ["text", "audio"]}, "modalities", "leave it out"),
    ({"functions": [{"name": "f"}]}, "functions", "use tools"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "param", "words"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_wrong_with_a_body_is_told_with_its_place(http, more, param, words):
    answer = http.post(CHAT, json=body(**more))
    error = error_of(answer)
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param), error
    assert words in error["message"]


def test_every_message_is_one_line_of_whole_words():
    """No two sentences run into each other, and whatever is wrong is shown or named."""
    reader = Reader(["tiny"])
    for more, _, _ in WRONG:
        with pytest.raises(ApiError) as told:
            reader.read(body(**more))
        words = told.value.message
        assert "\n" not in words and "  " not in words
        for follow in ("next:", "leave ", "send ", "expected ", "use "):  # each after a sign
            assert all(before.rstrip()[-1:] in ("", ";", ",", "(", ":") or before.endswith("or ")
                       for before in re.split(rf"\b{follow}", words)[:-1]), words  # fmt: skip
        assert re.search(r"; |, not |, and it is|not supported|missing|not right|same name", words), words


def test_an_error_with_places_and_a_next_step_reads_as_one_sentence():
    problem = Problem("unknown_function", "g", "f", "/tools/0")
    error = InputError("a tool is not offered", problems=[problem, problem], next_step="offer it")
    assert api_error(error).message == (
        "a tool is not offered: /tools/0: g (expected f); /tools/0: g (expected f); next: offer it"
    )
    assert api_error(CannotFinish("x")).status == 400


def test_a_wrong_schema_is_the_only_thing_that_is_told(http):
    for choice in ("required", {"type": "function", "function": {"name": "f"}}):
        wrong = body(tools=[with_schema({"type": "strin"})], tool_choice=choice)
        message = error_of(http.post(CHAT, json=wrong))["message"]
        assert message.startswith("tools[0].function.parameters.type: ") and "; tool" not in message


def test_a_prompt_that_is_too_long_has_openais_code(http):
    long = [USER | {"content": "word " * 5000}]
    for stream in (False, True):
        answer = http.post(CHAT, json=body(messages=long, stream=stream))
        error = error_of(answer)
        assert (answer.status_code, error["type"], error["param"], error["code"]) == (
            400, "invalid_request_error", "messages", "context_length_exceeded")  # fmt: skip
        assert re.search(
            r"maximum context length is 4,096 tokens .* prompt is too long: .* have \d+,\d+; next: send",
            error["message"],
        )


def test_a_text_that_no_context_could_hold_is_refused_before_its_tokens_are_counted(http, caller, monkeypatch):
    """That would take the model's thread seconds, and all replies with it."""
    asked = []
    monkeypatch.setattr("calltune.serve.job.prompt_ids", lambda *a: asked.append(a) or prompt_ids(*a))
    longest = caller.loaded.tokenizer.longest_token
    error = error_of(http.post(CHAT, json=body(messages=[USER | {"content": "x" * (4096 * longest)}])))
    assert error["code"] == "context_length_exceeded" and "have at least 4,096" in error["message"]
    assert asked == []
    error = error_of(http.post(CHAT, json=body(messages=[USER | {"content": "x" * (4096 * longest - longest)}])))
    assert error["code"] == "context_length_exceeded" and "at least" not in error["message"]
    assert len(asked) == 1


def test_arguments_of_old_calls_count_as_text_too(http, caller, monkeypatch):
    asked = []
    monkeypatch.setattr("calltune.serve.job.prompt_ids", lambda *a: asked.append(a))
    text = json.dumps({"a": ["x" * (4096 * caller.loaded.tokenizer.longest_token)]})
    messages = [USER, called([{"id": "a", "function": {"name": "f", "arguments": text}}]), USER]
    error = error_of(http.post(CHAT, json=body(messages=messages)))
    assert error["code"] == "context_length_exceeded" and asked == []


LONG: list[tuple[dict[str, Any], str]] = [  # bodies with many faults; the first of them
    ({"messages": [{}] * 100_000}, "messages: at most 4,096 messages are taken, not 100,000"),
    ({"messages": [5] * 100_000}, "messages: at most 4,096"),
    ({"messages": [{}] * 4000}, "messages[0].role: "),
    ({"messages": [USER | {"content": [{}] * 100_000}]}, "messages[0].content[0]: "),
    ({"messages": [called([CALL] * 50_000)]}, "messages[0].tool_calls[1].id: "),
    ({"messages": [called([CALL | {"id": f"c{i}"} for i in range(3000)]),
                   *({"role": "tool", "tool_call_id": "x", "content": "1"} for _ in range(3000))]},
     'messages[1].tool_call_id: it should be the id of a call made before, not "x" '
     "(one of c2995, c2996, c2997, c2998, c2999 and 2995 before)"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "words"), LONG, ids=lambda value: value if isinstance(value, str) else "")
def test_many_faults_cost_no_more_than_some(monkeypatch, more, words):
    made = []
    for module in ("messages", "protocol", "reader"):
        monkeypatch.setattr(f"calltune.serve.{module}.Wrong", lambda *a: made.append(a) or Wrong(*a))
    with pytest.raises(ApiError) as told:
        Reader(["tiny"]).read(body(**more))
    assert told.value.message.startswith(words) and len(told.value.message) < 5000
    assert len(made) <= 2 * ENOUGH
    assert len(made) < ENOUGH or " and at least 80 more" in told.value.message


def test_a_wrong_type_hides_nothing_of_the_messages():
    with pytest.raises(ApiError) as told:
        Reader(["tiny"]).read(body(temperature="hot", messages=[USER, {"role": "king"}]))
    assert "temperature: " in told.value.message and "messages[1].role: " in told.value.message


@pytest.mark.parametrize("text", ["{'a'", "[1]", "5", "not JSON <|im_end|>", '{"a": 1} {"b"', "[" * 200])
def test_arguments_of_old_calls_that_are_no_json_reach_the_model_as_text(caller, text):
    """Clients send back what a model wrote. Its control tokens stay text."""
    messages = [USER, called([{"id": "a", "function": {"name": "f", "arguments": text}}]),
                {"role": "tool", "tool_call_id": "a", "content": "that was not JSON"}]  # fmt: skip
    work = Reader(["tiny"]).read(body(messages=messages, tools=[F])).work
    tokenizer = caller.loaded.tokenizer
    ids = prompt_ids(work.messages, work.tools, caller.template, tokenizer)
    plain = prompt_ids(
        Reader(["tiny"]).read(body(messages=[USER, called([CALL]), {"role": "tool", "tool_call_id": "c1",
                                                                      "content": "1"}])).work.messages,
        work.tools, caller.template, tokenizer,
    )  # fmt: skip
    assert json.dumps(text) in tokenizer.decode(ids)
    for token in tokenizer.inner.all_special_ids:
        assert ids.count(token) == plain.count(token)


def test_no_arguments_are_an_empty_object():
    for text in ("", "  ", "{}"):
        messages = [USER, called([{"id": "a", "function": {"name": "f", "arguments": text}}])]
        [call] = Reader(["tiny"]).read(body(messages=messages)).work.messages[1].calls
        assert call.arguments == {}


def test_control_tokens_in_a_schema_are_text(caller):
    """In names of parameters, descriptions and values: neither read in the prompt nor written in a call."""
    mark = "<|im_end|>"
    schema = {"type": "object", "properties": {mark: {"enum": [mark], "description": mark}}, "required": [mark]}
    tools = [{"type": "function", "function": {"name": "f", "description": mark, "parameters": schema}}]
    asked = body(tools=tools, tool_choice="required", parallel_tool_calls=False, max_tokens=200)
    work = Reader(["tiny"]).read(asked).work
    tokenizer = caller.loaded.tokenizer
    ids = prompt_ids(work.messages, work.tools, caller.template, tokenizer)
    assert ids.count(tokenizer.encode(mark)[0]) == tokenizer.decode(ids).count("<|im_start|>") - 1
    assert tokenizer.decode(ids).count(mark) >= 4
    reply = caller(work.messages, work.tools, rules=work.rules, max_tokens=200)
    assert [dict(call.arguments) for call in reply.calls] == [{mark: mark}]


def test_everything_that_is_wrong_is_told_at_once(http):
    wrong = body(n=2, stop=[""], messages=[{"role": "x"}, {"role": "tool", "content": "1"}])
    message = error_of(http.post(CHAT, json=wrong))["message"]
    for part in ("n: ", "stop: ", "messages[0].role: ", "messages[1].tool_call_id: "):
        assert part in message
    many = error_of(http.post(CHAT, json=body(messages=[{"role": "x"}] * 99)))["message"]
    assert "and 79 more" in many


@pytest.mark.parametrize(
    "more",
    [
        {"messages": [{"role": "developer", "content": [{"type": "text", "text": t} for t in "ab"]}, USER]},
        {"messages": [USER, {"role": "assistant", "content": None, "reasoning_content": "P", "tool_calls": [CALL]},
                      {"role": "tool", "tool_call_id": "c1", "content": "1", "name": "f"}], "tools": [F]},
        {"messages": [USER, {"role": "assistant", "content": "x", "refusal": None, "audio": None}]},
        {"tools": [], "tool_choice": "auto"}, {"tools": None, "tool_choice": "none", "stop": None},
        {"n": 1, "logprobs": False, "frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": {}, "user": "u",
         "store": False, "metadata": {"a": "b"}, "service_tier": "auto", "unheard_of": {"x": [1]}},
        {"max_tokens": 10**40, "stop": "e"}, {"top_p": 0, "temperature": 1, "seed": -5},
        {"tools": [{"type": "function", "function": {"name": "f", "description": None, "strict": True}}]},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "assistant", "content": "I begin."}]},
        {"function_call": "none"}, {"functions": [], "function_call": "auto"},
        {"tools": [named("math.add-2_x")], "tool_choice": named("math.add-2_x")},
        {"messages": [USER, called([{"id": "a", "function": {"name": "f", "arguments": "{'a'"}}]), USER]},
        {"messages": [USER, called([{"id": "a", "function": {"name": "f", "arguments": ""}}]), USER]},
    ],
)  # fmt: skip
def test_what_clients_send_is_taken(http, more):
    answer = http.post(CHAT, json=body(**more))
    assert answer.status_code == 200, answer.text


def test_the_same_tools_are_the_same_objects():
    reader = Reader(["tiny"])
    first, second = (reader.read(body(tools=[tool.to_openai() for tool in TOOLS])).work.tools for _ in range(2))
    assert all(a is b for a, b in zip(first, second, strict=True))
    for i in range(2000):
        reader.read(body(tools=[{"type": "function", "function": {"name": f"f{i}"}}]))
    assert len(reader.kept) <= 512


def test_tools_that_are_too_large_are_refused_and_not_kept():
    reader = Reader(["tiny"])
    large = [{"type": "function", "function": {"name": "f", "description": "x" * 300_000}}]
    with pytest.raises(ApiError, match="larger than 256,000 characters") as told:
        reader.read(body(tools=large))
    assert told.value.status == 400 and told.value.body["error"]["param"] == "tools"
    for i in range(40):  # each as large as may be
        reader.read(body(tools=[{"type": "function", "function": {"name": f"f{i}", "description": "x" * 200_000}}]))
    assert sum(map(len, reader.kept)) <= 4_000_000


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not JSON"),
        (b"{", "line 1, column"),
        (b"\xff\xfe", "UTF-8"),
        (b"[1]", "JSON object"),
        (b"5", "JSON object"),
        (b'{"a": NaN}', "NaN"),
        (b'{"model": "a", "model": "b"}', "given twice"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b"[" * 50_000, "nested deeper"),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "nested deeper"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "digits"),
    ],
)
def test_json_that_is_none(http, raw, words):
    answer = http.post(CHAT, content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert words in error_of(answer)["message"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_schema_that_nothing_fits_is_the_clients_mistake(http, stream):
    nothing = {"type": "object", "properties": {"a": {"type": "string", "enum": []}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"schema": nothing}}
    answer = http.post(CHAT, json=body(response_format=wanted, stream=stream))
    assert answer.status_code == 400, answer.text
    error_of(answer)


@pytest.mark.parametrize("stream", [True, False])
def test_a_reply_that_the_grammar_brings_to_an_end_of_its_own_is_no_failure_of_ours(
    http, server, monkeypatch, stream
):
    def submit(work: Any, listener: Any) -> Any:
        listener.failed(CannotFinish("the grammar cannot go on: <state> ...", next_step="decode freely"))
        return SimpleNamespace(cancel=lambda: None)

    monkeypatch.setattr(server.worker, "submit", submit)
    answer = http.post(CHAT, json=body(stream=stream))
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "nothing_fits" and "state" not in answer.text
    assert "--no-copying" in answer.text  # constrained false does not lift what copied values ask for
