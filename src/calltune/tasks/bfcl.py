"""BFCL v4 as a task: its cases joined with the scorer. No model is needed to score predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from calltune.compare import Kind
from calltune.data.foreign_tools import foreign_tools
from calltune.data.messages import Reading, role_and_text
from calltune.errors import InputError
from calltune.schema import Message, Reply, Tool, ToolCall, read_tools
from calltune.score import Verdict, make_verdict, unreadable, wilson
from calltune.score_bfcl import LEFT_OUT, BfclCase, Names, check_calls
from calltune.tasks.predictions import Predictions

MISSING = "missing_prediction"
KINDS: tuple[tuple[str, Kind], ...] = (  # of the beginnings of official error types
    ("irrelevance_error", "over_call"),
    ("relevance_error", "no_call"),
    ("ast_decoder", "format"),
    ("simple_function_checker:wrong_func_name", "wrong_tool"),
    ("simple_function_checker:missing", "missing_argument"),
    ("simple_function_checker:unexpected", "extra_argument"),
    ("type_error", "wrong_type"),
)


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


def messages_of(case: BfclCase) -> tuple[Message, ...]:
    """The question as our messages; all of BFCL's single-turn questions have the roles that we have."""
    reading = Reading()
    found = [role_and_text(item, f"/question/0/{i}", reading) for i, item in enumerate(case.messages)]
    _refuse(case, reading)
    return tuple(Message(item[0], item[2]) for item in found if item)


def tools_of(case: BfclCase) -> tuple[Tool, ...]:
    """The functions as JSON Schema: `dict`, `float`, `tuple` by their JSON names, `any` without a type. Names stay as
    they are, dots included, so that an answer is checked under the name that was shown."""
    reading = Reading()
    tools = foreign_tools(list(case.functions), "/function", reading)
    _refuse(case, reading)
    return read_tools(tools, "/function")


def _refuse(case: BfclCase, reading: Reading) -> None:
    if reading.problems:
        raise InputError(f"the case {case.id} cannot be read", problems=reading.problems)


def expected_calls(case: BfclCase) -> tuple[ToolCall, ...]:
    """A right answer, to show: of each argument the first accepted value; what may be left out is left out."""
    required = {str(f.get("name")): f.get("parameters", {}).get("required", ()) for f in case.functions}
    return tuple(
        ToolCall(name, {key: _first(values) for key, values in accepted.items()
                        if LEFT_OUT not in values or key in required.get(name, ())})
        for answer in case.answers
        for name, accepted in answer.items()
    )  # fmt: skip


def _first(values: Sequence[Any]) -> Any:
    value = _chosen(values)
    return [_filled(item) for item in value] if isinstance(value, list) else _filled(value)


def _filled(value: Any) -> Any:
    """In an object each key has its own accepted values; those are compared as they are."""
    if not isinstance(value, Mapping):
        return value
    return {key: _chosen(values) for key, values in value.items() if LEFT_OUT not in values}


def _chosen(values: Sequence[Any]) -> Any:
    return next((value for value in values if value != LEFT_OUT), LEFT_OUT)


def judge(case: BfclCase, reply: Reply, tools: Sequence[Tool]) -> Verdict:
    """The verdict on a reply by BFCL's rules, in the words of our report.

    Stricter than the official tool in one thing (CONTRACT): a reply that cannot be read is never right, also where
    no call is. `score_predictions` counts as the official tool does.
    """
    kind, reason = unreadable(reply) or _kind(case, reply)
    return make_verdict(reply, tools, kind, reason, id=case.id, category=case.category, needs_call=case.needs_call)


def _kind(case: BfclCase, reply: Reply) -> tuple[Kind, str]:
    fault = check_calls(case, [call.to_dict() for call in reply.calls])
    if fault is None:
        return "exact", ""
    few = len(reply.calls) < max(1, len(case.answers))
    if reply.truncated and few and case.needs_call:
        return "truncated", f"the token limit cut the reply: {fault.reason}"
    if case.needs_call and not reply.calls:
        return "no_call", fault.reason
    if fault.error.endswith("wrong_count"):
        return ("missing_call" if few else "extra_call"), fault.reason
    # Of several calls that were tried for an answer, the one that came nearest says what is wrong.
    near = next((inner for inner in fault.inner if not inner.error.endswith("wrong_func_name")), None)
    fault = near or next(iter(fault.inner), fault)
    return next((kind for start, kind in KINDS if fault.error.startswith(start)), "wrong_value"), fault.reason
