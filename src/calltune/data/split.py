"""Splits into train, valid and test by what rows say, so that they stay where they are when rows are added.

Every row (or tool, or phrasing) has a rank that its content and the seed decide. The test part are those of the
lowest ranks, then comes valid. `stable`: the shares are limits of the rank itself, so that no row ever changes its
part; sizes are then near the shares. Otherwise the sizes are exact, and when rows are added only a few at the limits
move.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Literal

from calltune.data.phrasing import content_key, phrasing, rank
from calltune.errors import InputError, Problem
from calltune.schema import Conversation

By = Literal["row", "tool", "phrasing"]
TRAIN, VALID, TEST = range(3)


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
    by: By = "row",
    *,
    stable: bool = False,
    held: AbstractSet[str] | None = None,
) -> Split:
    """Splits at random by content; `ceil(share x rows)` rows are test and valid, the rest is train, unless `stable`.

    3,570 rows with test=0.1, valid=0 give 3,213 and 357. `by="tool"`: tools are held out until the rows that call at
    least one of them are the test share; those rows are the test part, and in the other parts held-out tools are not
    even offered. Rows without a call are split by row. `held`: the tools, where they are
    chosen already (`tools_to_hold_out`). `by="phrasing"`: rows of one wording stay together. Raises
    InputError.
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
    if by == "tool":
        held = tools_to_hold_out(conversations, test, valid, seed) if held is None else held
        return _by_tool(conversations, test, valid, seed, stable, held)
    if by == "phrasing":
        parts = _grouped([phrasing(c) for c in conversations], test, valid, seed, stable)
    else:
        parts = _ranked([rank(seed, content_key(c)) for c in conversations], test, valid, stable)
    if conversations and TRAIN not in parts:
        problem = Problem("too_few_rows", f"{len(conversations)} rows", "at least one row left for training")
        step = "give more rows, or --test 0 --valid 0"
        raise InputError("the data cannot be split so", problems=[problem], next_step=step)
    train, valid_rows, test_rows = (_of(conversations, parts, part) for part in (TRAIN, VALID, TEST))
    return Split(train, valid_rows, test_rows)


def _size(share: float, rows: int) -> int:
    return math.ceil(round(share * rows, 6))  # 0.1 * 3570 is 357.00000000000006 in binary


def _of(conversations: Sequence[Conversation], parts: Sequence[int], part: int) -> tuple[Conversation, ...]:
    return tuple(c for c, own in zip(conversations, parts, strict=True) if own == part)


def _ranked(ranks: Sequence[float], test: float, valid: float, stable: bool) -> list[int]:
    """The part of each row by its rank alone, or by its place among all."""
    if stable:
        return [TEST if r < test else VALID if r < test + valid else TRAIN for r in ranks]
    sizes = [_size(test, len(ranks)), _size(valid, len(ranks))]
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    parts = [TRAIN] * len(ranks)
    for place, i in enumerate(order[: sum(sizes)]):
        parts[i] = TEST if place < sizes[0] else VALID
    return parts


def _grouped(groups: Sequence[str], test: float, valid: float, seed: int, stable: bool) -> list[int]:
    """Rows of one group stay together; groups in the order of their ranks fill test, then valid."""
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    ranks = {group: rank(seed, group) for group in sizes}
    if stable:
        chosen = dict(zip(ranks, _ranked(list(ranks.values()), test, valid, True), strict=True))
        return [chosen[group] for group in groups]
    order = sorted(ranks, key=ranks.__getitem__)
    chosen, filled = dict.fromkeys(order, TRAIN), 0
    for part, wanted in ((TEST, _size(test, len(groups))), (VALID, _size(valid, len(groups)))):
        filled, begin = 0, len([g for g in order if chosen[g] != TRAIN])
        for group in order[begin:-1]:  # the last one trains
            if filled >= wanted:
                break
            chosen[group] = part
            filled += sizes[group]
    return [chosen[group] for group in groups]


