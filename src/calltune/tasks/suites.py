"""Suites by name: `own` (rows of the user's own) and the benchmarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from calltune.data.bfcl import categories_of, read_cases
from calltune.data.readers import load_conversations
from calltune.data.split import split_rows
from calltune.platform.benchmarks import BFCL
from calltune.schema import Conversation
from calltune.tasks.questions import Question, bfcl_questions

OWN = "own"
WALKTHROUGH = "walkthrough"  # the test split of the walk-through's data set: 357 of 3,570 rows
WALKTHROUGH_DATA = "Jofthomas/hermes-function-calling-thinking-V1"
WALKTHROUGH_NOTE = (
    "The rows are those that training with --test 0.1 --valid 0 --seed 0 holds out; a run that was trained on this "
    "data set with another split has seen some of them."
)
SUITE_NOTES = (
    "Judged by the rules of the official BFCL v4 AST checker; the model was given our prompt and read by our parser, "
    "which moves scores by tens of points, so compare with figures of this program only.",
    "Functions were shown with their own names, dots included, and their types as JSON Schema.",
    "Where no call is right, an answer that cannot be read is right by the official rules and wrong here; `suite` in "
    "report.json has the figures as the official tool counts them.",
)


def is_benchmark(suite: str | None) -> TypeGuard[str]:
    """Whether a suite brings its own questions. Unknown names are told where the suite is read."""
    return suite is not None and suite not in (OWN, WALKTHROUGH)


def walkthrough_rows(source: Any = None) -> list[Conversation]:
    """The rows that `calltune train --data D --test 0.1 --valid 0` holds out of the walk-through's data set
    (`source`: a copy of it), so that any model can be asked what such a run was not shown. Raises InputError."""
    return list(split_rows(load_conversations(source or WALKTHROUGH_DATA), test=0.1, valid=0.0, seed=0).test)


def suite_questions(suite: str, limit: int | None = None, place: Path | None = None) -> list[Question]:
    """The questions of a benchmark. Raises InputError: no such suite, not covered, no data."""
    return bfcl_questions(read_cases(categories_of(suite), place), limit)


def suite_facts(suite: str, questions: Sequence[Question]) -> dict[str, Any]:
    """What a report says of them."""
    return {"name": suite, "cases": len(questions), "source": BFCL.part.requirement, "sha256": BFCL.sha256[:16],
            "licence": BFCL.licence, "categories": dict(Counter(q.category for q in questions))}  # fmt: skip
