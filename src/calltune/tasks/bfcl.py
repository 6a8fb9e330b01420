"""BFCL v4 as a task: its cases joined with the scorer. No model is needed to score predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from calltune.score import wilson
from calltune.score_bfcl import BfclCase, Names, check_calls
from calltune.tasks.predictions import Predictions

MISSING = "missing_prediction"


@dataclass(frozen=True)
class CaseVerdict:
    """A line of verdicts. `error` is the official `error_type`, or MISSING; None when valid."""

    id: str
    category: str
    valid: bool
    error: str | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return {"id": self.id, "valid": self.valid, "error": self.error, "reason": self.reason}


@dataclass(frozen=True)
class Scored:
    """The verdicts of a suite's cases, and how many predictions were not taken."""

    verdicts: tuple[CaseVerdict, ...]
    missing: int  # cases without a prediction: wrong, or left out where that was allowed
    unknown: tuple[str, ...]  # ids that are no case of the suite

    def to_dict(self) -> dict[str, Any]:
        """Accuracy over all cases and a category; a share of nothing is None."""
        groups: dict[str, list[CaseVerdict]] = {}
        for verdict in self.verdicts:
            groups.setdefault(verdict.category, []).append(verdict)
        errors = Counter(v.error for v in self.verdicts if v.error)
        return {
            **_share(self.verdicts), "missing": self.missing, "unknown": len(self.unknown),
            "errors": dict(errors.most_common()),
            "categories": [{"category": name, **_share(rows)} for name, rows in groups.items()],
        }  # fmt: skip


def _share(verdicts: Sequence[CaseVerdict]) -> dict[str, Any]:
    valid, n = sum(v.valid for v in verdicts), len(verdicts)
    return {"accuracy": valid / n if n else None, "valid": valid, "n": n, "interval": wilson(valid, n)}


def score_predictions(
    cases: Sequence[BfclCase], predictions: Predictions, names: Names = "dotted", *, allow_missing: bool = False
) -> Scored:
    """A verdict on every case. One without a prediction is wrong, or left out with `allow_missing`."""
    verdicts, missing = [], 0
    for case in cases:
        row = predictions.rows.get(case.id)
        if row is not None:
            verdicts.append(_verdict(case, row, names))
            continue
        missing += 1
        if not allow_missing:
            verdicts.append(CaseVerdict(case.id, case.category, False, MISSING, "there is no prediction for it"))
    known = {case.id for case in cases}
    unknown = tuple(id for id in predictions.rows if id not in known)
    return Scored(tuple(verdicts), missing, unknown)


def _verdict(case: BfclCase, row: Mapping[str, Any], names: Names) -> CaseVerdict:
    fault = check_calls(case, row.get("calls"), names)
    if fault is None:
        return CaseVerdict(case.id, case.category, True, None, "")
    return CaseVerdict(case.id, case.category, False, fault.error, fault.reason)
