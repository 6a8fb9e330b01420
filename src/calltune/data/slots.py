"""Values for the slots of request templates: pools of words, numbers, dates, each in one part only.

Every value belongs to train, valid or test by a hash of its text (`part_of`), whatever pool or kind it
comes from, so a value of the test part occurs nowhere in training. Kinds are written as short texts:
`city` (a pool), `int 2 180`, `amount`, `date`, `time`, `datetime`, `email`, `url`, `id`, `phone`, and
`list KIND`, `count` (a number of things), `decimal 0 40`, `street`, `code` and `isbn` (what must be copied letter by
letter).
"""

from __future__ import annotations

import datetime
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml

from calltune.data.invent import invent
from calltune.data.parts import Part, part_of

FIRST_DATE = datetime.date(2026, 1, 1)
DATE_DAYS = 730
INVENTED = 0.75  # share of the training values that are made up (data/invent.py)
TRIES = 400


@dataclass(frozen=True)
class Value:
    """`value` goes into the call, `text` into the request; `parts` are the texts of a list's items."""

    value: Any
    text: str
    parts: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def pools() -> Mapping[str, tuple[str, ...]]:
    """Name of a pool -> its entries (data/pools.yaml)."""
    raw = yaml.safe_load(files("calltune.data").joinpath("pools.yaml").read_text(encoding="utf-8"))
    return {name: tuple(e.strip() for e in re.split(r"[|\n]", text) if e.strip()) for name, text in raw.items()}


@lru_cache(maxsize=256)
def pool_part(name: str, part: Part) -> tuple[str, ...]:
    """The entries of a pool that belong to a part."""
    return tuple(entry for entry in pools()[name] if part_of(entry) == part)


def draw(kind: str, part: Part, rng: random.Random, used: set[str] | None = None) -> Value:
    """A value of a kind from a part, with a text that is not in `used` (to which it is added).

    A small range of integers may hold no value of the part; then any of the range is taken.
    """
    used = set() if used is None else used
    last: Value | None = None
    for _ in range(TRIES):
        value = (
            _draw_list(kind[5:], part, rng, used) if kind.startswith("list ") else _draw_one(kind, part, rng, used)
        )
        last = value
        ours = kind in pools() or kind.startswith("list ") or part_of(value.text) == part
        if ours and value.text.lower() not in used:
            break
    assert last is not None
    used.add(last.text.lower())
    return last


def _draw_list(kind: str, part: Part, rng: random.Random, used: set[str]) -> Value:
    """One to four items, written `a, b and c`."""
    count = rng.choices((1, 2, 3, 4), (35, 35, 22, 8))[0]
    own = set(used)
    items = [draw(kind, part, rng, own) for _ in range(count)]
    texts = [item.text for item in items]
    text = texts[0] if count == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
    return Value([item.value for item in items], text, tuple(texts))


def _draw_one(kind: str, part: Part, rng: random.Random, used: set[str]) -> Value:
    if kind in pools():
        return _from_pool(kind, part, rng, used)
    head, *bounds = kind.split()
    if head == "int":
        low, high = int(bounds[0]), int(bounds[1])
        number = rng.randint(low, high)
        return Value(number, str(number))
    if head == "degrees":  # as a thermostat shows them: 21 or 21.5
        value = rng.randint(10, 60) / 2
        return Value(int(value) if value == int(value) else value, f"{value:g}")
    if head == "count":
        number = rng.randint(*rng.choices(((1, 12), (13, 99), (100, 999)), (60, 25, 15))[0])
        return Value(number, str(number))
    if head == "decimal":
        return _decimal(int(bounds[0]), int(bounds[1]), rng)
    if head == "amount":
        return _amount(rng)
    text = _MAKERS[head](rng)
    return Value(text, text)


def _from_pool(name: str, part: Part, rng: random.Random, used: set[str]) -> Value:
    """An entry; its inner {slots} are filled from the same part and noted as used."""
    if part == "train" and rng.random() < INVENTED:
        made = invent(name, rng)
        if made is not None and part_of(made) == part:
            return Value(made, made)
    entries = pool_part(name, part) or pools()[name]
    entry = rng.choice(entries)
    text = re.sub(r"\{(\w+)\}", lambda match: draw(match[1], part, rng, set(used)).text, entry)
    return Value(text, text)