def tools_to_hold_out(
    conversations: Sequence[Conversation], test: float, valid: float, seed: int
) -> AbstractSet[str]:
    """The tools that rows of all sources together hold out for testing. Raises InputError where too few rows are left
    to train."""
    held, known = _held_out([called(c) for c in conversations], test, seed)
    rest = _tool_parts(conversations, test, seed, held).count(TRAIN)
    if conversations and (not rest or _size(valid, len(conversations)) >= rest):
        problem = Problem("too_few_rows", f"{len(conversations)} rows, {known} tools")
        step = "the rows share too few tools to hold some out; split by row"
        raise InputError("the data cannot be split by tool", problems=[problem], next_step=step)
    return held


def called(conversation: Conversation) -> set[str]:
    """The names of the tools that a row calls."""
    return {call.name for m in conversation.messages for call in m.calls}


def _tool_parts(conversations: Sequence[Conversation], test: float, seed: int, held: AbstractSet[str]) -> list[int]:
    """Rows that call a held-out tool are tested; those that call none by their rank."""
    return [
        TEST if (names & held if (names := called(c)) else rank(seed, content_key(c)) < test) else TRAIN
        for c in conversations
    ]


def _by_tool(
    conversations: Sequence[Conversation], test: float, valid: float, seed: int, stable: bool, held: AbstractSet[str]
) -> Split:
    parts = _tool_parts(conversations, test, seed, held)
    rest = [i for i, part in enumerate(parts) if part == TRAIN]
    # a rank of its own: those of rows without a call that are left begin at `test`
    own = {i: rank(seed + 1, content_key(conversations[i])) for i in rest}
    if stable:
        chosen = [i for i in rest if own[i] < valid]
    else:
        chosen = sorted(rest, key=own.__getitem__)[: _size(valid, len(conversations))]
    for i in chosen:
        parts[i] = VALID
    train, valid_rows, test_rows = (_of(conversations, parts, part) for part in (TRAIN, VALID, TEST))
    return Split(without_tools(train, held), without_tools(valid_rows, held), test_rows, tuple(sorted(held)))


def _held_out(names_of: Sequence[set[str]], test: float, seed: int) -> tuple[set[str], int]:
    """The tools of the lowest ranks, until the rows that call one are the test share; and the number of tools."""
    rows_of: dict[str, set[int]] = {}
    for i, names in enumerate(names_of):
        for name in names:
            rows_of.setdefault(name, set()).add(i)
    wanted = test * sum(map(bool, names_of))
    held: set[str] = set()
    reached: set[int] = set()
    for name in sorted(rows_of, key=lambda name: rank(seed, name)):
        if len(reached) >= wanted:
            break
        held.add(name)
        reached |= rows_of[name]
    return held, len(rows_of)


def without_tools(conversations: Sequence[Conversation], held: AbstractSet[str]) -> tuple[Conversation, ...]:
    """Rows that do not offer the held-out tools, unless they call one."""
    return tuple(
        replace(c, tools=tuple(t for t in c.tools if t.name not in held or t.name in own))
        for c, own in ((c, called(c)) for c in conversations)
    )


# ---- leaks between the parts ------------------------------------------------------------------------------------


def leaks_between(split: Split, by: By, like: Callable[[Conversation], Sequence[int]]) -> Mapping[int, str]:
    """Rows of train that say what a row of valid or test says: index in train -> why. `like`: keys that
    near-duplicates share. With `by="phrasing"` also rows of a wording that a held-out row has."""
    held = [*split.valid, *split.test]
    keys = {key for c in held for key in like(c)}
    wordings = {phrasing(c) for c in held} if by == "phrasing" else set()
    found: dict[int, str] = {}
    for i, conversation in enumerate(split.train):
        if keys.intersection(like(conversation)):
            found[i] = "says nearly the same as a held-out row"
        elif wordings and phrasing(conversation) in wordings:
            found[i] = "is worded as a held-out row"
        elif set(split.held_out) & {t.name for t in conversation.tools}:
            found[i] = "offers a held-out tool"
    return found
