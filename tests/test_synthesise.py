"""Made rows: valid calls, values that stand in the request, no phrasing or value shared between parts."""

from __future__ import annotations

import random
import re
from typing import Literal

import pytest

from calltune.builtin import builtin_data, phrase_tables
from calltune.builtin.assistant import FUNCTIONS
from calltune.data.no_call import no_call_requests
from calltune.data.parts import PARTS, part_of
from calltune.data.patterns import JOINS, WRAPS
from calltune.data.phrases import KINDS, SLOT, Template, fill, read_table, read_template
from calltune.data.shares import Shares
from calltune.data.slots import draw, pools
from calltune.data.synthesise import Splits, synthesise
from calltune.errors import InputError
from calltune.functions import tool_from
from calltune.schema import Conversation, Tool, validate_call

LEAST = {"train": 14, "valid": 3, "test": 5}


@pytest.fixture(scope="module")
def splits() -> Splits:
    return builtin_data(seed=0)


def rows_of(splits: Splits, part: str) -> tuple[Conversation, ...]:
    rows: tuple[Conversation, ...] = getattr(splits, part)
    return rows


def all_rows(splits: Splits) -> list[Conversation]:
    return [row for part in PARTS for row in rows_of(splits, part)]


def skeleton(text: str) -> str:
    """A template without its slots' names, case and marks: two that differ only there are the same."""
    return " ".join(re.findall(r"[\w']+|_", SLOT.sub(" _ ", text).lower()))


def test_sizes_shares_and_categories(splits: Splits) -> None:
    assert [len(rows_of(splits, part)) for part in PARTS] == [1600, 16, 144]
    assert splits.notes == ()
    counts = {c: sum(r.meta["category"] == c for r in splits.test) for c in ("call", "parallel", "no_call", "ask")}
    assert counts["call"] + counts["parallel"] >= 100
    assert min(counts.values()) >= 10
    assert {row.meta["tool"] for row in splits.test if row.meta["category"] == "call"} == set(phrase_tables())


def test_every_call_fits_its_schema_and_ids_are_unique(splits: Splits) -> None:
    rows = all_rows(splits)
    assert [p for row in rows for call in row.messages[1].calls for p in validate_call(call, row.tools)] == []
    assert len({row.id for row in rows}) == len(rows)
    for part in PARTS:
        requests = [row.messages[0].content.lower() for row in rows_of(splits, part)]
        assert len(set(requests)) == len(requests)


def test_every_argument_stands_in_the_request(splits: Splits) -> None:
    tables = phrase_tables()
    for row in all_rows(splits):
        request = row.messages[0].content
        for call in row.messages[1].calls:
            for name, value in call.arguments.items():
                words = tables[call.name].words.get(name)
                if isinstance(value, bool):
                    assert_bool_is_said(request, call.name, value)
                elif words and f"{call.name}.{name}" == "get_weather.unit":
                    # the default, where the request names no unit
                    said = [unit for unit, texts in words.items() if any(text in request for text in texts)]
                    assert said in ([value], []) and (said or value == "celsius"), (request, value)
                elif words:
                    assert any(word in request for word in words[value]), (request, name, value)
                else:
                    for part in value if isinstance(value, list) else [value]:
                        assert str(part) in request, (request, name, part)


def assert_bool_is_said(request: str, tool: str, value: bool) -> None:
    assert tool == "play_music"
    assert ("shuffl" in request.lower()) == value, request


def test_no_test_value_occurs_in_training(splits: Splits) -> None:
    """Values, not enum words: those stand for a closed set. No integer had to be shared."""
    texts = {p: {t.lower() for row in rows_of(splits, p) for _, t in row.meta["slots"]} for p in PARTS}
    assert len(texts["test"]) > 100
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["valid"]
    assert not texts["valid"] & texts["test"]


def test_no_test_template_occurs_in_training(splits: Splits) -> None:
    used = {p: {t for row in rows_of(splits, p) for t in row.meta["templates"]} for p in PARTS}
    assert not used["train"] & used["test"]
    assert not used["valid"] & used["test"]


def test_no_phrasing_stands_in_two_parts_of_the_tables() -> None:
    """Compared as skeletons, and after clauses are wrapped, so that a wrapped clause is no training line."""
    seen: dict[str, str] = {}
    for table in phrase_tables().values():
        for part in PARTS:
            texts = {skeleton(t.text) for kind in KINDS for t in table.of(kind, part)}
            texts |= {
                skeleton(wrap.replace("{a}", clause.text).replace("{A}", clause.text))
                for wrap in WRAPS[part]
                for clause in table.of("clause", part)
            }
            for text in texts:
                assert seen.setdefault(f"{table.tool}: {text}", part) == part, (table.tool, text)
    patterns = [(p, skeleton(text)) for p in PARTS for text in (*JOINS[p], *WRAPS[p])]
    assert len({text for _, text in patterns}) > 300  # the others differ in marks alone
    for part, text in patterns:
        assert all(other == part for other, same in patterns if same == text), text


