"""One table of tests over all wire formats: what is written is read back, and no text raises or loses anything."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calltune.errors import InputError
from calltune.formats import FORMATS, detect_format, get_format, join
from calltune.schema import Message, Reply, Tool, ToolCall

NAMES = list(FORMATS)
CALL = ToolCall("get_weather", {"city": "Paris", "days": 3})
# How each format writes one call, two calls, and a plan with content and a call.
WRITTEN = {
    "hermes": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>',
    "python-hermes": "<tool_call>\n{'name': 'get_weather', 'arguments': {'city': 'Paris', 'days': 3}}\n</tool_call>",
    "llama3": '{"name": "get_weather", "parameters": {"city": "Paris", "days": 3}}',
    "pythonic": '[get_weather(city="Paris", days=3)]',
    "lfm2": '<|tool_call_start|>[get_weather(city="Paris", days=3)]<|tool_call_end|>',
    "mistral": '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris", "days": 3}',
    "mistral-list": '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}]',
    "gemma4": '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:3}<tool_call|>',
    "functiongemma": "<start_function_call>call:get_weather{city:<escape>Paris<escape>,days:3}<end_function_call>",
    "qwen3-coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n"
    "</parameter>\n</function>\n</tool_call>",
    "json": '```json\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n```',
}
PLAIN_NAMES = ("pythonic", "lfm2", "mistral", "gemma4", "functiongemma", "qwen3-coder")  # cannot quote a name
NASTY_LINES = r"""</tool_call>
<tool_call>
<think>
</think>
it's
a "quoted" word
{
}}
]
\
\n
'
"
None
{'a': 1}
{"name": "x"}
naïve 東京 😀
"""
NASTY = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    st.sampled_from(["a\nb", "\u2028", *NASTY_LINES.split("\n")]),
)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.one_of(NASTY, NUMBERS, st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NASTY, inner, max_size=3)),
    max_leaves=8,
)
CALLS = st.builds(ToolCall, NASTY.filter(bool), st.dictionaries(NASTY, VALUES, max_size=4))
# Plans and content have no escapes: a mark in them is that mark, and JSON in the shape of a call is one.
SAYS_MARK = re.compile(r"<|\[/?THINK\]|\[TOOL_CALLS\]|```|[\"']name[\"']|\[\s*\w+\(")
WORDS = NASTY.map(str.strip).filter(lambda text: not SAYS_MARK.search(text))
TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}


def tools_for(reply: Reply) -> list[Tool]:
    """Tools under whose schemas the calls of a reply are right: a format without types needs them."""
    schemas: dict[str, dict[str, object]] = {}
    for call in reply.calls:
        properties = {key: {"type": TYPES.get(type(value), "null")} for key, value in call.arguments.items()}
        schemas.setdefault(call.name, {}).update(properties)
    return [Tool(name, "", {"type": "object", "properties": found}) for name, found in schemas.items()]


def said(name: str, reply: Reply) -> Reply:
    """The reply with names that the format can say; calls of one name are kept apart, as their types differ."""
    if name not in PLAIN_NAMES:
        return reply
    calls = []
    for i, call in enumerate(reply.calls):
        arguments = call.arguments
        if name == "qwen3-coder":
            arguments = {re.sub(r"[<>\n]", "", key) or "k": value for key, value in arguments.items()}
        calls.append(ToolCall(re.sub(r"\W", "", f"f{call.name}") + f"_{i}", arguments))
    return replace(reply, calls=tuple(calls))


REPLIES = st.builds(Reply, st.none() | WORDS, st.lists(CALLS, max_size=3).map(tuple), WORDS)


def reads_back(name: str, reply: Reply) -> None:
    form, reply = FORMATS[name], said(name, reply)
    text = join(form.write(reply))
    assert replace(form.parse(text, tools=tools_for(reply)), raw="") == reply, text


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(reply=REPLIES)
def test_what_is_written_is_read_back(name, reply):
    reads_back(name, reply)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=400, deadline=None)
@given(reply=REPLIES)
def test_what_is_written_is_read_back_400_times(name, reply):
    reads_back(name, reply)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50, deadline=None)
@given(reply=REPLIES.filter(lambda reply: reply.calls))
def test_the_format_is_found_by_its_marks(name, reply):
    form, reply = FORMATS[name], replace(said(name, reply), thinking=None, content="")
    text = join(form.write(reply))
    found = detect_format(text)
    assert found.parse(text, tools=tools_for(reply)).calls == reply.calls, (found.name, text)


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_exact(name):
    form = FORMATS[name]
    assert join(form.write(Reply(calls=(CALL,)))) == WRITTEN[name]
    assert form.parse(WRITTEN[name]).calls == (CALL,)
    kinds = [(piece.kind, piece.text) for piece in form.write(Reply(thinking="PLAN", calls=(CALL,)))]
    assert ("think", "PLAN") in kinds and ("name", "get_weather") in kinds
    assert "Paris" in next(text for kind, text in kinds if kind == "arguments")
    assert join(form.write(Message("assistant", "Hello"))) == "Hello"


def test_every_format_has_its_text():
    assert set(WRITTEN) == set(FORMATS)


@pytest.mark.parametrize("name", NAMES)
def test_no_arguments_and_raw_calls(name):
    form = FORMATS[name]
    assert form.parse(join(form.write(Reply(calls=(ToolCall("f"),))))).calls == (ToolCall("f"),)
    raw = ToolCall("", raw="as it was", error="unreadable")
    assert "as it was" in join(form.write(Reply(calls=(raw,))))


@pytest.mark.parametrize("name", NAMES)
def test_cut_off_anywhere_gives_a_call_or_an_error_or_content(name):
    """Every prefix of a written reply: nothing raises, and what is there is kept."""
    form = FORMATS[name]
    call = ToolCall("get_weather", {"city": "it's </tool_call> } ] <|x|>", "days": [1, {"a": None}]})
    text = join(form.write(Reply("plan", (call, CALL), "Words.")))
    for end in range(len(text)):
        reply = form.parse(text[:end])
        assert reply.raw == text[:end]
        if "get_weather" in text[:end]:
            assert reply.calls or "get_weather" in reply.content, text[:end]
    assert [c.error for c in form.parse(text).calls] == [None, None]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "text",
    ["</tool_call>", "<tool_call>", "</think>", "}}", '{"', "it's", '\\"', "'", "```", ")]", "<|tool_call_end|>",
     "<tool_call|>", '<|"|>', "<escape>", "[TOOL_CALLS]", "</parameter>\n</function>", "[/THINK]", "<channel|>"],
)  # fmt: skip
def test_trap_t35_marks_inside_strings(name, text):
    form = FORMATS[name]
    calls = (ToolCall("f", {"a": text, "b": ["x" + text, {"c": text + "y"}]}), CALL)
    reply = form.parse(join(form.write(Reply("plan", calls, "Words."))))
    assert (reply.calls, reply.thinking, reply.content, reply.errors) == (calls, "plan", "Words.", ())


def test_trap_t33_a_plan_does_not_leak_into_the_content():
    for name, form in FORMATS.items():
        text = join(form.write(Reply("my plan", (CALL,))))
        marks = ("<|channel>thought\n", "[THINK]\n", "[THINK]", "<think>\n")
        without = next(text.removeprefix(mark) for mark in marks if text.startswith(mark))
        for reply in (form.parse(text), form.parse(without, thinking_open=True), form.parse(without)):
            assert (reply.thinking, reply.content, reply.calls) == ("my plan", "", (CALL,)), name


def test_trap_t34_the_format_of_a_tuned_model_is_not_guessed_from_its_template():
    """The run says the format; a text without its run is read by its own marks."""
    for name, text in WRITTEN.items():
        assert detect_format(text).parse(text).calls == (CALL,), name
    assert detect_format("Just words.").parse("Just words.").content == "Just words."
    code = 'Use {"name": "Bob", "age": 3} or [1, 2] or f(x).'
    assert detect_format(code).parse(code) == Reply(content=code, raw=code)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["a b", " a", "a ", "class", "a=b", "a:b", "", "é", "1", "a,b"])
def test_names_of_arguments_that_are_no_identifiers(name, key):
    call = ToolCall("f", {key or "-": "x", "z": {key: 1}})
    assert FORMATS[name].parse(join(FORMATS[name].write(Reply(calls=(call,))))).calls == (call,)


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_names_that_a_format_cannot_say_are_refused_all_at_once(name):
    with pytest.raises(InputError, match="no way to write these names") as caught:
        FORMATS[name].write(Reply(calls=(ToolCall('a "b"\n<c>{'), ToolCall("[ ]"))))
    assert len(caught.value.problems) == 2


OTHER = [
    ("llama3", '<|python_tag|>{"name": "f", "parameters": {"a": 1}}', {"a": 1}),
    ("llama3", '{"type": "function", "name": "f", "parameters": {"a": "1"}}', {"a": "1"}),
    ("llama3", '{"name": "f"}', {}),
    ("json", '{"name": "f", "arguments": "{\\"a\\": 1}"}', {"a": 1}),
    ("json", "```\n{'name': 'f', 'arguments': {'a': None}}\n```", {"a": None}),
    ("json", '[{"name": "f", "arguments": {"a": 1}}]', {"a": 1}),
    ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "abcdefghi"}]', {"a": 1}),
    ("mistral", '[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1}', {"a": 1}),
    ("mistral", '[TOOL_CALLS]f{"a": 1}', {"a": 1}),
    ("pythonic", "<|python_start|>[f(a=1)]<|python_end|>", {"a": 1}),
    ("pythonic", "[f(a='it\\'s', b=None, c=true,)]", {"a": "it's", "b": None, "c": True}),
    ("pythonic", '[f(class="x", **{"a b": (1, 2)})]', {"class": "x", "a b": [1, 2]}),
    ("lfm2", '<|tool_call_start|>f(a={"b": null})<|tool_call_end|>', {"a": {"b": None}}),
    ("gemma4", "<|tool_call>call:f{a:word,b:[1,true,None],c:{d:-1.5}}<tool_call|>",
     {"a": "word", "b": [1, True, None], "c": {"d": -1.5}}),
    ("functiongemma", "<start_function_call>call:f{a:<escape>x, y}<escape>}<end_function_call>", {"a": "x, y}"}),
    ("qwen3-coder", "<function=f>\n<parameter=a>1</parameter>\n</function>", {"a": 1}),
    ("qwen3-coder", "<tool_call><function=f><parameter=a>[1, true]</parameter></tool_call>", {"a": [1, True]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "arguments"), OTHER)
def test_other_shapes_of_a_call(name, text, arguments):
    for form in (FORMATS[name], detect_format(text)):
        reply = form.parse(text)
        assert [(c.name, c.arguments, c.error) for c in reply.calls] == [("f", arguments, None)], form.name
        assert (reply.errors, reply.content) == ((), "")


BROKEN = [
    ("llama3", '{"name": "f", "parameters": {"a": '),
    ("json", '```json\n{"name": "f", "arguments": {"a": 1\n```'),
    ("json", '{"name": "f", "arguments": 7}'),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"a": '),
    ("mistral", "[TOOL_CALLS]f"),
    ("mistral", "[TOOL_CALLS]"),
    ("mistral-list", '[TOOL_CALLS][{"name": "f", "arguments": {}'),
    ("pythonic", "[f(1)]"),
    ("pythonic", "[f(a=1, a=2)]"),
    ("pythonic", '[f(a="x'),
    ("lfm2", "<|tool_call_start|>nothing<|tool_call_end|>"),
    ("gemma4", "<|tool_call>call:f{a:1"),
    ("gemma4", "<|tool_call>f()<tool_call|>"),
    ("gemma4", "<|tool_call>call:f{a:1,a:2}<tool_call|>"),
    ("functiongemma", "<start_function_call>call:f{a:<escape>x}<end_function_call>"),
    ("qwen3-coder", "<tool_call>\n<function=f>\n<parameter=a>\nx"),
    ("qwen3-coder", "<tool_call>\n<function=>\n</function>\n</tool_call>"),
    ("qwen3-coder", "<function=f><parameter=a>1</parameter><parameter=a>2</parameter></function>"),
]


@pytest.mark.parametrize(("name", "text"), BROKEN)
def test_what_does_not_read_is_an_error_with_its_text(name, text):
    reply = FORMATS[name].parse(text)
    (call,) = reply.calls
    assert call.error and call.raw is not None and call.error in reply.errors[0]
    assert re.sub(r"\W", "", call.raw) in re.sub(r"\W", "", text)


def test_qwen3_coder_takes_types_from_the_tools():
    schema = {"s": "string", "i": "integer", "n": "number", "b": "boolean", "o": "object", "z": "null"}
    tools = [Tool("f", "", {"type": "object", "properties": {k: {"type": t} for k, t in schema.items()}})]
    values = {"s": "5", "i": 5, "n": 5.0, "b": True, "o": {"a": "1"}, "z": None}
    text = join(FORMATS["qwen3-coder"].write(Reply(calls=(ToolCall("f", values),))))
    assert FORMATS["qwen3-coder"].parse(text, tools=tools).calls[0].arguments == values
    assert FORMATS["qwen3-coder"].parse(text).calls[0].arguments["s"] == 5


def test_formats_by_name():
    assert get_format("hermes") is FORMATS["hermes"]
    with pytest.raises(InputError, match="no format named xml"):
        get_format("xml")
