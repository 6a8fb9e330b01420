"""Values that somebody says: read from texts, said in all rows, and what a call then may hold or lacks."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from calltune.builtin import builtin_data
from calltune.data.copied import FEWEST
from calltune.data.said import lacking_of, listed_of, repeats_no_call, said_parameters
from calltune.data.spoken import forms
from calltune.data.told import kind_of, may_tell, values_told
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
        ("someone told nobody, tenants, \u017fix f\u0131ve", "number", []),
        ("1" * 5000, "number", []),
        ("2026-03-05, March 5, 2026, 5 Mar 2026, the 5th of march 2026, 2026/3/5", "date", ["2026-03-05"] * 5),
        ("Sept. 9, 2026; 31 February 2026; 2026-3; \u017fep 3, 2026", "date", ["2026-09-09"]),
        ("07:30, 7:30 pm, 7 a.m., 12 am, 12:15 p.m., 14:55: class", "time",
         ["07:30", "19:30", "19:30", "07:00", "00:00", "12:15", "14:55"]),
        ("at 25:00 or 1:2:3, 5-6 pm", "time", []),
    ],
)  # fmt: skip
def test_values_that_a_text_says(text, kind, values):
    assert list(values_told(text, kind)) == values


def test_every_form_that_rows_say_is_read():
    draw = random.Random(0)
    dates = [f"20{draw.randint(20, 39)}-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}" for _ in range(300)]
    times = [f"{draw.randint(0, 23):02}:{draw.randint(0, 59):02}" for _ in range(300)]
    numbers = [draw.choice([draw.randint(0, 12), draw.randint(1000, 10**6), draw.random() * 100]) for _ in range(300)]
    for kind, values in (("date", dates), ("time", times), ("number", numbers)):
        for value in values:
            assert kind_of(value, {}) == kind and kind_of(value, {"enum": [value]}) is None
            for said in (str(value), *forms(value)):
                assert next(values_told(f"It is {said}, please.", kind)) == value, said
                assert kind == "number" or not may_tell(f"It is {said}, please.", kind), said


NOTHING = ["Begin a countdown, please.", "Turn the thermostat to something else.", "What are my kronor worth in yen?"]
NUMBERS = [".5 of it", "USD5, please", "no.5 is the one", "the fourth one", "a few of them", "a single one, please",
           "for an hour", "the dozen", "please: \u516b", "wake me at 7pm", "the third of May"]  # fmt: skip
DATES = ["for the next day", "on Mon, please", "24-12-2026 is the day", "2026-05-05T10:00:00Z is the start",
         "3 days from now", "the week after", "for Xmas, please", "due-2026-12-24, please", "the 8th"]  # fmt: skip
TIMES = ["please, at five", "17h, please", "17:30:00 it is", "until 8 for me", "half past, please", "for after lunch",
         "5-6 pm for me", "in the evening", "for now"]  # fmt: skip


@pytest.mark.parametrize(("kind", "texts"), [("number", NUMBERS), ("date", DATES), ("time", TIMES)])
def test_a_text_may_say_more_than_is_read(kind, texts):
    assert [text for text in NOTHING if may_tell(text, kind)] == []
    assert [text for text in texts if not may_tell(text, kind)] == []
    foreign = ["Stell einen Timer", "Mets un minuteur", "Ставь the таймер", "\u4e94\u5206, please"]
    assert [text for text in foreign if not may_tell(text, kind)] == []


LONG = ["a " * 300_000, "1" * 500_000, "1," * 300_000, "May " * 200_000, "twenty-" * 100_000, "1:1" * 200_000,
        " " * 800_000, "12 pm " * 100_000]  # fmt: skip


@pytest.mark.parametrize("text", LONG)
def test_long_texts_are_read(text):
    """In linear time: what looks back again from each character would not end here."""
    for kind in ("number", "date", "time"):
        assert isinstance(may_tell(text, kind), bool) and len(list(values_told(text, kind))) <= len(text)


# ---- rows and requests -------------------------------------------------------------------------------------------

GOOD = [row(f"Main hall, {i + 2} seats on May {i + 1}, 2026 at 9:1{i}, for Ana{i}", day=f"2026-05-0{i + 1}",
            at=f"09:1{i}", seats=i + 2, hall="main_hall", level="low", name=f"Ana{i}", vip=True, note="a note")
        for i in range(FEWEST)]  # fmt: skip
KINDS = {"book": {"at": "time", "day": "date", "seats": "number"}}


def test_parameters_whose_values_were_said_in_every_row():
    assert said_parameters(GOOD) == KINDS  # a text is copied or not, a closed set is bound by its schema
    assert said_parameters(GOOD[1:]) == {}  # too few to know


@pytest.mark.parametrize(
    ("name", "other"),
    [("day", {"day": "2026-05-02"}), ("at", {"at": "9"}), ("seats", {"seats": 3}), ("seats", {"seats": True}),
     ("day", {"day": "tomorrow"})],
)  # fmt: skip
def test_one_row_that_says_it_otherwise_frees_it(name, other):
    call = {"day": "2026-05-01", "seats": 2, "at": "09:10"} | other
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
    reply = without_repeats(Reply(calls=(*calls, broken, broken, ToolCall("book", {})), notes=("before",)))
    assert [call.arguments.get("seats") for call in reply.calls] == [2, 2.0, True, None, None, None]
    assert reply.notes == ("before", "book: the same call came again and is made once")
    assert without_repeats(reply) is reply


def test_what_a_request_says_is_all_that_a_call_may_hold():
    said = asked("Book it for 5 May 2026, or for 2026-05-06")
    assert listed_of(KINDS | {"gone": {}}, [BOOK], said) == {"book": {"day": ("2026-05-05", "2026-05-06")}}
    tool = replace(BOOK, parameters={"properties": {"day": {"type": "string", "default": "today"}}})
    assert listed_of(KINDS, [tool], said) == {"book": {"day": ("2026-05-05", "2026-05-06", "today")}}
    for open_ in ("Book it for 5 May 2026, or next Friday", "Book from 2026-05-05 until the 8th", "It is for three"):
        assert listed_of(KINDS, [BOOK], asked(open_)) == {}
    assert listed_of(KINDS, [BOOK], [Message("system", "It is 2026-05-05."), *asked("Book it for me")]) == {}
    assert listed_of(KINDS, [BOOK], [*said, *asked("Book it for the day before")]) == {}


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("Book the studio", {"book": "day"}), ("Book the studio on 5 May 2026", {}),
        ("Book it for tomorrow", {"book": "seats"}), ("Book the studio for tomorrow, a couple of seats", {}),
        ("Buche das Studio", {}),
    ],
)  # fmt: skip
def test_a_tool_lacks_a_number_or_date_that_nobody_said(text, lacks):
    assert lacking_of(KINDS, [BOOK], asked(text)) == lacks
    assert lacking_of(KINDS, [BOOK], [*asked("Two seats, on 5 May 2026"), *asked(text)]) == {}  # said before


@pytest.mark.parametrize("schema", [True, {}, {"type": "boolean"}, {"type": ["integer", "null"]}, {"enum": None},
                                    {"type": "string"}, {"type": "integer", "default": 5}])  # fmt: skip
def test_another_tool_of_the_name_is_judged_by_its_own_schema(schema):
    for required in (["seats"], ("seats",), "seats", None):
        other = replace(BOOK, parameters={"type": "object", "properties": {"seats": schema}, "required": required})
        assert listed_of(KINDS, [other], asked("5 May 2026")) == {} == lacking_of(KINDS, [other], asked("Book it"))


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