def test_no_request_without_call_stands_in_two_parts() -> None:
    tools = [tool_from(f) for f in FUNCTIONS]
    requests = no_call_requests(tools, near=True)
    seen = [skeleton(request) for part in PARTS for _, request, _ in requests[part]]
    assert len(set(seen)) == len(seen)
    assert len(requests["train"]) >= 100
    assert len(requests["test"]) >= 40


@pytest.mark.parametrize("tool", [f.__name__ for f in FUNCTIONS])
def test_each_tool_has_many_phrasings(tool: str) -> None:
    table = phrase_tables()[tool]
    for part, least in LEAST.items():
        assert len(table.of("call", part)) >= least
        assert table.of("clause", part)
        assert table.of("ask", part)
    assert {t.missing for part in PARTS for t in table.of("ask", part)} <= {*table.questions}


def test_plans_are_short_and_name_the_tool(splits: Splits) -> None:
    for row in all_rows(splits):
        reply = row.messages[1]
        assert reply.thinking
        assert len(reply.thinking.split()) <= 18
        assert all(call.name in reply.thinking for call in reply.calls)
        if row.meta["category"] == "ask":
            assert row.meta["tool"] in reply.thinking
        assert bool(reply.calls) != bool(reply.content)


def test_optional_arguments_are_always_written_and_take_both_values(splits: Splits) -> None:
    """Whether to leave one out is a decision that a small model gets wrong; equal to the default it is right too."""
    for tool, optional, default in (("get_weather", "unit", "celsius"), ("play_music", "shuffle", False)):
        calls = [c for row in splits.train for c in row.messages[1].calls if c.name == tool]
        assert 0.2 < sum(call.arguments[optional] == default for call in calls) / len(calls) < 0.9


def test_seeded_and_without_thinking() -> None:
    first, again = builtin_data(seed=3, sizes=(40, 10, 10)), builtin_data(seed=3, sizes=(40, 10, 10))
    assert first == again
    assert builtin_data(seed=4, sizes=(40, 10, 10)).train != first.train
    plain = builtin_data(seed=3, sizes=(40, 10, 10), think=False)
    assert [row.messages[0] for row in plain.train] == [row.messages[0] for row in first.train]
    assert all(row.messages[1].thinking is None for row in plain.train)


def test_shares_are_settings() -> None:
    made = synthesise(list(FUNCTIONS), tables=phrase_tables(), rows_train=30, shares=Shares(1, 0, 0, 0))
    assert {row.meta["category"] for row in made.train} == {"call"}


def test_unknown_builtin_source_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="builtin:assistant"):
        builtin_data("builtin:nothing")


def test_values_belong_to_one_part_for_good() -> None:
    """Golden: a change of the hash would move values between parts of data sets that users keep."""
    assert [part_of(text) for text in GOLDEN_PARTS] == list(GOLDEN_PARTS.values())
    rng = random.Random(0)
    for kind in ("city", "date", "time", "amount", "int 2 180", "email", "id", "url"):
        for part in PARTS:
            assert part_of(draw(kind, part, rng).text) == part
    small = [name for name, entries in pools().items() if {part_of(e) for e in entries} != set(PARTS)]
    assert small == []


GOLDEN_PARTS = {"Oslo": "test", "Lyon": "test", "2026-03-14": "valid", "14:30": "train", "25": "test"}


def test_amounts_print_as_they_were_written() -> None:
    rng = random.Random(1)
    for _ in range(300):
        value = draw("amount", "train", rng)
        assert str(value.value) == value.text


def test_two_calls_from_one_template() -> None:
    table = phrase_tables()["set_light"]
    tool = next(tool_from(f) for f in FUNCTIONS if f.__name__ == "set_light")
    template = read_template("{room} on, {room#2} off => state=on, state#2=off", "x")
    filled = fill(template, table, tool, "test", random.Random(0))
    assert [call["state"] for call in filled.arguments] == ["on", "off"]
    assert filled.arguments[0]["room"] != filled.arguments[1]["room"]


