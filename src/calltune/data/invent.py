"""Made-up values for training: so many that they can only be copied from the request, not remembered.

A small model that sees 35 rooms learns these rooms; asked for the light in the porch it then writes a room
that it knows. Invented names and combined words leave copying as the only way to be right.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping

# Words by what they are for, in one text that is easy to add to.
_WORDS = """
starts: b br c d dr f fl g gr h j k kr l m n p pr qu r s sh st t tr v w z
vowels: a e i o u a e i o ai ea oo ou
ends: n r l s t m nd rk x ck th lla ra no ria ston ville ham berg mont dale
adjectives: blue small old quiet second upper lower back big red green warm cold bright round empty yellow
  white narrow new long short soft wooden golden hidden northern eastern frozen sweet dried organic plain
  fresh local foreign early late weekly monthly annual first last final spare shared private open broken heavy
  light silver rusty
nouns: river candle tower bridge orange basket carpet mountain window engine pepper pillow lantern violin
  harbour bottle ladder forest marble pencil saddle anchor barrel compass curtain drawer feather hammer island
  jacket kettle lemon magnet needle oven paddle quilt rocket shovel table umbrella valley wagon yacht zebra
  cabin desk elevator fountain goat helmet iron jungle kite lamp mirror notebook onion parcel radio sofa tent
  vase wheel garden museum ticket bicycle camera dinner fence guitar hotel insurance jewel kitchen letter
  market newspaper office piano receipt
events: meeting lesson party review visit call rehearsal check interview tour training dinner walk class talk
tasks: repair order cleaning return booking check delivery call payment search renewal update pickup
states: ready late broken closed empty full lost found clean wet cheap gone safe finished cancelled
verbs: found sold forgot painted fixed bought lost cleaned moved opened packed washed broke ordered
"""


def _words(kind: str) -> list[str]:
    """The words of one kind in `_WORDS`."""
    found = re.search(rf"^{kind}: (.*?)(?=^\w+:|\Z)", _WORDS, re.DOTALL | re.MULTILINE)
    return found[1].split() if found else []


_STARTS = _words("starts")
_VOWELS = _words("vowels")
_ENDS = _words("ends")
_ADJECTIVES = _words("adjectives")
_NOUNS = _words("nouns")
_EVENTS = _words("events")
_TASKS = _words("tasks")
_STATES = _words("states")
_VERBS = _words("verbs")


def invent(pool: str, rng: random.Random) -> str | None:
    """A made-up entry for a pool, or None where the real ones are a closed set (currencies, languages)."""
    maker = _MAKERS.get(pool)
    return maker(rng) if maker else None


def name(rng: random.Random) -> str:
    """A name that nobody has: `Brenoston`, `Quaira`."""
    word = "".join(rng.choice(_STARTS) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 2, 2))))
    return (word + rng.choice(_ENDS)).capitalize()


def thing(rng: random.Random) -> str:
    """`lantern`, `wooden lantern` or `garden lantern`."""
    noun = rng.choice(_NOUNS)
    return rng.choice((noun, f"{rng.choice(_ADJECTIVES)} {noun}", f"{rng.choice(_NOUNS)} {noun}"))


def _city(rng: random.Random) -> str:
    return rng.choice((name(rng), name(rng), f"{rng.choice(('Port', 'San', 'New', 'Lake', 'Saint'))} {name(rng)}"))


def _person(rng: random.Random) -> str:
    return rng.choice((name(rng), name(rng), f"{rng.choice(('Mr', 'Mrs', 'Aunt', 'Doctor'))} {name(rng)}"))


def _artist(rng: random.Random) -> str:
    band = f"The {rng.choice(_ADJECTIVES).capitalize()} {rng.choice(_NOUNS).capitalize()}s"
    return rng.choice((f"{name(rng)} {name(rng)}", name(rng), band))


def _work(rng: random.Random) -> str:
    """A title of a book or film: `The Quiet Harbour`, `Marble and Salt`, `The Anchor of Brenoston`."""
    one, other = (rng.choice(_NOUNS).capitalize() for _ in range(2))
    return rng.choice((f"The {rng.choice(_ADJECTIVES).capitalize()} {one}", f"{one} and {other}", one, name(rng),
                       f"The {one} of {name(rng)}", f"{rng.choice(_ADJECTIVES).capitalize()} {one}"))  # fmt: skip


def _room(rng: random.Random) -> str:
    return rng.choice((f"{rng.choice(_ADJECTIVES)} {rng.choice(('room', 'hall', 'bedroom', 'office'))}",
                       f"{rng.choice(_NOUNS)} room"))  # fmt: skip


def _sentence(rng: random.Random) -> str:
    kinds = (
        f"the {thing(rng)} is {rng.choice(_STATES)}",
        f"I {rng.choice(_VERBS)} the {thing(rng)}",
        f"we need a {thing(rng)}",
        f"{name(rng)} {rng.choice(_VERBS)} my {rng.choice(_NOUNS)}",
        f"where is the {thing(rng)}",
        f"please bring the {thing(rng)} to {name(rng)}",
    )
    return rng.choice(kinds)


_MAKERS: Mapping[str, Callable[[random.Random], str]] = {
    "city": _city,
    "country": name,
    "person": _person,
    "artist": _artist,
    "restaurant": lambda rng: f"The {rng.choice(_ADJECTIVES).capitalize()} {rng.choice(_NOUNS).capitalize()}",
    "company": name,
    "room": _room,
    "label": thing,
    "title": lambda rng: rng.choice((f"{rng.choice(_NOUNS)} {rng.choice(_EVENTS)}",
                                     f"{rng.choice(_EVENTS)} with {name(rng)}")),
    "work": _work,
    "message": _sentence,
    "phrase": _sentence,
    "text": _sentence,
    "grocery": thing,
    "chore": lambda rng: f"{rng.choice(_NOUNS)} {rng.choice(_TASKS)}",
    "packable": thing,
    "product": thing,
    "query": lambda rng: f"{thing(rng)}s",
}  # fmt: skip
