"""Seeded splits into train, valid and test."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from calltune.errors import InputError, Problem
from calltune.schema import Conversation


@dataclass(frozen=True)
class Split:
    """The three parts; each keeps the order of the source. `held_out`: tools of the test part alone."""

    train: tuple[Conversation, ...]
    valid: tuple[Conversation, ...] = ()
    test: tuple[Conversation, ...] = ()
    held_out: tuple[str, ...] = ()


def split_rows(
    conversations: Sequence[Conversation],
    test: float = 0.1,
    valid: float = 0.05,
    seed: int = 0,
    by: Literal["row", "tool"] = "row",
) -> Split:
    """Splits at random: `ceil(share x rows)` rows are test and valid, the rest is train.

    3,570 rows with test=0.1, valid=0 give 3,213 and 357. `by="tool"`: tools are held out at random until
    the rows that call at least one of them are the test share; those rows are the test part, and in the
    other parts held-out tools are not even offered. Rows without a call are split by row. Raises InputError.
    """
    problems = [
        Problem("bad_share", f"{name}={share}", "0 up to, but not, 1")
        for name, share in (("test", test), ("valid", valid))
        if not 0 <= share < 1
    ]
    if not problems and test + valid >= 1:
        problems.append(Problem("bad_share", f"test + valid = {test + valid:g}", "less than 1"))
    if problems:
        raise InputError("the data cannot be split so", problems=problems)
    rng = random.Random(seed)
    if by == "tool":
        return _by_tool(conversations, test, valid, rng)
    sizes = [_size(test, len(conversations)), _size(valid, len(conversations))]
    if conversations and sum(sizes) >= len(conversations):
        problem = Problem("too_few_rows", f"{len(conversations)} rows", "at least one row left for training")
        step = "give more rows, or --test 0 --valid 0"
        raise InputError("the data cannot be split so", problems=[problem], next_step=step)
    order = list(range(len(conversations)))
    rng.shuffle(order)
    in_test, in_valid = set(order[: sizes[0]]), set(order[sizes[0] : sum(sizes)])
    parts = [2 if i in in_test else 1 if i in in_valid else 0 for i in range(len(order))]
    train, valid_rows, test_rows = (_of(conversations, parts, part) for part in range(3))
    return Split(train, valid_rows, test_rows)


def _size(share: float, rows: int) -> int:
    return math.ceil(round(share * rows, 6))  # 0.1 * 3570 is 357.00000000000006 in binary


def _of(conversations: Sequence[Conversation], parts: Sequence[int], part: int) -> tuple[Conversation, ...]:
    return tuple(c for c, own in zip(conversations, parts, strict=True) if own == part)


def _by_tool(conversations: Sequence[Conversation], test: float, valid: float, rng: random.Random) -> Split:
    called = [{call.name for m in c.messages for call in m.calls} for c in conversations]
    rows_of: dict[str, set[int]] = {name: set() for name in sorted(set().union(*called))}
    for i, names in enumerate(called):
        for name in names:
            rows_of[name].add(i)
    tools = list(rows_of)
    rng.shuffle(tools)
    wanted = test * sum(map(bool, called))
    held: set[str] = set()
    reached: set[int] = set()
    while tools and len(reached) < wanted:
        held.add(tools[-1])
        reached |= rows_of[tools.pop()]
    parts = [2 if (names & held if names else rng.random() < test) else 0 for names in called]
    rest = [i for i, part in enumerate(parts) if part == 0]
    if conversations and (not rest or _size(valid, len(conversations)) >= len(rest)):
        problem = Problem("too_few_rows", f"{len(conversations)} rows, {len(held) + len(tools)} tools")
        step = "the rows share too few tools to hold some out; split by row"
        raise InputError("the data cannot be split by tool", problems=[problem], next_step=step)
    for i in rng.sample(rest, _size(valid, len(conversations))):
        parts[i] = 1
    train, valid_rows, test_rows = (_of(conversations, parts, part) for part in range(3))
    return Split(_without(train, held), _without(valid_rows, held), test_rows, tuple(sorted(held)))


def _without(conversations: Sequence[Conversation], held: set[str]) -> tuple[Conversation, ...]:
    return tuple(replace(c, tools=tuple(t for t in c.tools if t.name not in held)) for c in conversations)
