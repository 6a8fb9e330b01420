"""Replies of every shape through the whole server, with OpenAI's client: traps T30 to T35 end to end."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from serving import serving
from tiny import TOOLS

from calltune.formats import get_format
from calltune.serve import answers
from calltune.serve.app import Options
from calltune.serve.work import Counts, Listener, Made, Stopped, Work

OFFERED = [tool.to_openai() for tool in TOOLS]
GOOD = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
NASTY = 'a "quoted" </tool_call> <think> { it\'s \\n \u2028 東京'


class Scripted:
    """A worker whose every reply is a text that a test gives, in pieces of three characters."""

    models = ("scripted",)

    def __init__(self) -> None:
        self.text, self.finish = "", "stop"
        self.error: Exception | None = None
        self.asked: Work | None = None
        self.opened = False

    def submit(self, work: Work, listener: Listener) -> Scripted:
        self.asked = work
        listener.prompt(5, self.opened)
        for i in range(0, len(self.text), 3):
            listener.piece(self.text[i : i + 3])
        if self.error:
            listener.failed(self.error)
        else:
            reply = get_format("hermes").parse(self.text)
            listener.done(Made(self.text, reply, self.finish, 5, len(self.text)))
        return self

    def cancel(self) -> None: ...

    def counts(self) -> Counts:
        return Counts(0, 0)

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def server():
    with serving(Scripted(), options=Options()) as found:
        yield found


@pytest.fixture
def ask(server):
    """Asks with and without streaming, checks that both say the same, and returns that."""
    client = openai.OpenAI(base_url=server.api, api_key="none", max_retries=0)

    def both(text: str, finish: str = "stop", **more: Any) -> tuple[Any, list[str], str]:
        server.worker.text, server.worker.finish, server.worker.error = text, finish, None
        request: dict[str, Any] = {"model": "scripted", "messages": [{"role": "user", "content": "x"}]} | more
        choice = client.chat.completions.create(**request).choices[0]
        message = choice.message
        calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or []]
        got: dict[str, Any] = {"content": "", "reasoning_content": "", "calls": []}
        for chunk in client.chat.completions.create(stream=True, **request):
            delta = chunk.choices[0].delta
            got["content"] += delta.content or ""
            got["reasoning_content"] += getattr(delta, "reasoning_content", None) or ""
            for part in delta.tool_calls or []:
                if part.id:
                    got["calls"].append((part.function.name, ""))
                name, arguments = got["calls"][part.index]
                got["calls"][part.index] = (name, arguments + part.function.arguments)
            end = chunk.choices[0].finish_reason
        plan = getattr(message, "reasoning_content", "")
        assert got == {"content": message.content or "", "reasoning_content": plan, "calls": calls}
        assert end == choice.finish_reason
        assert end != "tool_calls" or calls
        return message, calls, end

    return both


FREE = {"tools": OFFERED, "extra_body": {"constrained": False}}


@pytest.mark.parametrize("more", [{"tools": OFFERED}, FREE], ids=["bound", "free"])
def test_plan_words_and_call(ask, more):
    message, calls, end = ask(f"<think>\nThe weather.\n</think>\nLet me look.\n{GOOD}", **more)
    assert (message.reasoning_content, message.content) == ("The weather.", "Let me look.")
    assert [(name, json.loads(arguments)) for name, arguments in calls] == [("get_weather", {"city": "Paris"})]
    assert end == "tool_calls"


@pytest.mark.parametrize("more", [{"tools": OFFERED}, FREE, {}], ids=["bound", "free", "no tools"])
def test_stop_texts_count_in_the_content_alone(ask, more):
    text = (
        f"<think>\nThe weather in Paris.\n</think>\nLet me look.\n{GOOD}" if more else "<think>\nParis\n</think>\nLet"
    )
    message, calls, end = ask(text, stop=["Paris", "\n"], **more)
    assert "Paris" in message.reasoning_content
    assert [json.loads(arguments) for _, arguments in calls] == [{"city": "Paris"}] * bool(more)
    assert end == ("tool_calls" if more else "stop")
    message, calls, end = ask(text.replace("Let", "It is Paris. Let"), stop=["Paris"], **more)
    assert (message.content, calls, end) == ("It is", [], "stop")
    assert ask(text.replace("Let", "It is Paris. Let"), "length", stop=["Paris"], **more)[2] == "stop"


UNREADABLE = ['{"name": "get_weather", "arguments": {"city": }}', "{'name': 'get_time' 5}", "5", "[]",
              '{"arguments": {}}', '{"name": "get_weather"']  # fmt: skip


@pytest.mark.parametrize("raw", UNREADABLE)
def test_trap_t30_t31_a_call_that_cannot_be_read_is_content(ask, raw):
    message, calls, end = ask(f"<tool_call>\n{raw}\n</tool_call>", **FREE)
    assert (calls, end) == ([], "stop")
    assert raw in message.content


def test_trap_t30_python_quotes_and_two_calls_in_one_span(ask):
    two = """<tool_call>{'name': 'get_weather', 'arguments': {'city': "it's"}}\n{"name": "get_time"}</tool_call>"""
    _, calls, end = ask(two, **FREE)
    assert [(name, json.loads(arguments)) for name, arguments in calls] == [
        ("get_weather", {"city": "it's"}), ("get_time", {})]  # fmt: skip
    assert end == "tool_calls"


def test_trap_t32_a_call_of_a_tool_that_is_not_offered_is_content(ask):
    other = GOOD.replace("get_weather", "delete_all")
    message, calls, end = ask(other, **FREE)
    assert (calls, end) == ([], "stop") and "delete_all" in message.content
    for more in ({}, {"tools": OFFERED, "tool_choice": "none"}):
        message, calls, end = ask(GOOD, **more)
        assert (message.content, calls, end) == (GOOD, [], "stop")


def test_trap_t32_the_choice_reaches_the_model(ask, server):
    for choice, wanted in (("required", "required"), ("none", "none"), ("auto", "auto"),
                           ({"type": "function", "function": {"name": "get_time"}}, "get_time")):  # fmt: skip
        ask("Hello", tools=OFFERED, tool_choice=choice, parallel_tool_calls=False)
        rules = server.worker.asked.rules
        assert (rules.choice, rules.parallel) == (wanted, False)
    ask("{}", response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}})
    assert server.worker.asked.schema == {"type": "object"}


@pytest.mark.parametrize("more", [{"tools": OFFERED}, FREE], ids=["bound", "free"])
def test_trap_t35_marks_in_arguments(ask, more):
    written = json.dumps({"name": "get_weather", "arguments": {"city": NASTY}}, ensure_ascii=False)
    _, calls, end = ask(f"<tool_call>\n{written}\n</tool_call>", **more)
    assert [json.loads(arguments) for _, arguments in calls] == [{"city": NASTY}]
    assert end == "tool_calls"


def test_a_good_call_beside_an_unreadable_one(ask):
    message, calls, end = ask(f'{GOOD}\n<tool_call>\n{{"name": 5}}\n</tool_call>', **FREE)
    assert len(calls) == 1 and end == "tool_calls"
    assert message.content == '{"name": 5}'


def test_what_was_cut_ends_with_length(ask):
    assert ask(GOOD[:60], "length", tools=OFFERED)[2] == "length"
    assert ask(GOOD, "length", tools=OFFERED)[2] == "length"
    message, calls, end = ask(GOOD[:60], "length", **FREE)
    assert (calls, end) == ([], "length") and "get_weather" in message.content


def test_a_failure_in_the_middle_of_a_stream_is_an_error_of_the_client(server):
    client = openai.OpenAI(base_url=server.api, api_key="none", max_retries=0)
    request: Any = {"model": "scripted", "messages": [{"role": "user", "content": "x"}]}
    for error, code in ((Stopped(), "stopping"), (RuntimeError("secret"), "internal_error")):
        server.worker.text, server.worker.error = "Hello", error
        with pytest.raises(openai.APIError) as told:
            list(client.chat.completions.create(stream=True, **request))
        assert told.value.code == code and "secret" not in str(told.value)
        with pytest.raises(openai.InternalServerError) as told:
            client.chat.completions.create(**request)
        assert told.value.code == code and "secret" not in str(told.value)


def test_ids_are_unique(server):
    server.worker.text, server.worker.error = f"{GOOD}\n{GOOD}", None
    body = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "tools": OFFERED}
    ids = []
    for _ in range(3):
        answer = httpx.post(f"{server.api}/chat/completions", json=body).json()
        ids += [answer["id"], *(call["id"] for call in answer["choices"][0]["message"]["tool_calls"])]
    assert len(set(ids)) == 9


def test_json_of_a_schema_is_content_where_the_template_opens_a_plan():
    with serving(Scripted(), options=Options()) as found:
        found.worker.text, found.worker.opened = '{"a": 1}', True
        client = openai.OpenAI(base_url=found.api, api_key="none", max_retries=0)
        asked: dict[str, Any] = {"model": "scripted", "messages": [{"role": "user", "content": "x"}]}
        message = client.chat.completions.create(response_format={"type": "json_object"}, **asked).choices[0].message
        assert message.content == '{"a": 1}' and not hasattr(message, "reasoning_content")


def test_a_plan_that_the_template_opened_is_one_also_after_a_wait_in_the_queue(server, ask, monkeypatch):
    plain = answers.events

    async def late(*given: Any) -> Any:
        yield None  # what comes where nothing has happened for a while
        async for event in plain(*given):
            yield event

    monkeypatch.setattr(answers, "events", late)
    monkeypatch.setattr(server.worker, "opened", True)
    message, _, end = ask("The user asks.\n</think>\nHello")
    assert (message.reasoning_content, message.content, end) == ("The user asks.", "Hello", "stop")
