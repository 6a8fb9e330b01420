"""Rows whose second call needs the first one's result: found by name and type, read from result or example."""

from __future__ import annotations

import datetime
import json
import random
from typing import TypedDict

import pytest

import calltune
from calltune.data.check import Checker
from calltune.data.dependent import links_of
from calltune.data.generic import table_for
from calltune.data.results import result_schema, with_results
from calltune.data.sources import sources_of
from calltune.data.synthesise import synthesise
from calltune.functions import functions_from


class Order(TypedDict):
    id: int
    status: str


def find_order(customer: str) -> Order:
    """Find the last order of a customer."""
    raise AssertionError("never executed")


def refund_order(order_id: int, gift: bool = False) -> None:
    """Refund an order.

    Examples:
        - Refund order {order_id}.
        - Please pay {order_id} back
        - Money back for {order_id}
        - Give the money for {order_id} back
        - Refund {order_id}
    """


def search_flights(city: str) -> dict:
    """Search flights to a city.

    Returns:
        what was found, as {"flights": [{"flight_number": "LH-204", "price": 120.5, "carrier": "Lufthansa"}]}
    """
    raise AssertionError("never executed")


def book_flight(flight_number: str, seats: int) -> None:
    """Book a flight."""


def customer_email(name: str) -> str:
    """Look up the email of a customer."""
    raise AssertionError("never executed")


def write_mail(email: str) -> bool:
    """Write a mail to an email address."""


def order_date(customer: str) -> datetime.date:
    """Tell the date of the last order of a customer."""
    raise AssertionError("never executed")


def remind(date: str) -> None:
    """Remind me on a date."""


def order_note(order_id: int) -> Order:
    """Read the note of an order."""
    raise AssertionError("never executed")


ALL = [
    find_order,
    refund_order,
    search_flights,
    book_flight,
    customer_email,
    write_mail,
    order_date,
    remind,
    order_note,
]


def links(*sources):
    functions = functions_from(list(sources))
    tables = {f.name: table_for(f)[0] for f in functions}
    return {(one.first.name, one.second.name, one.name): one.place for one in links_of(functions, tables)}


def test_links_are_found_by_name_and_type():
    assert links(*ALL) == {
        ("find_order", "refund_order", "order_id"): ("id",),
        ("find_order", "order_note", "order_id"): ("id",),
        ("search_flights", "book_flight", "flight_number"): ("flights", 0, "flight_number"),
        ("customer_email", "write_mail", "email"): (),
    }  # a date is no text; order_note needs an order itself, so nothing of it is new


def test_a_made_row_calls_reads_the_result_and_calls_with_its_value():
    made = synthesise(ALL[:6], rows_train=300, rows_valid=40, rows_test=100)
    for part, rows in (("train", made.train), ("valid", made.valid), ("test", made.test)):
        found = [row for row in rows if row.meta["category"] == "dependent"]
        assert found, part
        for row in found:
            user, first, result, second = row.messages
            assert [m.role for m in row.messages] == ["user", "assistant", "tool", "assistant"]
            (one,), (other,) = first.calls, second.calls
            place = links(*ALL[:6])[one.name, other.name, _linked(other)]
            value = json.loads(result.content)
            for step in place:
                value = value[step]
            assert other.arguments[_linked(other)] == value
            assert str(value) not in user.content and "{" not in user.content
            assert list(other.arguments) == [p for p in other_tool(row, other).properties if p in other.arguments]
            assert first.thinking == f"First {one.name}: {other.name} needs its {_linked(other)}."
            assert (result.call_id, one.id) == ("call_0", "call_0") and other.id == "call_1"
    texts = " ".join(row.messages[0].content for row in made.train if row.meta["category"] == "dependent")
    assert "that order" in texts and "order that order" not in texts


def _linked(call) -> str:
    return {"refund_order": "order_id", "book_flight": "flight_number", "write_mail": "email"}[call.name]


def other_tool(row, call):
    return next(tool for tool in row.tools if tool.name == call.name)


def test_the_rows_pass_the_check_and_go_on_with_results(tmp_path):
    made = synthesise(ALL[:6], rows_train=200)
    rows = [row for row in made.train if row.meta["category"] == "dependent"]
    assert {c.status for c in Checker().check(sources_of([r.to_openai() for r in rows])["train"])} == {"ok"}
    longer = [row for row in with_results(rows, functions_from(ALL[:6]), 1.0).rows if row.meta.get("results")]
    assert longer and {len(row.messages) for row in longer} == {6}
    for row in longer:
        assert [call.id for m in row.messages for call in m.calls] == ["call_0", "call_1"]
        assert [m.call_id for m in row.messages if m.role == "tool"] == ["call_0", "call_1"]


@calltune.tool(pure=True)
def find_items(word: str) -> list:
    """Find items with a word."""
    return []


def test_shares_do_not_move_where_no_tool_needs_another():
    made = synthesise([find_order, write_mail], rows_train=100)
    assert len(made.train) == 100
    assert not any(row.meta["category"] == "dependent" for row in made.train)


@pytest.mark.parametrize(
    ("function", "schema"),
    [
        (find_order, {"id": {"type": "integer"}, "status": {"type": "string"}}),
        (search_flights, {"flights": {"type": "array", "items": {"type": "object", "properties": {
            "flight_number": {"type": "string"}, "price": {"type": "number"}, "carrier": {"enum": ["Lufthansa"]}}}}}),
    ],
)  # fmt: skip
def test_the_schema_of_a_result_is_of_the_return_type_or_the_example(function, schema):
    assert result_schema(functions_from([function])[0])["properties"] == schema


def test_a_result_that_nothing_tells_of_gives_none():
    assert result_schema(functions_from([book_flight])[0]) is None
    assert result_schema(functions_from([find_items])[0]) is None


def test_a_list_of_several_leaves_open_which_is_meant():
    from calltune.data.dependent import linked_result
    from calltune.schema import ToolCall

    functions = functions_from(ALL[:6])
    tables = {f.name: table_for(f)[0] for f in functions}
    link = next(one for one in links_of(functions, tables) if one.first.name == "search_flights")
    rng, call = random.Random(0), ToolCall("search_flights", {"city": "Oslo"})
    found = [linked_result(link, call, "train", rng) for _ in range(60)]
    assert any(one is None for one in found)
    assert all(len(json.loads(one[0])["flights"]) == 1 for one in found if one)