def test_nobody_asks_for_the_same_call_twice(splits: Splits) -> None:
    several = [m.calls for rows in (splits.train, splits.valid, splits.test) for r in rows for m in r.messages[1:2]]
    assert sum(len(calls) > 1 for calls in several) > 20
    assert [calls for calls in several if len(calls) > 1 and calls[0] == calls[1]] == []
    table = read_table("words: {n: {1: [one], 2: [two]}}\npair:\n  train: |\n    {n} and {n#2}\n    {n} twice", "t")
    tool = Tool("t", "", {"type": "object", "properties": {"n": {"type": "integer"}}})
    for seed in range(20):
        first, twice = (fill(one, table, tool, "train", random.Random(seed)) for one in table.of("pair", "train"))
        assert first.text in ("one and two", "two and one") and len(twice.arguments) == 1


def test_a_table_with_an_unknown_slot_is_refused() -> None:
    with pytest.raises(InputError, match="unknown_slot: town"):
        read_table("slots: {city: city}\ncall:\n  train: |\n    weather in {town}\n", "get_weather")


def get_order(order_id: str, detail: Literal["short", "full"] = "short") -> dict[str, str]:
    """Returns the state of an order.

    Examples:
        - where is {order_id}?
        - state of {order_id}
        - has {order_id} been sent => detail=short
        - tell me everything about {order_id} => detail=full
        - track {order_id}
        - what about {parcel}?
        - where is my order?
    """
    raise AssertionError("synthesise must never execute a user's function")


def meet(guests: list[str], start_time: str, room: str) -> None:
    """Book a meeting in a room."""


def odd(data: dict[str, int]) -> None:
    """Store data."""


def test_users_functions_get_rows_from_docstring_names_and_types() -> None:
    made = synthesise([get_order, meet, odd], rows_train=200, rows_valid=20, rows_test=60)
    assert len(made.train) == 200
    assert [p for row in all_rows(made) for c in row.messages[1].calls for p in validate_call(c, row.tools)] == []
    templates = {p: {t for r in rows_of(made, p) for t in r.meta["templates"]} for p in PARTS}
    assert "get_order/example/0" in templates["train"]
    assert "get_order/example/3" in templates["test"]
    assert not templates["train"] & templates["test"]
    categories = {row.meta["category"] for row in made.test}
    assert categories == {"call", "parallel", "no_call", "ask"}
    requests = [row.messages[0].content for row in made.train]
    assert any(re.search(r"ook a meeting in [a-z ]+ with guests \w+.* at \d\d:\d\d", r) for r in requests)
    notes = "\n".join(made.notes)
    assert "odd: no values for data" in notes
    assert "parcel, which is no parameter" in notes
    assert "meet: add `Examples:`" in notes


def test_tools_without_any_possible_request_are_an_input_error() -> None:
    with pytest.raises(InputError, match="no request can be made"):
        synthesise([odd])


def test_values_that_the_schema_refuses_are_left_out_and_noted() -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 5}},
        "required": ["city"],
    }
    tool = {"name": "weather", "description": "Get the weather for a city.", "parameters": schema}
    made = synthesise([tool], rows_train=30, rows_valid=0, rows_test=0)
    cities = [c.arguments["city"] for row in made.train for c in row.messages[1].calls]
    assert cities
    assert max(map(len, cities)) <= 5
    assert any("do not fit its schema" in note for note in made.notes)


def search_web(query: str) -> str:
    """Search the web."""
    return query


def test_a_tool_that_searches_gets_no_knowledge_question_as_no_call() -> None:
    kinds = {t.split("/")[1] for t, _, _ in no_call_requests([tool_from(search_web)], near=False)["train"]}
    assert kinds == {"smalltalk", "impossible"}


def test_template_line() -> None:
    assert read_template("a {b} => c=1, d=x", "i") == Template("i", "a {b}", {"c": 1, "d": "x"})
    assert read_template("a => missing=b", "i").missing == "b"


def order_tea(kind: str, cups: int = 1, milk: bool = False, note: str | None = None) -> str:
    """Order tea.

    Examples:
        - A {kind} tea, please
        - Tea: {kind}, {cups} cups
        - {cups} cups of {kind} tea
        - {kind} tea with milk => milk=true
        - I would like some {kind} tea
    """
    return kind


def test_what_has_a_plain_default_is_always_written():
    """Whether one more argument follows is a late decision that small models get wrong."""
    calls = [call for row in synthesise([order_tea], rows_train=200).train for m in row.messages for call in m.calls]
    assert len(calls) > 150
    assert all({"kind", "cups", "milk"} <= set(call.arguments) for call in calls)
    assert {True, False} == {call.arguments["milk"] for call in calls}
    assert {call.arguments["cups"] for call in calls} > {1}
    assert not any(call.arguments.get("note", "") is None for call in calls)  # null says nothing
