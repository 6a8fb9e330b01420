"""What a report holds: the cases with their answers and verdicts, and how they came about. Values only.

Figures are always computed from the cases' verdicts, so no page can disagree with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from calltune.schema import Reply, ToolCall
from calltune.score import Verdict, aggregate, changes, mcnemar

EXAMPLES = 6
FAILURES = 10


@dataclass(frozen=True)
class Answer:
    """A reply and what the scorer said about it."""

    reply: Reply
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        reply = self.reply
        calls = [call.to_dict() for call in reply.calls if not call.error]
        row: dict[str, Any] = {"calls": calls, "content": reply.content, "thinking": reply.thinking}
        row |= {"errors": list(reply.errors), "truncated": reply.truncated, "raw": reply.raw}
        return row | {"kind": self.verdict.kind, "reason": self.verdict.reason}


@dataclass(frozen=True)
class Case:
    """One request with the calls that would be right, and the answers (`before`: if there is a baseline).

    `tools`: how many were on offer; `prompt_tokens`: of the prompt; `seen`: whether training had the tools that are
    right; `question`: a hash of what was asked and is right. None where that is not known.
    """

    id: str
    category: str
    request: str
    expected: tuple[ToolCall, ...]
    after: Answer
    before: Answer | None = None
    tools: int | None = None
    prompt_tokens: int | None = None
    seen: bool | None = None
    question: str | None = None

    def to_dict(self) -> dict[str, Any]:
        row: dict[str, Any] = {"id": self.id, "category": self.category, "request": self.request}
        row["expected"] = [call.to_dict() for call in self.expected]
        return row | {"before": self.before and self.before.to_dict(), "after": self.after.to_dict()}


@dataclass(frozen=True)
class Report:
    """Everything that a reader needs in order to believe the figures.

    `seconds` has at least total, train and eval; `train` at least tokens_per_second; `curves` are the
    rows of metrics.jsonl (`step` with any of train_loss, valid_loss, call_exact_match). `method` are the
    sentences that say how the test was made. The other mappings are shown as they are: short keys,
    short values. `before` may cover fewer cases than `after`; the page then says so.
    """

    title: str
    cases: tuple[Case, ...]
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    curves: tuple[Mapping[str, Any], ...] = ()
    lengths: Mapping[str, Any] = field(default_factory=dict)  # of the training examples in tokens (lengths.py)
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    hashes: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    method: tuple[str, ...] = ()
    command: str = ""
    created: str = ""
    resumes: tuple[Mapping[str, Any], ...] = ()  # of the run: where it was taken up again
    suite: Mapping[str, Any] = field(default_factory=dict)  # of a benchmark: its figures by its own rules

    @cached_property
    def after(self) -> dict[str, Any]:
        return aggregate([case.after.verdict for case in self.cases])

    @cached_property
    def before(self) -> dict[str, Any] | None:
        pairs = self.pairs
        return aggregate([before for before, _ in pairs]) if pairs else None

    @cached_property
    def pairs(self) -> list[tuple[Verdict, Verdict]]:
        """The verdicts before and after, of the cases that have both."""
        return [(case.before.verdict, case.after.verdict) for case in self.cases if case.before]

    @cached_property
    def change(self) -> dict[str, Any] | None:
        """Cases gained and lost, and McNemar's exact p; None without a before."""
        if not self.pairs:
            return None
        before, after = [first for first, _ in self.pairs], [second for _, second in self.pairs]
        gained, lost = changes(before, after)
        return {"gained": gained, "lost": lost, "n": len(before), "p_value": mcnemar(before, after)}

    @cached_property
    def examples(self) -> tuple[Case, ...]:
        """The first case of each category, then the second ones: a rule, so that nothing is hand-picked."""
        return pick(self.cases, EXAMPLES)

    @cached_property
    def failures(self) -> tuple[Case, ...]:
        """The first cases that are wrong after training."""
        return tuple(case for case in self.cases if not case.after.verdict.exact)[:FAILURES]

    def to_dict(self) -> dict[str, Any]:
        """The document of `report.json`; JSON without NaN."""
        after = self.after
        document = {
            "title": self.title,
            "before": self.before,
            "after": after,
            "change": self.change,
            "n": after["n"],
            "n_call": after["n_call"],
            "seconds": self.seconds,
            "train": self.train,
            "model": self.model,
            "data": self.data,
            "machine": self.machine,
            "versions": self.versions,
            "hashes": self.hashes,
            "settings": self.settings,
            "method": self.method,
            "command": self.command,
            "created": self.created,
            "suite": self.suite or None,
            "curves": self.curves,
            "lengths": self.lengths or None,
            "examples": [case.to_dict() for case in self.examples],
            "failures": [case.to_dict() for case in self.failures],
            "verdicts": [_verdict_row(case) for case in self.cases],
        }
        plain: dict[str, Any] = plain_json(document)
        return plain


def _verdict_row(case: Case) -> dict[str, Any]:
    before = case.before.verdict.kind if case.before else None
    row = {"id": case.id, "category": case.category, "before": before, "after": case.after.verdict.kind}
    return row | ({"question": case.question} if case.question else {})


def pick(cases: Sequence[Case], count: int) -> tuple[Case, ...]:
    """`count` cases, going round the categories in the order of first appearance."""
    seen: dict[str, int] = {}
    ranked = []
    for position, case in enumerate(cases):
        turn = seen.get(case.category, 0)
        seen[case.category] = turn + 1
        ranked.append((turn, position, case))
    return tuple(case for _, _, case in sorted(ranked, key=lambda item: item[:2])[:count])


def plain_json(value: Any) -> Any:
    """Only what JSON knows: no NaN or infinity (None), no tuples, paths as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    return str(value)
