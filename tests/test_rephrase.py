"""Requests for functions that nobody wrote tables for: clauses of their examples, words around them, their values."""

from __future__ import annotations

import datetime
import random
import re

import pytest

from calltune.data.kinds import kind_of
from calltune.data.parts import PARTS
from calltune.data.phrases import PhraseTable, fill, read_template
from calltune.data.rephrase import CLOSERS, LINKS, OPENERS, clause_of, dressed, linked
from calltune.data.slots import draw
from calltune.data.synthesise import synthesise
from calltune.functions import tool_from


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ("Can you track {id}?", "track {id}"),
        ("Please collect a parcel from {street}", "collect a parcel from {street}"),
        ("Heat the {room} to {degrees}.", "heat the {room} to {degrees}"),
        ("I'd like you to pay {id} back, please.", "pay {id} back"),
        ("Blinds in the {room} to {percent} percent, please.", None),
        ("Where is parcel {id}?", None),
        ("It is too bright. Close the {room} blinds", None),
        ("Reorder: {isbn}", None),
        ("{isbn} is nearly sold out, reorder {quantity}", None),
        ("", None),
    ],
)
def test_what_of_an_example_can_stand_in_a_longer_sentence(text, clause):
    assert clause_of(text) == clause


def test_a_verb_of_the_description_makes_a_clause_too():
    assert clause_of("Forecast the roof {day}.") is None
    assert clause_of("Forecast the roof {day}.", "forecast") == "forecast the roof {day}"


def test_words_around_a_request_change_nothing_in_it_and_stand_in_one_part():
    rng = random.Random(0)
    texts = {dressed("Close the blinds", "train", rng) for _ in range(300)}
    assert len(texts) > 20 and all("lose the blinds" in text for text in texts)
    assert "Okay, close the blinds" in texts or "So, close the blinds" in texts
    assert all(dressed("PX-1 is late", "train", rng).count("PX-1") == 1 for _ in range(50))
    for kinds in (OPENERS, CLOSERS, LINKS):
        assert all(kinds[part] for part in PARTS)
        assert not {*kinds["train"]} & {*kinds["test"]} and not {*kinds["train"]} & {*kinds["valid"]}


def test_two_requests_one_after_the_other():
    assert linked("Track {id}", "What does it cost?", "Also, {c}") == "Track {id}. Also, what does it cost?"
    assert linked("Is it late?", "Anna wants two", "And {c}") == "Is it late? And Anna wants two"


@pytest.mark.parametrize(
    ("name", "schema", "kind"),
    [
        ("isbn", {"type": "string"}, "isbn"),
        ("home_address", {"type": "string"}, "street"),
        ("tracking_number", {"type": "string"}, "code"),
        ("nights", {"type": "integer"}, "int 1 14"),
        ("things", {"type": "integer"}, "count"),
        ("things", {"type": "integer", "minimum": 3, "maximum": 5}, "int 3 5"),
        ("weight_kg", {"type": "number"}, "decimal 0 40"),
        ("room_temperature", {"type": "number"}, "degrees"),
        ("price", {"type": "number"}, "amount"),
        ("at", {"anyOf": [{"type": "null"}, {"type": "string", "format": "time"}]}, "time"),
        ("guests", {"type": "array", "items": {"type": "string"}}, "list person"),
        ("data", {"type": "object"}, None),
    ],
)
def test_kinds_of_values(name, schema, kind):
    assert kind_of(name, schema) == kind


def test_a_title_is_one_of_a_book_where_the_tool_speaks_of_books():
    assert kind_of("title", {"type": "string"}) == "title"
    assert kind_of("title", {"type": "string"}, {"lend", "a", "book"}) == "work"


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("isbn", r"97[89]\d{10}"),
        ("code", r"(?!0)[\w-]{5,10}"),
        ("street", r".*\d.*"),
        ("count", r"\d{1,3}"),
        ("decimal 0 40", r"\d+(\.\d{1,2})?"),
        ("work", r"[A-Z].*"),
    ],
)
def test_values_of_the_kinds(kind, pattern):
    rng = random.Random(0)
    for _ in range(200):
        value = draw(kind, "train", rng)
        assert re.fullmatch(pattern, value.text)
        assert str(value.value) == value.text
        if kind.startswith("decimal"):
            assert 0 < value.value <= 40


def rent(start: datetime.date, end: datetime.date, cars: int) -> None:
    """Rent cars."""


def test_dates_come_in_order_and_some_values_in_other_words():
    table = PhraseTable("rent", {"start": "date", "end": "date", "cars": "int 1 9"}, {}, {}, forms=0.4)
    template = read_template("{cars} cars from {start} to {end}", "x")
    rng, texts = random.Random(0), []
    for _ in range(100):
        filled = fill(template, table, tool_from(rent), "train", rng)
        arguments = filled.arguments[0]
        assert arguments["start"] <= arguments["end"]
        texts.append(filled.text)
        if arguments["start"] in filled.text and arguments["end"] in filled.text:
            assert filled.text.index(arguments["start"]) < filled.text.index(arguments["end"])
    assert any(re.search(r"three cars|four cars", text) for text in texts)
    assert any(re.search(r"\d [A-Z][a-z]+ 20\d\d|[A-Z][a-z]+ \d+, 20\d\d", text) for text in texts)


def set_price(isbn: str, price: float, reason: str | None = None) -> None:
    """Change the price of a book, in euros."""


def heat(room: str, hours: int, celsius: float = 20.0) -> None:
    """Tell the heating of a room, at once or later, to go on."""


def fetch_parcel(street: str) -> None:
    """Let a courier fetch a parcel at a street address."""


def test_verb_phrases_read_as_people_speak():
    made = synthesise([set_price, heat, fetch_parcel], rows_train=150)
    texts = "\n".join(row.messages[0].content for row in made.train)
    assert re.search(r"hange the price of a book with isbn 97\d+ to \d", texts)
    assert re.search(r"ell me the heating of .* for (\d+|[a-z]+) hours", texts)
    assert not re.search(r"at once|street address|\{", texts)
    assert re.search(r"et a courier fetch a parcel at .*\d", texts)
    assert re.search(r"with (\S+) degrees", texts)
    linked_rows = [
        r for r in made.train if r.meta["category"] == "parallel" and r.meta["templates"][0] in LINKS["train"]
    ]
    assert len(linked_rows) > 8
