"""Changes to training rows: seeded, consistent, and written only where the row stays valid."""

import json
import random
import re
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import weather_rows

from calltune.builtin import builtin_data
from calltune.data.augment import (
    AugmentSettings,
    augment,
    combined,
    is_valid,
    refused,
    varied,
    with_twin,
    without_defaults,
)
from calltune.data.balance import no_call_share, right_tool_first_share
from calltune.data.check import Checker
from calltune.data.rename import other_name, renamed
from calltune.data.sources import Source
from calltune.data.spoken import other_form
from calltune.schema import Conversation, Message, Tool, ToolCall

NAMES = [item.name for item in fields(AugmentSettings)]
BOOK = Tool("bookTable", "bookTable books a table.", {
    "type": "object", "required": ["city", "people"],
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}, "day": {"type": "string"},
                   "outside": {"type": "boolean", "default": False},
                   "limit": {"type": "integer", "default": 1}}})  # fmt: skip
SEND = Tool("send_message", "Sends a text.", {"type": "object", "properties": {"text": {"type": "string"}}})


def booking(**arguments):
    call = ToolCall("bookTable", {"city": "Paris", "people": 4, **arguments}, "c0")
    return Conversation(
        (
            Message("system", "Be brief."),
            Message("user", "Book a table for 4 in Paris on 2026-03-05."),
            Message("assistant", "", "Use bookTable with city, people.", (call,)),
            Message("tool", '{"ok": true}', name="bookTable", call_id="c0"),
            Message("assistant", "Done with bookTable."),
        ),
        (BOOK, SEND),
        "row",
    )


def single(text, name="f", **arguments):
    tool = Tool(name, f"What {name} does.", {"type": "object", "properties": {k: {} for k in arguments}})
    reply = Message("assistant", "", f"Use {name}.", (ToolCall(name, arguments),))
    return Conversation((Message("user", text), reply), (tool, SEND), text)


@pytest.fixture(scope="module")
def rows():
    return builtin_data(sizes=(160, 10, 10)).train


@pytest.mark.parametrize("name", NAMES)
def test_every_change_is_made_to_its_share_and_the_rows_stay_valid(rows, name):
    if name == "drop_defaults":
        rows = [replace(booking(outside=False, limit=n), id=f"row {n}") for n in range(100)]
    if name == "add_distractors":
        rows = [single(f"Do {i}", f"do_{i}", x=i) for i in range(100)]
    done = augment(rows, AugmentSettings(**{name: 0.5}), seed=3)
    tried = done.made[name] + done.given_up[name]
    assert 0.35 * len(rows) <= tried <= 0.65 * len(rows) or name == "combine"
    assert done.made[name] > 0
    assert all(is_valid(row) for row in done.rows)
    assert not [c for c in Checker().check(Source("x", done.rows)) if c.status != "ok"]
    assert len(done.rows) == len(rows) + (done.made[name] if name in ("remove_tool", "combine") else 0)
    assert sum(row.meta.get("augmented") == [name] for row in done.rows) == done.made[name]


def test_all_changes_together_are_seeded_and_do_not_depend_on_other_rows(rows):
    alone = set(NAMES) - {"combine", "add_distractors"}  # these two take from other rows
    every = AugmentSettings(**dict.fromkeys(alone, 0.4))
    first, again, other = (augment(rows, every, seed) for seed in (1, 1, 2))
    assert first == again != other
    half = augment(rows[::2], every, 1)
    whole = {row.id: row for row in first.rows}
    assert all(whole[row.id] == row for row in half.rows)


def test_no_share_changes_nothing(rows):
    assert augment(rows, AugmentSettings()).rows == list(rows)


def test_trap_t22_t23_shuffled_tools_and_removed_ones_take_the_biases_away():
    biased = weather_rows(200, no_call=0)
    assert (right_tool_first_share(biased), no_call_share(biased)) == (1.0, 0.0)
    done = augment(biased, AugmentSettings(shuffle_tools=1, remove_tool=0.3))
    assert 0.35 < right_tool_first_share(done.rows) < 0.65
    assert no_call_share(done.rows) > 0.15


def test_names_change_everywhere_alike():
    made = renamed(booking(day="2026-03-05"), random.Random(5))
    tool, call = made.tools[0], made.messages[2].calls[0]
    assert tool.name != "bookTable" and call.name == tool.name == made.messages[3].name
    assert set(call.arguments) <= set(tool.properties) and set(tool.required) <= set(tool.properties)
    assert list(call.arguments.values()) == ["Paris", 4, "2026-03-05"]
    assert "bookTable" not in json.dumps(made.to_openai())[: json.dumps(made.to_openai()).index("Done with")]
    assert tool.name in made.messages[2].thinking and tool.name in tool.description
    assert is_valid(made)
    assert made.messages[1] == booking().messages[1]


@pytest.mark.parametrize("thinking", ["One call: search.", "Ask first: search needs it.", "Use search now."])
def test_a_plan_names_the_new_name_though_the_old_one_is_a_plain_word(thinking):
    row = single("Find cats", "search", query="cats")
    row = replace(row, messages=(row.messages[0], replace(row.messages[1], thinking=thinking)))
    made = [made for seed in range(20) if (made := renamed(row, random.Random(seed)))]
    names = {m.tools[0].name for m in made}
    assert names - {"search"}
    assert all(m.messages[1].thinking == thinking.replace("search", m.tools[0].name) for m in made)


