"""Two evaluations side by side, from the verdicts in their report.json files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calltune.errors import InputError, Problem
from calltune.report_text import p_value_text, percent
from calltune.score import mcnemar_p

PLACES = ("report.json", "eval/report.json")
Verdict = tuple[str, bool, str | None]  # category, whether it was exact, hash of the question (old reports: None)
Verdicts = dict[str, Verdict]  # by id


def find_report(place: Path) -> tuple[Path, list[Path]]:
    """The report of an evaluation's folder or a run's, or the file itself; and those of the run that were not taken.
    Raises InputError."""
    files = [place] if place.is_file() else [place / name for name in PLACES if (place / name).is_file()]
    suites = sorted(place.glob("eval/*/report.json"))  # of a run that was asked benchmarks only
    if not files and len(suites) > 1:
        raise InputError(f"{place} was evaluated on several suites",
                         next_step=f"name one of: {', '.join(str(path.parent) for path in suites)}")  # fmt: skip
    files += suites
    if not files:
        raise InputError(f"{place} holds no report.json", next_step="`calltune eval` writes one")
    return files[0], files[1:]


def read_verdicts(file: Path) -> Verdicts:
    """The verdicts of a report.json. Raises InputError."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["verdicts"]
        return {str(row["id"]): (str(row["category"]), row["after"] == "exact", row.get("question")) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = Problem("bad_report", f"{type(error).__name__}: {error}", "what `calltune eval` wrote")
        raise InputError(f"{file} cannot be read", problems=[problem]) from None


def compare_reports(a: Mapping[str, Verdict], b: Mapping[str, Verdict]) -> dict[str, Any]:
    """Shares on the cases that both have, cases gained and lost from A to B, and McNemar's exact p; also a category.
    Cases of one id are the same if their questions are, as far as the reports tell them. Raises InputError where they
    have no case in common."""
    common = [id for id in a if id in b]
    both = [id for id in common if a[id][2] == b[id][2] or not (a[id][2] and b[id][2])]
    other = len(common) - len(both)
    if not both:
        problems = [Problem("other_question", f"{other} ids that mean another question in each")] if other else []
        raise InputError("the two have no case in common", problems=problems,
                         next_step="evaluate both on the same suite or data")  # fmt: skip
    groups: dict[str, list[str]] = {}
    for id in both:
        groups.setdefault(b[id][0], []).append(id)
    return {
        **_row(both, a, b), "only_a": len(a) - len(common), "only_b": len(b) - len(common), "other_question": other,
        "categories": [{"category": name, **_row(ids, a, b)} for name, ids in groups.items()],
    }  # fmt: skip


def _row(ids: list[str], a: Mapping[str, Verdict], b: Mapping[str, Verdict]) -> dict[str, Any]:
    n = len(ids)
    gained = sum(b[id][1] and not a[id][1] for id in ids)
    lost = sum(a[id][1] and not b[id][1] for id in ids)
    return {"n": n, "a": sum(a[id][1] for id in ids) / n, "b": sum(b[id][1] for id in ids) / n,
            "gained": gained, "lost": lost, "p_value": mcnemar_p(gained, lost)}  # fmt: skip


def comparison_lines(found: Mapping[str, Any], level: float) -> list[str]:
    rows = [*found["categories"], {"category": "all", **found}] if len(found["categories"]) > 1 else [
        {"category": "all", **found}]  # fmt: skip
    width = max(len(row["category"]) for row in rows)
    lines = [
        f"{row['category']:{width}}  {percent(row['a']):>7} -> {percent(row['b']):>7}  of {row['n']:5}  "
        f"gained {row['gained']}, lost {row['lost']}, {p_value_text(row['p_value'])}"
        for row in rows
    ]
    if left := found["only_a"] + found["only_b"]:
        lines.append(f"{left} cases that only one of them has were left out")
    if other := found["other_question"]:
        lines.append(f"{other} cases of the same id were left out: they are not the same question")
    sure = found["p_value"] < level and found["gained"] != found["lost"]
    word = "better" if found["gained"] > found["lost"] else "worse"
    return [*lines, f"B is {word} than A" if sure else "no difference beyond noise"]
