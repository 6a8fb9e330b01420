"""Verdicts on replies: was this the right call, and if not, what was wrong with it? No model, no tokenizer.

The rules are the contract's: the same calls with the same names and arguments, numbers by value
(5 is 5.0, but true is not 1), the order of parallel calls free, an argument equal to its schema's
default left out or given; where the right answer is no call, no call was made. A reply with an error is
never exact and is not a no-call. `aggregate` turns verdicts into the figures of `report.json`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from calltune.compare import Kind, compare_arguments, pair_calls
from calltune.schema import Reply, Tool, ToolCall, find_tool, shorten, validate_call

# In the order in which a report lists them: no call at all first, then from coarse to fine.
ERROR_KINDS: tuple[Kind, ...] = (
    "no_call",
    "truncated",
    "format",
    "over_call",
    "wrong_tool",
    "missing_call",
    "extra_call",
    "missing_argument",
    "extra_argument",
    "wrong_type",
    "wrong_value",
)


@dataclass(frozen=True)
class Verdict:
    """What the scorer says about one reply.

    `emitted` counts the calls that the reply made, readable or not; `valid` those of them that name an
    offered tool and validate against its schema. `reason` is one plain sentence, empty when exact.
    """

    id: str
    category: str
    needs_call: bool
    exact: bool
    kind: Kind
    reason: str
    emitted: int
    valid: int
    thinking: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def score_reply(
    expected: Sequence[ToolCall], reply: Reply, tools: Sequence[Tool], *, id: str, category: str
) -> Verdict:
    """The verdict on one reply, given the calls that would be right (none: the right answer is no call)."""
    kind, reason = _judge(expected, reply, tools)
    return make_verdict(reply, tools, kind, reason, id=id, category=category, needs_call=bool(expected))


def make_verdict(
    reply: Reply, tools: Sequence[Tool], kind: Kind, reason: str, *, id: str, category: str, needs_call: bool
) -> Verdict:
    """A verdict of that kind, with what is counted of every reply whoever judges it."""
    emitted = len(reply.calls)  # an unreadable call is among them, with its error
    valid = sum(not validate_call(call, tools) for call in reply.calls)
    thinking = bool(reply.thinking and reply.thinking.strip())
    return Verdict(id, category, needs_call, kind == "exact", kind, reason, emitted, valid, thinking)


def unreadable(reply: Reply) -> tuple[Kind, str] | None:
    """Why a reply cannot be read as a whole; None where it can. Such a reply is never exact, and no "no call"."""
    errors = list(reply.errors) or [call.error for call in reply.calls if call.error]
    if not errors:
        return None
    if reply.truncated:
        return "truncated", f"the token limit cut the reply: {errors[0]}"
    return "format", f"the reply could not be read: {errors[0]}"


def _judge(expected: Sequence[ToolCall], reply: Reply, tools: Sequence[Tool]) -> tuple[Kind, str]:
    if fault := unreadable(reply):
        return fault
    if not expected:
        if not reply.calls:
            return "exact", ""
        return "over_call", f"called {_names(reply.calls)} where no call was right"
    if not reply.calls:
        if reply.truncated:
            return "truncated", f"the token limit cut the reply before a call of {_names(expected)}"
        return "no_call", f"did not call {_names(expected)}"
    return _compare_calls(expected, reply, tools)


def _compare_calls(expected: Sequence[ToolCall], reply: Reply, tools: Sequence[Tool]) -> tuple[Kind, str]:
    pairs, missing, extra = pair_calls(expected, reply.calls, tools)
    for want, got in pairs:
        if want.name != got.name:
            return "wrong_tool", f"called {got.name}, expected {want.name}"
    if missing:
        if reply.truncated:
            return "truncated", f"the token limit cut the reply before a call of {_names(missing)}"
        return "missing_call", f"did not call {_names(missing)}"
    if extra:
        return "extra_call", f"also called {_names(extra)}"
    for want, got in pairs:
        found = compare_arguments(want, got, find_tool(tools, want.name))
        if found:
            return found[0].kind, found[0].reason
    return "exact", ""


def _names(calls: Sequence[ToolCall]) -> str:
    names = [shorten(call.name, 60) for call in calls[:4]]
    return " and ".join([*names, "others"] if len(calls) > 4 else names)


def aggregate(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The figures of `report.json`'s `before` or `after`. A share of nothing is None, never 0.

    `intervals` holds 95 % Wilson intervals [low, high] of the shares; `errors` counts each kind of
    failure; `categories` has a row a category, in the order of first appearance.
    """
    need = [v for v in verdicts if v.needs_call]
    rest = [v for v in verdicts if not v.needs_call]
    emitted = sum(v.emitted for v in verdicts)
    counts = {
        "exact_match": (sum(v.exact for v in verdicts), len(verdicts)),
        "call_exact_match": (sum(v.exact for v in need), len(need)),
        "no_call_accuracy": (sum(v.exact for v in rest), len(rest)),
        "schema_valid": (sum(v.valid for v in verdicts), emitted),
        "thinking_rate": (sum(v.thinking for v in verdicts), len(verdicts)),
    }
    figures: dict[str, Any] = {name: _share(*count) for name, count in counts.items()}
    kinds = Counter(v.kind for v in verdicts)
    figures |= {
        "n": len(verdicts),
        "n_call": len(need),
        "emitted": emitted,
        "intervals": {name: wilson(*count) for name, count in counts.items()},
        "errors": {kind: kinds[kind] for kind in ERROR_KINDS if kinds[kind]},
        "categories": _category_rows(verdicts),
    }
    return figures


def _category_rows(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    rows = []
    for category in dict.fromkeys(v.category for v in verdicts):
        mine = [v for v in verdicts if v.category == category]
        exact = sum(v.exact for v in mine)
        row = {"category": category, "n": len(mine), "exact": exact, "exact_match": _share(exact, len(mine))}
        rows.append(row | {"interval": wilson(exact, len(mine))})
    return rows


def _share(count: int, n: int) -> float | None:
    return count / n if n else None


def wilson(count: int, n: int, level: float = 0.95) -> list[float] | None:
    """Wilson's score interval [low, high] of the share `count / n`; None when n is 0.

    Unlike count/n plus and minus two standard errors, it stays in [0, 1] and has width at 0 and at 1.
    """
    if n == 0:
        return None
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, scale = count / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    low = 0.0 if count == 0 else max(0.0, centre - half)
    return [low, 1.0 if count == n else min(1.0, centre + half)]


def mcnemar(before: Sequence[Verdict], after: Sequence[Verdict]) -> float:
    """Exact two-sided p of McNemar's test that the two are equally often exact, on the same cases.

    Only cases whose verdict changed count: under equality each goes either way like a fair coin.
    Raises ValueError when the two do not hold the same ids once each.
    """
    return mcnemar_p(*changes(before, after))


def mcnemar_p(gained: int, lost: int) -> float:
    """The same, given how many cases changed either way."""
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
    p: float = 2 * tail / 2**n
    return min(1.0, p)


def changes(before: Sequence[Verdict], after: Sequence[Verdict]) -> tuple[int, int]:
    """How many cases became exact, and how many stopped being so. Raises ValueError as `mcnemar`."""
    first = {v.id: v.exact for v in before}
    second = {v.id: v.exact for v in after}
    if first.keys() != second.keys() or len(first) != len(before) or len(second) != len(after):
        raise ValueError("before and after must hold the same cases, each id once")
    gained = sum(second[id] and not exact for id, exact in first.items())
    lost = sum(exact and not second[id] for id, exact in first.items())
    return gained, lost