def test_names_that_would_meet_are_left():
    twins = Conversation((), (Tool("get_x"), Tool("fetch_x"), Tool("retrieve_x"), Tool("read_x")))
    made = [renamed(twins, random.Random(seed)) for seed in range(30)]
    assert None in made
    assert all(len({t.name for t in row.tools}) == 4 for row in made if row)


@settings(max_examples=100)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["getWeather", "get_weather", "x", "a.b", "Get Weather", "日本", "HTTPGet"]),
)
def test_other_names_are_names(seed, name):
    made = other_name(name, random.Random(seed))
    assert made and (re.fullmatch(r"\w+", made) if re.fullmatch(r"\w+", name) else made == name)


def test_defaults_are_dropped_and_nothing_else():
    made = without_defaults(booking(outside=False, limit=True), random.Random(0))
    assert made.messages[2].calls[0].arguments == {"city": "Paris", "people": 4, "limit": True}  # True is not 1
    assert without_defaults(booking(outside=True), random.Random(0)) is None


@pytest.mark.parametrize(
    ("value", "text", "said"),
    [
        (1000, "Pay 1000 now", {"Pay 1,000 now"}),
        (3, "3 tables", {"Three tables"}),
        ("2026-03-05", "On 2026-03-05.", {"On March 5, 2026.", "On 5 March 2026.", "On 2026/3/5."}),
        (5, "at 5.5 or 25", {None}),
        (5, "5 and 5", {None}),
        ("5", "5", {None}),
        (True, "True", {None}),
        (2.5, "2.5", {None}),
        ("2026-13-05", "2026-13-05", {None}),
    ],
)
def test_numbers_and_dates_in_other_forms(value, text, said):
    assert {other_form(value, text, random.Random(seed)) for seed in range(20)} == said


def test_the_call_keeps_its_value_when_the_request_says_it_otherwise():
    made = [varied(booking(day="2026-03-05"), random.Random(seed)) for seed in range(20)]
    texts = {row.messages[1].content for row in made}
    assert "Book a table for four in Paris on 2026-03-05." in texts
    assert "Book a table for 4 in Paris on March 5, 2026." in texts
    assert {str(row.messages[2].calls) for row in made} == {str(booking(day="2026-03-05").messages[2].calls)}


def test_without_its_tool_a_request_is_answered_in_words():
    made = refused(booking(), random.Random(0))
    assert [m.role for m in made.messages] == ["system", "user", "assistant"]
    assert made.tools == (SEND,) and not made.messages[-1].calls and made.messages[-1].thinking
    twin = Tool("reserve", BOOK.description, BOOK.parameters)
    assert refused(Conversation(booking().messages, (BOOK, twin)), random.Random(0)) is None
    assert refused(Conversation(booking().messages, (BOOK,)), random.Random(0)) is None


def test_two_rows_of_one_call_become_one_of_two():
    made = combined(single("Do a with 1", "do_a", x=1), single("Do b with 2.", "do_b", y=2), random.Random(0))
    assert [c.name for c in made.messages[-1].calls] == ["do_a", "do_b"]
    assert "Do a with 1." in made.messages[0].content and "Do b with 2." in made.messages[0].content
    assert [t.name for t in made.tools] == ["do_a", "send_message", "do_b"]
    other = single("Do a with 2", "do_a", y=2)  # the same name, another tool
    assert combined(single("Do a with 1", "do_a", x=1), other, random.Random(0)) is None


def test_distractors_come_from_other_rows_and_never_to_rows_without_a_call():
    rows = [single(f"Do {i}", f"do_{chr(97 + i)}", x=i) for i in range(20)]
    answer = Conversation((Message("user", "Hi"), Message("assistant", "Hello!")), (SEND,), "hi")
    done = augment([*rows, answer], AugmentSettings(add_distractors=1))
    assert done.rows[-1] == answer and done.given_up["add_distractors"] == 1
    assert {len(row.tools) for row in done.rows[:-1]} == {3, 4, 5}


def test_a_near_twin_has_the_same_parameters_and_another_verb():
    tool = Tool(
        "get_weather", "Get the weather in a city.", {"type": "object", "properties": {"city": {"type": "string"}}}
    )
    reply = Message("assistant", calls=(ToolCall("get_weather", {"city": "Paris"}),))
    row = Conversation((Message("user", "Weather in Paris?"), reply), (tool, SEND), "x")
    for seed in range(20):
        made = with_twin(row, random.Random(seed))
        (twin,) = [t for t in made.tools if t not in row.tools]
        verb, rest = twin.name.split("_")
        assert rest == "weather" and verb not in ("get", "fetch", "retrieve", "read")
        assert (
            twin.description == f"{verb.capitalize()} the weather in a city." and twin.parameters == tool.parameters
        )
        assert made.messages == row.messages and is_valid(made)
    named = Conversation(row.messages, (replace(tool, name="weather"),), "x")
    assert with_twin(named, random.Random(0)) is None  # no verb to put another one for
