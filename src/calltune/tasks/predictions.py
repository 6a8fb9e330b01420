"""Predictions as a file: `{"id", "calls": [{"name", "arguments"}], ...}` a line, whoever made them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calltune.errors import InputError, Problem
from calltune.schema import shorten


@dataclass
class Predictions:
    """The first prediction of each id; what else the file held is counted, never dropped without a word."""

    rows: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    duplicates: Counter[str] = field(default_factory=Counter)  # further lines by id, which were not taken
    problems: list[Problem] = field(default_factory=list)  # lines that cannot be read


def read_predictions(path: Path) -> Predictions:
    """Raises InputError where the file itself cannot be read; bad lines are `problems` of the result."""
    try:
        with path.open("rb") as file:
            return collect(file)
    except OSError as error:
        problem = Problem("unreadable_file", f"{path}: {error.strerror or error}")
        raise InputError("the predictions cannot be read", problems=[problem], next_step="check the path") from None


def collect(lines: Iterable[bytes]) -> Predictions:
    """Python's own JSON is read, NaN included, as the official tools of benchmarks do."""
    found = Predictions()
    for number, line in enumerate(lines, start=1):
        if not line.strip(b"\xef\xbb\xbf \t\r\n"):
            continue
        try:
            value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except (ValueError, RecursionError) as error:  # also what is not UTF-8, and numbers of 4,300 digits
            found.problems.append(Problem("bad_json", shorten(str(error), 120), "one JSON object a line", row=number))
            continue
        id = value.get("id") if isinstance(value, Mapping) else None
        if isinstance(id, bool) or not isinstance(id, (str, int)):
            expected = 'an object with the text "id"'
            found.problems.append(Problem("no_id", shorten(value), expected, "/id", number))
        elif str(id) in found.rows:
            found.duplicates[str(id)] += 1
        else:
            found.rows[str(id)] = value
    return found
