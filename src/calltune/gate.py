"""Thresholds of figures: `--fail-under call_exact_match=0.9`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calltune.errors import CheckFailed, InputError, Problem
from calltune.report_text import FIGURES


def check_figures(wanted: Mapping[str, float]) -> None:
    """Raises InputError for thresholds of a figure that does not exist, or that are no share."""
    problems = [Problem("unknown_figure", key, ", ".join(FIGURES)) for key in wanted if key not in FIGURES]
    problems += [Problem("wrong_value", f"{key}={limit:g}", "a share from 0 to 1")
                 for key, limit in wanted.items() if not 0 <= limit <= 1]  # fmt: skip
    if problems:
        raise InputError("--fail-under is not right", problems=problems,
                         next_step="write it as call_exact_match=0.9,no_call_accuracy=0.9")  # fmt: skip


def check_thresholds(found: Mapping[str, Any], wanted: Mapping[str, float]) -> None:
    """Raises CheckFailed for the figures below their thresholds (one that could not be taken counts as 0),
    InputError as `check_figures`."""
    check_figures(wanted)
    low = [f"{key} is {found[key]} (wanted {limit})" for key, limit in wanted.items() if (found[key] or 0.0) < limit]
    if low:
        raise CheckFailed("below the threshold: " + "; ".join(low))
