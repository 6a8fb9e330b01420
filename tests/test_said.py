"""Values that somebody says: read from texts, said in all rows, and what a call then may hold or lacks."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from calltune.builtin import builtin_data
from calltune.data.copied import FEWEST
from calltune.data.said import lacking_of, listed_of, repeats_no_call, said_parameters
from calltune.data.spoken import forms
from calltune.data.told import is_hinted, kind_of, values_told
from calltune.schema import Conversation, Message, Reply, Tool, ToolCall, without_repeats

BOOK = Tool("book", "Books.", {
    "type": "object",
    "properties": {
        "day": {"type": "string", "format": "date"}, "at": {"type": "string"}, "seats": {"type": "integer"},
        "hall": {"enum": ["main_hall", "studio"]}, "level": {"enum": ["low", "high"], "default": "low"},
        "name": {"type": "string"}, "vip": {"type": "boolean"}, "note": {"anyOf": [{"type": "integer"}]},
    },
    "required": ["day", "seats", "hall"],
})  # fmt: skip


def row(request: str, **arguments) -> Conversation:
    call = Message("assistant", calls=(ToolCall("book", arguments),))
    return Conversation((Message("user", request), call), (BOOK,))


def asked(text: str) -> list[Message]:
    return [Message("user", text)]


# ---- what a text says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("10 or 2.5 of 1,000, -3 and $40, 7kg, 12%", "number", [10, 2.5, 1000, -3, 40, 7, 12]),
        ("three, Twenty-five and ninety one", "number", [3, 25, 91]),
        ("on 2026-03-05 at 10:30, parcel KL-90077, v2.1.3", "number", []),
        ("someone told nobody, tenants", "number", []),
        ("2026-03-05, March 5, 2026, 5 Mar 2026, the 5th of march 2026, 2026/3/5", "date", ["2026-03-05"] * 5),
        ("Sept. 9, 2026; 31 February 2026; 2026-3", "date", ["2026-09-09"]),
        ("07:30, 7:30, 7:30 pm, 7 a.m., 12 am, 12:15 p.m., 14:55: class", "time",
         ["07:30", "07:30", "19:30", "07:00", "00:00", "12:15", "14:55"]),
        ("at 25:00 or 1:2:3", "time", []),
    ],
)  # fmt: skip
def test_values_that_a_text_says(text, kind, values):
    assert list(values_told(text, kind)) == values


def test_words_of_a_closed_set_stand_in_the_text_as_words():
    words = ["main_hall", "studio", "g", 3]
    assert list(values_told("In the Main Hall, 300 grams", "choice", words)) == ["main_hall"]
    assert list(values_told("main-hall or STUDIO, 3 g", "choice", words)) == ["main_hall", "studio", "g"]
    assert list(values_told("studios, mainhall", "choice", words)) == []


def test_every_form_that_rows_say_is_read():
    draw = random.Random(0)
    dates = [f"20{draw.randint(20, 39)}-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}" for _ in range(300)]
    times = [f"{draw.randint(0, 23):02}:{draw.randint(0, 59):02}" for _ in range(300)]
    numbers = [draw.choice([draw.randint(0, 12), draw.randint(1000, 10**6), draw.random() * 100]) for _ in range(300)]
    for kind, values in (("date", dates), ("time", times), ("number", numbers)):
        for value in values:
            assert kind_of(value, {}) == kind
            for said in (str(value), *forms(value)):
                assert list(values_told(f"It is {said}, please.", kind)) == [value], said
                assert kind != "number" or not is_hinted(f"It is {said}, please.", kind), said


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("a couple of them", {"number"}), ("half a litre", {"number"}), ("for an hour", {"number"}),
        ("next Friday", {"date"}), ("tomorrow", {"date"}), ("on 3 May", {"date"}),
        ("on 3.5. or 3/5", {"date"}), ("2.5 kg of KL-90077", set()), ("at noon", {"time", "number"}),
        ("half past five", {"time", "number"}), ("nine in the evening", {"time"}), ("some of them, please", set()),
        ("three of 1,000 or twenty", set()),
    ],
)  # fmt: skip
def test_words_that_are_not_read_are_a_hint(text, kinds):
    assert {kind for kind in ("number", "date", "time", "choice") if is_hinted(text, kind)} == kinds


# ---- rows and requests -------------------------------------------------------------------------------------------

GOOD = [row(f"Main hall, {i + 2} seats on May {i + 1}, 2026 at 9:1{i}, for Ana{i}", day=f"2026-05-0{i + 1}",
            at=f"09:1{i}", seats=i + 2, hall="main_hall", level="low", name=f"Ana{i}", vip=True, note=i)
        for i in range(FEWEST)]  # fmt: skip
KINDS = {"book": {"at": "time", "day": "date", "hall": "choice", "seats": "number"}}


def test_parameters_whose_values_were_said_in_every_row():
    assert (
        said_parameters(GOOD) == KINDS
    )  # a text is copied or not, nothing is listed of it; the default says nothing
    assert said_parameters(GOOD[1:]) == {}  # too few to know


@pytest.mark.parametrize(
    ("name", "other"),
    [("day", {"day": "2026-05-02"}), ("at", {"at": "9"}), ("seats", {"seats": 3}), ("hall", {"hall": "studio"}),
     ("seats", {"seats": True}), ("day", {"day": "tomorrow"})],
)  # fmt: skip
def test_one_row_that_says_it_otherwise_frees_it(name, other):
    call = {"day": "2026-05-01", "seats": 2, "hall": "main_hall"} | other
    found = said_parameters([*GOOD, row("Main hall, 2 seats on May 1, 2026 at 9:10", **call)])["book"]
    assert found == {key: kind for key, kind in KINDS["book"].items() if key != name}


def test_rows_show_whether_a_reply_makes_a_call_again():
    twice = [ToolCall("book", {"seats": 2}), ToolCall("book", {"seats": 2})]
    other = [ToolCall("book", {"seats": 2}), ToolCall("book", {"seats": 3})]

    def rows(*replies: list[ToolCall]) -> list[Conversation]:
        return [
            Conversation((Message("user", "Book"), Message("assistant", calls=tuple(c))), (BOOK,)) for c in replies
        ]

    assert repeats_no_call(rows(*[other] * FEWEST))
    assert not repeats_no_call(rows(*[other] * (FEWEST - 1), twice[:1]))  # too few with several calls
    assert not repeats_no_call(rows(*[other] * FEWEST, twice))


def test_a_call_that_comes_again_is_told_and_made_once():
    calls = tuple(ToolCall("book", {"seats": seats, "a": [1]}) for seats in (2, 2.0, True, 2))
    broken = ToolCall("book", {}, raw="{", error="not JSON")
    reply = without_repeats(Reply(calls=(*calls, broken, broken), notes=("before",)))
    assert [call.arguments.get("seats") for call in reply.calls] == [2, 2.0, True, None, None]
    assert reply.notes == ("before", "book: the same call came again and is made once")
    assert without_repeats(reply) is reply


def test_what_a_request_says_is_all_that_a_call_may_hold():
    said = asked("On 5 May 2026 or 2026-05-06 in the studio, level high")
    assert listed_of(KINDS | {"gone": {}}, [BOOK], said) == {
        "book": {"day": ("2026-05-05", "2026-05-06"), "hall": ("studio",)}
    }
    assert listed_of({"book": {"level": "choice"}}, [BOOK], said) == {"book": {"level": ("high", "low")}}
    assert listed_of(KINDS, [BOOK], asked("In the studio on 5 May 2026, or next Friday")) == {
        "book": {"hall": ("studio",)}
    }
    assert listed_of(KINDS, [BOOK], [Message("system", "Today is 2026-05-05."), *asked("Today")]) == {}


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("Book the studio", {"book": "day"}), ("Book the studio on 5 May 2026", {"book": "seats"}),
        ("Book for 5 May 2026, two seats", {}),  # a word of a closed set may be meant by another
        ("Book the studio for tomorrow, a couple of seats", {}),
    ],
)  # fmt: skip
def test_a_tool_lacks_a_number_or_date_that_nobody_said(text, lacks):
    assert lacking_of(KINDS, [BOOK], asked(text)) == lacks


def test_another_tool_of_the_name_is_judged_by_its_own_schema():
    other = replace(BOOK, parameters={"type": "object", "properties": {"day": {"enum": ["a"]}, "seats": True}})
    assert listed_of(KINDS, [other], asked("5 May 2026")) == {} == lacking_of(KINDS, [other], asked("nothing"))


def test_no_right_call_of_the_built_in_rows_is_barred():
    data = builtin_data(sizes=(600, 60, 144))
    said = said_parameters(data.train)
    assert said["set_timer"] == {"minutes": "number"} and said["create_event"] == {"date": "date", "time": "time"}
    barred, calls = 0, 0
    for conversation in (*data.valid, *data.test):
        request = conversation.messages[:1]
        lacks, listed = lacking_of(said, conversation.tools, request), listed_of(said, conversation.tools, request)
        for call in conversation.messages[1].calls:
            calls += 1
            barred += call.name in lacks
            barred += any(call.arguments[name] not in texts for name, texts in listed.get(call.name, {}).items())
    assert calls > 100 and barred == 0
