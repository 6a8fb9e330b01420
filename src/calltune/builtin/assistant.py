"""Built-in tools: the small functions of a personal assistant that `calltune demo` teaches.

They are plain annotated functions, as a user would write them, and they run locally: no network, no
clock, no state, so the same call always gives the same result. Weather, routes and exchange rates are
invented tables, named as such in the results' `source`. The docstrings are short on purpose: each of
their words stands in the prompt of every request.
"""

from __future__ import annotations

import datetime
import re
import zlib
from collections.abc import Callable
from typing import Any, Literal

from calltune.functions import tool

# Units of a currency for one US dollar. A fixed table for the demo, not today's market.
FIXED_RATES = {"dollars": 1.0, "euros": 0.92, "pounds": 0.79, "yen": 150.0, "francs": 0.88, "kronor": 10.5}
Currency = Literal["dollars", "euros", "pounds", "yen", "francs", "kronor"]
Room = Literal["kitchen", "bedroom", "bathroom", "office", "garage", "hallway"]
Genre = Literal["jazz", "rock", "pop", "blues", "folk", "classical"]
Language = Literal["French", "Spanish", "German", "Italian", "Polish", "Turkish", "Japanese", "Swedish"]
SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy", "clear")


@tool(pure=True)
def get_weather(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> dict[str, Any]:
    """Get the current weather."""
    seed = _number_of(city)
    degrees = seed % 36 - 5
    if unit == "fahrenheit":
        degrees = round(degrees * 9 / 5 + 32)
    sky = SKIES[seed // 36 % len(SKIES)]
    return {"city": city, "degrees": degrees, "unit": unit, "sky": sky, "source": "made-up table"}


@tool(pure=True)
def convert_currency(amount: float, source: Currency, target: Currency) -> dict[str, Any]:
    """Convert money."""
    for currency in (source, target):
        if currency not in FIXED_RATES:
            raise ValueError(f"unknown currency {currency!r}; known: {', '.join(FIXED_RATES)}")
    result = round(amount * FIXED_RATES[target] / FIXED_RATES[source], 2)
    return {"amount": result, "currency": target, "source": "fixed demo rates"}


def set_timer(minutes: int) -> dict[str, Any]:
    """Start a countdown timer."""
    if minutes < 1:
        raise ValueError("a timer needs at least one minute")
    return {"started": True, "minutes": minutes}


def create_event(title: str, date: datetime.date, time: str) -> dict[str, Any]:
    """Add an event to the calendar.

    Args:
        time: HH:MM
    """
    return {"created": title, "date": _date_text(date), "time": _check_time(time)}


def send_message(to: str, text: str) -> dict[str, Any]:
    """Send a text message to a person."""
    return {"sent": True, "to": to, "characters": len(text)}


def add_to_list(items: list[str], list_name: Literal["shopping", "todo", "packing"]) -> dict[str, Any]:
    """Add items to a list."""
    if not items:
        raise ValueError("there is nothing to add")
    return {"list": list_name, "added": len(items), "items": list(items)}


def set_light(room: Room, state: Literal["on", "off"]) -> dict[str, Any]:
    """Switch a room's light."""
    return {"room": room, "light": state}


def set_temperature(degrees: float) -> dict[str, Any]:
    """Set the heating."""
    if not 5 <= degrees <= 30:
        raise ValueError("the heating goes from 5 to 30 degrees")
    return {"degrees": degrees}


def play_music(genre: Genre, shuffle: bool = False) -> dict[str, Any]:
    """Play music."""
    return {"playing": genre, "shuffle": shuffle}


@tool(pure=True)
def translate_text(text: str, language: Language) -> dict[str, Any]:
    """Translate a text."""
    # There is no dictionary here: the marked text stands for a translation service's answer.
    return {"translation": f"[{language}] {text}", "source": "stand-in translator"}


FUNCTIONS: tuple[Callable[..., dict[str, Any]], ...] = (
    get_weather,
    convert_currency,
    set_timer,
    create_event,
    send_message,
    add_to_list,
    set_light,
    set_temperature,
    play_music,
    translate_text,
)


def _number_of(text: str) -> int:
    """A number that belongs to a text: the same on every machine (`hash()` is not)."""
    return zlib.crc32(text.lower().encode())


def _date_text(date: datetime.date | str) -> str:
    """The ISO form of a date that comes as a date or as its text. Raises ValueError."""
    return datetime.date.fromisoformat(str(date)).isoformat()


def _check_time(time: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", time):
        raise ValueError(f"{time!r} is not a time such as 14:30")
    return time
