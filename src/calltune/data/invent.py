"""Made-up values for training: so many that they can only be copied from the request, not remembered.

A small model that sees 35 rooms learns these rooms; asked for the light in the porch it then writes a room
that it knows. Invented names and combined words leave copying as the only way to be right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files

import yaml

from calltune.data.parts import part_of


@lru_cache(maxsize=1)
def _all_words() -> Mapping[str, Sequence[str]]:
    """The words of each kind (data/words.yaml) that belong to training as values of their own do: no word of a test
    value is in a made-up one."""
    raw = yaml.safe_load(files("calltune.data").joinpath("words.yaml").read_text(encoding="utf-8"))
    return {kind: [word for word in text.split() if part_of(word) == "train"] for kind, text in raw.items()}


def _word(kind: str, rng: random.Random) -> str:
    return rng.choice(_all_words()[kind])


_SYLLABLES = """
b br c cl d dr f fl g gr h j k kr l m n p pl pr qu r s sh sl st sw t th tr v w y z
a e i o u a e i o ai ea ee ie oa oo ou
b d f g l ll m n nd nt r rr rt s ss st t v z
a o e y n r l s t m an en in on ia ios er ck th ton ville ham berg mont dale burg stad wick ford
"""
_STARTS, _VOWELS, _MIDDLES, _ENDS = (line.split() for line in _SYLLABLES.strip().splitlines())
_NAME_ENDS = ("ton", "ville", "ham", "by", "ford", "ley", "man", "son")


def invent(pool: str, rng: random.Random) -> str | None:
    """A made-up entry for a pool, or None where the real ones are a closed set (currencies, languages)."""
    maker = _MAKERS.get(pool)
    return maker(rng) if maker else None


def name(rng: random.Random) -> str:
    """A name that nobody has: `Brenoston`, `Quaira`, `Thistle`, `Marbleford`."""
    shape = rng.random()
    if shape < 0.3:
        return _word("nouns", rng).capitalize()
    if shape < 0.5:
        return (_word("nouns", rng) + rng.choice(_NAME_ENDS)).capitalize()
    middle = "".join(rng.choice(_MIDDLES) + rng.choice(_VOWELS) for _ in range(rng.choice((0, 1, 1))))
    return (rng.choice(_STARTS) + rng.choice(_VOWELS) + middle + rng.choice(_ENDS)).capitalize()


def thing(rng: random.Random) -> str:
    """`lantern`, `lanterns`, `wooden lantern` or `garden lantern`."""
    noun = _word("nouns", rng)
    return rng.choice((noun, f"{noun}s", f"{_word('adjectives', rng)} {noun}", f"{_word('nouns', rng)} {noun}"))


def _city(rng: random.Random) -> str:
    before = rng.choice(("Port", "San", "New", "Lake", "Saint", "Fort", "Mount", "Old", "North", "South"))
    return rng.choice((name(rng), name(rng), name(rng), f"{before} {name(rng)}"))


def _person(rng: random.Random) -> str:
    titled = f"{rng.choice(('Mr', 'Mrs', 'Aunt', 'Doctor', 'Uncle', 'Professor'))} {name(rng)}"
    return rng.choice((name(rng), name(rng), name(rng), titled))


def _artist(rng: random.Random) -> str:
    band = f"The {_word('adjectives', rng).capitalize()} {_word('nouns', rng).capitalize()}s"
    return rng.choice((f"{name(rng)} {name(rng)}", name(rng), band))


def _work(rng: random.Random) -> str:
    """A title of a book or film: `The Quiet Harbour`, `Marble and Salt`, `The Anchor of Brenoston`."""
    one, other, such = (_word(kind, rng).capitalize() for kind in ("nouns", "nouns", "adjectives"))
    return rng.choice((f"The {such} {one}", f"{one} and {other}", one, name(rng), f"The {one} of {name(rng)}",
                       f"{such} {one}"))  # fmt: skip


def _room(rng: random.Random) -> str:
    return rng.choice((f"{_word('adjectives', rng)} {rng.choice(('room', 'hall', 'bedroom', 'office'))}",
                       f"{_word('nouns', rng)} room"))  # fmt: skip


def _sentence(rng: random.Random) -> str:
    """A short sentence as people write it to others; many shapes, so that none is remembered."""
    one, two = thing(rng), thing(rng)
    who, state, verb, event = name(rng), _word("states", rng), _word("verbs", rng), _word("events", rng)
    kinds = (
        f"the {one} is {state}", f"the {one} was {state} again", f"is the {one} {state}", f"my {one} looks {state}",
        f"I {verb} the {one}", f"{who} {verb} my {one}", f"we {verb} a {one} and a {two}", f"who {verb} the {one}",
        f"we need a {one}", f"I would rather have a {one}", f"could I have the {one}", f"I want two {two}s",
        f"where is the {one}", f"do you sell a {one}", f"how much is this {one}", f"there is a {one} in the {two}",
        f"please bring the {one} to {who}", f"give the {one} to {who}", f"do not forget the {one}",
        f"the {event} starts at {rng.randint(2, 11)}", f"the {event} is {state}", f"see you at the {event}",
        f"{who} cannot come to the {event}", f"thank you for the {one}", f"happy {event}", f"no {one} today",
        f"please {rng.choice(('wait', 'look', 'stay', 'meet me', 'sit'))} near the {one}",
        f"my {_word('nouns', rng)} has a {_word('adjectives', rng)} {_word('nouns', rng)}",
    )  # fmt: skip
    return rng.choice(kinds)


_MAKERS: Mapping[str, Callable[[random.Random], str]] = {
    "city": _city,
    "country": name,
    "person": _person,
    "artist": _artist,
    "restaurant": lambda rng: f"The {_word('adjectives', rng).capitalize()} {_word('nouns', rng).capitalize()}",
    "company": name,
    "room": _room,
    "label": thing,
    "title": lambda rng: rng.choice((f"{thing(rng)} {_word('events', rng)}",
                                     f"{_word('events', rng)} with {name(rng)}",
                                     f"{_word('adjectives', rng)} {_word('events', rng)}")),
    "work": _work,
    "message": _sentence,
    "phrase": _sentence,
    "text": _sentence,
    "grocery": thing,
    "chore": lambda rng: rng.choice((f"{_word('nouns', rng)} {_word('tasks', rng)}", f"{thing(rng)} for {name(rng)}",
                                     f"{_word('tasks', rng)} of the {_word('nouns', rng)}")),
    "packable": thing,
    "product": thing,
    "query": lambda rng: f"{thing(rng)}s",
}  # fmt: skip
