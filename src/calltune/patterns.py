r"""Patterns of schemas by an engine whose time grows with the text alone: Rust's, which pydantic brings.

Python's `re` tries one way after the other: `^(a+)+$` takes it longer than a day on 40 letters, and no other thread
runs meanwhile. Rust's engine is also the one whose syntax the grammar of decoding has. It knows no look-around; what
stands at a pattern's beginning (`^(?=.*\d)(?!admin)`) is taken apart into patterns without.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

LONGEST = 2_000  # characters of a pattern: finding the ends of its classes may take the square of them
UNICODE = 140  # states of the engine for a class of Unicode's letters, digits or spaces; others have one to four
TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[a-zA-Z-]+\)|\((?:\?(?:[=!:]|<[=!]|P?<\w+>|[a-zA-Z-]+:))?|\{\d+(?:,\d*)?\}|.",
    re.DOTALL,
)
WIDE = re.compile(r"\\[wWdDsSpP]")
# What Rust reads as something else: edges of words, spaces and comments that count for nothing, sets inside of sets.
FOREIGN = re.compile(r"\\[<>]|\(\?[a-zA-Z-]*x")
SETS = ("[", "&&", "--", "~~")


@dataclass(frozen=True)
class Pattern:
    """A pattern that can be tried in linear time. `parts`: each with whether it must be found or must not.
    `size`: about how many states making it took; `width`: about how many the engine may be in at once."""

    parts: tuple[tuple[Any, bool], ...]
    size: int
    width: int

    def found(self, text: str) -> bool:
        """Whether it is found anywhere in the text, as JSON Schema's `pattern` asks."""
        text = text.encode("utf-8", "replace").decode()  # the engine takes no half of a surrogate pair
        return all(part.isinstance_python(text) is wanted for part, wanted in self.parts)


def linear(pattern: str) -> Pattern | None:
    """The pattern for the linear engine; None where it cannot say it."""
    from pydantic_core import SchemaError

    if len(pattern) > LONGEST:
        return None
    tokens = TOKEN.findall(pattern)
    if any(map(_is_foreign, tokens)) or any(map(_is_possessive, tokens, tokens[1:])):
        return None
    parts = _without_lookaheads(pattern)
    if parts is None:
        return None
    size, width = states(pattern)
    try:
        pattern.encode()
        return Pattern(tuple((_compiled(part), wanted) for part, wanted in parts), size, width)
    except (SchemaError, UnicodeError):  # not its syntax, too large, half of a surrogate pair
        return None


def _is_foreign(token: str) -> bool:
    if token[0] == "[" and len(token) > 1:
        inner = re.sub(r"\\.", "", token[1:-1], flags=re.DOTALL)
        return any(mark in inner for mark in SETS)
    return FOREIGN.match(token) is not None


def _is_possessive(token: str, after: str) -> bool:
    """Whether two tokens are a repeat that gives nothing back (`a++`), which Rust reads as a repeat of the repeat."""
    return after == "+" and (token in ("*", "+", "?") or (token[0] == "{" and len(token) > 1))


def _compiled(pattern: str) -> Any:
    from pydantic_core import SchemaValidator, core_schema

    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def states(pattern: str) -> tuple[int, int]:
    """About how many states a pattern has, counted repeats written out: all of them, and with a class of characters
    as one. Never far too few, whatever the pattern is."""
    open_groups, last = [(0, 0)], (0, 0)
    for token in TOKEN.findall(pattern):
        if token[0] == "(":
            if token[-1] != ")":  # else flags
                open_groups.append((0, 0))
            continue
        if token in "*+?":
            last = _sum(last, (1, 1))
            open_groups[-1] = _sum(open_groups[-1], (1, 1))
            continue
        if token == ")" and len(open_groups) > 1:
            last = open_groups.pop()
        elif token[0] == "{" and len(token) > 1:
            numbers = [int(number) for number in re.findall(r"\d+", token)]
            more = max(numbers[-1], 1 + numbers[0] * token.endswith(",}")) - 1
            last, before = (last[0] * more, last[1] * more), last
            open_groups[-1] = _sum(open_groups[-1], last)
            last = _sum(before, last)
            continue
        else:
            wide = len(WIDE.findall(token))
            last = (UNICODE * wide if wide else 4 if token[0] in ".[" else 1, 1)
        open_groups[-1] = _sum(open_groups[-1], last)
    total = (0, 0)
    for group in open_groups:
        total = _sum(total, group)
    return total


def _sum(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], one[1] + other[1]


def _without_lookaheads(pattern: str) -> list[tuple[str, bool]] | None:
    """`^(?=A)(?!B)C` as ^A, not ^B and ^C: what looks ahead from the beginning is a pattern of its own. None where
    the pattern has alternatives, of which only the first begins so."""
    if not pattern.startswith(("^(?=", "^(?!")):
        return [(pattern, True)]
    parts, rest = [], pattern[1:]
    while rest.startswith(("(?=", "(?!")):
        depth, end = 0, -1
        for match in TOKEN.finditer(rest):
            depth += _deeper(match[0])
            if depth == 0:
                end = match.end()
                break
        if end < 0 or rest[end : end + 1] in tuple("*+?{"):
            return None
        parts.append((f"^(?:{rest[3 : end - 1]})", rest[2] == "="))
        rest = rest[end:]
    depth = 0
    for token in TOKEN.findall(rest):
        depth += _deeper(token)
        if token == "|" and depth == 0:
            return None
    return [*parts, ("^" + rest, True)]


def _deeper(token: str) -> int:
    return (token[0] == "(" and token[-1] != ")") - (token == ")")
