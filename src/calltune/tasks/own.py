"""Rows of the user's own as a task: predictions scored by our rules (docs/evaluation.md), without a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from calltune.schema import Reply, ToolCall, shorten
from calltune.tasks.bfcl import MISSING, CaseVerdict, Scored
from calltune.tasks.predictions import Predictions
from calltune.tasks.questions import Question


def score_own(questions: Sequence[Question], predictions: Predictions, *, allow_missing: bool = False) -> Scored:
    """A verdict on every question; one without a prediction is wrong, or left out with `allow_missing`. `error` is
    the kind of failure."""
    verdicts, missing = [], 0
    for question in questions:
        row = predictions.rows.get(question.id)
        if row is None:
            missing += 1
            if not allow_missing:
                reason = "there is no prediction for it"
                verdicts.append(CaseVerdict(question.id, question.category, False, MISSING, reason))
            continue
        verdict = question.verdict(reply_of(row))
        error = None if verdict.exact else verdict.kind
        verdicts.append(CaseVerdict(question.id, question.category, verdict.exact, error, verdict.reason))
    known = {question.id for question in questions}
    return Scored(tuple(verdicts), missing, tuple(id for id in predictions.rows if id not in known))


def reply_of(row: Mapping[str, Any]) -> Reply:
    """A prediction as the reply that it was. What cannot be read of it is an error of the reply."""
    calls, errors = row.get("calls"), row.get("errors")
    said = [str(error) for error in errors] if isinstance(errors, list) else []
    if not isinstance(calls, list):
        return Reply(errors=(*said, f"no list of calls: {shorten(calls, 40)}"))
    found = []
    for call in calls:
        try:
            found.append(_call(call))
        except (ValueError, RecursionError) as error:
            said.append(f"a call cannot be read: {shorten(str(error), 100)}")
    return Reply(calls=tuple(found), errors=tuple(said), truncated=row.get("truncated") is True)


def _call(value: Any) -> ToolCall:
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ValueError(f"no object with a name: {shorten(value, 40)}")
    arguments = value.get("arguments", {})
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, Mapping):
        raise ValueError(f"the arguments of {value['name']} are no object")
    return ToolCall(value["name"], arguments)
