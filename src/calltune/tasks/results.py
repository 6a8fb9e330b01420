"""Answers to BFCL in the official tool's terms: its figures, and its result files for it to score itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calltune.data.bfcl import NON_LIVE
from calltune.platform.paths import atomic_write
from calltune.schema import Reply
from calltune.tasks.bfcl import score_predictions
from calltune.tasks.predictions import Predictions
from calltune.tasks.questions import Question


def official_figures(suite: str, questions: Sequence[Question], replies: Sequence[Reply]) -> dict[str, Any]:
    """What `calltune score` says about these predictions."""
    cases = [q.case for q in questions if q.case is not None]
    rows: dict[str, Mapping[str, Any]] = {
        q.id: {"calls": readable_calls(reply)} for q, reply in zip(questions, replies, strict=True)
    }
    return {"suite": suite, "names": "dotted", **score_predictions(cases, Predictions(rows)).to_dict()}


def readable_calls(reply: Reply) -> list[dict[str, Any]] | None:
    """The calls of a line of predictions: None where it tried and none could be read (CONTRACT)."""
    calls = [call.to_dict() for call in reply.calls if not call.error]
    return None if reply.calls and not calls else calls


def write_results(folder: Path, questions: Sequence[Question], replies: Sequence[Reply]) -> list[Path]:
    """`FOLDER/non_live/BFCL_v4_CATEGORY_result.json`, `{"id", "result"}` a line, as `bfcl generate` writes them.

    `result` is text with calls in `<tool_call>` tags, which the official handler of Qwen's function-calling models
    decodes. An answer that cannot be read is given as it was written.
    """
    lines: dict[str, list[str]] = {}
    for question, reply in zip(questions, replies, strict=True):
        row = {"id": question.id, "result": result_text(reply)}
        lines.setdefault(question.category, []).append(json.dumps(row) + "\n")
    made = []
    for category, rows in lines.items():
        place = folder / ("non_live" if category in NON_LIVE else "live")
        made.append(atomic_write(place / f"BFCL_v4_{category}_result.json", "".join(rows)))
    return made


def result_text(reply: Reply) -> str:
    if reply.errors or any(call.error for call in reply.calls):
        return reply.raw
    if not reply.calls:
        return reply.content
    return "\n".join(f"<tool_call>\n{json.dumps(call.to_dict())}\n</tool_call>" for call in reply.calls)
