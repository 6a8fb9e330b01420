"""The agent's loop with replies that are given, and with a real tiny model bound by the grammar."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from tiny import tiny_model

import calltune
from calltune import Agent, tool
from calltune.consent import NOT_ALLOWED
from calltune.data.check import check_rows
from calltune.data.sources import sources_of
from calltune.errors import InputError, TooLong
from calltune.formats.hermes import parse
from calltune.functions import Function
from calltune.grammar import Rules
from calltune.schema import Message, Reply, Tool, ToolCall

sent: list[str] = []


@tool(pure=True)
def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a + b


@tool(pure=True)
def divide(a: int, b: int) -> float:
    """Divide two numbers."""
    return a / b


@tool
def send(to: str, text: str = "hello") -> str:
    """Send a message."""
    sent.append(to)
    return f"sent to {to}"


async def later(a: int) -> int:
    """Wait a little."""
    await asyncio.sleep(0)
    return a


TOOLS = [add, divide, send, later]


class Script:
    """A caller that gives the replies of a list, the last one for ever, and remembers what it was asked."""

    def __init__(self, *replies: Reply | str) -> None:
        self.replies = list(replies)
        self.asked: list[tuple[tuple[Message, ...], Rules | None]] = []

    def __call__(self, messages: Sequence[Message], tools: Any, *, rules: Any, **_: Any) -> Reply:
        self.asked.append((tuple(messages), rules))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return parse(reply) if isinstance(reply, str) else reply


def calls(*named: tuple[str, dict[str, Any]], thinking: str | None = "I call it.") -> Reply:
    return Reply(thinking, tuple(ToolCall(name, arguments) for name, arguments in named), raw="...")


def run_both(script: tuple[Reply | str, ...], request: str = "What is 2 + 3?", **settings: Any):
    """The result of `run`, after `arun` has been seen to give the same."""
    first = Agent(Script(*script), TOOLS, **settings).run(request)
    second = asyncio.run(Agent(Script(*script), TOOLS, **settings).arun(request))
    assert (first.ended, first.answer, first.reason, first.messages) == (
        second.ended, second.answer, second.reason, second.messages)  # fmt: skip
    return first


def contents(result) -> list[Any]:
    return [json.loads(m.content) for m in result.messages if m.role == "tool"]


ADD = calls(("add", {"a": 2, "b": 3}))
DONE = Reply("I tell it.", content="It is 5.", raw="It is 5.")


def test_a_call_is_run_and_its_result_answered():
    result = run_both((ADD, DONE))
    assert (result.answer, result.ended, result.reason) == ("It is 5.", "answer", "")
    assert [m.role for m in result.messages] == ["user", "assistant", "tool", "assistant"]
    assert result.messages[2] == Message("tool", "5", name="add", call_id="call_0")
    assert result.messages[1].thinking == "I call it."
    assert [(call.name, outcome.content) for call, outcome in result.calls] == [("add", "5")]


def test_several_calls_and_rounds_have_ids_of_their_own():
    pair = calls(("add", {"a": 1, "b": 1}), ("add", {"a": 2, "b": 2}))
    result = run_both((pair, calls(("later", {"a": 7})), DONE), confirm=True)
    assert contents(result) == [2, 4, 7]
    ids = [call.id for m in result.messages for call in m.calls]
    assert ids == [m.call_id for m in result.messages if m.role == "tool"] == ["call_0", "call_1", "call_2"]


def test_going_on_from_an_earlier_result():
    first = Agent(Script(ADD, DONE), TOOLS, system="Be brief.").run("What is 2 + 3?")
    script = Script(calls(("add", {"a": 5, "b": 1})), DONE)
    second = Agent(script, TOOLS, system="Be brief.").run("And one more?", history=first.messages)
    assert [m.role for m in second.messages] == ["system", *["user", "assistant", "tool", "assistant"] * 2]
    assert [call.id for m in second.messages for call in m.calls] == ["call_0", "call_1"]
    assert script.asked[0][0][:5] == first.messages


def test_only_registered_functions_and_valid_arguments():
    result = run_both((calls(("__import__", {"name": "os"}), ("add", {"a": "2", "b": 3})), DONE))
    told = [content["error"] for content in contents(result)]
    assert "unknown_function" in told[0] and "add, divide, send, later" in told[0]
    assert "wrong_type" in told[1]
    assert result.answer == "It is 5."


def test_an_exception_is_a_tool_message():
    result = run_both((calls(("divide", {"a": 1, "b": 0})), DONE))
    assert contents(result) == [{"error": "ZeroDivisionError: division by zero"}]
    assert result.conversation.meta["agent"] == {"ended": "answer", "replies": 2, "failed_calls": 1,
                                                 "unreadable_replies": 0}  # fmt: skip


def test_a_broken_call_is_fed_back():
    broken = '<tool_call>\n{"name": "add", "arguments": {"a": 2\n</tool_call>'
    result = run_both((broken, ADD, DONE))
    assert [m.role for m in result.messages] == ["user", "assistant", "user", "assistant", "tool", "assistant"]
    assert result.messages[1].content == broken
    assert "could not be read" in result.messages[2].content
    assert result.answer == "It is 5."
    assert result.conversation.meta["agent"]["unreadable_replies"] == 1


def test_nothing_is_run_of_a_reply_that_is_read_in_part():
    del sent[:]
    whole = '{"name": "send", "arguments": {"to": "Ann"}}'
    text = f'<tool_call>\n{whole}\n</tool_call>\n<tool_call>\n{{"name":\n</tool_call>'
    result = run_both((text, DONE), confirm=True)
    assert sent == [] and result.calls == []


def test_a_call_that_was_cut_says_so():
    reply = Reply(calls=(ToolCall("", raw='{"na', error="not whole"),), raw='<tool_call>\n{"na', truncated=True)
    result = run_both((reply, DONE), max_tokens=5)
    assert "cut at the limit of 5 tokens" in result.messages[2].content


def test_an_answer_that_was_cut_says_so():
    result = run_both((Reply(content="It is", raw="It is", truncated=True),), max_tokens=2)
    assert (result.answer, result.ended, len(result.steps)) == ("It is", "cut", 1)
    assert result.reason.startswith("the answer was cut at the limit of 2 tokens")
    assert result.conversation.meta["agent"]["unreadable_replies"] == 0


@pytest.mark.parametrize(
    ("script", "ended", "words", "replies"),
    [
        ((calls(("divide", {"a": 1, "b": 0})),), "repeated", "divide failed in the same way 2 times", 2),
        ((calls(("nothing", {})),), "repeated", "unknown_function", 2),
        ((ADD,), "repeated", "add gave the same result 3 times", 3),
        (('<tool_call>\n{"name"\n</tool_call>',), "repeated", "could not be read again", 2),
        ((Reply(),), "empty", "neither called a function nor answered", 1),
        (tuple(calls(("add", {"a": i, "b": 1})) for i in range(9)), "max_steps", "no answer after 4 replies", 4),
    ],
)
def test_what_ends_without_an_answer(script, ended, words, replies):
    result = run_both(script, max_steps=4)
    assert (result.answer, result.ended) == ("", ended)
    assert words in result.reason
    assert len(result.steps) == replies


def test_pure_functions_run_and_others_ask():
    del sent[:]
    asked: list[tuple[ToolCall, Function]] = []

    def hook(call: ToolCall, function: Function) -> bool:
        asked.append((call, function))
        return call.arguments["to"] != "Bob"

    script = (ADD, calls(("send", {"to": "Ann"}), ("send", {"to": "Bob"})), DONE)
    result = Agent(Script(*script), TOOLS, confirm=hook).run("Send it")
    assert [call.arguments["to"] for call, _ in asked] == ["Ann", "Bob"]
    assert not asked[0][1].pure and asked[0][1].name == "send"
    assert sent == ["Ann"]
    assert contents(result)[1:] == ["sent to Ann", {"error": "the user refused this call; it was not done"}]
    assert [outcome.kind for _, outcome in result.calls] == ["ok", "ok", "refused"]
    assert result.refused == [result.calls[2][0]]


@pytest.mark.parametrize(("answer", "told"), [("Only on Mondays.", "not done: Only on Mondays."),
                                              (None, NOT_ALLOWED), (1, NOT_ALLOWED),
                                              (False, NOT_ALLOWED)])  # fmt: skip
def test_only_true_is_a_yes(answer, told):
    del sent[:]
    result = run_both((calls(("send", {"to": "Ann"})), DONE), confirm=lambda call, function: answer)
    assert sent == [] and told == contents(result)[0]["error"]
    assert [dict(call.arguments) for call in result.refused] == [{"to": "Ann"}]
    assert result.conversation.meta["agent"]["refused_calls"] == 1


def test_without_a_hook_and_a_terminal_nothing_is_allowed(monkeypatch):
    import io
    import sys

    del sent[:]
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    result = run_both((calls(("send", {"to": "Ann"})), DONE))
    assert sent == [] and "nobody to ask" in contents(result)[0]["error"]


def test_a_call_that_is_not_valid_is_not_asked_for():
    def hook(call: ToolCall, function: Function) -> bool:
        raise AssertionError("asked")

    result = run_both((calls(("send", {"whom": "Ann"}), ("exec", {})), DONE), confirm=hook)
    assert all("error" in content for content in contents(result))


def test_an_async_hook():
    async def hook(call: ToolCall, function: Function) -> bool:
        return True

    script = (calls(("send", {"to": "Cid"})), DONE)
    assert contents(asyncio.run(Agent(Script(*script), TOOLS, confirm=hook).arun("x"))) == ["sent to Cid"]
    with pytest.raises(InputError, match="arun"):
        Agent(Script(*script), TOOLS, confirm=hook).run("x")


def test_time_and_output_limits():
    @tool(pure=True)
    def slow() -> str:
        import time

        time.sleep(1)
        return ""

    @tool(pure=True)
    def much() -> str:
        return "x" * 500

    script = Script(calls(("slow", {}), ("much", {})), DONE)
    result = Agent(script, [slow, much], timeout=0.05, max_output=50).run("x")
    assert [outcome.kind for _, outcome in result.calls] == ["timeout", "ok"]
    assert result.calls[1][1].cut == 450
    assert "450 of 500 characters were cut" in contents(result)[1]["cut"]


def test_a_required_call_is_required_once():
    script = Script(ADD, DONE)
    Agent(script, TOOLS, rules=Rules("required")).run("x")
    assert [rules for _, rules in script.asked] == [Rules("required"), Rules("auto")]
    script = Script(DONE)
    Agent(script, TOOLS).run("x")
    assert script.asked[0][1] == Rules()  # bound by default
    Agent(script, TOOLS, rules=None).run("x")
    assert script.asked[1][1] is None


def test_what_happens_is_told_while_it_happens():
    told: list[Any] = []
    watch = {"on_reply": told.append, "on_outcome": lambda call, outcome: told.append((call.id, outcome.content))}
    Agent(Script(ADD, DONE), TOOLS, **watch).run("x")
    assert [type(item) for item in told] == [Reply, tuple, Reply]
    assert told[1] == ("call_0", "5")


def test_mistakes_of_the_programmer():
    cases: list[tuple[Any, Any, dict[str, Any], str]] = [
        (Script(DONE), None, {}, "no tools to offer"),
        (Script(DONE), [Tool("f")], {}, "not their code"),
        (Script(DONE), [add, add], {}, "duplicate_tool"),
        (7, TOOLS, {}, "cannot work with 7"),
        (Script(DONE), TOOLS, {"max_steps": 0, "timeout": -1}, "max_steps is 0; timeout is -1"),
        ("runs/nowhere", [add], {}, "no run or model"),
    ]
    for run, tools, settings, words in cases:
        with pytest.raises(InputError, match=words):
            Agent(run, tools, **settings)
    with pytest.raises(InputError, match="empty"):
        Agent(Script(DONE), TOOLS).run("  ")


# ---- the trace as training rows ----------------------------------------------------------------------------------


def test_a_trace_is_a_training_row(tmp_path):
    path = tmp_path / "traces.jsonl"
    script = (calls(("add", {"a": 2, "b": 3}), ("add", {"a": 3, "b": 2})), DONE)
    for request in ("What is 2 + 3, and 3 + 2?", "Add 2 and 3, and 3 and 2."):
        result = Agent(Script(*script), TOOLS, system="Be brief.").run(request)
        result.save(path)
    (source,) = sources_of(path).values()
    checked = list(check_rows(source))
    assert [(row.status, row.problems) for row in checked] == [("ok", ()), ("ok", ())]
    read = calltune.read(path)
    assert len(read) == 2
    assert read[1].messages == result.messages
    assert read[1].tools == result.conversation.tools


def test_prepare_reads_traces(tmp_path, capsys):
    from calltune.cli import main

    path = tmp_path / "traces.jsonl"
    for i in range(12):
        script = Script(calls(("add", {"a": i, "b": 3})), Reply("I tell it.", content=f"It is {i + 3}.", raw="."))
        Agent(script, TOOLS).run(f"What is {i} + 3?").save(path)
    (tmp_path / "mix.yaml").write_text(f"out: {tmp_path / 'made'}\nsources:\n  - data: {path}\n")
    assert main(["check", str(path)]) == 0
    assert main(["prepare", str(tmp_path / "mix.yaml")]) == 0, capsys.readouterr().err
    rows = [json.loads(line) for name in ("train", "valid", "test")
            if (tmp_path / "made" / f"{name}.jsonl").exists()
            for line in (tmp_path / "made" / f"{name}.jsonl").open()]  # fmt: skip
    assert sum(message["role"] == "tool" for row in rows for message in row["messages"]) == 12


def test_a_trace_with_an_unreadable_reply_is_told_by_check(tmp_path):
    broken = '<tool_call>\n{"name": "add"\n</tool_call>'
    Agent(Script(broken, ADD, DONE), TOOLS).run("What is 2 + 3?").save(tmp_path / "t.jsonl")
    (source,) = sources_of(tmp_path / "t.jsonl").values()
    (row,) = check_rows(source)
    assert row.status == "rejected"


def test_saving_goes_on_after_a_line_without_an_end_and_half_a_pair(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"messages": []}')
    Agent(Script(DONE), TOOLS).run("a\ud83d").save(path)
    first, second = path.read_text("utf-8").splitlines()
    assert json.loads(first) == {"messages": []}
    assert json.loads(second)["messages"][0]["content"] == "a?"
    with pytest.raises(InputError, match="cannot be written"):
        Agent(Script(DONE), TOOLS).run("a").save(tmp_path / "no" / "t.jsonl")


# ---- a real model ------------------------------------------------------------------------------------------------


def test_a_tiny_model_bound_by_the_grammar_calls_what_fits(tmp_path):
    @tool(pure=True)
    def lamp(on: bool, room: int = 1) -> str:
        """Switch the lamp."""
        return f"{'on' if on else 'off'} in {room}"

    model = tiny_model(tmp_path / "model", layers=2)
    agent = Agent(str(model), [lamp], rules=Rules("lamp", parallel=False, named=True), max_steps=2, max_tokens=200)
    result = agent.run("Switch the lamp on")
    (call, outcome), *_ = result.calls
    assert call.name == "lamp" and isinstance(call.arguments["on"], bool)
    assert not outcome.error
    assert result.messages[2] == outcome.message(call)
    assert len(result.steps) == 2
    again = asyncio.run(Agent(agent.caller, [lamp], rules=agent.rules, max_steps=2, max_tokens=200).arun(
        "Switch the lamp on"))  # fmt: skip
    assert again.messages == result.messages


def test_a_conversation_that_fills_the_context_ends_in_words():
    class Full(Script):
        def __call__(self, messages, tools, **more):
            if len(messages) > most:
                raise TooLong(9000, 8192)
            return super().__call__(messages, tools, **more)

    most = 3
    for begin in (lambda agent: agent.run("x"), lambda agent: asyncio.run(agent.arun("x"))):
        result = begin(Agent(Full(ADD, ADD), TOOLS))
        assert (result.ended, len(result.calls), result.answer) == ("too_long", 2, "")
        assert "maximum context length is 8,192" in result.reason
    most = 0  # what the user asks is too long
    assert Agent(Full(ADD), TOOLS).run("x").ended == "too_long"
