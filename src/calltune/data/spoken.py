"""The same number, date or time in other words: `1000` as `1,000`, `3` as `three`, `2026-03-05` as `March 5, 2026`.

Only the request changes; the call keeps the value that its schema wants.
"""

from __future__ import annotations

import datetime
import random
import re
from collections.abc import Iterator, Mapping
from typing import Any

from calltune.schema import Conversation

SMALL = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
          "November", "December")  # fmt: skip
TIME = re.compile(r"0(\d):(\d\d)")
ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def other_form(value: Any, text: str, rng: random.Random) -> str | None:
    """A text with one value said in another form; None where it is not there just once, or has no other form."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    said = forms(value)
    plain = value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
    places = [m.span() for m in re.finditer(rf"(?<![\w.,-]){re.escape(plain)}(?![\w-]|[.,]\d)", text)]
    if not said or len(places) != 1:
        return None
    (start, end), chosen = places[0], rng.choice(said)
    if start == 0:
        chosen = chosen[0].upper() + chosen[1:]
    return text[:start] + chosen + text[end:]


def forms(value: int | float | str) -> list[str]:
    """Other ways to say a number, a date or a time; none for other values."""
    return _date_forms(value) or _time_forms(value) if isinstance(value, str) else _number_forms(value)


def _time_forms(text: str) -> list[str]:
    """`7:30` for 07:30; hours after noon stay as they are, since another number stands for them then."""
    found = TIME.fullmatch(text)
    return [f"{found[1]}:{found[2]}", f"{found[1]}:{found[2]} am"] if found else []


def _number_forms(number: int | float) -> list[str]:
    if isinstance(number, int) and 0 <= number < len(SMALL):
        return [SMALL[number]]
    if abs(number) >= 1000 and isinstance(number, int):
        return [f"{number:,}"]
    return []


def _date_forms(text: str) -> list[str]:
    if not ISO_DATE.fullmatch(text):
        return []
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError:
        return []
    month = MONTHS[day.month - 1]
    return [f"{month} {day.day}, {day.year}", f"{day.day} {month} {day.year}", f"{day.year}/{day.month}/{day.day}"]


def values_of_calls(conversation: Conversation) -> list[Any]:
    """Every text and number in the arguments of the calls."""
    return [v for m in conversation.messages for call in m.calls for v in _leaves(call.arguments)]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
