"""Readers: the forms of rows, the places where rows come from, and problems told at once."""

import json
import os
from pathlib import Path

import pytest
from reader_rows import CALL, CALL_TEXT, WEATHER, answered, calls, one, problems_of, row, user_texts

from calltune.data.readers import load_conversations, load_splits
from calltune.schema import Conversation, Message, Tool, ToolCall

DATA = Path(__file__).parent / "data"


SHARED = Path(os.environ.get("CALLTUNE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.mark.parametrize(
    "folder_and_suffix",
    [
        (DATA, "_rows"),
        pytest.param(
            (SHARED, ""),
            marks=pytest.mark.skipif(not (SHARED / "seal_hermes.jsonl").is_file(), reason="no data"),
        ),
    ],
    ids=["a few rows", "all rows"],
)
def test_the_same_rows_as_hermes_text_and_as_openai_messages_read_the_same(folder_and_suffix):
    folder, suffix = folder_and_suffix
    hermes = load_conversations(folder / f"seal_hermes{suffix}.jsonl")
    openai = load_conversations(folder / f"seal_train{suffix}.jsonl")
    assert len(hermes) == len(openai) >= 4
    for ours, theirs in zip(hermes, openai, strict=True):
        assert user_texts(ours) == user_texts(theirs)
        assert ours.tools == theirs.tools
        assert calls(ours) == calls(theirs) != []
        assert [m.role for m in ours.messages] == ["user", "assistant"]  # the system text was all boilerplate
        assert ours.messages[-1].thinking
        assert ours.meta["roles"] == ["system", "human", "model"]


@pytest.mark.parametrize(
    "arguments",
    [{"city": "Paris"}, '{"city": "Paris"}', "{'city': 'Paris'}", '"{\\"city\\": \\"Paris\\"}"'],
    ids=["object", "JSON text", "Python text", "text of JSON text"],
)
def test_trap_t12_arguments_are_a_dictionary_whatever_form_the_row_has(arguments):
    function = {"name": "get_weather", "arguments": arguments}
    for message in (
        {"tool_calls": [{"function": function}]},
        {"tool_calls": [function]},
        {"function_call": function},
    ):
        (call,) = one(answered(**message)).messages[-1].calls
        assert call.arguments == {"city": "Paris"}
    assert json.loads(one(row()).to_openai()["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {
        "city": "Paris"
    }


@pytest.mark.parametrize("arguments", [None, "", {}, "{}"])
def test_no_arguments(arguments):
    message = answered(tool_calls=[{"function": {"name": "get_weather", "arguments": arguments}}])
    assert one(message).messages[-1].calls == (ToolCall("get_weather"),)


def test_trap_t13_tools_as_text_blank_lines_null_content_and_validation(tmp_path):
    line = json.dumps(row(tools=json.dumps([WEATHER.to_openai()])))
    (tmp_path / "train.jsonl").write_text(f"\n{line}\n\n   \n{line}\n\n")
    (tmp_path / "validation.jsonl").write_text("\ufeff" + line)
    splits = load_splits(tmp_path)
    assert {part: len(rows) for part, rows in splits.items()} == {"train": 2, "valid": 1}
    assert [c.id for c in splits["train"]] == ["train.jsonl:2", "train.jsonl:5"]
    assert splits["valid"][0].tools == (WEATHER,)
    assert splits["valid"][0].messages[1] == Message(
        "assistant", "", None, (ToolCall("get_weather", {"city": "Paris"}, "call_0"),)
    )


def test_thinking_content_parts_results_and_legacy_names():
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "", "reasoning_content": "plan", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_0", "content": {"degrees": 21}},
        {"role": "assistant", "content": "<think>\nsay it\n</think>\n21 degrees"},
    ]
    conversation = one({"messages": messages, "functions": [WEATHER.to_openai()["function"]], "id": 7})
    assert conversation.id == "7"
    assert conversation.messages == (
        Message("system", "Be brief."),
        Message("user", "ab"),
        Message("assistant", "", "plan", (ToolCall("get_weather", {"city": "Paris"}, "call_0"),)),
        Message("tool", '{"degrees": 21}', name="get_weather", call_id="call_0"),
        Message("assistant", "21 degrees", "say it"),
    )
    assert conversation.meta == {"roles": ["developer", "user", "assistant", "tool", "assistant"]}


def test_what_is_written_is_read_back():
    given = Conversation(
        (
            Message("system", "Be brief."),
            Message("user", "Weather in Paris?"),
            Message("assistant", "", "plan", (ToolCall("get_weather", {"city": "Paris"}, "call_0"),)),
            Message("tool", "21", name="get_weather", call_id="call_0"),
            Message("assistant", "It's 21."),
        ),
        (WEATHER,),
        "x1",
        {"category": "single"},
    )
    assert one(given.to_openai()) == given
    assert one(json.loads(json.dumps(given.to_openai()))) == given
    assert one(given) is given


def test_columns_can_be_renamed_and_other_columns_are_kept():
    value = {"dialog": row()["messages"], "api": row()["tools"], "category": "x"}
    conversation = one(value, columns={"messages": "dialog", "tools": "api"})
    assert calls(conversation)
    assert conversation.meta == {"category": "x"}


HERMES_V1 = (
    "You are a function calling AI model. You are provided with function signatures within "
    "<tools> </tools> XML tags. You may call one or more functions to assist with the user query. If "
    "available "
    "tools are not relevant in assisting with user query, just respond in natural conversational language. "
    "Don't make assumptions about what values to plug into functions. After calling & executing the "
    "functions, you will be provided with function results within "
    "<tool_response> </tool_response> XML tags.\n"
    "Here are the available tools:\n<tools>\n%s\n</tools>\n"
    "For each function call return a JSON object, with the following pydantic model json schema:\n"
    "{'title': 'FunctionCall', 'type': 'object', 'properties': {'name': {'title': 'Name', 'type': 'string'}, "
    "'arguments': {'title': 'Arguments', 'type': 'object'}}, 'required': ['name', 'arguments']}\n"
    "Each function call should be enclosed within <tool_call> </tool_call> XML tags.\n<tool_call>\n"
    "{'name': <function-name>, 'arguments': <args-dict>}\n</tool_call>"
)


QWEN = (
    "%s\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided "
    "with function signatures within <tools></tools> XML tags:\n<tools>\n%s\n</tools>\n\nFor each function "
    "call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


RESULTS = (
    "<tool_response>\n{'name': 'get_weather', 'content': {'ok': True}}\n</tool_response>\n"
    "<tool_response>\n{'degrees': 21, 'rain': None}\n</tool_response>"
)


SHARE_GPT = [
    {"from": "human", "value": "Weather in O'Hare?"},
    {"from": "gpt", "value": f"<think>plan</think>Let me look.<tool_call>\n{CALL_TEXT}\n</tool_call>"},
    {"from": "tool", "value": RESULTS},
    {"from": "gpt", "value": "It's 21."},
]


def test_sharegpt_names_and_results():
    system = {"from": "system", "value": HERMES_V1 % [WEATHER.to_openai()]}
    conversation = one({"conversations": [system, *SHARE_GPT]})
    assert conversation.tools == (WEATHER,)
    assert conversation.messages == (
        Message("user", "Weather in O'Hare?"),
        Message("assistant", "Let me look.", "plan", (ToolCall("get_weather", {"city": "O'Hare"}),)),
        Message("tool", '{"ok": true}', name="get_weather"),
        Message("tool", '{"degrees": 21, "rain": null}'),
        Message("assistant", "It's 21."),
    )
    assert conversation.meta["roles"] == ["system", "human", "gpt", "tool", "gpt"]


@pytest.mark.parametrize("dump", [json.dumps, repr])
def test_of_the_system_text_what_the_author_wrote_is_kept(dump):
    tricky = Tool("get_weather", "Within <tools></tools>, it's {odd]", WEATHER.parameters)
    two = [tricky.to_openai(), Tool("other").to_openai()]
    texts = [
        "You are Ann. " + HERMES_V1 % dump(two) + "\nAnswer in French.",
        QWEN % ("You are Ann.", "\n".join(map(dump, two))) + "\nAnswer in French.",
    ]
    for text in texts:
        messages = [{"role": "system", "content": text}, *SHARE_GPT]
        conversation = one({"conversations": messages})
        assert conversation.tools == (tricky, Tool("other"))
        assert conversation.messages[0] == Message("system", "You are Ann.\nAnswer in French.")


def test_a_system_text_without_a_tools_block_stays_whole():
    text = "You are a function calling AI model. Mind the <tools> list."
    messages = [{"from": "system", "value": text}, *SHARE_GPT]
    conversation = one({"conversations": messages, "tools": json.dumps([WEATHER.to_openai()])})
    assert conversation.messages[0] == Message("system", text)
    assert conversation.tools == (WEATHER,)


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        ([{"from": "system", "value": "<tools> [{'type': 'function', </tools>"}, *SHARE_GPT], "bad_tools"),
        ([{"from": "system", "value": "<tools>[{'title': 'x'}]</tools>"}, *SHARE_GPT], "bad_tool"),
        ([{"from": "gpt", "value": "<tool_call>{'name': </tool_call>"}], "unreadable_call"),
        ([{"from": "gpt", "value": "<think>never ends"}], "bad_markup"),
    ],
)
def test_hermes_text_that_cannot_be_read(messages, kind):
    assert kind in {problem.kind for problem in problems_of([{"conversations": messages}])}
