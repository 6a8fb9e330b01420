"""Patterns that make requests of clauses: `{A}, and then {b}.`, `Could you {a} for me?`

A pattern is an opening with a middle and an ending. Each whole pattern belongs to train, valid or test by a hash
of its words (as values do, data/slots.py), so no pattern of a test request occurs in training, while every
opening is met with one clause and with two: a model that has met "I need you to" with one only takes it for a
sign of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product

from calltune.data.parts import PARTS, Part, part_of

# Openings that go on with a clause, and what ends their sentence.
OPENINGS: Mapping[str, str] = {
    "": ".",
    "Please ": ".",
    "Kindly ": ".",
    "Now ": ".",
    "Quick, ": "!",
    "Hey, ": ".",
    "Could you ": "?",
    "Could you please ": "?",
    "Can you ": "?",
    "Can you please ": "?",
    "Would you ": "?",
    "I need you to ": ".",
    "I want you to ": ".",
    "I'd like you to ": ".",
    "It would be great if you could ": ".",
    "Help me: ": ".",
    "When you have a moment, ": ".",
    "Go ahead and ": ".",
    "My next wish: ": ".",
}
ENDINGS = ("", " for me", ", please", ", thanks")
# Between two clauses in one sentence, and as a sentence of its own for the second.
MIDDLES = (
    " and ",
    ", and ",
    " and then ",
    ", then ",
    " and also ",
    ", and please ",
    "; ",
    "; also ",
    ", plus ",
    ", and after that ",
    ", and when that is done ",
    ", and afterwards ",
    " as well as ",
    " & ",
)
SECOND_SENTENCES = ("", "Then ", "After that, ", "Also, ", "Next, ", "Please ", "And ")
LISTS = (
    "Two things: {a}, and {b}.",
    "First {a}, then {b}.",
    "Do both, please: {a} and {b}.",
    "I want two things: {a} and {b}.",
    "When you are done with this: {a}, do that: {b}.",
    "Help me with these: {a}, and {b}.",
)


def _one_clause() -> Iterable[str]:
    for (opening, mark), ending in product(OPENINGS.items(), ENDINGS):
        yield f"{opening}{'{a}' if opening else '{A}'}{ending}{mark}"
    yield "{a}"


def _two_clauses() -> Iterable[str]:
    for (opening, mark), middle in product(OPENINGS.items(), MIDDLES):
        yield f"{opening}{'{a}' if opening else '{A}'}{middle}{{b}}{mark}"
    for (opening, mark), second in product(OPENINGS.items(), SECOND_SENTENCES):
        yield f"{opening}{'{a}' if opening else '{A}'}{mark} {second}{'{b}' if second else '{B}'}."
    yield from LISTS


def _by_part(patterns: Iterable[str]) -> Mapping[Part, tuple[str, ...]]:
    """Patterns that differ only in marks and capitals are one, so they stay in one part."""
    found = list(patterns)
    parts = [part_of(" ".join(re.findall(r"[\w']+", pattern.lower()))) for pattern in found]
    return {part: tuple(p for p, own in zip(found, parts, strict=True) if own == part) for part in PARTS}


WRAPS = _by_part(_one_clause())  # one clause as a request; {A} with a capital letter
JOINS = _by_part(_two_clauses())
