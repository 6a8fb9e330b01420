"""metrics.jsonl as others than the writer read it: while it grows, and without a model.

A line of metrics has `step` and figures (docs/training.md), or an `event` with a `text`: `quarantined`, `skipped`,
`exploded`, `invalid`. Where a run was taken up again stands in its record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calltune.errors import InputError
from calltune.platform.paths import disk_problem

FILE = "metrics.jsonl"
WORDS = {"best": "best", "resumed": "taken up again", "quarantined": "rows left out", "skipped": "update left out",
         "exploded": "loss explodes", "invalid": "no finite loss"}  # fmt: skip


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl that may be growing: a last line that is not whole is left out. Raises InputError:
    it cannot be read."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise disk_problem(error, path) from error
    rows = []
    for number, line in enumerate(lines[:-1], 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            int(row["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}, line {number}: not a line of metrics ({error})",
                             next_step="take the line out; the run itself does not need it") from error  # fmt: skip
        rows.append(row)
    return rows


def marks(rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> list[tuple[int, str]]:
    """(update, kind) of what curves should show, kinds as in WORDS, in the order of the updates."""
    found = [(int(row["step"]), str(row["event"])) for row in rows if "event" in row]
    found += [(int(note["update"]), "resumed") for note in record.get("resumes", ())]
    if best := best_update(rows, record):
        found.append((best, "best"))
    return sorted({(step, kind) for step, kind in found if kind in WORDS})


def best_update(rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> int | None:
    """The update whose weights are the best so far; of a finished run those that were kept."""
    if "train" in record:
        kept = record["train"].get("best_update")
        return int(kept) if kept is not None else None
    found = [row for row in rows if row.get("step") and isinstance(row.get("valid_loss"), (int, float))]
    if any("exact_match" in row for row in found):
        found = [row for row in found if "exact_match" in row]
    best = max(found, key=lambda row: (row.get("exact_match") or 0.0, -row["valid_loss"], -row["step"]), default=None)
    return int(best["step"]) if best else None
