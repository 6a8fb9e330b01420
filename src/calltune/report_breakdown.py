"""Where answers are right: by the number of tools, the prompt's length, tools seen in training; and which tool was
called in place of which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from calltune.report_data import Answer, Case, Report
from calltune.score import wilson

TOOL_COUNTS = ((0, "none"), (1, "1"), (2, "2"), (3, "3 to 5"), (6, "6 to 10"), (11, "more than 10"))
LENGTHS = ((0, "under 512"), (512, "512 to 1,023"), (1024, "1,024 to 2,047"), (2048, "2,048 to 4,095"),
           (4096, "4,096 or more"))  # fmt: skip
CONFUSED = 12  # pairs of tools that are shown


def breakdown(report: Report) -> dict[str, Any]:
    """`breakdown` and `confusion` of `report.json`. A table is left out where all cases fall into one row, or where
    nothing is known."""
    tables = [
        ("tools", "By the number of tools on offer", lambda case: _bucket(case.tools, TOOL_COUNTS)),
        ("prompt_tokens", "By the length of the prompt in tokens", lambda case: _bucket(case.prompt_tokens, LENGTHS)),
        ("seen", "By whether training had the right tool", lambda case: _seen(case.seen)),
    ]
    made = [table for table in (_table(report.cases, *given) for given in tables) if len(table["rows"]) > 1]
    return {"breakdown": made, "confusion": confusion(report.cases)}


def _bucket(value: int | None, starts: Sequence[tuple[int, str]]) -> tuple[int, str] | None:
    return None if value is None else max(start for start in starts if start[0] <= value)


def _seen(value: bool | None) -> tuple[int, str] | None:
    return None if value is None else (0, "seen in training") if value else (1, "not seen in training")


def _table(
    cases: Sequence[Case], name: str, title: str, place: Callable[[Case], tuple[int, str] | None]
) -> dict[str, Any]:
    groups: dict[tuple[int, str], list[Case]] = {}
    for case in cases:
        if (key := place(case)) is not None:
            groups.setdefault(key, []).append(case)
    rows = [{"label": key[1], **_share([case.after for case in group]),
             "before": _before(group)} for key, group in sorted(groups.items())]  # fmt: skip
    return {"name": name, "title": title, "rows": rows}


def _before(cases: Sequence[Case]) -> dict[str, Any] | None:
    answers = [case.before for case in cases if case.before]
    return _share(answers) if answers else None


def _share(answers: Sequence[Answer]) -> dict[str, Any]:
    exact, n = sum(answer.verdict.exact for answer in answers), len(answers)
    return {"n": n, "exact": exact, "exact_match": exact / n if n else None, "interval": wilson(exact, n)}


def confusion(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """The pairs of a tool that was expected and the one that was called for it, the most frequent first; None: no
    call, or none that could be read. Of several calls those that are not on both sides are paired in their order."""
    counts: Counter[tuple[str | None, str | None]] = Counter()
    for case in cases:
        if not case.expected and case.after.verdict.needs_call:
            continue  # any call would have been right
        wanted = Counter(call.name for call in case.expected)
        called = Counter(call.name for call in case.after.reply.calls if not call.error)
        left, more = list((wanted - called).elements()), list((called - wanted).elements())
        for i in range(max(len(left), len(more))):
            counts[left[i] if i < len(left) else None, more[i] if i < len(more) else None] += 1
    return [{"expected": a, "called": b, "count": n} for (a, b), n in counts.most_common(CONFUSED)]
