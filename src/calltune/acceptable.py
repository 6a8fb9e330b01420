"""Several values that are right: rows of your own may say which, and the expected calls are then taken as they fit.

    "meta": {"acceptable": [{"city": ["NYC", "New York City"], "unit": ["celsius", null]}]}

is a list with an object for each call of the row's last turn: values that are right beside the call's own; null means
that the argument may be left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from calltune.compare import compare_arguments
from calltune.errors import Problem, pointer
from calltune.schema import Conversation, Tool, ToolCall, find_tool, shorten

KEY = "acceptable"
Acceptable = tuple[Mapping[str, Sequence[Any]], ...]


def read_acceptable(row: Conversation) -> tuple[Acceptable, list[Problem]]:
    """What a row says in its `meta`, and what of it does not fit the last turn. Nothing where it says nothing, or
    where its last turn does not answer a user: that is not scored."""
    given = row.meta.get(KEY)
    last = max((i for i, m in enumerate(row.messages) if m.role == "assistant" and i), default=0)
    if given is None or not last or row.messages[last - 1].role != "user":
        return (), []
    calls = row.messages[last].calls
    problems = []
    if not isinstance(given, list) or len(given) != len(calls):
        found = f"{len(given)} objects" if isinstance(given, list) else shorten(given)
        problems.append(
            Problem("bad_acceptable", found, f"a list of {len(calls)}, one for each call", f"/meta/{KEY}")
        )
        given = []
    for i, item in enumerate(given):
        fits = isinstance(item, Mapping) and all(isinstance(values, list) for values in item.values())
        if not fits:
            place = f"/meta/{KEY}{pointer(i)}"
            problems.append(Problem("bad_acceptable", shorten(item), "an object of lists of values", place))
    return (() if problems else tuple(given)), problems


def fitted(
    expected: Sequence[ToolCall], acceptable: Acceptable, found: Sequence[ToolCall], tools: Sequence[Tool]
) -> tuple[ToolCall, ...]:
    """The expected calls with the acceptable values that were given in the calls found.

    Which call is meant for which is chosen so that as many as possible fit; those that are left are paired by name
    in their order, so that what is said about them is what is wrong.
    """
    if not acceptable:
        return tuple(expected)
    fits = [[_fit(want, also, got, tools) for got in found] for want, also in zip(expected, acceptable, strict=True)]
    same = [
        [not compare_arguments(row[j], got, find_tool(tools, got.name)) and row[j].name == got.name
         for j, got in enumerate(found)]
        for row in fits
    ]  # fmt: skip
    partner = match(same, len(found))
    free = [j for j in range(len(found)) if j not in partner.values()]
    for i, want in enumerate(expected):
        if i not in partner and (j := next((j for j in free if found[j].name == want.name), None)) is not None:
            partner[i] = j
            free.remove(j)
    return tuple(fits[i][partner[i]] if i in partner else want for i, want in enumerate(expected))


def _fit(want: ToolCall, also: Mapping[str, Sequence[Any]], got: ToolCall, tools: Sequence[Tool]) -> ToolCall:
    """The expected call with each value that `got` has and that is acceptable."""
    arguments, tool = dict(want.arguments), find_tool(tools, want.name)
    for key, values in also.items():
        if key not in got.arguments:
            if None in values:
                arguments.pop(key, None)
            continue
        given = ToolCall(want.name, {key: got.arguments[key]})
        if any(not compare_arguments(ToolCall(want.name, {key: value}), given, tool) for value in values):
            arguments[key] = got.arguments[key]
    return ToolCall(want.name, arguments)


def match(same: Sequence[Sequence[bool]], columns: int) -> dict[int, int]:
    """A largest set of pairs (row -> column) of a table of what fits: augmenting paths (Kuhn)."""
    owner: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column in range(columns):
            if same[row][column] and column not in tried:
                tried.add(column)
                if column not in owner or place(owner[column], tried):
                    owner[column] = row
                    return True
        return False

    for row in range(len(same)):
        place(row, set())
    return {row: column for column, row in owner.items()}