def _amount(rng: random.Random) -> Value:
    """An amount as people write it: 250, 12.5, 49.95; the call's number prints as the request's text."""
    shape = rng.random()
    if shape < 0.5:
        whole = rng.choice((rng.randint(5, 99), rng.randint(100, 2500), rng.randint(1, 99) * 10))
        return Value(whole, str(whole))
    digits = 1 if shape < 0.62 else 2
    cents = rng.randint(1, 10**digits - 1)
    text = f"{rng.randint(3, 999)}.{cents:0{digits}d}".rstrip("0")
    return Value(float(text), text)


def _decimal(low: int, high: int, rng: random.Random) -> Value:
    """A measured number, half of the time a whole one: 3, 2.5, 0.75; small ones are as frequent as large ones."""
    top = rng.choice((min(high, low + 10), high))
    digits = rng.choices((0, 1, 2), (50, 40, 10))[0]
    if digits == 0:
        whole = rng.randint(max(low, 1), top)
        return Value(whole, str(whole))
    text = f"{rng.uniform(low, top):.{digits}f}".rstrip("0")
    return _decimal(low, high, rng) if text.endswith(".") else Value(float(text), text)


def _date(rng: random.Random) -> str:
    return (FIRST_DATE + datetime.timedelta(days=rng.randrange(DATE_DAYS))).isoformat()


def _time(rng: random.Random) -> str:
    return f"{rng.randint(7, 22):02d}:{rng.randrange(0, 60, 5):02d}"


def _email(rng: random.Random) -> str:
    name = rng.choice([entry for entry in pools()["person"] if " " not in entry]).lower()
    return f"{name}@{rng.choice(('example.com', 'example.org', 'mail.example', 'work.example'))}"


def _url(rng: random.Random) -> str:
    return f"https://example.com/{rng.choice(pools()['query']).replace(' ', '-')}"


def _id(rng: random.Random) -> str:
    letters = "".join(rng.choices("ABCDEFGHKLMNPRSTUVWX", k=2))
    return f"{letters}-{rng.randint(1000, 9999)}"


def _code(rng: random.Random) -> str:
    """An id as parcels, orders and tickets have them: `KL-90077`, `7734-AB-19`, `x4f09`, `20517733`."""
    shape = rng.choice(("AA-9999", "AA-99999", "AAA-999", "9999-AA-99", "A99-9999", "AA999999", "99999", "99999999",
                        "AAA-999-AA", "a9a99"))  # fmt: skip
    letters = {"A": "ABCDEFGHJKLMNPQRSTUVWXYZ", "a": "abcdefhkmnprstuvwxyz", "9": "0123456789"}
    text = "".join(rng.choice(letters[sign]) if sign in letters else sign for sign in shape)
    return f"1{text[1:]}" if text.startswith("0") else text


def _street(rng: random.Random) -> str:
    """`12 Mill Lane`, `Lindenweg 9`: names of places and people on streets, with a number before or after."""
    name, number = invent("country", rng) or "", rng.randint(1, 180)
    first = rng.choice((name, rng.choice(pools()["person"]).split()[-1], rng.choice(_STREET_NAMES)))
    kind = rng.choice(("Street", "Road", "Lane", "Avenue", "Square", "Way", "Street", "Road"))
    shapes = f"{number} {first} {kind}", f"{first} {kind} {number}", f"{name}{rng.choice(_ENDINGS)} {number}"
    return rng.choice(shapes)


_STREET_NAMES = ("Station", "Church", "Market", "High", "Garden", "Bridge", "Castle", "Park", "School", "River",
                 "Oak", "King", "Queen", "North", "Spring", "Forest", "Green", "Hill")  # fmt: skip
_ENDINGS = ("weg", "straat", "gasse", "allee", "platz")

_MAKERS: Mapping[str, Callable[[random.Random], str]] = {
    "date": _date,
    "time": _time,
    "datetime": lambda rng: f"{_date(rng)}T{_time(rng)}:00",
    "email": _email,
    "url": _url,
    "id": _id,
    "code": _code,
    "street": _street,
    "isbn": lambda rng: f"97{rng.choice('89')}{rng.randrange(10**10):010d}",
    "phone": lambda rng: f"555-{rng.randint(100, 9999):04d}",
}
