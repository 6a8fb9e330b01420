"""The cases of BFCL v4: questions and accepted answers, from the files of the `bfcl-eval` wheel.

    BFCL_v4_simple_python.json                  {"id", "question": [[{"role", "content"}]], "function": [...]}
    possible_answer/BFCL_v4_simple_python.json  {"id", "ground_truth": [{"name": {"argument": [accepted values]}}]}

For asking and scoring only: to train on a benchmark is to spoil it, and `calltune check` looks for that.
Source: github.com/ShishirPatil/gorilla, berkeley-function-call-leaderboard.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from calltune.errors import InputError, Problem
from calltune.platform.benchmarks import BFCL, fetch_benchmark
from calltune.schema import shorten
from calltune.score_bfcl import BfclCase

NON_LIVE = ("simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance")
LIVE = (
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
    "live_irrelevance",
    "live_relevance",
)
GROUPS = {"non_live_python": NON_LIVE, "live": LIVE, "single_turn": NON_LIVE + LIVE}
WITHOUT_ANSWERS = ("irrelevance", "live_irrelevance", "live_relevance")
NOT_COVERED = {  # by how the name begins
    "simple_javascript": "calls written in JavaScript", "simple_java": "calls written in Java",
    "multi_turn": "several turns with tools that run", "memory": "an agent with a memory",
    "web_search": "an agent on the web", "format_sensitivity": "it tries the official prompts, not ours",
}  # fmt: skip
STEP = f"take one of: {', '.join([*NON_LIVE, *LIVE])}; or a group: {', '.join(GROUPS)}"


def categories_of(suite: str) -> tuple[str, ...]:
    """The categories of `bfcl:CATEGORY` or `bfcl:GROUP`. Raises InputError for what is not there or not covered."""
    task, _, name = suite.partition(":")
    if task != "bfcl":
        raise InputError(f"there is no suite {suite!r}", next_step=f"write bfcl:CATEGORY; {STEP}")
    if name in GROUPS:
        return GROUPS[name]
    if name in NON_LIVE + LIVE:
        return (name,)
    near = next((why for known, why in NOT_COVERED.items() if name.startswith(known)), None)
    if near is not None:
        raise InputError(f"bfcl:{name} is not covered here: {near}", next_step=STEP)
    raise InputError(f"BFCL has no category {name!r}", next_step=STEP)


def read_cases(categories: Sequence[str], place: Path | None = None) -> list[BfclCase]:
    """The cases of some categories, in the order of the files. `place`: a folder of BFCL's files or the wheel (None:
    the cache, into which they are fetched). Raises InputError."""
    folder = bfcl_folder(place)
    return [case for category in categories for case in _category_cases(folder, category)]


def bfcl_folder(place: Path | None) -> Path:
    """Where the files lie. A wheel is unpacked into the cache once its hash was checked."""
    if place is None or place.suffix == ".whl":
        if place is not None and not place.is_file():
            raise InputError(
                f"there is no {place}", next_step="name the wheel of bfcl-eval, or a folder of its files"
            )
        return fetch_benchmark(BFCL, place)
    for folder in (place, place / "data", place / "bfcl_eval" / "data"):
        if any(folder.glob("BFCL_v4_*.json")):
            return folder
    raise InputError(f"{place} holds no BFCL_v4_*.json", next_step="name the folder `data` of bfcl-eval")


def _category_cases(folder: Path, category: str) -> Iterator[BfclCase]:
    answers: dict[str, Any] = {}
    name = f"BFCL_v4_{category}.json"
    if category not in WITHOUT_ANSWERS:
        answers = {row["id"]: row["ground_truth"] for row in _rows(folder / "possible_answer" / name, ANSWER)}
    questions = list(_rows(folder / name, QUESTION))
    if answers and (missing := [row["id"] for row in questions if row["id"] not in answers]):
        problems = [Problem("no_answer", str(id), f"an answer in possible_answer/{name}") for id in missing]
        raise InputError(f"{folder} does not hold the answers to its questions", problems=problems)
    for row in questions:
        messages = tuple(message for turn in row["question"] for message in turn)
        yield BfclCase(row["id"], category, messages, tuple(row["function"]), tuple(answers.get(row["id"], ())))


QUESTION: dict[str, type] = {"id": str, "question": list, "function": list}
ANSWER: dict[str, type] = {"id": str, "ground_truth": list}


def _rows(path: Path, columns: dict[str, type]) -> Iterator[dict[str, Any]]:
    """Read with Python's own `json`: a case is to be what the official tool reads."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}",
                         next_step="name a folder with the files of bfcl-eval") from None  # fmt: skip
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            fits = all(isinstance(row[key], kind) for key, kind in columns.items())
        except (ValueError, KeyError, TypeError, RecursionError):
            fits = False
        if not fits:
            problem = Problem("bad_row", shorten(line), f"an object with {', '.join(columns)}", row=number)
            raise InputError(f"{path} is not a file of BFCL", problems=[problem])
        yield row
