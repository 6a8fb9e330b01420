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

# Units of a currency for one US dollar. A fixed table for the demo, not today's market.
FIXED_RATES = {
    "USD": 1.0, "EUR": 0.92, "GBP": 0.79, "JPY": 150.0, "CHF": 0.88, "SEK": 10.5, "NOK": 10.7, "DKK": 6.9,
    "PLN": 4.0, "CZK": 23.2, "HUF": 360.0, "RON": 4.6, "TRY": 32.0, "ILS": 3.7, "ZAR": 18.5, "EGP": 48.0,
    "KES": 130.0, "NGN": 1500.0, "INR": 83.0, "CNY": 7.2, "KRW": 1350.0, "THB": 36.0, "IDR": 15800.0,
    "SGD": 1.35, "HKD": 7.8, "AUD": 1.52, "NZD": 1.65, "CAD": 1.36, "MXN": 17.0, "BRL": 5.0, "ARS": 900.0,
    "CLP": 940.0, "COP": 3950.0, "PEN": 3.75, "AED": 3.67, "SAR": 3.75, "MYR": 4.7, "PHP": 57.0,
}  # fmt: skip
SPEED_KMH = {"walk": 5, "bike": 15, "car": 60, "train": 90}
SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy", "clear")


def get_weather(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> dict[str, Any]:
    """Get the current weather."""
    seed = _number_of(city)
    degrees = seed % 36 - 5
    if unit == "fahrenheit":
        degrees = round(degrees * 9 / 5 + 32)
    sky = SKIES[seed // 36 % len(SKIES)]
    return {"city": city, "degrees": degrees, "unit": unit, "sky": sky, "source": "made-up table"}


def convert_currency(amount: float, source: str, target: str) -> dict[str, Any]:
    """Convert money.

    Args:
        source: currency code
        target: currency code
    """
    for code in (source, target):
        if code not in FIXED_RATES:
            raise ValueError(f"unknown currency {code!r}; known: {', '.join(FIXED_RATES)}")
    result = round(amount * FIXED_RATES[target] / FIXED_RATES[source], 2)
    return {"amount": result, "currency": target, "source": "fixed demo rates"}


def set_timer(minutes: int, label: str = "") -> dict[str, Any]:
    """Start a countdown timer."""
    if minutes < 1:
        raise ValueError("a timer needs at least one minute")
    return {"started": True, "minutes": minutes, "label": label}


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


def set_light(room: str, on: bool) -> dict[str, Any]:
    """Switch a room's light."""
    return {"room": room, "light": "on" if on else "off"}


def play_music(artist: str, shuffle: bool = False) -> dict[str, Any]:
    """Play an artist's songs."""
    return {"playing": artist, "shuffle": shuffle}


def translate_text(text: str, language: str) -> dict[str, Any]:
    """Translate a text."""
    # There is no dictionary here: the marked text stands for a translation service's answer.
    return {"translation": f"[{language}] {text}", "source": "stand-in translator"}


def find_route(
    origin: str, destination: str, mode: Literal["walk", "bike", "car", "train"] = "car"
) -> dict[str, Any]:
    """Find the way between two places."""
    kilometres = _number_of(" to ".join(sorted((origin, destination)))) % 800 + 20
    minutes = round(kilometres / SPEED_KMH[mode] * 60)
    return {"kilometres": kilometres, "minutes": minutes, "mode": mode, "source": "made-up distances"}


FUNCTIONS: tuple[Callable[..., dict[str, Any]], ...] = (
    get_weather,
    convert_currency,
    set_timer,
    create_event,
    send_message,
    add_to_list,
    set_light,
    play_music,
    translate_text,
    find_route,
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
